//! The circuit breaker: stops calls to a callee that keeps failing, and lets it back in without knocking it over again.
//!
//! ```text
//! Closed ──trips──► Open ──time──► HalfOpen ──all probes pass──► Recovering ──all of the traffic──► Closed
//!                    ▲                │ a probe fails                │ it trips, or the share falls below the first
//!                    └────────────────┴──────────────────────────────┘  open twice as long
//! ```
//!
//! * **Generations.** Every transition begins a new one. A try carries the generation it was admitted in, and its outcome
//!   decides nothing in a later one: a request that was sent before the trip and ends during the probes says nothing about
//!   the callee now (Netflix/Hystrix#1350).
//! * **Leases.** A probe is a permit with an end. There are never more of them than probes that still have to pass, and the
//!   first goes alone: of hundreds of callers the probes alone can keep a callee ill. A
//!   try that is given up without an outcome gives its permit back; one whose time is up has failed, so a probe that never
//!   reports cannot keep the breaker where it is (Netflix/Hystrix#1723).
//! * **A ramp.** After the probes a share of the traffic is admitted. It grows by the same factor in each step while status
//!   and latency hold, and is halved in a step in which they do not. With many callers each has its own share, so what the
//!   callee gets grows as slowly as each of them; therefore nothing is let in beyond the share, and a caller with little
//!   traffic is not held up because the share grows with time, unless something that it sent went wrong or hangs.
//! * **Peers.** The breakers of one callee's endpoints may know of each other: one that fails more than the others opens, and at
//!   most half of them are open, probing or recovering at a time.
//! * What never reached the callee (a full bulkhead, an open breaker, a caller that left) is no outcome.
//!
//! Closed, admitting is one atomic load and an outcome a few additions; the lock is for the other states.

mod limits;
mod peers;
mod state;

use std::{
    sync::{
        Arc,
        atomic::Ordering::{Relaxed, SeqCst},
    },
    time::Duration,
};

use firebreak_crds::spec::Force;
use tokio::time::Instant;

use self::peers::Seat;
pub use self::{
    limits::{Limits, Rate, Slow},
    peers::Peers,
    state::{Counts, STATES, State},
};
use super::window::Window;
use crate::sync::{AtomicU64, Mutex, MutexGuard};

/// What became of a try that reached the callee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered, and not with a failure.
    Passed,
    /// It did not, or with one.
    Failed,
}

/// A callee's breaker, or an endpoint's, shared by all workers.
#[derive(Debug)]
pub struct Breaker {
    limits: Limits,
    /// Generation, and the state in the lowest three bits.
    word: AtomicU64,
    /// Failures in a row, under the generation (the upper half) that they are of.
    consecutive: AtomicU64,
    outcomes: Window<2>,
    paces: Window<2>,
    inner: Mutex<Inner>,
    counts: Arc<Counts>,
    peers: Option<Arc<Peers>>,
}

/// What the windows count.
const ALL: usize = 0;
const BAD: usize = 1;

/// Steps in which a recovery reaches all of the traffic.
const STEPS: u32 = 20;

/// The lease of a try that was admitted although the share was used up.
const BEYOND: u64 = u64::MAX;

/// How long a probe may take where no clock bounds its try.
const LEASE: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Inner {
    phase: Phase,
    /// How often it opened since it was closed.
    openings: u32,
    next_lease: u64,
    /// What it holds between open and closed, where it has peers.
    seat: Option<Seat>,
    /// Another has taken its place; it does not open any more.
    replaced: bool,
}

#[derive(Debug)]
enum Phase {
    /// The word says it all.
    Resting,
    Open {
        until: Instant,
    },
    HalfOpen {
        leases: Vec<Lease>,
        passed: u32,
    },
    Recovering {
        share: f64,
        /// The part of a request that was not admitted yet: so exactly the share gets in.
        credit: f64,
        /// Admitted, and nothing has come of it yet.
        under_way: u32,
        step_ends: Instant,
        good: u32,
        bad: u32,
        /// Whose head came in this step, while the rest is still coming.
        answered: u32,
    },
}

#[derive(Debug)]
struct Lease {
    number: u64,
    ends: Instant,
    /// The head of its response has come, so its end is no failure.
    answered: bool,
}

/// A try that was admitted. Dropped without an outcome, it never was.
#[derive(Debug)]
pub struct Ticket {
    breaker: Arc<Breaker>,
    generation: u64,
    /// What was admitted between open and closed has one: the number of a probe, or any while recovering.
    lease: Option<u64>,
    began: Instant,
    answered: Option<Instant>,
}

/// Not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// When to ask again.
    pub retry_after: Duration,
}

impl Breaker {
    /// A breaker without a history.
    pub fn new(limits: Limits, counts: Arc<Counts>, now: Instant) -> Arc<Self> {
        Self::among(None, limits, counts, now)
    }

    /// A breaker without a history, beside those of other endpoints.
    pub fn among(peers: Option<Arc<Peers>>, limits: Limits, counts: Arc<Counts>, now: Instant) -> Arc<Self> {
        let state = match limits.force {
            None => State::Closed,
            Some(Force::Open) => State::ForcedOpen,
            Some(Force::Closed) => State::ForcedClosed,
        };
        Self::in_state(peers, limits, counts, now, state, Inner::new(Phase::Resting, 0))
    }

    /// This breaker with other limits, or among others, in whose place it comes. One that is open stays so until its time, if
    /// its peers allow it; one that was probing or recovering probes anew; outcomes of before do not count.
    pub fn with(&self, peers: Option<Arc<Peers>>, limits: Limits, now: Instant) -> Arc<Self> {
        let (state, until, openings) = self.retire(now);
        let counts = Arc::clone(&self.counts);
        let seat = peers.as_ref().map(Peers::take_seat);
        if limits.force.is_some() || state == State::Closed || seat.as_ref().is_some_and(Option::is_none) {
            return Self::among(peers, limits, counts, now);
        }
        let inner = Inner { seat: seat.flatten(), ..Inner::new(Phase::Open { until }, openings) };
        Self::in_state(peers, limits, counts, now, State::Open, inner)
    }

    /// Takes it out of use: it gives its seat back and does not open any more, whatever becomes of tries that it admitted. Says
    /// whether it is open or closed now, until when, and how often it opened.
    pub fn retire(&self, now: Instant) -> (State, Instant, u32) {
        let mut inner = self.inner.lock();
        inner.replaced = true;
        inner.seat = None;
        // What it did is not what the others do now.
        self.forget(self.word.load(SeqCst) >> 3);
        match (&inner.phase, self.state()) {
            (Phase::Open { until }, State::Open) => (State::Open, *until, inner.openings),
            (_, State::HalfOpen | State::Recovering) => (State::Open, now, inner.openings),
            _ => (State::Closed, now, 0),
        }
    }

    /// Closes it although its time has not come, if it is out among its peers.
    pub fn pardon(&self, now: Instant) {
        let mut inner = self.inner.lock();
        if inner.seat.is_some() {
            self.enter(&mut inner, State::Closed, now);
        }
    }

    fn in_state(
        peers: Option<Arc<Peers>>,
        limits: Limits,
        counts: Arc<Counts>,
        now: Instant,
        state: State,
        inner: Inner,
    ) -> Arc<Self> {
        let window = |length: Option<Duration>| Window::new(length.unwrap_or(Duration::from_secs(10)), now);
        let outcomes = match &peers {
            Some(peers) => peers.window(),
            None => window(limits.failures.map(|rate| rate.window)),
        };
        Arc::new(Self {
            limits,
            word: AtomicU64::new(state as u64),
            consecutive: AtomicU64::new(0),
            outcomes,
            paces: window(limits.slow.map(|slow| slow.rate.window)),
            inner: Mutex::new(inner),
            counts,
            peers,
        })
    }

    /// Those whom it knows of.
    pub fn peers(&self) -> Option<&Arc<Peers>> {
        self.peers.as_ref()
    }

    /// What it was made with.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Where it is.
    pub fn state(&self) -> State {
        State::of(self.word.load(SeqCst))
    }

    /// Whether it is sure to admit nothing at `now`. Its time may have come to probe while it is open: then it has to be asked.
    pub fn is_shut(&self, now: Instant) -> bool {
        match self.state() {
            State::Open => matches!(self.inner.lock().phase, Phase::Open { until } if until > now),
            state => state == State::ForcedOpen,
        }
    }

    /// Asks to send a try at `now` that must have its answer by `end`.
    ///
    /// # Errors
    /// When the callee is to be left alone.
    pub fn admit(self: &Arc<Self>, now: Instant, end: Option<Instant>) -> Result<Ticket, Refused> {
        let word = self.word.load(SeqCst);
        let ticket =
            |word, lease| Ticket { breaker: Arc::clone(self), generation: word, lease, began: now, answered: None };
        let admitted = match State::of(word) {
            State::Closed | State::ForcedClosed => return Ok(ticket(word, None)),
            State::ForcedOpen => Err(Refused { retry_after: self.limits.open_longest }),
            State::Open | State::HalfOpen | State::Recovering => self.admit_some(now, end),
        };
        match admitted {
            Ok((word, lease)) => Ok(ticket(word, lease)),
            Err(refused) => {
                self.counts.refused.fetch_add(1, Relaxed);
                Err(refused)
            }
        }
    }

    /// Admits a try although the share of a recovery is used up, for want of another endpoint.
    pub fn admit_beyond_share(self: &Arc<Self>, now: Instant) -> Option<Ticket> {
        let mut inner = self.inner.lock();
        let Phase::Recovering { under_way, .. } = &mut inner.phase else { return None };
        *under_way += 1;
        let generation = self.word.load(SeqCst);
        Some(Ticket { breaker: Arc::clone(self), generation, lease: Some(BEYOND), began: now, answered: None })
    }

    /// Admits what the states between closed and open let through: the generation, and the lease of a probe.
    fn admit_some(&self, now: Instant, end: Option<Instant>) -> Result<(u64, Option<u64>), Refused> {
        let mut inner = self.inner.lock();
        self.turn(&mut inner, now);
        let word = self.word.load(SeqCst);
        let Inner { phase, next_lease, .. } = &mut *inner;
        match phase {
            Phase::Resting => Ok((word, None)),
            Phase::Open { until } => Err(Refused { retry_after: until.saturating_duration_since(now) }),
            Phase::HalfOpen { leases, passed } => {
                let count = |answered| leases.iter().filter(|lease| lease.answered == answered).count();
                let well = u32::try_from(count(true)).unwrap_or(u32::MAX).saturating_add(*passed);
                let waiting = u32::try_from(count(false)).unwrap_or(u32::MAX);
                // The first goes alone: while a callee is ill each caller costs it one request, not all of its probes.
                if waiting > well || waiting.saturating_add(well) >= self.limits.probes {
                    let free = leases.iter().map(|lease| lease.ends.saturating_duration_since(now)).min();
                    return Err(Refused { retry_after: free.unwrap_or_default() });
                }
                let number = *next_lease;
                *next_lease += 1;
                leases.push(Lease { number, ends: end.unwrap_or(now + LEASE), answered: false });
                Ok((word, Some(number)))
            }
            Phase::Recovering { share, credit, under_way, step_ends, .. } => {
                *credit += *share;
                if *credit < 1.0 {
                    return Err(Refused { retry_after: step_ends.saturating_duration_since(now) });
                }
                *credit -= 1.0;
                *under_way += 1;
                Ok((word, Some(0)))
            }
        }
    }

    /// Does what time does.
    fn turn(&self, inner: &mut MutexGuard<'_, Inner>, now: Instant) {
        match &mut inner.phase {
            Phase::Open { until } if *until <= now => self.enter(inner, State::HalfOpen, now),
            Phase::HalfOpen { leases, passed } => {
                let (given, late) = (leases.len(), leases.iter().any(|lease| lease.ends <= now && !lease.answered));
                leases.retain(|lease| lease.ends > now);
                // What had its head in time has passed.
                *passed += u32::try_from(given - leases.len()).unwrap_or(u32::MAX);
                let passed = *passed;
                if late {
                    self.enter(inner, State::Open, now);
                } else if passed >= self.limits.probes {
                    self.enter(inner, State::Recovering, now);
                }
            }
            Phase::Recovering { share, under_way, step_ends, good, bad, answered, .. } if *step_ends <= now => {
                let (all, step) = (*good + *bad, self.limits.ramp / STEPS);
                let healthy =
                    *bad == 0 || u64::from(*bad) * 1_000_000 < u64::from(all) * u64::from(self.limits.tolerated());
                // Without anything under way the share grows with time alone: else a caller with little traffic would
                // wait for one request in each step, and every other one of its requests would be refused meanwhile.
                let silent = if *under_way > 0 { 0.0 } else { whole_steps(now - *step_ends, step) };
                if !healthy {
                    *share *= 0.5;
                } else if all + *answered > 0 || *under_way == 0 {
                    *share *= self.limits.growth(STEPS).powf(1.0 + silent);
                }
                (*good, *bad, *answered) = (0, 0, 0);
                *step_ends = now + step;
                let share = *share;
                if share >= 1.0 {
                    self.enter(inner, State::Closed, now);
                } else if share < self.limits.first_share {
                    self.enter(inner, State::Open, now);
                }
            }
            _ => {}
        }
    }

    /// Comes into a state, and so into a new generation.
    fn enter(&self, inner: &mut MutexGuard<'_, Inner>, state: State, now: Instant) {
        if inner.replaced {
            return;
        }
        let state = if state == State::Recovering && self.limits.first_share >= 1.0 { State::Closed } else { state };
        inner.phase = match state {
            State::Open => {
                inner.openings += 1;
                Phase::Open { until: now + self.limits.open_time(inner.openings, fastrand::f64()) }
            }
            State::HalfOpen => Phase::HalfOpen { leases: Vec::new(), passed: 0 },
            State::Recovering => Phase::Recovering {
                share: self.limits.first_share,
                // With the same for all, the many callers with few requests would all refuse their first ones, and then
                // all admit one.
                credit: fastrand::f64(),
                under_way: 0,
                step_ends: now + self.limits.ramp / STEPS,
                good: 0,
                bad: 0,
                answered: 0,
            },
            State::Closed | State::ForcedOpen | State::ForcedClosed => {
                (inner.openings, inner.seat) = (0, None);
                Phase::Resting
            }
        };
        let generation = (self.word.load(SeqCst) >> 3) + 1;
        self.forget(generation);
        self.counts.entered[state as usize].fetch_add(1, Relaxed);
        self.word.store(generation << 3 | state as u64, SeqCst);
    }

    /// Begins to count anew, for a generation.
    fn forget(&self, generation: u64) {
        self.consecutive.store(generation << 32, SeqCst);
        self.peers.as_ref().map_or_else(|| self.outcomes.clear(), |peers| peers.forget(&self.outcomes));
        self.paces.clear();
    }

    /// Opens, unless as many of its peers as may be are out already: then what spoke against it is forgotten, and would have to
    /// come about again.
    fn trip(&self, inner: &mut MutexGuard<'_, Inner>, now: Instant) {
        if inner.replaced {
            return;
        }
        let seat = self.peers.as_ref().map(Peers::take_seat);
        if seat.as_ref().is_some_and(Option::is_none) {
            self.counts.kept_in.fetch_add(1, Relaxed);
            self.forget(self.word.load(SeqCst) >> 3);
            return;
        }
        inner.seat = seat.flatten();
        self.enter(inner, State::Open, now);
    }

    fn decide(&self, ticket: &Ticket, outcome: Outcome, now: Instant) {
        if self.word.load(SeqCst) != ticket.generation {
            return;
        }
        let took = ticket.answered.unwrap_or(now).saturating_duration_since(ticket.began);
        let slow = self.limits.slow.is_some_and(|slow| took > slow.threshold);
        match State::of(ticket.generation) {
            State::Closed => {
                if self.counts_and_trips(ticket.generation, outcome, slow, now) {
                    let mut inner = self.inner.lock();
                    if self.word.load(SeqCst) == ticket.generation {
                        self.trip(&mut inner, now);
                    }
                }
            }
            State::HalfOpen => self.probed(ticket, outcome == Outcome::Passed && !slow, now),
            State::Recovering => self.recovered(ticket, outcome, slow, now),
            State::Open | State::ForcedOpen | State::ForcedClosed => {}
        }
    }

    /// Counts an outcome. One whose generation ends at this very moment is none of the next one's failures in a row; in a window
    /// it may count there as one more.
    fn counts_and_trips(&self, word: u64, outcome: Outcome, slow: bool, now: Instant) -> bool {
        let failed = outcome == Outcome::Failed;
        let in_a_row = self.in_a_row(word >> 3, failed);
        let rows = self.limits.consecutive.is_some_and(|most| in_a_row >= u64::from(most));
        let fails = self.limits.failures.is_some_and(|rate| exceeds(&self.outcomes, rate, failed, now));
        let slows = self.limits.slow.is_some_and(|limit| exceeds(&self.paces, limit.rate, slow, now));
        let stands_out = self.peers.as_ref().is_some_and(|peers| peers.stands_out(&self.outcomes, failed, now));
        rows || fails || slows || stands_out
    }

    /// Failures in a row, with this outcome.
    fn in_a_row(&self, generation: u64, failed: bool) -> u64 {
        let count = |row: u64| row & u64::from(u32::MAX);
        let same = |row: u64| row >> 32 == generation & u64::from(u32::MAX);
        if failed {
            let add = |row| (same(row) && count(row) < u64::from(u32::MAX)).then(|| row + 1);
            self.consecutive.fetch_update(SeqCst, SeqCst, add).map_or(0, |row| count(row) + 1)
        } else {
            let end = |row| (same(row) && count(row) != 0).then(|| row - count(row));
            // Declining leaves a row that is none, or of another generation.
            let _ = self.consecutive.fetch_update(SeqCst, SeqCst, end);
            0
        }
    }

    fn probed(&self, ticket: &Ticket, healthy: bool, now: Instant) {
        let mut inner = self.inner.lock();
        if self.word.load(SeqCst) != ticket.generation {
            return;
        }
        let Phase::HalfOpen { leases, passed } = &mut inner.phase else { return };
        let before = leases.len();
        leases.retain(|lease| Some(lease.number) != ticket.lease);
        if leases.len() == before {
            return;
        }
        *passed += u32::from(healthy);
        let passed = *passed;
        if !healthy {
            self.enter(&mut inner, State::Open, now);
        } else if passed >= self.limits.probes {
            self.enter(&mut inner, State::Recovering, now);
        }
    }

    fn recovered(&self, ticket: &Ticket, outcome: Outcome, slow: bool, now: Instant) {
        let mut inner = self.inner.lock();
        if self.word.load(SeqCst) != ticket.generation {
            return;
        }
        let trips = self.counts_and_trips(ticket.generation, outcome, slow, now);
        if let Phase::Recovering { good, bad, under_way, .. } = &mut inner.phase {
            *under_way -= u32::from(ticket.answered.is_none());
            *if slow || outcome == Outcome::Failed { bad } else { good } += 1;
        }
        if trips {
            self.enter(&mut inner, State::Open, now);
        } else {
            self.turn(&mut inner, now);
        }
    }

    /// What ends without an outcome gives its permit back.
    fn give_back(&self, ticket: &Ticket) {
        let Some(number) = ticket.lease else { return };
        let mut inner = self.inner.lock();
        if self.word.load(SeqCst) != ticket.generation {
            return;
        }
        match &mut inner.phase {
            Phase::HalfOpen { leases, .. } => leases.retain(|lease| lease.number != number),
            Phase::Recovering { under_way, credit, .. } => {
                *under_way -= u32::from(ticket.answered.is_none());
                // It took nothing of the share, which one beyond it never did.
                *credit += f64::from(u8::from(number != BEYOND));
            }
            Phase::Resting | Phase::Open { .. } => {}
        }
    }
}

impl Inner {
    fn new(phase: Phase, openings: u32) -> Self {
        Self { phase, openings, next_lease: 0, seat: None, replaced: false }
    }
}

/// How many whole steps there are in a time.
fn whole_steps(time: Duration, step: Duration) -> f64 {
    (time.as_secs_f64() / step.as_secs_f64().max(f64::MIN_POSITIVE)).floor()
}

/// Counts one more, and says whether the share of bad ones is too great.
fn exceeds(window: &Window<2>, rate: Rate, bad: bool, now: Instant) -> bool {
    let turn = window.turn(now);
    window.add(turn, ALL, 1);
    if !bad {
        return false;
    }
    window.add(turn, BAD, 1);
    let (all, bad) = (window.sum(turn, ALL), window.sum(turn, BAD));
    all >= u64::from(rate.min_requests) && bad * 1_000_000 >= all * u64::from(rate.parts_per_million)
}

impl Ticket {
    /// A connection is there at `now`, and nothing is known of who answers on it: the try does not wait any more for what its
    /// callee is to do, and is no answer either.
    pub fn connected(&mut self, now: Instant) {
        self.arrived(now, false);
    }

    /// The head of the response has come at `now`, while what became of the try is not known yet (a gRPC status comes at the
    /// end). Only the time until then can be too long, and the end of a probe's lease is no failure any more.
    pub fn answered(&mut self, now: Instant) {
        self.arrived(now, true);
    }

    fn arrived(&mut self, now: Instant, counts: bool) {
        let first = self.answered.replace(now).is_none();
        if State::of(self.generation) == State::Closed {
            return;
        }
        let mut inner = self.breaker.inner.lock();
        if self.breaker.word.load(SeqCst) != self.generation {
            return;
        }
        match &mut inner.phase {
            Phase::HalfOpen { leases, .. } => {
                let ours = leases.iter_mut().filter(|lease| Some(lease.number) == self.lease);
                ours.for_each(|lease| lease.answered = true);
            }
            Phase::Recovering { answered, under_way, .. } => {
                *answered += u32::from(first && counts);
                *under_way -= u32::from(first);
            }
            Phase::Resting | Phase::Open { .. } => {}
        }
    }

    /// Says what became of the try.
    pub fn ended(mut self, outcome: Outcome, now: Instant) {
        self.breaker.decide(&self, outcome, now);
        self.lease = None;
    }
}

impl Ticket {
    /// Whether the breaker was between open and closed when it admitted this.
    pub fn is_leased(&self) -> bool {
        self.lease.is_some()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.breaker.give_back(self);
    }
}

#[cfg(test)]
mod tests;
