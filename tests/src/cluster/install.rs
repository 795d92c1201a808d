//! Firebreak in the cluster: installed once for all tests, by the chart and as a user would.

use anyhow::Context;
use parking_lot::Mutex;
use serde_json::Value;

use super::{kubectl, kubectl_json, metrics::Metrics, run};
use crate::{root, wait};

/// The namespace that the tests install into.
pub const NAMESPACE: &str = "firebreak-system";
/// The name of the release.
pub const RELEASE: &str = "firebreak";

/// Whether the chart is installed; tests run one after another, so the lock is only about truth.
static INSTALLED: Mutex<bool> = Mutex::new(false);

/// Installs the chart unless that was done.
pub fn firebreak() -> anyhow::Result<()> {
    let mut installed = INSTALLED.lock();
    if !*installed {
        // What an earlier run has left is of another build, though its images may have the same name.
        if helm(&["status", RELEASE, "--namespace", NAMESPACE]).is_ok() {
            helm(&["uninstall", RELEASE, "--namespace", NAMESPACE, "--wait"])?;
        }
        let chart = root().join("charts/firebreak");
        let chart = chart.to_string_lossy();
        let to = ["--namespace", NAMESPACE, "--create-namespace", "--wait", "--timeout", "3m"];
        helm(&[["install", RELEASE, &chart].as_slice(), &to].concat())?;
        *installed = true;
    }
    Ok(())
}

/// Removes the chart; the next test that needs it installs it again.
pub fn uninstall() -> anyhow::Result<()> {
    let mut installed = INSTALLED.lock();
    helm(&["uninstall", RELEASE, "--namespace", NAMESPACE, "--wait"])?;
    *installed = false;
    Ok(())
}

/// Whether the chart is installed as the tests install it. If not, the next test that needs it installs it anew.
pub fn set_installed(installed: bool) {
    *INSTALLED.lock() = installed;
}

/// Runs helm.
pub fn helm(arguments: &[&str]) -> anyhow::Result<String> {
    run("helm", arguments, "")
}

/// The names of a component's pods that are ready and stay.
pub fn replicas(component: &str) -> anyhow::Result<Vec<String>> {
    let selector = format!("app.kubernetes.io/component={component}");
    let list = kubectl_json(["--namespace", NAMESPACE, "get", "pods", "--selector", &selector, "--output", "json"])?;
    let pods = list["items"].as_array().cloned().unwrap_or_default();
    let stays = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_null();
    let is_ready = |pod: &Value| pod["status"]["containerStatuses"][0]["ready"] == true;
    let name = |pod: &Value| pod["metadata"]["name"].as_str().map(str::to_owned).context("a pod without a name");
    pods.iter().filter(|pod| stays(pod) && is_ready(pod)).map(name).collect()
}

/// What a replica of the operator or the injector counts.
pub fn metrics(pod: &str) -> anyhow::Result<Metrics> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}:9090/proxy/metrics");
    Ok(Metrics::parse(&kubectl(["get", "--raw", &path])?))
}

/// Ends all pods of operator and injector without warning, and waits until as many others are ready.
pub fn kill_all() -> anyhow::Result<()> {
    const COMPONENTS: [&str; 2] = ["operator", "injector"];
    let before = COMPONENTS.map(replicas);
    kubectl(["--namespace", NAMESPACE, "delete", "pods", "--all", "--force", "--grace-period=0"])?;
    for (component, before) in COMPONENTS.into_iter().zip(before) {
        let before = before?;
        wait::until("others are in their place", || {
            let now = replicas(component)?;
            Ok(now.len() == before.len() && now.iter().all(|pod| !before.contains(pod)))
        })?;
    }
    Ok(())
}

/// A deployment of the chart that is scaled to zero until this is dropped.
#[derive(Debug)]
pub struct Stopped {
    deployment: &'static str,
    replicas: String,
}

impl Stopped {
    /// Scales a deployment of the chart to zero and waits until its pods are gone.
    pub fn new(deployment: &'static str) -> anyhow::Result<Self> {
        let path = ["--namespace", NAMESPACE, "get", "deployment", deployment, "--output", "jsonpath={.spec.replicas}"];
        let stopped = Self { deployment, replicas: kubectl(path)? };
        scale(deployment, "0")?;
        let selector = format!("app.kubernetes.io/component={}", deployment.trim_start_matches("firebreak-"));
        kubectl(["--namespace", NAMESPACE, "wait", "pod", "--selector", &selector, "--for=delete", "--timeout=60s"])?;
        Ok(stopped)
    }

    /// Scales it up again and waits until it is ready.
    pub fn start(self) -> anyhow::Result<()> {
        scale(self.deployment, &self.replicas)?;
        rollout(self.deployment)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if let Err(error) = scale(self.deployment, &self.replicas) {
            eprintln!("{error:#}");
        }
    }
}

fn scale(deployment: &str, replicas: &str) -> anyhow::Result<()> {
    kubectl(["--namespace", NAMESPACE, "scale", "deployment", deployment, "--replicas", replicas]).map(drop)
}

/// Waits until a deployment of the chart is ready.
pub fn rollout(deployment: &str) -> anyhow::Result<()> {
    let what = format!("deployment/{deployment}");
    kubectl(["--namespace", NAMESPACE, "rollout", "status", &what, "--timeout=90s"]).map(drop)
}
