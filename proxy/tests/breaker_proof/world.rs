//! Callers, guards and a callee in a time of their own, one event after the other.
//!
//! The load is open: requests come as a Poisson process whether or not those before them were answered, because that is what
//! many users are. A caller waits `ATTEMPT`, then leaves; the callee does not notice. Everything random comes from the seed.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc, time::Duration};

use firebreak_proxy::policy::breaker::{Counts, Outcome, Ticket};
use tokio::time::Instant;

use crate::{
    callee::{Callee, Cause, Reception, micros},
    guard::{Guard, Kind},
};

/// Requests a second: three quarters of what the callee can do.
pub(crate) const RATE: f64 = 300.0;
/// How long a caller waits for the answer to a try, in microseconds.
pub(crate) const ATTEMPT: u64 = 300_000;
/// When the cause begins and ends, and when everything ends, in microseconds.
pub(crate) const BEGINS: u64 = 10 * SECOND;
pub(crate) const ENDS: u64 = 30 * SECOND;
pub(crate) const OVER: u64 = 180 * SECOND;
/// What is counted together.
pub(crate) const BIN: u64 = 100_000;
pub(crate) const SECOND: u64 = 1_000_000;

/// What happens to whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    /// As it stands above its table.
    pub(crate) name: &'static str,
    pub(crate) cause: Cause,
    /// Whether the callee's queue makes it slower.
    pub(crate) collapses: bool,
    /// A try that failed is made once more.
    pub(crate) retries: bool,
}

/// One run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) scenario: Scenario,
    pub(crate) kind: Kind,
    pub(crate) callers: usize,
    pub(crate) seed: u64,
}

/// What happened in a tenth of a second.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bin {
    /// Requests that came up, and how many of these were answered in time, whenever that was.
    pub(crate) arrived: u32,
    pub(crate) answered: u32,
    /// Tries that the callee got, and the probes among them.
    pub(crate) sent: u32,
    pub(crate) probes: u32,
    /// Work that ended here and that nobody waited for any more, in microseconds of one server.
    pub(crate) wasted: u64,
    /// What the callee could do with the queue it had, in requests a second.
    pub(crate) capacity: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives,
    TriesAgain { request: usize },
    GivesUp { number: usize },
    Done { number: usize },
    FallsIll,
    IsCured,
    Tick,
}

struct Request {
    caller: usize,
    bin: usize,
    retries_left: bool,
}

struct Try {
    request: usize,
    ticket: Option<Ticket>,
    waits: bool,
    takes: u64,
}

struct World {
    run: Run,
    base: Instant,
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    scheduled: u64,
    random: fastrand::Rng,
    callee: Callee,
    guards: Vec<Guard>,
    counts: Arc<Counts>,
    requests: Vec<Request>,
    tries: Vec<Try>,
    bins: Vec<Bin>,
}

/// Runs it to its end, and returns what happened.
pub(crate) fn run(run: Run) -> Vec<Bin> {
    // A breaker's open time has a random part, from this thread's generator.
    fastrand::seed(run.seed);
    let (base, counts) = (Instant::now(), Arc::new(Counts::default()));
    let mut world = World {
        run,
        base,
        now: 0,
        events: BinaryHeap::new(),
        scheduled: 0,
        random: fastrand::Rng::with_seed(run.seed),
        callee: Callee::new(run.scenario.collapses, run.seed),
        guards: (0..run.callers).map(|_| Guard::new(run.kind, &counts, base)).collect(),
        counts,
        requests: Vec::new(),
        tries: Vec::new(),
        bins: vec![Bin::default(); bin(OVER) + 1],
    };
    for (at, event) in [(0, Event::Arrives), (0, Event::Tick), (BEGINS, Event::FallsIll), (ENDS, Event::IsCured)] {
        world.schedule(at, event);
    }
    while let Some(Reverse((at, _, event))) = world.events.pop().filter(|Reverse((at, ..))| *at < OVER) {
        world.now = at;
        world.happens(event);
    }
    world.bins
}

/// In which of the bins a time falls.
pub(crate) fn bin(at: u64) -> usize {
    usize::try_from(at / BIN).unwrap_or(usize::MAX)
}

impl World {
    fn happens(&mut self, event: Event) {
        match event {
            Event::Arrives => self.arrives(),
            Event::TriesAgain { request } => self.tries(request),
            Event::GivesUp { number } => self.fails(number),
            Event::Done { number } => self.done(number),
            Event::FallsIll => self.callee.falls_ill(self.run.scenario.cause),
            Event::IsCured => self.callee.is_cured(),
            Event::Tick => {
                self.bin().capacity = self.callee.capacity();
                self.schedule(self.now + BIN, Event::Tick);
            }
        }
    }

    fn arrives(&mut self) {
        self.bin().arrived += 1;
        let caller = self.random.usize(0..self.run.callers);
        self.requests.push(Request { caller, bin: bin(self.now), retries_left: self.run.scenario.retries });
        self.tries(self.requests.len() - 1);
        let gap = -(1.0 - self.random.f64()).ln() / RATE;
        self.schedule(self.now + micros(gap * 1e6), Event::Arrives);
    }

    fn tries(&mut self, request: usize) {
        let (now, end) = (self.at(self.now), self.at(self.now + ATTEMPT));
        let Some(permit) = self.guards[self.requests[request].caller].ask(&self.counts, now, end) else { return };
        self.bin().sent += 1;
        self.bin().probes += u32::from(permit.probe);
        let number = self.tries.len();
        self.tries.push(Try { request, ticket: permit.ticket, waits: true, takes: 0 });
        match self.callee.receive(number) {
            Reception::Begins(takes) => self.begins(number, takes),
            Reception::Waits => {}
            Reception::Refused => return self.fails(number),
        }
        self.schedule(self.now + ATTEMPT, Event::GivesUp { number });
    }

    fn begins(&mut self, number: usize, takes: u64) {
        self.tries[number].takes = takes;
        self.schedule(self.now + takes, Event::Done { number });
    }

    /// No answer in time, or none at all.
    fn fails(&mut self, number: usize) {
        let Some(request) = self.leaves(number, Outcome::Failed) else { return };
        if std::mem::take(&mut self.requests[request].retries_left) {
            let pause = self.random.u64(25_000..50_000);
            self.schedule(self.now + pause, Event::TriesAgain { request });
        }
    }

    fn done(&mut self, number: usize) {
        if self.callee.hangs() {
            // What was nearly done goes on when it can.
            let rest = self.random.u64(0..50_000);
            return self.schedule(ENDS + rest, Event::Done { number });
        }
        match self.leaves(number, Outcome::Passed) {
            Some(request) => self.bins[self.requests[request].bin].answered += 1,
            None => self.bin().wasted += self.tries[number].takes,
        }
        let tries = &self.tries;
        if let Some((next, takes)) = self.callee.done(|number| !tries[number].waits) {
            self.begins(next, takes);
        }
    }

    /// The caller has what it waited for, or has waited enough; nothing if it had left before.
    fn leaves(&mut self, number: usize, outcome: Outcome) -> Option<usize> {
        let now = self.at(self.now);
        let ours = &mut self.tries[number];
        if !std::mem::take(&mut ours.waits) {
            return None;
        }
        if let Some(ticket) = ours.ticket.take() {
            ticket.ended(outcome, now);
        }
        Some(ours.request)
    }

    fn bin(&mut self) -> &mut Bin {
        &mut self.bins[bin(self.now)]
    }

    fn at(&self, micros: u64) -> Instant {
        self.base + Duration::from_micros(micros)
    }

    fn schedule(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        self.events.push(Reverse((at, self.scheduled, event)));
    }
}
