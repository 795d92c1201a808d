//! The pod as it should be: the same pod with the redirect rules, the proxy, and what the two need.
//!
//! Works on the raw JSON that the API server sent, so that fields newer than any client library survive. The order of
//! the init containers is the point:
//!
//! 1. `firebreak-init` writes the redirect rules and checks that they work, so that no later container can connect
//!    past the proxy unnoticed. It needs `NET_ADMIN` for that, and nothing else.
//! 2. `firebreak-proxy` is a native sidecar (KEP-753: an init container with `restartPolicy: Always`). Its startup probe
//!    holds back everything behind it until the proxy accepts, it outlives the application's containers, and it does
//!    not keep a Job's pod from completing.
//! 3. The user's own init containers, which so have a working network.
//!
//! Nothing that the user set is changed, except tcpSocket probes (see [`probes`](crate::probes)).

use firebreak_crds::{
    marks::{CONFIG_MAP, INJECTED},
    pod,
    redirect::{ADMIN_PORT, PROXY_UID},
};
use serde_json::{Map, Value, json};

use crate::{
    annotations::Settings,
    decide::{CONFIG_VOLUME, INIT_CONTAINER, POD_VOLUME, PROXY_CONTAINER},
    probes,
};

/// User of the init step: nobody, which is not exempt from the rules and so can check them.
const INIT_UID: u32 = 65534;
/// kubectl's choice for `logs` and `exec` when no container is named.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// Tells the proxy which ports it dials for probes.
const PROBE_PORTS: &str = "FIREBREAK_PROBE_PORTS";
/// Seconds that the proxy may take to accept before the kubelet restarts it.
const STARTUP_SECONDS: u32 = 60;

/// What is the same for every proxy of an installation.
#[derive(Clone, Debug, PartialEq)]
pub struct Proxy {
    /// Image of proxy and init step.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`.
    pub pull_policy: String,
    /// Version that is written to the pod's annotation.
    pub version: String,
    /// Settings of pods without annotations.
    pub defaults: Settings,
    /// Where it sends spans, if anywhere.
    pub tracing: Option<Tracing>,
}

/// Where proxies send spans.
#[derive(Clone, Debug, PartialEq)]
pub struct Tracing {
    /// A collector that understands OTLP over HTTP.
    pub endpoint: String,
    /// Of a hundred requests without a trace, so many begin one.
    pub percent: f32,
}

/// `pod` with the proxy added. The caller has decided that it is to be injected, and that it has metadata and a spec.
pub fn injected(pod: &Value, settings: &Settings, proxy: &Proxy) -> Value {
    let mut pod = pod.clone();
    let first = pod["spec"]["containers"][0]["name"].clone();
    let mut annotations = object(pod["metadata"]["annotations"].take());
    annotations.insert(INJECTED.to_owned(), json!(proxy.version));
    if first.is_string() && !annotations.contains_key(DEFAULT_CONTAINER) {
        annotations.insert(DEFAULT_CONTAINER.to_owned(), first);
    }
    pod["metadata"]["annotations"] = Value::Object(annotations);
    let spec = &mut pod["spec"];
    let mut containers = vec![init_container(settings, proxy), proxy_container(settings, proxy)];
    containers.extend(array(spec["initContainers"].take()));
    spec["initContainers"] = Value::Array(containers);
    let mut volumes = array(spec["volumes"].take());
    volumes.extend([config_volume(), pod_volume()]);
    spec["volumes"] = Value::Array(volumes);
    probe(spec, settings);
    pod
}

/// `pod`, which has the proxy already, with the probes translated that another webhook has added since.
pub fn reinvoked(pod: &Value, settings: &Settings) -> Value {
    let mut pod = pod.clone();
    probe(&mut pod["spec"], settings);
    pod
}

/// Turns the pod's tcpSocket probes into the proxy's, and tells the proxy their ports, what other probes look like, and the names of
/// the pod's ports.
fn probe(spec: &mut Value, settings: &Settings) {
    probes::translate(spec, &settings.skip_inbound_ports);
    let dialled = joined(&probes::asked_for(spec).into_iter().collect::<Vec<_>>());
    let over_http = probes::over_http(spec);
    let told = json!(over_http).to_string();
    let ports = json!(probes::named_ports(spec)).to_string();
    tell(spec, PROBE_PORTS, Some(dialled.as_str()).filter(|ports| !ports.is_empty()));
    tell(spec, pod::PROBES, Some(told.as_str()).filter(|_| !over_http.is_empty()));
    tell(spec, pod::PORTS, Some(&ports));
}

/// Tells the proxy a value by that name, or nothing any more. A `$` in it is one: Kubernetes puts values of others in where it reads `$(NAME)`.
fn tell(spec: &mut Value, name: &str, value: Option<&str>) {
    let containers = spec["initContainers"].as_array_mut().into_iter().flatten();
    let proxies = containers.filter(|container| container["name"] == PROXY_CONTAINER);
    for env in proxies.filter_map(|container| container["env"].as_array_mut()) {
        let told = env.iter().position(|entry| entry["name"] == name);
        let entry = value.map(|value| json!({"name": name, "value": value.replace('$', "$$")}));
        match (told, entry) {
            (Some(place), Some(entry)) => env[place] = entry,
            (Some(place), None) => drop(env.remove(place)),
            (None, entry) => env.extend(entry),
        }
    }
}

fn init_container(settings: &Settings, proxy: &Proxy) -> Value {
    let mut command = vec!["/firebreak-init".to_owned(), "init".to_owned()];
    for (flag, entries) in [
        ("--skip-inbound-ports", joined(&settings.skip_inbound_ports)),
        ("--skip-outbound-ports", joined(&settings.skip_outbound_ports)),
        ("--skip-outbound-cidrs", joined(&settings.skip_outbound_cidrs)),
    ] {
        if !entries.is_empty() {
            command.extend([flag.to_owned(), entries]);
        }
    }
    json!({
        "name": INIT_CONTAINER,
        "image": proxy.image,
        "imagePullPolicy": proxy.pull_policy,
        "command": command,
        "resources": resources(settings),
        "securityContext": security(INIT_UID, &["NET_ADMIN"]),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    })
}

fn proxy_container(settings: &Settings, proxy: &Proxy) -> Value {
    json!({
        "name": PROXY_CONTAINER,
        "image": proxy.image,
        "imagePullPolicy": proxy.pull_policy,
        "command": ["/firebreak-proxy", "run"],
        "restartPolicy": "Always",
        "env": environment(settings, proxy),
        "ports": [{"name": "firebreak-admin", "containerPort": ADMIN_PORT, "protocol": "TCP"}],
        "startupProbe": {
            "httpGet": {"path": "/ready", "port": ADMIN_PORT},
            "periodSeconds": 1,
            "failureThreshold": STARTUP_SECONDS,
        },
        "lifecycle": {"preStop": {"exec": {"command": ["/firebreak-proxy", "drain"]}}},
        "resources": resources(settings),
        "securityContext": security(PROXY_UID, &[]),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": CONFIG_VOLUME, "mountPath": "/etc/firebreak/config", "readOnly": true},
            {"name": POD_VOLUME, "mountPath": "/etc/firebreak/pod", "readOnly": true},
        ],
    })
}

fn environment(settings: &Settings, proxy: &Proxy) -> Vec<Value> {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let mut environment = vec![
        field("FIREBREAK_NAMESPACE", "metadata.namespace"),
        field("FIREBREAK_POD", "metadata.name"),
        field("FIREBREAK_POD_IPS", "status.podIPs"),
        json!({"name": "FIREBREAK_WORKERS", "value": settings.workers.to_string()}),
        json!({"name": "FIREBREAK_LOG", "value": settings.log_level.as_str()}),
    ];
    // Without a limit of its own a container is told the node's memory, which is not the proxy's to fill.
    if settings.memory.limit.is_some() {
        let limit = json!({"containerName": PROXY_CONTAINER, "resource": "limits.memory", "divisor": "1"});
        environment.push(json!({"name": "FIREBREAK_MEMORY_LIMIT", "valueFrom": {"resourceFieldRef": limit}}));
    }
    if let Some(tracing) = &proxy.tracing {
        environment.push(json!({"name": "FIREBREAK_OTLP_ENDPOINT", "value": tracing.endpoint}));
        environment.push(json!({"name": "FIREBREAK_TRACE_PERCENT", "value": tracing.percent.to_string()}));
    }
    environment
}

/// As little as Pod Security's level `restricted` allows, and the capabilities that are named.
fn security(user: u32, capabilities: &[&str]) -> Value {
    let mut allowed = json!({"drop": ["ALL"]});
    if !capabilities.is_empty() {
        allowed["add"] = json!(capabilities);
    }
    json!({
        "runAsUser": user,
        "runAsGroup": user,
        "runAsNonRoot": true,
        "privileged": false,
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": allowed,
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

/// Both containers ask for the same: an init step that asked for more than the proxy would raise what the pod needs.
fn resources(settings: &Settings) -> Value {
    let mut resources = json!({});
    for (name, resource) in [("cpu", &settings.cpu), ("memory", &settings.memory)] {
        for (kind, quantity) in [("requests", &resource.request), ("limits", &resource.limit)] {
            if let Some(quantity) = quantity {
                resources[kind][name] = json!(quantity.as_str());
            }
        }
    }
    resources
}

/// Optional, so that a pod starts before the operator has published anything.
fn config_volume() -> Value {
    json!({"name": CONFIG_VOLUME, "configMap": {"name": CONFIG_MAP, "optional": true}})
}

fn pod_volume() -> Value {
    let labels = json!({"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}});
    json!({"name": POD_VOLUME, "downwardAPI": {"items": [labels]}})
}

fn joined<T: ToString>(entries: &[T]) -> String {
    entries.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// The value as an object, empty when it is missing or null.
fn object(value: Value) -> Map<String, Value> {
    if let Value::Object(object) = value { object } else { Map::new() }
}

/// The value as a list, empty when it is missing or null.
fn array(value: Value) -> Vec<Value> {
    if let Value::Array(array) = value { array } else { Vec::new() }
}
