//! How the service answers a request: what trouble it makes, and for which share of requests.
//!
//! Which requests are hit is a hash of the seed and a counter and so the same in each run, but without a pattern that a number
//! of callers or retries could fall in step with.

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What happens to `percent` of the requests. The others are answered at once with 200.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// How many requests of a hundred are hit.
    pub percent: u64,
    /// Chooses which.
    pub seed: u64,
    /// The status they are answered with.
    pub status: u16,
    /// The gRPC status that gRPC calls are answered with.
    pub grpc_status: u8,
    /// Milliseconds before the answer.
    pub delay: u64,
    /// Whether they are never answered.
    pub hang: bool,
    /// Whether their connection is reset instead of an answer.
    pub reset: bool,
    /// Bytes of the answer's body. Zero: a JSON object that tells what was received.
    pub size: usize,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self { percent: 100, seed: 0, status: 200, grpc_status: 0, delay: 0, hang: false, reset: false, size: 0 }
    }
}

impl Behaviour {
    /// This behaviour with what the query of a URL says, such as `status=503&percent=30`, in its place.
    pub fn with_query(&self, query: &str) -> anyhow::Result<Self> {
        let mut value = serde_json::to_value(self)?;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, text) = pair.split_once('=').with_context(|| format!("`{pair}` is not NAME=VALUE"))?;
            value[name] = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.into()));
        }
        Ok(serde_json::from_value(value)?)
    }

    /// What is done with the request that is the `count`th.
    #[must_use]
    pub fn drawn(&self, count: u64) -> Self {
        if mixed(self.seed.wrapping_add(count)) % 100 < self.percent { self.clone() } else { Self::default() }
    }
}

/// The finalizer of `SplitMix64`: each bit of the input changes each bit of the output with probability one half.
fn mixed(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_overrides_field_by_field() {
        let base = Behaviour { delay: 5, ..Behaviour::default() };
        let expected = Behaviour { status: 503, percent: 30, hang: true, ..base.clone() };
        assert_eq!(base.with_query("status=503&percent=30&hang=true").unwrap(), expected);
        assert_eq!(base.with_query("").unwrap(), base);
        assert!(base.with_query("statsu=503").is_err(), "a misspelt name must not pass as the default");
        assert!(base.with_query("status=many").is_err());
    }

    #[test]
    fn a_share_is_hit_close_to_what_was_asked_and_the_same_each_time() {
        let failing = Behaviour { status: 503, percent: 30, seed: 7, ..Behaviour::default() };
        let hits = || (0..10_000).filter(|count| failing.drawn(*count).status == 503).collect::<Vec<_>>();
        assert!((2800..3200).contains(&hits().len()), "{}", hits().len());
        assert_eq!(hits(), hits());
    }
}
