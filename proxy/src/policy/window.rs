//! Counts over a sliding window of time, for all workers, without a lock.
//!
//! The window is a ring of slots, and each counter carries the turn it belongs to in its upper half. A counter of an older
//! turn reads as zero and is replaced by the first write of the new turn in the same atomic step, so expiry needs neither
//! a timer nor a lock, and no increment is lost to a reset. Who comes so late that its slot belongs to a newer turn adds
//! nothing: its own turn is out of the window by then.
//!
//! Several counters are read together, and the last of those that add has to see what all of them added, whichever slot and
//! kind that was in. Therefore all is `SeqCst`, which on x86 costs the same as less.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use tokio::time::Instant;

use crate::sync::AtomicU64;

/// Slots in the window: one that expires changes a sum by about a tenth.
const SLOTS: usize = 10;

/// `KINDS` counts of what happened in the last `length`.
#[derive(Debug)]
pub struct Window<const KINDS: usize> {
    epoch: Instant,
    slice: u128,
    slots: [[Counter; KINDS]; SLOTS],
}

/// A slice of time, counted from one: zero marks a counter never used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn(u64);

/// A count that belongs to one turn of the ring: turn in the upper half, count in the lower.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl<const KINDS: usize> Window<KINDS> {
    /// An empty window that begins at `now`.
    pub fn new(length: Duration, now: Instant) -> Self {
        let slice = (length / u32::try_from(SLOTS).unwrap_or(1)).as_nanos().max(1);
        Self { epoch: now, slice, slots: std::array::from_fn(|_| std::array::from_fn(|_| Counter::default())) }
    }

    /// An empty window whose slices are those of this one.
    #[must_use]
    pub fn like(&self) -> Self {
        let slots = std::array::from_fn(|_| std::array::from_fn(|_| Counter::default()));
        Self { epoch: self.epoch, slice: self.slice, slots }
    }

    /// Which slice of time `now` falls in.
    pub fn turn(&self, now: Instant) -> Turn {
        let since = now.saturating_duration_since(self.epoch).as_nanos();
        Turn(1 + u64::try_from(since / self.slice).unwrap_or(u64::from(u32::MAX)))
    }

    /// Adds `by` to the count of `kind`, which is below `KINDS`.
    pub fn add(&self, turn: Turn, kind: usize, by: i32) {
        self.slots[usize::try_from(turn.0).unwrap_or_default() % SLOTS][kind].add(turn.0, by);
    }

    /// What the window holds of `kind`.
    pub fn sum(&self, turn: Turn, kind: usize) -> u64 {
        self.slots.iter().map(|slot| slot[kind].within(turn.0)).sum()
    }

    /// Adds to the count of `kind` in `sum` too, a window of the same slices. That comes first: what is here can then be taken
    /// out of it at any time.
    pub fn add_with(&self, sum: &Self, turn: Turn, kind: usize, by: i32) {
        sum.add(turn, kind, by);
        self.add(turn, kind, by);
    }

    /// Forgets everything, and takes it out of `sum`, to which all of it was added by [`add_with`](Self::add_with).
    pub fn take_out_of(&self, sum: &Self) {
        for (own, of_all) in self.slots.iter().flatten().zip(sum.slots.iter().flatten()) {
            if own.0.load(SeqCst) != 0 {
                of_all.subtract(own.0.swap(0, SeqCst));
            }
        }
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.slots.iter().flatten().for_each(|counter| counter.0.store(0, SeqCst));
    }
}

impl Counter {
    fn add(&self, turn: u64, by: i32) {
        let update = |old: u64| {
            let count = if old >> 32 == turn { old & u64::from(u32::MAX) } else { 0 };
            let count = count.saturating_add_signed(i64::from(by)).min(u64::from(u32::MAX));
            (old >> 32 <= turn).then_some(turn << 32 | count)
        };
        // Declining means that the slot has turned: what belongs to its last turn is forgotten already.
        let _ = self.0.fetch_update(SeqCst, SeqCst, update);
    }

    /// Takes a count of a turn away, if that is the turn of this one.
    fn subtract(&self, value: u64) {
        let count = value & u64::from(u32::MAX);
        let update = |old: u64| (old >> 32 == value >> 32).then(|| old - count.min(old & u64::from(u32::MAX)));
        // Declining means that the slot has turned: what was in it is forgotten already.
        let _ = self.0.fetch_update(SeqCst, SeqCst, update);
    }

    /// The count, if it is of the last turns up to `turn`.
    fn within(&self, turn: u64) -> u64 {
        let value = self.0.load(SeqCst);
        if (value >> 32) + SLOTS as u64 > turn { value & u64::from(u32::MAX) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let start = Instant::now();
        let window = Window::<2>::new(Duration::from_secs(10), start);
        let at = |seconds| window.turn(start + Duration::from_secs(seconds));
        window.add(at(0), 0, 3);
        window.add(at(5), 0, 4);
        window.add(at(5), 1, 1);
        assert_eq!((window.sum(at(9), 0), window.sum(at(9), 1)), (7, 1));
        assert_eq!(window.sum(at(10), 0), 4, "the first second is ten seconds ago");
        assert_eq!(window.sum(at(15), 0), 0);
        window.add(at(15), 0, 1);
        assert_eq!(window.sum(at(15), 0), 1, "a slot is used again");
        window.clear();
        assert_eq!(window.sum(at(15), 0), 0);
    }

    #[test]
    fn what_is_taken_out_of_a_sum_is_gone_from_both() {
        let start = Instant::now();
        let all = Window::<2>::new(Duration::from_secs(10), start);
        let (one, other) = (all.like(), all.like());
        let at = |seconds| all.turn(start + Duration::from_secs(seconds));
        for (window, seconds, by) in [(&one, 0, 3), (&one, 5, 4), (&other, 0, 10), (&one, 11, 1)] {
            window.add_with(&all, at(seconds), 0, by);
        }
        assert_eq!(all.sum(at(11), 0), 5, "of the first slice nothing is left");
        one.take_out_of(&all);
        assert_eq!((one.sum(at(11), 0), all.sum(at(11), 0)), (0, 0));
        assert_eq!(other.sum(at(5), 0), 10);
    }
}
