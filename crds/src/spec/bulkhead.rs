//! How much of a caller one callee may take, so that a slow callee cannot take everything.

use serde::{Deserialize, Serialize};

use super::{Duration, Mode};

/// Limits for each callee (a Service port) in each proxy. A limit that is left out does not apply.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "kube", schemars(extend("x-kubernetes-validations" = super::schema::bulkhead_rules())))]
pub struct Bulkhead {
    /// Whether it acts, or only counts what it would have done. Default: the policy's mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Connections to the callee, idle ones included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(range(min = 1, max = 1_000_000)))]
    pub max_connections: Option<u32>,
    /// Requests in flight at the callee.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(range(min = 1, max = 1_000_000)))]
    pub max_requests: Option<u32>,
    /// Requests that may wait until a connection or a place in flight is free; the next one is refused at once. Default
    /// 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(range(max = 1_000_000)))]
    pub max_pending: Option<u32>,
    /// How long a request may wait. Default 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_pending_time: Option<Duration>,
}
