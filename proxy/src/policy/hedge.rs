//! Hedging: when a second try is sent beside a first that is slow, and how many of them a callee may receive.
//!
//! A few requests are slow for reasons that have nothing to do with them: a queue, a pause of a garbage collector, a lost
//! packet. A second copy, sent once the first has been slow for as long as most never are, mostly finds the way free (Dean
//! and Barroso, *The Tail at Scale*, 2013). When everything is slow the same rule would double the load of a callee that is
//! ill already, so it has a limit that does not depend on how slow things are.
//!
//! * **Credit.** Each request adds its share of a second try and each second try takes a whole one, so there never are more
//!   than the share of the requests, over whatever time.
//! * **No savings.** What was not used is forgotten, but for one whole and what the requests of the window have added: a
//!   quiet callee gets one now and then, and an hour in which all went well is not spent in a second in which nothing does.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use firebreak_crds::spec::{self, defaults};
use tokio::time::Instant;

use super::window::Window;

/// Compiled `hedge`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hedge {
    /// How long a try may go without the head of a response.
    pub after: Duration,
    /// Second tries for each million requests.
    pub parts_per_million: u32,
}

/// How many second tries a callee may receive, shared by all workers.
#[derive(Debug)]
pub struct ExtraLoad {
    /// In millionths of a second try.
    credit: AtomicU64,
    /// What was added.
    window: Window<1>,
}

/// Why no second try was sent beside a slow one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// As many were sent as may.
    ExtraLoad,
    /// The retry budget is used up.
    Budget,
    /// A breaker is not closed, or there is no endpoint.
    Breaker,
    /// The bulkhead has no room for another.
    Bulkhead,
    /// The request's body has not come to its end, or is too long to be kept.
    Body,
    /// A layer above is trying again already.
    Layers,
}

/// All causes, for tables indexed by `Refused as usize`.
pub const REFUSED: [Refused; 6] =
    [Refused::ExtraLoad, Refused::Budget, Refused::Breaker, Refused::Bulkhead, Refused::Body, Refused::Layers];

/// A whole second try.
const WHOLE: u64 = 1_000_000;

impl Hedge {
    /// What a policy says, defaults applied; `None` where it allows no second try.
    pub fn new(hedge: &spec::Hedge) -> Option<Self> {
        let parts_per_million = hedge.max_extra_load().parts_per_million();
        let after = hedge.after.map(spec::Duration::get).filter(|_| parts_per_million > 0)?;
        Some(Self { after, parts_per_million })
    }
}

impl Refused {
    /// The word itself, as it stands in labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::ExtraLoad => "extra_load",
            Self::Budget => "budget",
            Self::Breaker => "breaker",
            Self::Bulkhead => "bulkhead",
            Self::Body => "body",
            Self::Layers => "layers",
        }
    }
}

impl ExtraLoad {
    /// No credit yet; the window begins at `now`.
    pub fn new(now: Instant) -> Self {
        Self { credit: AtomicU64::new(0), window: Window::new(defaults::BUDGET_WINDOW, now) }
    }

    /// Counts a request at `now` whose plan is this.
    pub fn request(&self, hedge: Hedge, now: Instant) {
        self.window.add(self.window.turn(now), 0, i32::try_from(hedge.parts_per_million).unwrap_or(i32::MAX));
        self.credit.fetch_add(u64::from(hedge.parts_per_million), Relaxed);
    }

    /// Takes the credit for a second try at `now`, if there is as much; it is sent only on `true`.
    pub fn take(&self, now: Instant) -> bool {
        let most = self.window.sum(self.window.turn(now), 0).max(WHOLE);
        self.credit.fetch_update(Relaxed, Relaxed, |credit| credit.min(most).checked_sub(WHOLE)).is_ok()
    }

    /// Gives back what was taken for one that was not sent after all.
    pub fn put_back(&self) {
        self.credit.fetch_add(WHOLE, Relaxed);
    }
}

#[cfg(test)]
mod tests;
