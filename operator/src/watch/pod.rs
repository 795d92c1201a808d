//! Pods as the watch reads them: the fields that somebody asks for, and none of the others.
//!
//! There are more pods than all other objects together, and each is tens of kilobytes once it is parsed whole. What is not
//! named here is skipped by the parser and never takes memory, not even for the moment of a list.

use kube::api::Object;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A pod.
pub(crate) type LeanPod = Object<Spec, Status>;

/// What the injector's decision reads of a pod's spec.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Spec {
    host_network: bool,
    os: Option<Named>,
    security_context: Option<User>,
    init_containers: Vec<Container>,
    containers: Vec<Container>,
    volumes: Vec<Named>,
}

/// What is read of a pod's status.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Pending, Running, Succeeded, Failed or Unknown.
    #[serde(default)]
    pub(crate) phase: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Named {
    name: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    security_context: Option<User>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ports: Vec<Port>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    container_port: u16,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct User {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    run_as_user: Option<i64>,
}

/// The ports of its containers that have a name, by which Services may call them.
pub(crate) fn named_ports(pod: &LeanPod) -> Vec<(String, u16)> {
    let containers = pod.spec.init_containers.iter().chain(&pod.spec.containers);
    let ports = containers.flat_map(|container| &container.ports);
    ports.filter_map(|port| Some((port.name.clone()?, port.container_port))).collect()
}

/// The pod as the injector's decision wants it: raw, as far as it looks.
pub(crate) fn raw(pod: &LeanPod) -> Value {
    let meta = &pod.metadata;
    json!({"metadata": {"labels": meta.labels, "annotations": meta.annotations}, "spec": pod.spec})
}

#[cfg(test)]
mod tests {
    use firebreak_injector::decide::{Namespace, decide};

    use super::*;

    #[test]
    fn ports_are_known_by_their_names() {
        let pod = json!({"metadata": {}, "spec": {
            "initContainers": [{"name": "sidecar", "ports": [{"name": "admin", "containerPort": 9000}]}],
            "containers": [{"name": "app", "ports": [{"name": "http", "containerPort": 8080}, {"containerPort": 81}]}],
        }});
        let lean: LeanPod = serde_json::from_value(pod).unwrap();
        assert_eq!(named_ports(&lean), [("admin".to_owned(), 9000), ("http".to_owned(), 8080)]);
    }

    /// A pod read whole and a pod read lean are decided alike: whatever the decision looks at is among the fields above.
    #[test]
    fn the_decision_misses_nothing() {
        let disabled = json!({"firebreak.dev/inject": "disabled"});
        let typing_error = json!({"firebreak.dev/inject": "yes"});
        let mirror = json!({"kubernetes.io/config.mirror": "x"});
        let app = json!([{"name": "app", "image": "x"}]);
        let ours = json!([{"name": "firebreak-proxy"}]);
        let user = json!({"runAsUser": 2119, "fsGroup": 1});
        let pods = [
            json!({"metadata": {}, "spec": {"containers": app}}),
            json!({"metadata": {"labels": disabled}, "spec": {"containers": app}}),
            json!({"metadata": {"labels": typing_error}, "spec": {"containers": app}}),
            json!({"metadata": {"annotations": mirror}, "spec": {"containers": app}}),
            json!({"metadata": {}, "spec": {"containers": app, "hostNetwork": true}}),
            json!({"metadata": {}, "spec": {"containers": app, "os": {"name": "windows"}}}),
            json!({"metadata": {}, "spec": {"containers": app, "initContainers": ours}}),
            json!({"metadata": {}, "spec": {"containers": ours}}),
            json!({"metadata": {}, "spec": {"containers": app, "volumes": [{"name": "firebreak-config", "emptyDir": {}}]}}),
            json!({"metadata": {}, "spec": {"containers": app, "securityContext": user}}),
            json!({"metadata": {}, "spec": {"containers": [{"name": "app", "securityContext": user}]}}),
        ];
        let namespace = Namespace { name: "shop", enabled: true };
        let mut decisions = std::collections::BTreeSet::new();
        for pod in pods {
            let lean: LeanPod = serde_json::from_value(pod.clone()).unwrap();
            let whole = decide(namespace, &pod, "firebreak-system");
            assert_eq!(decide(namespace, &raw(&lean), "firebreak-system"), whole, "{pod}");
            decisions.insert(format!("{whole:?}"));
        }
        assert_eq!(decisions.len(), 9, "as many different answers as there are reasons in a pod itself: {decisions:?}");
    }
}
