//! A callee that can be killed by its own queue.
//!
//! `SERVERS` work on requests in the order of their coming, and nobody tells them that a caller has left, so what waits too
//! long is worked on for nothing. A callee that collapses also works slower the more there is that waits (memory, locks,
//! garbage), and after an illness until its caches are filled again: past a certain queue it gets more than it can do
//! although the traffic is what it always was, and nothing but less traffic ends that.

use std::collections::VecDeque;

/// How many requests it works on at a time.
pub(crate) const SERVERS: usize = 16;
/// What a request takes on average, in microseconds.
pub(crate) const SERVICE: u64 = 40_000;
/// What it can do when it is well, in requests a second.
pub(crate) const CAPACITY: f64 = 16.0 * 1e6 / 40_000.0;

/// Requests that wait until each takes twice as long.
const TWICE_AS_LONG: f64 = 200.0;
/// The queue makes a request take so many times as long at most.
const SLOWEST: f64 = 4.0;
/// More do not wait, they are refused at once.
const QUEUE: usize = 2_000;
/// A request to a callee without caches takes so many times as long.
const COLD: f64 = 3.0;
/// Requests after which the caches are full.
const WARM_AFTER: f64 = 1_000.0;

/// What is wrong with it for a while.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cause {
    /// It answers nothing, and what comes waits.
    Hangs,
    /// Each request takes so many times as long.
    Slows(f64),
}

/// What becomes of a request that comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reception {
    /// It is worked on for so many microseconds.
    Begins(u64),
    /// It waits.
    Waits,
    /// The queue is full.
    Refused,
}

/// The callee.
pub(crate) struct Callee {
    collapses: bool,
    idle: usize,
    /// Tries, by number.
    queue: VecDeque<usize>,
    ill: Option<Cause>,
    warmth: f64,
    random: fastrand::Rng,
}

impl Callee {
    /// A callee that is well.
    pub(crate) fn new(collapses: bool, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self { collapses, idle: SERVERS, queue: VecDeque::new(), ill: None, warmth: 1.0, random }
    }

    /// Falls ill.
    pub(crate) fn falls_ill(&mut self, cause: Cause) {
        self.ill = Some(cause);
    }

    /// The cause is gone, and with it what was in the caches.
    pub(crate) fn is_cured(&mut self) {
        self.ill = None;
        self.warmth = 0.0;
    }

    /// Whether work that would be done now is not, because it hangs.
    pub(crate) fn hangs(&self) -> bool {
        self.ill == Some(Cause::Hangs)
    }

    /// What it can do with the queue it has, in requests a second.
    pub(crate) fn capacity(&self) -> f64 {
        CAPACITY / self.burden()
    }

    /// A try comes in.
    pub(crate) fn receive(&mut self, number: usize) -> Reception {
        if self.idle > 0 {
            self.idle -= 1;
            return Reception::Begins(self.service());
        }
        if self.queue.len() >= QUEUE {
            return Reception::Refused;
        }
        self.queue.push_back(number);
        Reception::Waits
    }

    /// A piece of work is done; returns what is begun instead, and what it takes. `left` says whose caller is gone: a callee
    /// that does not collapse passes over them.
    pub(crate) fn done(&mut self, left: impl Fn(usize) -> bool) -> Option<(usize, u64)> {
        self.warmth = (self.warmth + 1.0 / WARM_AFTER).min(1.0);
        while let Some(next) = self.queue.pop_front() {
            if self.collapses || !left(next) {
                return Some((next, self.service()));
            }
        }
        self.idle += 1;
        None
    }

    /// How many times as long as ever a request takes.
    fn burden(&self) -> f64 {
        if !self.collapses {
            return 1.0;
        }
        let waiting = u32::try_from(self.queue.len()).map_or(f64::MAX, f64::from);
        let queue = (1.0 + waiting / TWICE_AS_LONG).min(SLOWEST);
        queue * (COLD - (COLD - 1.0) * self.warmth)
    }

    fn service(&mut self) -> u64 {
        let ill = if let Some(Cause::Slows(factor)) = self.ill { factor } else { 1.0 };
        micros(SERVICE as f64 * (0.5 + self.random.f64()) * self.burden() * ill)
    }
}

/// Whole microseconds of a time that is neither negative nor long.
pub(crate) fn micros(time: f64) -> u64 {
    std::time::Duration::from_secs_f64(time / 1e6).as_micros().try_into().unwrap_or(u64::MAX)
}
