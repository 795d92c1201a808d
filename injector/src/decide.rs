//! Whether a pod gets the proxy, and if not, why: the one place that knows.
//!
//! Most complaints about injection are about silence: a pod comes up without its proxy and nobody says so. So every
//! "no" has a [`Reason`] with a stable code, for metrics and Events, and one sentence for people. The injector asks at
//! admission; the operator asks again for pods that it sees, and puts the answer on the workload as an Event, since an
//! admission webhook with `sideEffects: None` may not write anything.
//!
//! The pod's label wins over the namespace's. A label with any other value than the two that exist is a typing error,
//! and is refused: a pod that silently lacks its protection is the worse surprise.
//!
//! A pod whose container runs as the proxy's user would pass the proxy by, and is refused too. Only what the pod says can
//! be seen here: a user that the image names by itself is not known at admission.

use std::{collections::BTreeMap, fmt};

use firebreak_crds::{
    marks::{DISABLED, ENABLED, INJECT},
    redirect::PROXY_UID,
};
use serde_json::Value;

/// Name of the init container that writes the redirect rules.
pub const INIT_CONTAINER: &str = "firebreak-init";
/// Name of the proxy's container. Its presence among the init containers is what marks a pod as injected.
pub const PROXY_CONTAINER: &str = "firebreak-proxy";
/// Name of the volume that carries the rendered config.
pub const CONFIG_VOLUME: &str = "firebreak-config";
/// Name of the volume that tells the proxy its pod's labels.
pub const POD_VOLUME: &str = "firebreak-pod";

/// Namespaces that are never injected: the cluster itself must start without Firebreak.
const SYSTEM_NAMESPACES: [&str; 2] = ["kube-system", "kube-node-lease"];
/// The kubelet's mark on the API copy of a static pod.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// What is known of the pod's namespace.
#[derive(Clone, Copy, Debug)]
pub struct Namespace<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether it carries the label `firebreak.dev/inject=enabled`.
    pub enabled: bool,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The pod gets the proxy.
    Inject,
    /// The pod is admitted as it is.
    Skip(Reason),
    /// The pod cannot run as it is written, with or without the proxy that it asks for.
    Refuse(Reason),
}

/// Why a pod does not get the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// A namespace of Kubernetes itself.
    SystemNamespace,
    /// The namespace that Firebreak runs in.
    OwnNamespace,
    /// The pod's label says `disabled`.
    DisabledByPod,
    /// The pod's label is neither `enabled` nor `disabled`.
    LabelInvalid,
    /// Neither namespace nor pod asks for the proxy.
    NamespaceNotEnabled,
    /// The pod shares the node's network.
    HostNetwork,
    /// The kubelet runs the pod from a file on the node.
    StaticPod,
    /// The pod runs on Windows.
    Windows,
    /// The proxy is there already.
    AlreadyInjected,
    /// A container or volume has one of the names that the proxy's parts need.
    NameTaken,
    /// A container runs as the proxy's user.
    ProxyUser,
}

impl<'a> Namespace<'a> {
    /// The namespace `name` with its labels, as the operator sees it.
    pub fn from_labels(name: &'a str, labels: &BTreeMap<String, String>) -> Self {
        Self { name, enabled: labels.get(INJECT).is_some_and(|value| value == ENABLED) }
    }
}

impl Reason {
    /// The stable code, for metric labels, audit and Events.
    pub fn code(self) -> &'static str {
        match self {
            Self::SystemNamespace => "system_namespace",
            Self::OwnNamespace => "own_namespace",
            Self::DisabledByPod => "disabled_by_pod",
            Self::LabelInvalid => "label_invalid",
            Self::NamespaceNotEnabled => "namespace_not_enabled",
            Self::HostNetwork => "host_network",
            Self::StaticPod => "static_pod",
            Self::Windows => "windows",
            Self::AlreadyInjected => "already_injected",
            Self::NameTaken => "name_taken",
            Self::ProxyUser => "proxy_user",
        }
    }
}

impl fmt::Display for Reason {
    /// One sentence without a full stop, that says what to do where something can be done.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SystemNamespace => f.write_str("pods of Kubernetes itself never get the proxy"),
            Self::OwnNamespace => f.write_str("pods in Firebreak's own namespace never get the proxy"),
            Self::DisabledByPod => write!(f, "the pod's label {INJECT}={DISABLED} keeps the proxy out"),
            Self::LabelInvalid => write!(f, "the pod's label {INJECT} must be {ENABLED:?} or {DISABLED:?}"),
            Self::NamespaceNotEnabled => {
                write!(f, "neither the namespace nor the pod has the label {INJECT}={ENABLED}")
            }
            Self::HostNetwork => f.write_str(
                "the pod uses the node's network (hostNetwork), where redirect rules would act on the whole node",
            ),
            Self::StaticPod => f.write_str("the kubelet runs this pod from a file, which admission cannot change"),
            Self::Windows => f.write_str("the proxy runs on Linux, the pod on Windows"),
            Self::AlreadyInjected => f.write_str("the pod has the proxy already"),
            Self::NameTaken => write!(
                f,
                "a container or volume is called {INIT_CONTAINER}, {PROXY_CONTAINER}, {CONFIG_VOLUME} or {POD_VOLUME}, \
                 which are the names of the proxy's parts: rename it"
            ),
            Self::ProxyUser => write!(
                f,
                "a container runs as user {PROXY_UID}, which is the proxy's: its connections would pass the proxy by; \
                 choose another runAsUser, or set the label {INJECT}={DISABLED}"
            ),
        }
    }
}

/// Whether `pod`, the raw object, gets the proxy in `namespace`. `own_namespace` is the one Firebreak runs in.
pub fn decide(namespace: Namespace<'_>, pod: &Value, own_namespace: &str) -> Decision {
    if SYSTEM_NAMESPACES.contains(&namespace.name) {
        return Decision::Skip(Reason::SystemNamespace);
    }
    if namespace.name == own_namespace {
        return Decision::Skip(Reason::OwnNamespace);
    }
    match pod["metadata"]["labels"][INJECT].as_str() {
        Some(ENABLED) => {}
        Some(DISABLED) => return Decision::Skip(Reason::DisabledByPod),
        Some(_) => return Decision::Refuse(Reason::LabelInvalid),
        None if namespace.enabled => {}
        None => return Decision::Skip(Reason::NamespaceNotEnabled),
    }
    if let Some(reason) = unfit(pod) {
        return Decision::Skip(reason);
    }
    refused(pod).map_or(Decision::Inject, Decision::Refuse)
}

/// Why the proxy cannot be added, or need not be.
fn unfit(pod: &Value) -> Option<Reason> {
    let spec = &pod["spec"];
    if spec["hostNetwork"] == true {
        Some(Reason::HostNetwork)
    } else if pod["metadata"]["annotations"].get(MIRROR).is_some() {
        Some(Reason::StaticPod)
    } else if spec["os"]["name"] == "windows" {
        Some(Reason::Windows)
    } else if list(&spec["initContainers"]).any(|container| container["name"] == PROXY_CONTAINER) {
        Some(Reason::AlreadyInjected)
    } else {
        None
    }
}

/// What stands against adding the proxy and must be changed by the pod's author.
fn refused(pod: &Value) -> Option<Reason> {
    let spec = &pod["spec"];
    let containers = || list(&spec["initContainers"]).chain(list(&spec["containers"]));
    let pod_user = &spec["securityContext"]["runAsUser"];
    let taken = |names: [&str; 2], entry: &Value| entry["name"].as_str().is_some_and(|name| names.contains(&name));
    let user = |container: &Value| match &container["securityContext"]["runAsUser"] {
        Value::Null => pod_user.as_u64(),
        own => own.as_u64(),
    };
    if containers().any(|container| taken([INIT_CONTAINER, PROXY_CONTAINER], container))
        || list(&spec["volumes"]).any(|volume| taken([CONFIG_VOLUME, POD_VOLUME], volume))
    {
        Some(Reason::NameTaken)
    } else if containers().any(|container| user(container) == Some(u64::from(PROXY_UID))) {
        Some(Reason::ProxyUser)
    } else {
        None
    }
}

/// The entries of a list, none where there is no list.
pub(crate) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ON: Namespace<'_> = Namespace { name: "shop", enabled: true };
    const OFF: Namespace<'_> = Namespace { name: "shop", enabled: false };

    fn in_own(namespace: Namespace<'_>, pod: &Value) -> Decision {
        decide(namespace, pod, "firebreak-system")
    }

    fn labelled(value: &str) -> Value {
        json!({"metadata": {"labels": {INJECT: value}}, "spec": {"containers": [{"name": "app"}]}})
    }

    fn with_spec(spec: &Value) -> Value {
        json!({"metadata": {}, "spec": spec})
    }

    #[test]
    fn the_pods_label_wins_over_the_namespaces() {
        assert_eq!(in_own(OFF, &labelled(ENABLED)), Decision::Inject);
        assert_eq!(in_own(ON, &labelled(DISABLED)), Decision::Skip(Reason::DisabledByPod));
        assert_eq!(in_own(ON, &with_spec(&json!({}))), Decision::Inject);
        assert_eq!(in_own(OFF, &with_spec(&json!({}))), Decision::Skip(Reason::NamespaceNotEnabled));
    }

    #[test]
    fn a_label_with_a_typing_error_is_refused_wherever_it_stands() {
        for namespace in [ON, OFF] {
            assert_eq!(in_own(namespace, &labelled("true")), Decision::Refuse(Reason::LabelInvalid));
        }
    }

    #[test]
    fn the_cluster_and_firebreak_itself_start_without_the_proxy() {
        for (name, reason) in [
            ("kube-system", Reason::SystemNamespace),
            ("kube-node-lease", Reason::SystemNamespace),
            ("firebreak-system", Reason::OwnNamespace),
        ] {
            let namespace = Namespace { name, enabled: true };
            assert_eq!(in_own(namespace, &labelled(ENABLED)), Decision::Skip(reason));
        }
    }

    #[test]
    fn pods_that_redirection_cannot_serve_are_skipped() {
        let skipped = |pod: &Value| in_own(ON, pod);
        assert_eq!(skipped(&with_spec(&json!({"hostNetwork": true}))), Decision::Skip(Reason::HostNetwork));
        assert_eq!(skipped(&with_spec(&json!({"os": {"name": "windows"}}))), Decision::Skip(Reason::Windows));
        let mirror = json!({"metadata": {"annotations": {MIRROR: "hash"}}, "spec": {}});
        assert_eq!(skipped(&mirror), Decision::Skip(Reason::StaticPod));
        let injected = with_spec(&json!({"initContainers": [{"name": PROXY_CONTAINER}]}));
        assert_eq!(skipped(&injected), Decision::Skip(Reason::AlreadyInjected));
    }

    #[test]
    fn a_name_of_ours_in_use_is_refused() {
        for spec in [
            json!({"containers": [{"name": PROXY_CONTAINER}]}),
            json!({"initContainers": [{"name": INIT_CONTAINER}]}),
            json!({"volumes": [{"name": CONFIG_VOLUME}]}),
        ] {
            assert_eq!(in_own(ON, &with_spec(&spec)), Decision::Refuse(Reason::NameTaken));
        }
    }

    #[test]
    fn nobody_else_may_be_the_proxys_user() {
        let own = json!({"containers": [{"name": "a"}, {"name": "b", "securityContext": {"runAsUser": 2119}}]});
        let inherited = json!({"securityContext": {"runAsUser": 2119}, "containers": [{"name": "a"}]});
        for spec in [own, inherited] {
            assert_eq!(in_own(ON, &with_spec(&spec)), Decision::Refuse(Reason::ProxyUser));
        }
        let overridden = json!({
            "securityContext": {"runAsUser": 2119},
            "containers": [{"name": "a", "securityContext": {"runAsUser": 1000}}]
        });
        assert_eq!(in_own(ON, &with_spec(&overridden)), Decision::Inject);
    }
}
