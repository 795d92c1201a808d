//! The cluster from the outside: what a person would do with kubectl and helm, done by kubectl and helm.
//!
//! Everything inside pods is done by `kubectl exec`, so that the tests run against any cluster that KUBECONFIG names, whether or
//! not its pods can be reached from here.

pub mod app;
pub mod install;
pub mod metrics;

use std::{
    ffi::OsStr,
    io::Write,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use anyhow::{Context, ensure};
use serde_json::Value;

/// A namespace of one test, gone with everything in it when the test ends.
#[derive(Debug)]
pub struct Namespace {
    /// Its name.
    pub name: String,
}

/// Runs kubectl. What it printed; what it complained about is the error.
pub fn kubectl<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> anyhow::Result<String> {
    run("kubectl", arguments, "")
}

/// Runs kubectl and reads what it printed as JSON.
pub fn kubectl_json<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&kubectl(arguments)?)?)
}

/// Runs a program with `input`. What it printed; what it complained about is the error.
pub fn run<S: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = S>,
    input: &str,
) -> anyhow::Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("{program} cannot be run"))?;
    child.stdin.take().context("no standard input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {}", output.status, complaint.trim());
    Ok(String::from_utf8(output.stdout)?)
}

impl Namespace {
    /// A new namespace with these labels.
    pub fn create(name: &str, labels: &[&str]) -> anyhow::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("{name}-{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        kubectl(["create", "namespace", &name])?;
        let namespace = Self { name };
        if !labels.is_empty() {
            kubectl([&["label", "namespace", &namespace.name], labels].concat())?;
        }
        Ok(namespace)
    }

    /// A new namespace whose pods get the proxy and whose callers may be faulted.
    pub fn enabled(name: &str) -> anyhow::Result<Self> {
        Self::create(name, &["firebreak.dev/inject=enabled", "firebreak.dev/faults=enabled"])
    }

    /// Runs kubectl in the namespace.
    pub fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        kubectl([&["--namespace", &self.name], arguments].concat())
    }

    /// Runs kubectl in the namespace and reads what it printed as JSON.
    pub fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.kubectl(&[arguments, &["--output", "json"]].concat())?)?)
    }

    /// Applies objects given as YAML.
    pub fn apply(&self, yaml: &str) -> anyhow::Result<()> {
        run("kubectl", ["--namespace", &self.name, "apply", "--filename", "-"], yaml).map(drop)
    }

    /// Applies a file of `examples/`.
    pub fn apply_example(&self, file: &str) -> anyhow::Result<()> {
        let path = crate::root().join("examples").join(file);
        self.kubectl(&["apply", "--filename", &path.to_string_lossy()]).map(drop)
    }

    /// The pods that carry the label `app=NAME`.
    pub fn pods(&self, app: &str) -> anyhow::Result<Vec<Value>> {
        let list = self.json(&["get", "pods", "--selector", &format!("app={app}")])?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.kubectl(&["get", "pods,tpol,fspec,events"]).unwrap_or_default());
        }
        if let Err(error) = kubectl(["delete", "namespace", &self.name, "--wait=false"]) {
            eprintln!("{error:#}");
        }
    }
}
