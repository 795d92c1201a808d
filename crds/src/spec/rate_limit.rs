//! How many requests a caller may send a callee in a time, whatever becomes of them.

use serde::{Deserialize, Serialize};

use super::Mode;

/// A limit for each callee (a Service port) in each proxy: a bucket of `burst` requests that fills up at `requestsPerSecond`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct RateLimit {
    /// Whether it acts, or only counts what it would have done. Default: the policy's mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Requests a second, over time.
    #[cfg_attr(feature = "kube", schemars(range(min = 1, max = 1_000_000)))]
    pub requests_per_second: u32,
    /// Requests that may come at once after a quiet time. Default: as many as `requestsPerSecond`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(range(min = 1, max = 1_000_000)))]
    pub burst: Option<u32>,
}

impl RateLimit {
    /// The most that may come at once, with the default applied.
    pub fn burst(&self) -> u32 {
        self.burst.unwrap_or(self.requests_per_second)
    }
}
