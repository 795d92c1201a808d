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
//! The window is a ring of slots, and each counter carries the turn it belongs to in its upper half. A counter of an older
//! turn reads as zero and is replaced by the first write of the new turn in the same atomic step, so expiry needs neither
//! a timer nor a lock, and no increment is lost to a reset. `take` adds before it looks and takes back when there was
//! nothing left, so racing workers may refuse one retry too many, never send one.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use firebreak_crds::spec::{self, defaults};
use tokio::time::Instant;

/// Slots in the window: one that expires changes the allowance by at most a tenth.
const SLOTS: usize = 10;

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
    epoch: Instant,
    slots: [Slot; SLOTS],
}

#[derive(Debug, Default)]
struct Slot {
    requests: Counter,
    retries: Counter,
}

/// A count that belongs to one turn of the ring: turn in the upper half, count in the lower.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

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
        Self { limits, epoch: now, slots: Default::default() }
    }

    /// What it was made with.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Counts an original request.
    pub fn request(&self, now: Instant) {
        let turn = self.turn(now);
        self.slot(turn).requests.add(turn, 1);
    }

    /// Whether a retry sent now would be within the budget. Spends nothing.
    pub fn allows(&self, now: Instant) -> bool {
        let turn = self.turn(now);
        self.retries(turn) < self.allowance(turn)
    }

    /// Spends one retry if there is one; the caller sends the retry only on `true`.
    pub fn take(&self, now: Instant) -> bool {
        let turn = self.turn(now);
        let retries = &self.slot(turn).retries;
        retries.add(turn, 1);
        let within = self.retries(turn) <= self.allowance(turn);
        if !within {
            retries.add(turn, -1);
        }
        within
    }

    fn allowance(&self, turn: u64) -> u64 {
        let window = u64::try_from(self.limits.window.as_millis()).unwrap_or(u64::MAX);
        let floor = u64::from(self.limits.min_per_second).saturating_mul(window) / 1_000;
        let requests: u64 = self.slots.iter().map(|slot| slot.requests.within(turn)).sum();
        floor + requests * u64::from(self.limits.parts_per_million) / 1_000_000
    }

    fn retries(&self, turn: u64) -> u64 {
        self.slots.iter().map(|slot| slot.retries.within(turn)).sum()
    }

    fn slot(&self, turn: u64) -> &Slot {
        &self.slots[usize::try_from(turn).unwrap_or_default() % SLOTS]
    }

    /// Which slice of time `now` falls in, counted from one: zero marks a counter never used.
    fn turn(&self, now: Instant) -> u64 {
        let slice = (self.limits.window / u32::try_from(SLOTS).unwrap_or(1)).as_nanos().max(1);
        1 + u64::try_from(now.saturating_duration_since(self.epoch).as_nanos() / slice).unwrap_or(u64::from(u32::MAX))
    }
}

impl Counter {
    fn add(&self, turn: u64, by: i32) {
        let update = |old: u64| {
            let count = if old >> 32 == turn { old & u64::from(u32::MAX) } else { 0 };
            Some(turn << 32 | count.saturating_add_signed(i64::from(by)).min(u64::from(u32::MAX)))
        };
        // The closure never declines, so this cannot fail.
        let _ = self.0.fetch_update(Relaxed, Relaxed, update);
    }

    /// The count, if it is of the last ten turns up to `turn`.
    fn within(&self, turn: u64) -> u64 {
        let value = self.0.load(Relaxed);
        if (value >> 32) + SLOTS as u64 > turn { value & u64::from(u32::MAX) } else { 0 }
    }
}

#[cfg(test)]
mod tests;
