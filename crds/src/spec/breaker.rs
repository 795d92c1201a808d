//! When calls to a service that fails are stopped, and how it is let back in.

use serde::{Deserialize, Serialize};

use super::{Duration, Mode, Percent, defaults};

/// Stops calls to a callee that keeps failing, looks after a while with a few probes, and lets traffic back in by degrees.
///
/// It works at two levels with the same numbers: for each endpoint, where endpoints are known, and for the callee as a whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct CircuitBreaker {
    /// Whether it acts, or only counts what it would have done. Default: the policy's mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// What opens it: any of these. Left out: 5 failures in a row, or half of at least 20 requests within 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trip_on: Option<TripOn>,
    /// How long it stays open before the callee is probed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_for: Option<OpenFor>,
    /// How the callee is probed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub half_open: Option<HalfOpen>,
    /// How traffic comes back after the probes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recovery>,
    /// Holds the callee's breaker open or closed by hand, whatever the outcomes say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: Option<Force>,
}

/// What opens a breaker: any of the fields that are set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "kube", schemars(extend("x-kubernetes-validations" = super::schema::trip_rules())))]
pub struct TripOn {
    /// Failures in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(range(min = 1, max = 10_000)))]
    pub consecutive_failures: Option<u32>,
    /// A share of failures over time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_rate: Option<FailureRate>,
    /// A share of slow answers over time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_calls: Option<SlowCalls>,
}

/// A share of failures over time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "kube", schemars(extend("x-kubernetes-validations" = super::schema::rate_rules())))]
pub struct FailureRate {
    /// Failures of a hundred tries.
    pub percent: Percent,
    /// How far back tries count, 1s to 1h. Default 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Duration>,
    /// Tries that the window must hold before the share means anything. Default 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(range(min = 1, max = 1_000_000)))]
    pub min_requests: Option<u32>,
}

/// A share of slow answers over time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "kube", schemars(extend("x-kubernetes-validations" = super::schema::rate_rules())))]
pub struct SlowCalls {
    /// Slow tries of a hundred.
    pub percent: Percent,
    /// A try is slow that takes longer than this until its response headers.
    pub threshold: Duration,
    /// How far back tries count, 1s to 1h. Default 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Duration>,
    /// Tries that the window must hold before the share means anything. Default 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(range(min = 1, max = 1_000_000)))]
    pub min_requests: Option<u32>,
}

/// How long a breaker stays open: at first `initial`, then twice as long each time that a probe fails, up to `max`; each time
/// a random part between half of it and all of it, so that callers do not come back together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "kube", schemars(extend("x-kubernetes-validations" = super::schema::open_for_rules())))]
pub struct OpenFor {
    /// The first time. Default 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial: Option<Duration>,
    /// At most. Default 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Duration>,
}

/// How a callee is probed: by so many real requests in all, the first of them alone; one that fails or is slow opens the
/// breaker again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct HalfOpen {
    /// Probes that must pass. Default 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(range(min = 1, max = 100)))]
    pub probes: Option<u32>,
}

/// How traffic comes back: a share of it that grows while the callee is healthy and is halved while it is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "kube", schemars(extend("x-kubernetes-validations" = super::schema::recovery_rules())))]
pub struct Recovery {
    /// Time from the first share to all of the traffic while nothing goes wrong. Default 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ramp: Option<Duration>,
    /// The first share. Default 5; 100 lets everything back in at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_percent: Option<Percent>,
}

/// A breaker that is held by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub enum Force {
    /// Nothing is let through.
    Open,
    /// Everything is let through.
    Closed,
}

impl CircuitBreaker {
    /// What opens it, with the default applied.
    pub fn trips(&self) -> TripOn {
        self.trip_on.clone().unwrap_or_else(|| TripOn {
            consecutive_failures: Some(defaults::BREAKER_CONSECUTIVE_FAILURES),
            failure_rate: Some(FailureRate {
                percent: Percent::whole(defaults::BREAKER_FAILURE_PERCENT),
                window: None,
                min_requests: None,
            }),
            slow_calls: None,
        })
    }
}
