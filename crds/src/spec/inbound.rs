//! What the callee's own proxy enforces, whoever calls.

use serde::{Deserialize, Serialize};

use super::{Duration, defaults};

/// Limits that the proxies beside a Service's own pods enforce. Only for Services of the policy's own namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct Inbound {
    /// How many requests an application works on at once. The limit finds itself by how long they take.
    pub concurrency: Concurrency,
}

/// A limit for each port of each pod that adapts: it grows while requests take no longer for it, and shrinks when they do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "kube", schemars(extend("x-kubernetes-validations" = super::schema::concurrency_rules())))]
pub struct Concurrency {
    /// Requests at once before anything is known. Default 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(range(min = 1, max = 1_000_000)))]
    pub initial: Option<u32>,
    /// The limit is never below. Default 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(range(min = 1, max = 1_000_000)))]
    pub min: Option<u32>,
    /// The limit is never above. Default 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(range(min = 1, max = 1_000_000)))]
    pub max: Option<u32>,
    /// How much longer than without a queue requests may take before the limit shrinks, of a hundred. Default 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(range(min = 5, max = 1_000)))]
    pub tolerance_percent: Option<u32>,
    /// Requests that may wait until one is over. Default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(range(max = 1_000)))]
    pub max_pending: Option<u32>,
    /// How long a request may wait. Default 100ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_pending_time: Option<Duration>,
}

impl Concurrency {
    /// The least, the first and the largest limit, with the defaults applied: a bound that is given moves a default beyond it.
    pub fn bounds(&self) -> (u32, u32, u32) {
        let max = self.max.unwrap_or_else(|| defaults::CONCURRENCY_MAX.max(self.min.unwrap_or_default()));
        let min = self.min.unwrap_or(defaults::CONCURRENCY_MIN).min(max);
        (min, self.initial.unwrap_or(defaults::CONCURRENCY_INITIAL).clamp(min, max), max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_moves_defaults() {
        let bounds = |min, max| Concurrency { min, max, ..Concurrency::default() }.bounds();
        assert_eq!(bounds(None, None), (4, 20, 1_000));
        assert_eq!(bounds(None, Some(2)), (2, 2, 2));
        assert_eq!(bounds(Some(2_000), None), (2_000, 2_000, 2_000));
    }
}
