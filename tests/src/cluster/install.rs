//! Firebreak in the cluster: installed once for all tests, by the chart and as a user would.

use parking_lot::Mutex;

use super::{kubectl, run};
use crate::root;

/// The namespace that the tests install into.
pub const NAMESPACE: &str = "firebreak-system";
const RELEASE: &str = "firebreak";

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

/// Runs helm.
pub fn helm(arguments: &[&str]) -> anyhow::Result<String> {
    run("helm", arguments, "")
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
