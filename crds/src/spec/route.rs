//! Exceptions from a policy for some requests.

use serde::{Deserialize, Serialize};

use super::{Hedge, HttpMatch, Retries, Timeouts};

/// For requests that match, other timeouts, retries and hedging. What a route leaves out stays as the policy has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "kube", schemars(extend("x-kubernetes-validations" = super::schema::route_rules())))]
pub struct Route {
    /// Which requests.
    #[serde(rename = "match")]
    pub matches: HttpMatch,
    /// Clocks that differ from the policy's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// Retries that differ from the policy's. `maxRetries: 0` switches them off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<Retries>,
    /// Hedging that differs from the policy's. `maxExtraLoadPercent: 0` switches it off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedge: Option<Hedge>,
}
