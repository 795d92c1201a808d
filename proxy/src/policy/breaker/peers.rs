//! What the endpoints of one callee know of each other: how the others do, and how many of them may be out at a time.
//!
//! An endpoint that fails more than the others is ill itself; where all fail alike, something that they share is, and leaving
//! any of them out would only move its load to the rest. However many are ill, at most half of them, rounded down, are out:
//! of one none, of two and three one, of four two. An endpoint is out from the moment at which its breaker opens until that is
//! closed again: until then it does not take its whole share.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use tokio::time::Instant;

use super::{ALL, BAD, Breaker, Rate, State};
use crate::{policy::window::Window, sync::AtomicU64};

/// The endpoints of one callee that are compared, shared by their breakers.
#[derive(Debug)]
pub struct Peers {
    /// What became of tries at all of them that are not out.
    outcomes: Window<2>,
    rate: Option<Rate>,
    /// How many may be out (the upper half), and how many are: one word, so that a seat is never taken by what was said of
    /// endpoints that have left.
    seats: AtomicU64,
}

/// The right to be out, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Seat(Arc<Peers>);

impl Peers {
    /// Endpoints of which one is out that fails by `rate` more than the others, beside what its breaker says. None may be out
    /// yet.
    pub fn new(rate: Option<Rate>, now: Instant) -> Arc<Self> {
        let length = rate.map_or(Duration::from_secs(10), |rate| rate.window);
        Arc::new(Self { outcomes: Window::new(length, now), rate, seats: AtomicU64::new(0) })
    }

    /// The share above that of the others.
    pub fn rate(&self) -> Option<Rate> {
        self.rate
    }

    /// Says how many endpoints there are: at most half of them may be out.
    pub fn count(&self, endpoints: usize) {
        let most = u64::from(u32::try_from(endpoints / 2).unwrap_or(u32::MAX));
        // The closure never declines, so this cannot fail.
        let _ = self.seats.fetch_update(SeqCst, SeqCst, |seats| Some(most << 32 | out(seats)));
    }

    /// Closes breakers of these, whose peers these are, until no more are out than may be, as after others have left: first
    /// those that have come furthest.
    pub fn settle<'a>(&self, breakers: impl Iterator<Item = &'a Breaker>, now: Instant) {
        let too_many = || {
            let seats = self.seats.load(SeqCst);
            out(seats) > most_out(seats)
        };
        if !too_many() {
            return;
        }
        let mut breakers: Vec<_> = breakers.collect();
        breakers.sort_by_key(|breaker| match breaker.state() {
            State::Recovering => 0,
            State::HalfOpen => 1,
            _ => 2,
        });
        breakers.into_iter().take_while(|_| too_many()).for_each(|breaker| breaker.pardon(now));
    }

    /// A window for the outcomes of one endpoint, with slices like those of all.
    pub(super) fn window(&self) -> Window<2> {
        self.outcomes.like()
    }

    /// The right to be out, if one is left.
    pub(super) fn take_seat(self: &Arc<Self>) -> Option<Seat> {
        let take = |seats| (out(seats) < most_out(seats)).then_some(seats + 1);
        let taken = self.seats.fetch_update(SeqCst, SeqCst, take);
        taken.is_ok().then(|| Seat(Arc::clone(self)))
    }

    /// Counts an outcome of an endpoint whose own are `own`, and says whether it fails too much more often than the others.
    pub(super) fn stands_out(&self, own: &Window<2>, failed: bool, now: Instant) -> bool {
        let Some(rate) = self.rate else { return false };
        let turn = self.outcomes.turn(now);
        own.add_with(&self.outcomes, turn, ALL, 1);
        own.add_with(&self.outcomes, turn, BAD, i32::from(failed));
        if !failed {
            return false;
        }
        let (tries, failures) = (own.sum(turn, ALL), own.sum(turn, BAD));
        let other_tries = self.outcomes.sum(turn, ALL).saturating_sub(tries);
        let other_failures = self.outcomes.sum(turn, BAD).saturating_sub(failures);
        let enough = tries.min(other_tries) >= u64::from(rate.min_requests.max(1));
        // failures / tries >= other failures / other tries + rate, without a division.
        let [tries, failures, other_tries, other_failures] =
            [tries, failures, other_tries, other_failures].map(u128::from);
        let above = u128::from(rate.parts_per_million) * tries * other_tries;
        enough && failures * other_tries * 1_000_000 >= other_failures * tries * 1_000_000 + above
    }

    /// Forgets the outcomes of an endpoint, among those of all too: what it did before it was out is not what the others do.
    pub(super) fn forget(&self, own: &Window<2>) {
        own.take_out_of(&self.outcomes);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.seats.fetch_sub(1, SeqCst);
    }
}

fn most_out(seats: u64) -> u64 {
    seats >> 32
}

fn out(seats: u64) -> u64 {
    seats & u64::from(u32::MAX)
}

#[cfg(test)]
mod tests;
