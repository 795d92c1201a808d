//! What stands between a caller and the callee: nothing, our breaker, or one of two that come back otherwise.
//!
//! All of them trip by the same rules and stay open for the same times, because they are the same code with the same
//! numbers. What differs is the way back, so what the table shows is owed to that alone.

use std::{sync::Arc, time::Duration};

use firebreak_crds::spec::CircuitBreaker;
use firebreak_proxy::policy::breaker::{Breaker, Counts, Limits, State, Ticket};
use tokio::time::Instant;

/// How a breaker comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// There is none.
    None,
    /// One probe that passes lets everything in.
    OneProbe,
    /// When its time is up everything is let in, without a probe.
    Timed,
    /// Probes and a ramp, `circuitBreaker: {}`.
    Ours,
    /// Ours with a third of the ramp.
    OursQuick,
}

/// All of them, in the table's order.
pub(crate) const KINDS: [Kind; 5] = [Kind::None, Kind::OneProbe, Kind::Timed, Kind::OursQuick, Kind::Ours];

impl Kind {
    /// As it stands in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::OneProbe => "one probe, then all",
            Self::Timed => "time, then all",
            Self::Ours => "ours",
            Self::OursQuick => "ours, `ramp: 10s`",
        }
    }
}

/// The numbers of `circuitBreaker: {}`.
pub(crate) fn limits() -> Limits {
    Limits::from(&CircuitBreaker::default())
}

/// One caller's.
pub(crate) enum Guard {
    /// Nothing.
    None,
    /// A breaker that knows by itself how it comes back.
    Breaker(Arc<Breaker>),
    /// One that is replaced by a closed one when its time is up.
    Timed(Timed),
}

/// A breaker of which only the tripping is used.
pub(crate) struct Timed {
    breaker: Arc<Breaker>,
    openings: u32,
    closed_at: Instant,
}

/// A try that may be sent.
pub(crate) struct Permit {
    /// Where its outcome goes.
    pub(crate) ticket: Option<Ticket>,
    /// It is a probe.
    pub(crate) probe: bool,
}

impl Guard {
    /// A guard without a history.
    pub(crate) fn new(kind: Kind, counts: &Arc<Counts>, now: Instant) -> Self {
        let breaker = |limits| Breaker::new(limits, Arc::clone(counts), now);
        match kind {
            Kind::None => Self::None,
            Kind::OneProbe => Self::Breaker(breaker(Limits { probes: 1, first_share: 1.0, ..limits() })),
            Kind::Timed => Self::Timed(Timed { breaker: breaker(limits()), openings: 0, closed_at: now }),
            Kind::Ours => Self::Breaker(breaker(limits())),
            Kind::OursQuick => Self::Breaker(breaker(Limits { ramp: limits().ramp / 3, ..limits() })),
        }
    }

    /// Asks to send a try that has its answer by `end` or not at all.
    pub(crate) fn ask(&mut self, counts: &Arc<Counts>, now: Instant, end: Instant) -> Option<Permit> {
        let breaker = match self {
            Self::None => return Some(Permit { ticket: None, probe: false }),
            Self::Breaker(breaker) => breaker,
            Self::Timed(timed) => timed.at(counts, now),
        };
        let ticket = breaker.admit(now, Some(end)).ok()?;
        Some(Permit { ticket: Some(ticket), probe: breaker.state() == State::HalfOpen })
    }
}

impl Timed {
    /// The breaker as it is at `now`. Like the others', its open time doubles until it has been closed for a window's time.
    fn at(&mut self, counts: &Arc<Counts>, now: Instant) -> &Arc<Breaker> {
        let limits = limits();
        if self.breaker.state() == State::Closed && now - self.closed_at >= Duration::from_secs(10) {
            self.openings = 0;
        }
        // At the end of its open time a breaker turns when it is asked, and what it then admits is a probe.
        if self.breaker.state() == State::Open
            && self.breaker.admit(now, None).is_ok_and(|_| self.breaker.state() == State::HalfOpen)
        {
            self.openings += 1;
            let first = limits.open_first.saturating_mul(1 << self.openings.min(6)).min(limits.open_longest);
            self.breaker = Breaker::new(Limits { open_first: first, ..limits }, Arc::clone(counts), now);
            self.closed_at = now;
        }
        &self.breaker
    }
}
