//! The states of a breaker, and what is counted about them.

use std::sync::atomic::Ordering::Relaxed;

use crate::sync::AtomicU64;

/// Where a breaker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Everything is admitted.
    Closed,
    /// Nothing is.
    Open,
    /// Probes are.
    HalfOpen,
    /// A share is.
    Recovering,
    /// Nothing is, by hand.
    ForcedOpen,
    /// Everything is, by hand.
    ForcedClosed,
}

/// All states, for tables indexed by `State as usize`.
pub const STATES: [State; 6] =
    [State::Closed, State::Open, State::HalfOpen, State::Recovering, State::ForcedOpen, State::ForcedClosed];

/// What breakers did; it outlives them.
#[derive(Debug, Default)]
pub struct Counts {
    pub(super) entered: [AtomicU64; STATES.len()],
    pub(super) refused: AtomicU64,
    pub(super) kept_in: AtomicU64,
}

impl State {
    /// The word itself, as it stands in labels and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::Recovering => "recovering",
            Self::ForcedOpen => "forced_open",
            Self::ForcedClosed => "forced_closed",
        }
    }

    pub(super) fn of(word: u64) -> Self {
        STATES[usize::try_from(word & 7).unwrap_or_default().min(STATES.len() - 1)]
    }
}

impl Counts {
    /// How often breakers have come into a state.
    pub fn entered(&self, state: State) -> u64 {
        self.entered[state as usize].load(Relaxed)
    }

    /// Tries that were not admitted.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// How often an endpoint's breaker stayed closed because as many as may be were out already.
    pub fn kept_in(&self) -> u64 {
        self.kept_in.load(Relaxed)
    }
}
