//! The words of Firebreak: what users write ([`spec`]), what travels from operator to proxy ([`wire`]), and, behind the
//! feature `kube`, the Kubernetes resources with their schemas and rules ([`resources`]).
//!
//! No I/O happens here. The policy structs of `spec` are used in `wire` as they are, so that operator and proxy cannot
//! disagree about what a field means; rendering only resolves targets, defaults and references.

pub mod pod;
pub mod redirect;
#[cfg(feature = "kube")]
pub mod resources;
pub mod spec;
pub mod wire;

/// API group of every kind of ours.
pub const GROUP: &str = "firebreak.dev";
/// API version of every kind of ours.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` of every object of ours.
pub const API_VERSION: &str = "firebreak.dev/v1alpha1";

/// Labels and annotations that users and components set on Kubernetes objects.
pub mod marks {
    /// Label on a namespace or pod: `enabled` adds the proxy to pods, `disabled` keeps it out. The pod's label wins.
    pub const INJECT: &str = "firebreak.dev/inject";
    /// Label on a namespace: `enabled` lets faults act on callers in it.
    pub const FAULTS: &str = "firebreak.dev/faults";
    /// Annotation on a namespace: `"true"` makes every proxy in it a plain forwarder at once (break-glass).
    pub const TRANSPARENT: &str = "firebreak.dev/transparent";
    /// Annotation on an injected pod: the version of the proxy it runs. Its presence marks the pod as injected.
    pub const INJECTED: &str = "firebreak.dev/injected";
    /// Annotation on an injected pod: hash of the config last published; touching it hurries the kubelet.
    pub const CONFIG: &str = "firebreak.dev/config";
    /// Annotation on a Service, for local mode only: `"80=18080,9000=19000"` chooses the ports listened on.
    pub const LOCAL_PORTS: &str = "firebreak.dev/local-ports";
    /// Value of a switch that is on.
    pub const ENABLED: &str = "enabled";
    /// Value of a switch that is off.
    pub const DISABLED: &str = "disabled";
    /// Name of the ConfigMap that carries the rendered config in each enabled namespace.
    pub const CONFIG_MAP: &str = "firebreak-proxy";
    /// Key of the rendered config in that ConfigMap, and so the file's name in the pod.
    pub const CONFIG_KEY: &str = "config.json";
}
