//! When a second try is sent beside the first.

use serde::{Deserialize, Serialize};

use super::{Duration, Mode, Percent, defaults};

/// A second try beside a first that is slow, for idempotent requests; the first good answer wins. In a route, what is left out
/// stays as the policy has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct Hedge {
    /// Whether it acts, or only counts what it would have done. Default: the policy's mode. Not on a route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// How long a try may go without response headers before a second is sent. Required on the policy: about the callee's 95th
    /// percentile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Duration>,
    /// The most second tries for each hundred requests, in each proxy; the retry budget limits them too. 0 switches hedging off
    /// for a route. Default 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_extra_load_percent: Option<Percent>,
}

impl Hedge {
    /// This with the fields of `over` in their place where `over` has them.
    #[must_use]
    pub fn overridden_by(&self, over: &Self) -> Self {
        Self {
            mode: self.mode,
            after: over.after.or(self.after),
            max_extra_load_percent: over.max_extra_load_percent.or(self.max_extra_load_percent),
        }
    }

    /// The most second tries for each hundred requests, with the default applied.
    pub fn max_extra_load(&self) -> Percent {
        self.max_extra_load_percent.unwrap_or(Percent::whole(defaults::HEDGE_MAX_EXTRA_LOAD_PERCENT))
    }
}
