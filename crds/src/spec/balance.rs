//! Which endpoint a try goes to.

use serde::{Deserialize, Serialize};

use super::Duration;

/// Chooses among the endpoints of a callee, where they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "kube", schemars(extend("x-kubernetes-validations" = super::schema::balancing_rules())))]
pub struct LoadBalancing {
    /// How an endpoint is chosen. Default `PeakEwma`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<Algorithm>,
    /// What of a request names its endpoint; with `algorithm: Hash`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<HashKey>,
    /// How long a new endpoint takes to come to its full part, 1s to 1h: it begins with a tenth. Left out: at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<Duration>,
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub enum Algorithm {
    /// Of two that chance names, the one from which an answer is expected sooner: by the time that it lately took to response
    /// headers, its slow ones above all, times the requests that it has.
    #[default]
    PeakEwma,
    /// Of two that chance names, the one with fewer requests under way.
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// By chance.
    Random,
    /// Always the same for the same header or cookie, as long as it is there.
    Hash,
}

/// What of a request names its endpoint: exactly one of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "kube", schemars(extend("x-kubernetes-validations" = super::schema::hash_rules())))]
pub struct HashKey {
    /// The value of this header; case does not count in its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "kube",
        schemars(length(min = 1, max = 256), regex(pattern = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"))
    )]
    pub header: Option<String>,
    /// The value of this cookie; case counts in its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "kube",
        schemars(length(min = 1, max = 256), regex(pattern = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"))
    )]
    pub cookie: Option<String>,
}

impl LoadBalancing {
    /// How an endpoint is chosen, with the default applied.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm.unwrap_or(super::defaults::ALGORITHM)
    }
}
