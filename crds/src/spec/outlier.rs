//! Which endpoints are left out because they do worse than the others.

use serde::{Deserialize, Serialize};

use super::{Duration, Mode, Percent, defaults};

/// Ejects an endpoint that fails, or fails more than the others, where endpoints are known: it gets no request for a while, then
/// probes, then a share that grows. At least half of the endpoints, and one, always stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct OutlierDetection {
    /// Whether it acts, or only counts what it would have done. Default: the policy's mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Failures in a row. Default 5, unless `failureRate` alone is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(range(min = 1, max = 10_000)))]
    pub consecutive_failures: Option<u32>,
    /// A share of failures above that of the others. Default 30 of a hundred above, unless `consecutiveFailures` alone is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_rate: Option<Deviation>,
    /// How long an endpoint is ejected before it is probed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eject_for: Option<EjectFor>,
}

/// A share of failures over time, compared with that of the other endpoints together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "kube", schemars(extend("x-kubernetes-validations" = super::schema::deviation_rules())))]
pub struct Deviation {
    /// How far above theirs it must be, in failures of a hundred tries. Default 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above_others: Option<Percent>,
    /// How far back tries count, 1s to 1h. Default 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Duration>,
    /// Tries that the window must hold, of the endpoint and of the others together. Default 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(range(min = 1, max = 1_000_000)))]
    pub min_requests: Option<u32>,
}

/// How long an endpoint is ejected: at first `initial`, then twice as long each time that it fails again before it has its
/// whole share, up to `max`; each time a random part between half of it and all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "kube", schemars(extend("x-kubernetes-validations" = super::schema::eject_for_rules())))]
pub struct EjectFor {
    /// The first time. Default 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial: Option<Duration>,
    /// At most. Default 1m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Duration>,
}

impl OutlierDetection {
    /// What ejects, with the defaults applied: failures in a row, and the share above that of the others.
    pub fn causes(&self) -> (Option<u32>, Option<Deviation>) {
        match (self.consecutive_failures, self.failure_rate) {
            (None, None) => (Some(defaults::OUTLIER_CONSECUTIVE_FAILURES), Some(Deviation::default())),
            causes => causes,
        }
    }
}

impl Deviation {
    /// How far above the others, with the default applied.
    pub fn above_others(&self) -> Percent {
        self.above_others.unwrap_or(Percent::whole(defaults::OUTLIER_ABOVE_OTHERS))
    }
}
