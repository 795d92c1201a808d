//! What a policy says of a breaker, compiled.

use std::time::Duration;

use firebreak_crds::spec::{self, Force, Percent, defaults};

/// The numbers of a breaker, defaults applied.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Failures in a row that open it.
    pub consecutive: Option<u32>,
    /// The share of failures that opens it.
    pub failures: Option<Rate>,
    /// How far the share of failures must be above that of other endpoints to open it.
    pub above_others: Option<Rate>,
    /// The share of slow answers that opens it.
    pub slow: Option<Slow>,
    /// How long it is open the first time.
    pub open_first: Duration,
    /// How long it is open at most.
    pub open_longest: Duration,
    /// Probes that must pass, and the most that there are at a time.
    pub probes: u32,
    /// Time from the first share to all of the traffic.
    pub ramp: Duration,
    /// The first share, above 0 and up to 1.
    pub first_share: f64,
    /// Held by hand.
    pub force: Option<Force>,
}

/// A share over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Of a million tries.
    pub parts_per_million: u32,
    /// How far back tries count.
    pub window: Duration,
    /// Tries without which the share means nothing.
    pub min_requests: u32,
}

/// A share of slow answers over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slow {
    /// The share.
    pub rate: Rate,
    /// What takes longer is slow.
    pub threshold: Duration,
}

/// A step of a recovery with at least this share of bad outcomes is not healthy, where the policy names no share.
const TOLERATED: u32 = 500_000;

impl From<&spec::CircuitBreaker> for Limits {
    fn from(breaker: &spec::CircuitBreaker) -> Self {
        let trips = breaker.trips();
        let rate = |percent: Percent, window: Option<spec::Duration>, min_requests: Option<u32>| Rate {
            parts_per_million: percent.parts_per_million(),
            window: window.map_or(defaults::BREAKER_WINDOW, spec::Duration::get),
            min_requests: min_requests.unwrap_or(defaults::BREAKER_MIN_REQUESTS),
        };
        let open = breaker.open_for.unwrap_or_default();
        let first = open.initial.map_or(defaults::BREAKER_OPEN_INITIAL, spec::Duration::get);
        let recovery = breaker.recovery.unwrap_or_default();
        let first_share = recovery.start_percent.unwrap_or(Percent::whole(defaults::BREAKER_START_PERCENT));
        Self {
            consecutive: trips.consecutive_failures,
            failures: trips.failure_rate.map(|limit| rate(limit.percent, limit.window, limit.min_requests)),
            above_others: None,
            slow: trips.slow_calls.map(|limit| Slow {
                rate: rate(limit.percent, limit.window, limit.min_requests),
                threshold: limit.threshold.get(),
            }),
            open_first: first,
            open_longest: open.max.map_or(defaults::BREAKER_OPEN_MAX.max(first), spec::Duration::get),
            probes: breaker.half_open.and_then(|probing| probing.probes).unwrap_or(defaults::BREAKER_PROBES),
            ramp: recovery.ramp.map_or(defaults::BREAKER_RAMP, spec::Duration::get),
            first_share: f64::from(first_share.parts_per_million().max(1)) / 1e6,
            force: breaker.force,
        }
    }
}

impl Limits {
    /// What the breaker of an endpoint goes by: where the policy has `outlierDetection`, by that, in the manner of the
    /// callee's own breaker if there is one; else as the callee's own. Held open by hand, a callee is left alone as a whole,
    /// and its endpoints go on by their outcomes.
    pub fn of_endpoint(callee: Option<Self>, outliers: Option<&spec::OutlierDetection>) -> Option<Self> {
        let limits = match (callee, outliers) {
            (callee, Some(outliers)) => {
                let like = callee.unwrap_or_else(|| Self::from(&spec::CircuitBreaker::default()));
                let (consecutive, deviation) = outliers.causes();
                let eject_for = outliers.eject_for.unwrap_or_default();
                let first = eject_for.initial.map_or(defaults::EJECT_INITIAL, spec::Duration::get);
                let longest = eject_for.max.map_or(defaults::EJECT_MAX.max(first), spec::Duration::get);
                Self {
                    consecutive,
                    failures: None,
                    above_others: deviation.map(|it| Rate {
                        parts_per_million: it.above_others().parts_per_million(),
                        window: it.window.map_or(defaults::OUTLIER_WINDOW, spec::Duration::get),
                        min_requests: it.min_requests.unwrap_or(defaults::OUTLIER_MIN_REQUESTS),
                    }),
                    open_first: first,
                    open_longest: longest,
                    ..like
                }
            }
            (callee, None) => callee?,
        };
        Some(Self { force: limits.force.filter(|force| *force == Force::Closed), ..limits })
    }

    /// How long it stays open when it opens for the `openings`th time in a row: `random`, from 0 to 1, says where between
    /// half and all of the time.
    pub fn open_time(&self, openings: u32, random: f64) -> Duration {
        let doubled = self.open_first.saturating_mul(1u32.checked_shl(openings.saturating_sub(1)).unwrap_or(u32::MAX));
        doubled.min(self.open_longest).mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    /// By which factor the share grows in each of `steps` that lead to all of the traffic.
    pub fn growth(&self, steps: u32) -> f64 {
        (1.0 / self.first_share).powf(1.0 / f64::from(steps))
    }

    /// The share of bad outcomes, of a million, from which on a step of a recovery is not healthy.
    pub fn tolerated(&self) -> u32 {
        let shares = [self.failures, self.above_others, self.slow.map(|slow| slow.rate)].into_iter().flatten();
        shares.map(|rate| rate.parts_per_million).min().unwrap_or(TOLERATED).max(1)
    }
}
