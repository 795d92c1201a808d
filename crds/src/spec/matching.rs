//! Which requests: by path, method and header.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A condition on a request. All parts that are given must hold; an empty match holds for every request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct HttpMatch {
    /// The path, without the query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    /// The method is one of these. Case counts (RFC 9110, 9.1).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(
        feature = "kube",
        schemars(
            length(max = 16),
            inner(length(max = 32), regex(pattern = r"^[A-Z][A-Z-]*$")),
            extend("x-kubernetes-list-type" = "set")
        )
    )]
    pub methods: Vec<String>,
    /// Headers by name (case does not count); each must be there and match.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "kube", schemars(extend("maxProperties" = 16)))]
    pub headers: BTreeMap<String, ValueMatch>,
}

/// A condition on a path: exactly one of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "kube", schemars(extend("x-kubernetes-validations" = super::schema::path_rules())))]
pub struct PathMatch {
    /// The whole path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 1024)))]
    pub exact: Option<String>,
    /// The path's first elements: `/a` matches `/a` and `/a/b`, not `/ab` (as in Gateway API).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 1024)))]
    pub prefix: Option<String>,
}

/// A condition on a header's value: exactly one of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "kube", schemars(extend("x-kubernetes-validations" = super::schema::value_rules())))]
pub struct ValueMatch {
    /// The whole value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(max = 1024)))]
    pub exact: Option<String>,
    /// The value's beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(max = 1024)))]
    pub prefix: Option<String>,
}
