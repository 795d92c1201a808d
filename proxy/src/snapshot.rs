//! What runs: the config compiled into tables. A snapshot never changes; a new config is a new snapshot, swapped in as one
//! pointer, and a request keeps the one it began with.
//!
//! What has a history (the bulkhead's counts, the budget's window, the metrics, when a fault was first seen) lives behind
//! `Arc`s that the compiler carries from one snapshot to the next by name, so that a config change which does not concern
//! a callee does not touch its state.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use firebreak_crds::wire::Protocol;
use hashbrown::HashMap;
use http::request::Parts;
use tokio::time::Instant;

use crate::{
    policy::{
        breaker::{Breaker, Outcome, Refused, Ticket},
        budget::Budget,
        bulkhead::Gate,
        fault::FaultSet,
        rate::Rate,
        retry::Retries,
        timeout::Clocks,
    },
    route::matcher::Matcher,
    telemetry::metrics::CalleeMetrics,
    verdict::Reason,
};

/// Everything a worker needs to know about the world.
#[derive(Debug)]
pub struct Snapshot {
    /// Content hash of the document it was compiled from; empty before the first.
    pub revision: Box<str>,
    /// Break-glass: new connections are forwarded without looking inside.
    pub transparent: bool,
    /// The callee of everything that no entry names.
    pub unknown: Arc<Callee>,
    /// The pod's own application, for connections that come in.
    pub inbound: Arc<Callee>,
    /// Callees by the address that callers use.
    pub callees: HashMap<SocketAddr, Arc<Callee>>,
}

/// A Service port, ready for requests.
#[derive(Debug)]
pub struct Callee {
    /// A number that stays the same while the callee keeps its name: the key of its connections.
    pub id: u32,
    /// What is spoken.
    pub protocol: Protocol,
    /// Where to connect to; `None` means the address that the caller called.
    pub endpoints: Option<Endpoints>,
    /// The policy in force.
    pub policy: Option<Policy>,
    /// Its breaker, if the policy has one.
    pub breaker: Option<Arc<Breaker>>,
    /// How many requests it may still be sent, if the policy limits that.
    pub rate: Option<Arc<Rate>>,
    /// Faults aimed at it.
    pub faults: Box<[Arc<FaultSet>]>,
    /// How much of this proxy it may take.
    pub gate: Arc<Gate>,
    /// What is counted about it.
    pub metrics: Arc<CalleeMetrics>,
}

/// The places where a callee runs, with a turn that all workers share.
#[derive(Debug)]
pub struct Endpoints {
    list: Box<[Endpoint]>,
    turn: AtomicUsize,
}

/// One place where a callee runs.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where to connect to.
    pub address: SocketAddr,
    /// Its breaker, if the policy has one.
    pub breaker: Option<Arc<Breaker>>,
}

/// Where a try goes, and what is to be told of its outcome.
#[derive(Debug, Default)]
pub struct Admitted {
    /// The endpoint; `None` means the address that the caller called.
    pub endpoint: Option<SocketAddr>,
    /// Of the callee's breaker.
    pub service: Option<Ticket>,
    /// Of the endpoint's.
    pub at_endpoint: Option<Ticket>,
}

/// Why a try goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAdmitted {
    /// What is said of it.
    pub reason: Reason,
    /// When to ask again, where that is known.
    pub retry_after: Option<Duration>,
}

/// A compiled TrafficPolicy.
#[derive(Debug)]
pub struct Policy {
    /// `namespace/name`.
    pub name: Box<str>,
    /// What retries may add, if there are retries.
    pub budget: Option<Arc<Budget>>,
    base: Plan,
    routes: Box<[(Matcher, Plan)]>,
}

/// Clocks and retries of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The four clocks.
    pub clocks: Clocks,
    /// Extra tries.
    pub retries: Option<Retries>,
}

/// The plan where there is no policy: no clock, no retry.
pub static TRANSPARENT: Plan =
    Plan { clocks: Clocks { connect: None, attempt: None, request: None, idle: None }, retries: None };

impl Snapshot {
    /// The callee behind an address that a caller called.
    pub fn callee(&self, address: &SocketAddr) -> &Arc<Callee> {
        self.callees.get(address).unwrap_or(&self.unknown)
    }
}

impl Callee {
    /// The plan for a request.
    pub fn plan(&self, request: &Parts) -> &Plan {
        self.policy.as_ref().map_or(&TRANSPARENT, |policy| policy.plan(request))
    }

    /// The clocks where there is no request to look at.
    pub fn clocks(&self) -> Clocks {
        self.policy.as_ref().map_or(TRANSPARENT.clocks, |policy| policy.base.clocks)
    }
}

impl Policy {
    /// A policy with its exceptions, the first match to win.
    pub fn new(name: &str, budget: Option<Arc<Budget>>, base: Plan, routes: Box<[(Matcher, Plan)]>) -> Self {
        Self { name: name.into(), budget, base, routes }
    }

    fn plan(&self, request: &Parts) -> &Plan {
        self.routes.iter().find(|(matcher, _)| matcher.matches(request)).map_or(&self.base, |(_, plan)| plan)
    }
}

impl Admitted {
    /// The head of the response has come, and its status will only at the end.
    pub fn answered(&mut self, now: Instant) {
        self.tickets().for_each(|ticket| ticket.answered(now));
    }

    /// Says what became of the try.
    pub fn ended(self, outcome: Outcome, now: Instant) {
        [self.service, self.at_endpoint].into_iter().flatten().for_each(|ticket| ticket.ended(outcome, now));
    }

    /// Whether nobody is to be told.
    pub fn is_empty(&self) -> bool {
        self.service.is_none() && self.at_endpoint.is_none()
    }

    fn tickets(&mut self) -> impl Iterator<Item = &mut Ticket> {
        [&mut self.service, &mut self.at_endpoint].into_iter().flatten()
    }
}

impl From<Refused> for NotAdmitted {
    fn from(refused: Refused) -> Self {
        Self { reason: Reason::BreakerOpen, retry_after: Some(refused.retry_after) }
    }
}

impl Callee {
    /// Counts a request at `now` against the rate limit.
    ///
    /// # Errors
    /// When it is one too many.
    pub fn take(&self, now: Instant) -> Result<(), NotAdmitted> {
        self.rate
            .as_ref()
            .map_or(Ok(()), |rate| rate.take(now))
            .map_err(|wait| NotAdmitted { reason: Reason::RateLimited, retry_after: Some(wait) })
    }

    /// Asks the breakers for a try at `now` that must have its answer by `end`, at another endpoint than `last` if there is
    /// another.
    ///
    /// # Errors
    /// When the callee is to be left alone, or there is no endpoint.
    pub fn admit(&self, last: Option<SocketAddr>, now: Instant, end: Option<Instant>) -> Result<Admitted, NotAdmitted> {
        let service = self.breaker.as_ref().map(|breaker| breaker.admit(now, end)).transpose()?;
        let Some(endpoints) = &self.endpoints else { return Ok(Admitted { service, ..Admitted::default() }) };
        let (address, at_endpoint) = endpoints.next(last, now, end)?;
        Ok(Admitted { endpoint: Some(address), service, at_endpoint })
    }
}

impl Endpoints {
    /// Endpoints in the order of the config.
    pub fn new(list: Box<[Endpoint]>) -> Self {
        Self { list, turn: AtomicUsize::new(0) }
    }

    /// The next endpoint in turn whose breaker admits a try, another than `last` if there is another.
    ///
    /// # Errors
    /// When there is none.
    fn next(
        &self,
        last: Option<SocketAddr>,
        now: Instant,
        end: Option<Instant>,
    ) -> Result<(SocketAddr, Option<Ticket>), NotAdmitted> {
        let count = self.list.len();
        let first = self.turn.fetch_add(1, Relaxed) % count.max(1);
        let in_turn = || self.list[first..].iter().chain(&self.list[..first]);
        let others = in_turn().filter(|endpoint| Some(endpoint.address) != last);
        let again = in_turn().filter(|endpoint| Some(endpoint.address) == last);
        let mut refusal = NotAdmitted { reason: Reason::NoEndpoints, retry_after: None };
        for endpoint in others.chain(again) {
            match endpoint.breaker.as_ref().map(|breaker| breaker.admit(now, end)).transpose() {
                Ok(ticket) => return Ok((endpoint.address, ticket)),
                Err(refused) => {
                    let soonest =
                        refusal.retry_after.map_or(refused.retry_after, |other| other.min(refused.retry_after));
                    refusal = NotAdmitted::from(Refused { retry_after: soonest });
                }
            }
        }
        // All are open, or recovering: how much a callee gets of which that is true is for its own breaker to say, which
        // recovers too. Two shares of a tenth would be a hundredth.
        in_turn()
            .find_map(|endpoint| Some((endpoint.address, endpoint.breaker.as_ref()?.admit_beyond_share(now)?)))
            .map(|(address, ticket)| (address, Some(ticket)))
            .ok_or(refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::breaker;

    fn endpoints(ports: std::ops::RangeInclusive<u16>) -> Endpoints {
        Endpoints::new(ports.map(|port| Endpoint { address: ([127, 0, 0, 1], port).into(), breaker: None }).collect())
    }

    fn next(endpoints: &Endpoints, last: Option<u16>) -> Result<u16, NotAdmitted> {
        let last = last.map(|port| ([127, 0, 0, 1], port).into());
        endpoints.next(last, Instant::now(), None).map(|(address, _)| address.port())
    }

    #[test]
    fn endpoints_take_turns_and_a_retry_goes_elsewhere() {
        let three = endpoints(1..=3);
        let turns: Vec<_> = (0..6).map(|_| next(&three, None).unwrap()).collect();
        assert_eq!(turns, [1, 2, 3, 1, 2, 3]);
        for _ in 0..6 {
            assert_ne!(next(&three, Some(2)), Ok(2));
        }
        assert_eq!(next(&endpoints(1..=1), Some(1)), Ok(1), "where there is no other");
        let none = Endpoints::new(Box::default());
        assert_eq!(next(&none, None).unwrap_err().reason, Reason::NoEndpoints);
    }

    #[test]
    fn a_recovering_endpoint_is_better_than_none() {
        let once = firebreak_crds::spec::CircuitBreaker::default();
        let limits = breaker::Limits { probes: 1, consecutive: Some(1), ..breaker::Limits::from(&once) };
        let (start, mut list) = (Instant::now(), endpoints(1..=1).list);
        let breaker = Breaker::new(limits, Arc::default(), start);
        breaker.admit(start, None).unwrap().ended(Outcome::Failed, start);
        let later = start + limits.open_longest;
        breaker.admit(later, None).unwrap().ended(Outcome::Passed, later);
        assert_eq!(breaker.state(), breaker::State::Recovering);
        list[0].breaker = Some(breaker);
        let one = Endpoints::new(list);
        assert!((0..100).all(|_| one.next(None, later, None).is_ok()));
    }

    #[test]
    fn an_endpoint_whose_breaker_is_open_is_passed_over() {
        let limits = breaker::Limits::from(&firebreak_crds::spec::CircuitBreaker::default());
        let (now, mut list) = (Instant::now(), endpoints(1..=2).list);
        let breaker = Breaker::new(limits, Arc::default(), now);
        for _ in 0..limits.consecutive.unwrap() {
            breaker.admit(now, None).unwrap().ended(Outcome::Failed, now);
        }
        list[0].breaker = Some(breaker);
        let two = Endpoints::new(list.clone());
        assert_eq!((0..4).map(|_| next(&two, Some(2)).unwrap()).collect::<Vec<_>>(), [2; 4]);
        let one = Endpoints::new(list[..1].into());
        let refused = next(&one, None).unwrap_err();
        assert_eq!(refused.reason, Reason::BreakerOpen);
        assert!(refused.retry_after.is_some());
    }
}
