//! A policy that is observed: it follows each request beside the policy in force, changes nothing, and counts what it would have
//! done.
//!
//! It decides with the same breaker, budget, rate limit and extra load as a policy in force, of its own. What happens to a request
//! is what it is told ([`Step`]); when that would have happened to it under this policy is worked out in a simulation
//! ([`line`]): a request that would have waited in the bulkhead does everything as much later, and a clock that would have cut it
//! short does so at its own time. Since nothing is ever earlier than it really was, all is known in time.
//!
//! * What it would have refused takes no part in what comes after: its outcome is told to no breaker, and it takes nothing of a
//!   budget.
//! * What it would have done that did not happen, a further try or another endpoint, has a course that nobody knows. Nothing is made
//!   of it.
//! * A request takes a lock of its callee's a few times. Only where something is observed is there one.

mod course;
mod line;
#[cfg(test)]
mod proof;
#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use hashbrown::HashMap;
use http::request::Parts;
use parking_lot::Mutex;
use tokio::time::Instant;

pub use self::{
    course::{Step, Verdict},
    line::Line,
};
use super::{
    breaker::{self, Breaker, Refused, State, Ticket},
    bulkhead::{Limits, Need},
    rate::Rate,
    retry::is_idempotent,
};
use crate::snapshot::{Plan, Policy};

/// Something that would have been done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Would {
    /// The rate limit would have refused a request.
    LimitRate,
    /// A request would have waited in the bulkhead.
    Queue,
    /// The bulkhead would have refused one at once.
    RefuseFull,
    /// One would have waited there as long as it may.
    EndWait,
    /// The breaker would have refused a request's first try.
    RefuseOpen,
    /// A clock would have ended a try or a request.
    TimeOut,
    /// Another try would have been made after one that failed.
    Retry,
    /// A second try would have been sent beside a slow first.
    Hedge,
    /// A try would have gone to another endpoint.
    Divert,
}

/// All of them, for tables indexed by `Would as usize`.
pub const WOULD: [Would; 9] = [
    Would::LimitRate,
    Would::Queue,
    Would::RefuseFull,
    Would::EndWait,
    Would::RefuseOpen,
    Would::TimeOut,
    Would::Retry,
    Would::Hedge,
    Would::Divert,
];

/// What observed policies of a callee would have done; it outlives them.
#[derive(Debug, Default)]
pub struct Counts {
    requests: AtomicU64,
    would: [AtomicU64; WOULD.len()],
    /// What the breaker did.
    pub breaker: Arc<breaker::Counts>,
    /// What the breakers of endpoints did.
    pub endpoints: Arc<breaker::Counts>,
}

/// A compiled policy that is observed, and where its protections are.
#[derive(Clone, Debug)]
pub struct Shadow {
    /// Clocks, retries and hedging, by route.
    pub policy: Policy,
    /// Its rate limit.
    pub rate: Option<Arc<Rate>>,
    /// Its breaker.
    pub breaker: Option<Arc<Breaker>>,
    /// Where it has outlier detection, a breaker for each endpoint.
    pub endpoints: HashMap<SocketAddr, Arc<Breaker>>,
    /// What it would have done.
    pub counts: Arc<Counts>,
}

/// A policy that is observed, and the requests that it follows. They hold the policy and not this, so both end with the last
/// request that holds this, whatever was still due.
#[derive(Clone, Debug)]
pub struct Observer {
    /// The policy.
    pub shadow: Arc<Shadow>,
    /// The requests, also of those that were observed before it.
    pub line: Arc<Mutex<Line>>,
}

/// What is known of a request before it begins.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    asked: Asked,
    route: Option<usize>,
    /// Whether the policy's methods allow a second sending.
    repeatable: bool,
    /// Whether a second try may be sent beside a slow one.
    hedgeable: bool,
}

/// What is known of a request beside its head.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// When the policy began to hold for it.
    pub started: Instant,
    /// Whether it is gRPC.
    pub grpc: bool,
    /// Whether it asks for another protocol.
    pub switching: bool,
    /// The try of the caller's that it is made for, 0 where nothing is known.
    pub layers: u32,
}

/// A request that is followed.
#[derive(Debug)]
pub struct Observed {
    observer: Arc<Observer>,
    facts: Facts,
    number: Option<u64>,
}

impl Would {
    /// Which protection, and what it would have done, as they stand in labels.
    pub fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::LimitRate => ("rate_limit", "refuse"),
            Self::Queue => ("bulkhead", "queue"),
            Self::RefuseFull => ("bulkhead", "refuse"),
            Self::EndWait => ("bulkhead", "time_out"),
            Self::RefuseOpen => ("breaker", "refuse"),
            Self::TimeOut => ("timeout", "time_out"),
            Self::Retry => ("retry", "retry"),
            Self::Hedge => ("hedge", "hedge"),
            Self::Divert => ("outlier", "divert"),
        }
    }
}

impl Counts {
    /// Requests that were followed.
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// How often this would have been done.
    pub fn would(&self, would: Would) -> u64 {
        self.would[would as usize].load(Relaxed)
    }

    /// Protection, what it would have done, and how often: all that is counted.
    pub fn all(&self) -> impl Iterator<Item = ((&'static str, &'static str), u64)> {
        let opened = [
            (("breaker", "open"), self.breaker.entered(State::Open)),
            (("outlier", "eject"), self.endpoints.entered(State::Open)),
        ];
        WOULD.into_iter().map(|would| (would.names(), self.would(would))).chain(opened)
    }

    /// Counts a request that is followed.
    pub fn followed(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    /// Counts one more.
    pub fn add(&self, would: Would) {
        self.would[would as usize].fetch_add(1, Relaxed);
    }
}

impl Observer {
    /// Follows requests to a bulkhead of these limits, and goes on with those that `before` follows.
    pub fn new(shadow: Shadow, bulkhead: Limits, before: Option<&Self>, now: Instant) -> Self {
        let new = || Arc::new(Mutex::new(Line::new(bulkhead, now)));
        let line = before.map_or_else(new, |before| Arc::clone(&before.line));
        line.lock().set(bulkhead, now);
        Self { shadow: Arc::new(shadow), line }
    }

    /// Does all that would have been done by `now`.
    pub fn catch_up(&self, now: Instant) {
        self.line.lock().advance(now);
    }

    /// Begins to follow a request that the policy in force begins to look at.
    pub fn follow(self: &Arc<Self>, head: &Parts, asked: Asked) -> Box<Observed> {
        let shadow = &*self.shadow;
        let route = shadow.policy.route(head);
        let retries = shadow.policy.plan_of(route).retries.as_ref();
        let facts = Facts {
            asked,
            route,
            repeatable: retries.is_some_and(|retries| retries.repeatable(&head.method, &head.headers)),
            hedgeable: asked.layers < 2 && !asked.switching && is_idempotent(&head.method, &head.headers),
        };
        shadow.counts.followed();
        Box::new(Observed { observer: Arc::clone(self), facts, number: None })
    }
}

impl Shadow {
    fn plan(&self, facts: &Facts) -> &Plan {
        self.policy.plan_of(facts.route)
    }

    /// Asks the breaker for a try at `now`.
    fn admit(&self, facts: &Facts, now: Instant) -> Result<Option<Ticket>, Refused> {
        let end = self.plan(facts).clocks.probe_end(facts.asked.started, now);
        self.breaker.as_ref().map(|breaker| breaker.admit(now, end)).transpose()
    }
}

impl Observed {
    /// It comes to the rate limit. Whether it would have got any further.
    pub fn arrives(&self, now: Instant) -> bool {
        let shadow = &*self.observer.shadow;
        let refused = shadow.rate.as_ref().is_some_and(|rate| rate.take(now).is_err());
        if refused {
            shadow.counts.add(Would::LimitRate);
        }
        !refused
    }

    /// It comes to the bulkhead, as the policy in force has let it past its own.
    pub fn enters(&mut self, need: Need, now: Instant) {
        let Observer { shadow, line } = &*self.observer;
        self.number = Some(line.lock().enter(Arc::clone(shadow), self.facts, need, now));
    }

    /// Something happens to it.
    pub fn tell(&self, step: Step, now: Instant) {
        if let Some(number) = self.number {
            self.observer.line.lock().tell(number, step, now);
        }
    }
}
