//! Namespaces: the switches that people set on them.

use firebreak_crds::{marks, spec::Labels};
use k8s_openapi::api::core::v1;

use super::{Filed, Key};

/// What is asked of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "four switches that people set independently")]
pub struct Namespace {
    /// Its name; `namespace` is empty.
    pub key: Key,
    /// For Events about it.
    pub uid: String,
    /// For `namespaceSelector`s.
    pub labels: Labels,
    /// Its pods get the proxy.
    pub inject: bool,
    /// Faults may act on callers in it.
    pub faults: bool,
    /// Break-glass: its proxies forward and do nothing else.
    pub transparent: bool,
    /// It is being deleted.
    pub terminating: bool,
}

impl From<v1::Namespace> for Namespace {
    fn from(namespace: v1::Namespace) -> Self {
        let meta = namespace.metadata;
        let labels = meta.labels.unwrap_or_default();
        let enabled = |label: &str| labels.get(label).is_some_and(|value| value == marks::ENABLED);
        let transparent = meta.annotations.as_ref().and_then(|them| them.get(marks::TRANSPARENT));
        Self {
            inject: enabled(marks::INJECT),
            faults: enabled(marks::FAULTS),
            transparent: transparent.is_some_and(|value| value == "true"),
            terminating: meta.deletion_timestamp.is_some(),
            key: Key::cluster(meta.name.unwrap_or_default()),
            uid: meta.uid.unwrap_or_default(),
            labels,
        }
    }
}

impl Filed for Namespace {
    fn key(&self) -> &Key {
        &self.key
    }
}
