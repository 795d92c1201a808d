//! What a policy or fault is about, after GEP-713: `{group, kind, name, namespace, sectionName}`.

use serde::{Deserialize, Serialize};

/// A Service, one port of it, or the policy's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "kube", schemars(extend("x-kubernetes-validations" = super::schema::target_rules())))]
pub struct TargetRef {
    /// API group of the target: empty, since Service and Namespace are of the core group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[cfg_attr(feature = "kube", schemars(length(max = 253)))]
    pub group: String,
    /// `Service`, or `Namespace` for every Service of the object's own namespace.
    pub kind: TargetKind,
    /// Name of the target.
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 63)))]
    pub name: String,
    /// The Service's namespace, when it is not the object's own: a consumer's policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 63)))]
    pub namespace: Option<String>,
    /// Name of one port of the Service. Left out: all its ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 63)))]
    pub section_name: Option<String>,
}

/// The kinds that can be targeted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub enum TargetKind {
    /// A Service, or one port of it.
    Service,
    /// The namespace of the policy itself: the default for every Service in it.
    Namespace,
}
