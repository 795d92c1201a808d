//! The test application as a Deployment with a Service: a service, a caller, or both.

use std::{
    io::{BufRead, BufReader, Lines},
    process::{Child, ChildStdout, Command, Stdio},
};

use anyhow::Context;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Namespace, metrics::Metrics};
use crate::app::{
    ECHO_PORT, GREETING_PORT, HEALTH, HTTP_PORT,
    behaviour::Behaviour,
    call::{Report, UNDER_WAY},
    hold::Event,
    record::Record,
};
use crate::wait;

/// The image that `tests/run` makes.
pub const IMAGE: &str = "firebreak-testapp:dev";
const PROGRAM: &str = "/firebreak-testapp";

/// The application under a name of its own, in one pod.
#[derive(Debug)]
pub struct App<'a> {
    namespace: &'a Namespace,
    name: String,
}

/// A stream that a caller holds open.
#[derive(Debug)]
pub struct Held(Running);

/// Requests that a caller sends, one after the other, while something else is done.
#[derive(Debug)]
pub struct Load(Running);

/// The application at work in a pod, until it is told to end.
#[derive(Debug)]
struct Running {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl<'a> App<'a> {
    /// Deploys it, with its Service, and waits until it is ready.
    pub fn deploy(namespace: &'a Namespace, name: &str) -> anyhow::Result<Self> {
        namespace.apply(&manifest(name))?;
        let app = Self::named(namespace, name);
        app.ready()?;
        Ok(app)
    }

    /// The one that is deployed under this name.
    pub fn named(namespace: &'a Namespace, name: &str) -> Self {
        Self { namespace, name: name.to_owned() }
    }

    /// Waits until its Deployment is as it should be.
    pub fn ready(&self) -> anyhow::Result<()> {
        let what = format!("deployment/{}", self.name);
        self.namespace.kubectl(&["rollout", "status", &what, "--timeout=60s"]).map(drop)
    }

    /// Waits until `caller` reaches it by its Service, which the node's kube-proxy brings about some time after it is ready.
    pub fn ready_for(&self, caller: &App) -> anyhow::Result<()> {
        self.ready()?;
        let url = format!("http://{}{HEALTH}", self.name);
        wait::until("the Service has the pod", || caller.run(&["get", &url]).map(|_| true))
    }

    /// Its pod.
    pub fn pod(&self) -> anyhow::Result<Value> {
        self.namespace.pods(&self.name)?.into_iter().next().with_context(|| format!("{} has no pod", self.name))
    }

    /// Calls `url` from the pod, as the arguments of the application's `call` say, separated by spaces.
    pub fn call(&self, url: &str, arguments: &str) -> anyhow::Result<Report> {
        let arguments: Vec<&str> = ["call", url].into_iter().chain(arguments.split_whitespace()).collect();
        self.exec(&arguments)
    }

    /// From now on it answers like this; what it has seen is forgotten.
    pub fn behave(&self, behaviour: &Behaviour) -> anyhow::Result<()> {
        self.run(&["behave", &serde_json::to_string(behaviour)?]).map(drop)
    }

    /// What it has seen since it was last told how to behave.
    pub fn record(&self) -> anyhow::Result<Record> {
        self.exec(&["record"])
    }

    /// What its proxy counts.
    pub fn metrics(&self) -> anyhow::Result<Metrics> {
        Ok(Metrics::parse(&self.run(&["get", "http://127.0.0.1:15020/metrics"])?))
    }

    /// What its proxy says is in force.
    pub fn proxy_config(&self) -> anyhow::Result<Value> {
        self.exec(&["get", "http://127.0.0.1:15020/config"])
    }

    /// Opens a stream (`websocket` or `grpc`) to `authority` and holds it.
    pub fn hold(&self, kind: &str, authority: &str) -> anyhow::Result<Held> {
        let mut held = Held(self.start(&["hold", kind, authority])?);
        anyhow::ensure!(held.next()? == Event::Open, "{kind} to {authority} did not open");
        Ok(held)
    }

    /// Calls `url` from the pod again and again, as [`call`](Self::call) does, until the load is ended. Returns when the first
    /// request is over.
    pub fn load(&self, url: &str, arguments: &str) -> anyhow::Result<Load> {
        let call = ["call", url, "--until-closed"];
        let mut running = self.start(&call.into_iter().chain(arguments.split_whitespace()).collect::<Vec<_>>())?;
        let line = running.next()?;
        anyhow::ensure!(line == UNDER_WAY, "the load of {url} began with {line}");
        Ok(Load(running))
    }

    fn start(&self, arguments: &[&str]) -> anyhow::Result<Running> {
        let arguments = self.arguments(&["--stdin"], arguments);
        let mut process =
            Command::new("kubectl").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(process.stdout.take().context("no output")?).lines();
        Ok(Running { process, lines })
    }

    /// Runs the application in the pod and reads what it printed as JSON.
    pub fn exec<T: DeserializeOwned>(&self, arguments: &[&str]) -> anyhow::Result<T> {
        let output = self.run(arguments)?;
        serde_json::from_str(&output).with_context(|| format!("{arguments:?} printed {output}"))
    }

    /// Runs the application in the pod.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        super::kubectl(self.arguments(&[], arguments))
    }

    fn arguments(&self, options: &[&str], arguments: &[&str]) -> Vec<String> {
        let pod = format!("deployment/{}", self.name);
        let exec = ["--namespace", &self.namespace.name, "exec", &pod, "--container", "app"];
        exec.iter().chain(options).chain(&["--", PROGRAM]).chain(arguments).map(|text| (*text).to_owned()).collect()
    }
}

impl Held {
    /// Ends the stream: how many messages came back on it, if it was whole until now.
    pub fn close(mut self) -> anyhow::Result<Event> {
        self.0.close();
        self.next()
    }

    fn next(&mut self) -> anyhow::Result<Event> {
        Ok(serde_json::from_str(&self.0.next()?)?)
    }
}

impl Load {
    /// Ends the load, with the requests that are under way: what became of all.
    pub fn end(mut self) -> anyhow::Result<Report> {
        self.0.close();
        Ok(serde_json::from_str(&self.0.next()?)?)
    }
}

impl Running {
    fn close(&mut self) {
        drop(self.process.stdin.take());
    }

    fn next(&mut self) -> anyhow::Result<String> {
        Ok(self.lines.next().context("it ended without a word")??)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// A Deployment and its Service. The port `any` says nothing about its protocol, so the proxy has to find out.
pub fn manifest(name: &str) -> String {
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: app
        image: {IMAGE}
        args: [serve]
        readinessProbe: {{httpGet: {{path: {HEALTH}, port: {HTTP_PORT}}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports:
  - {{name: http, port: 80, targetPort: {HTTP_PORT}}}
  - {{name: grpc, port: 81, targetPort: {HTTP_PORT}}}
  - {{name: any, port: 82, targetPort: {HTTP_PORT}}}
  - {{name: echo, port: {ECHO_PORT}}}
  - {{name: greeting, port: {GREETING_PORT}}}
"
    )
}
