//! When a failed try is repeated, and how much of that a service may receive.
//!
//! A try that brought no response counts as the status the proxy would answer in its place (502, 503 or 504, see
//! `docs/reasons.md`), so `gateway-error` and `5xx` cover it.

use serde::{Deserialize, Serialize};

use super::{Duration, Mode, Percent, defaults};

/// Retries of failed tries. Present but empty means the defaults; absent means no retries.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct Retries {
    /// Whether it acts, or only counts what it would have done. Default: the policy's mode. Not on a route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Extra tries after the first: 0 to 10. Default 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(range(max = 10)))]
    pub max_retries: Option<u8>,
    /// What is retried. Default: connect-failure, refused-stream, reset-before-response, gateway-error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 12), extend("x-kubernetes-list-type" = "set")))]
    pub conditions: Option<Vec<Condition>>,
    /// Statuses that the condition `codes` stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "kube",
        schemars(length(max = 32), inner(range(min = 400, max = 599)), extend("x-kubernetes-list-type" = "set"))
    )]
    pub codes: Option<Vec<u16>>,
    /// Which methods may be sent twice. gRPC conditions do not look at methods. Default Safe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub methods: Option<Methods>,
    /// Pauses between tries: full jitter, doubling from `base` up to `max`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Backoff>,
    /// The most that retries may add to the load of a callee, over time and for each proxy. Set on the policy, not on a
    /// route: it belongs to the callee.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
}

/// One reason to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub enum Condition {
    /// The connection could not be opened. Nothing was sent, so every method may be retried.
    ConnectFailure,
    /// The connection ended before the first byte of a response.
    ResetBeforeResponse,
    /// HTTP/2: the callee refused the stream, so it did nothing with it; every method may be retried.
    RefusedStream,
    /// 502, 503 or 504, from the callee or in place of no response.
    GatewayError,
    /// Any status from 500 to 599, from the callee or in place of no response.
    #[serde(rename = "5xx")]
    ServerError,
    /// 409 Conflict.
    #[serde(rename = "retriable-4xx")]
    Retriable4xx,
    /// A status listed in `codes`.
    Codes,
    /// gRPC status 1.
    GrpcCancelled,
    /// gRPC status 4.
    GrpcDeadlineExceeded,
    /// gRPC status 8.
    GrpcResourceExhausted,
    /// gRPC status 13.
    GrpcInternal,
    /// gRPC status 14.
    GrpcUnavailable,
}

/// Which methods may be sent twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub enum Methods {
    /// GET, HEAD, OPTIONS and TRACE (RFC 9110, 9.2.1).
    Safe,
    /// The safe ones, PUT and DELETE (RFC 9110, 9.2.2), and whatever carries an `Idempotency-Key`.
    Idempotent,
    /// All. The callee must bear a request twice.
    All,
}

/// Pauses between tries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "kube", schemars(extend("x-kubernetes-validations" = super::schema::backoff_rules())))]
pub struct Backoff {
    /// The first pause is a random part of this. Default 25ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Duration>,
    /// No pause is longer. Default 250ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Duration>,
}

/// The most that retries may add: `percent` of the requests of the last `window`, plus `minPerSecond` for each second of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "kube", schemars(extend("x-kubernetes-validations" = super::schema::budget_rules())))]
pub struct Budget {
    /// Retries for each hundred requests. Default 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<Percent>,
    /// Retries per second that are always allowed. Default 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(range(max = 100_000)))]
    pub min_per_second: Option<u32>,
    /// How far back requests count, 1s to 1h. Default 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Duration>,
}

impl Retries {
    /// These retries with the fields of `over` in their place where `over` has them. The budget stays: it is the callee's.
    #[must_use]
    pub fn overridden_by(&self, over: &Self) -> Self {
        Self {
            mode: self.mode,
            max_retries: over.max_retries.or(self.max_retries),
            conditions: over.conditions.clone().or_else(|| self.conditions.clone()),
            codes: over.codes.clone().or_else(|| self.codes.clone()),
            methods: over.methods.or(self.methods),
            backoff: over.backoff.or(self.backoff),
            budget: self.budget,
        }
    }

    /// Extra tries, with the default applied.
    pub fn max(&self) -> u8 {
        self.max_retries.unwrap_or(defaults::MAX_RETRIES)
    }

    /// Conditions, with the default applied.
    pub fn conditions(&self) -> &[Condition] {
        self.conditions.as_deref().unwrap_or(&defaults::CONDITIONS)
    }
}

impl Backoff {
    /// The first and the longest pause, with the defaults applied. A `base` above the default `max` lifts it.
    pub fn resolved(self) -> (std::time::Duration, std::time::Duration) {
        let base = self.base.map_or(defaults::BACKOFF_BASE, Duration::get);
        (base, self.max.map_or(defaults::BACKOFF_MAX.max(base), Duration::get))
    }
}
