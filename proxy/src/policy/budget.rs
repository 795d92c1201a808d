//! The retry budget: how many extra attempts a callee may receive from this proxy.
//!
//! Retries help while failures are rare and harm while they are not: three layers that each try three times make 27
//! requests of one. A limit for each request cannot see that; a budget can. It admits a retry only while the retries of
//! the window stay under a share of the window's *original* requests, plus a floor so that a quiet callee may be retried.
//!
//! * It counts over time. A share of what is in flight cannot be sized by a user and forgets retries that wait in back-off
//!   (envoyproxy/envoy#30205).
//! * It is asked twice: [`Budget::allows`] when a retry is planned, [`Budget::take`] when it is sent, because a burst of
//!   failures passes the first check together. Only `take` spends.
//!
//! `take` adds before it looks and takes back when there was nothing left, so racing workers may refuse one retry too many,
//! never send one.

use std::time::Duration;

use firebreak_crds::spec::{self, defaults};
use tokio::time::Instant;

use super::window::{Turn, Window};

/// What a policy says, defaults applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Retries for each million original requests of the window.
    pub parts_per_million: u32,
    /// Retries per second that are always allowed.
    pub min_per_second: u32,
    /// How far back requests count.
    pub window: Duration,
}

/// A callee's retry budget, shared by all workers.
#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    window: Window<2>,
}

/// What the window counts.
const REQUESTS: usize = 0;
const RETRIES: usize = 1;

impl From<&spec::Budget> for Limits {
    fn from(budget: &spec::Budget) -> Self {
        Self {
            parts_per_million: budget
                .percent
                .unwrap_or(spec::Percent::whole(defaults::BUDGET_PERCENT))
                .parts_per_million(),
            min_per_second: budget.min_per_second.unwrap_or(defaults::BUDGET_MIN_PER_SECOND),
            window: budget.window.map_or(defaults::BUDGET_WINDOW, spec::Duration::get),
        }
    }
}

impl Budget {
    /// A budget with nothing spent, whose window begins at `now`.
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self { limits, window: Window::new(limits.window, now) }
    }

    /// What it was made with.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Counts an original request.
    pub fn request(&self, now: Instant) {
        self.window.add(self.window.turn(now), REQUESTS, 1);
    }

    /// Whether a retry sent now would be within the budget. Spends nothing.
    pub fn allows(&self, now: Instant) -> bool {
        let turn = self.window.turn(now);
        self.window.sum(turn, RETRIES) < self.allowance(turn)
    }

    /// Spends one retry if there is one; the caller sends the retry only on `true`.
    pub fn take(&self, now: Instant) -> bool {
        let turn = self.window.turn(now);
        self.window.add(turn, RETRIES, 1);
        let within = self.window.sum(turn, RETRIES) <= self.allowance(turn);
        if !within {
            self.window.add(turn, RETRIES, -1);
        }
        within
    }

    fn allowance(&self, turn: Turn) -> u64 {
        let window = u64::try_from(self.limits.window.as_millis()).unwrap_or(u64::MAX);
        let floor = u64::from(self.limits.min_per_second).saturating_mul(window) / 1_000;
        floor + self.window.sum(turn, REQUESTS) * u64::from(self.limits.parts_per_million) / 1_000_000
    }
}

#[cfg(test)]
mod tests;
