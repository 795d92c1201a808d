//! What runs: the config compiled into tables. A snapshot never changes; a new config is a new snapshot, swapped in as one
//! pointer, and a request keeps the one it began with.
//!
//! What has a history (the bulkhead's counts, the budget's window, the metrics, when a fault was first seen) lives behind
//! `Arc`s that the compiler carries from one snapshot to the next by name, so that a config change which does not concern
//! a callee does not touch its state.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use firebreak_crds::wire::Protocol;
use hashbrown::HashMap;
use http::{HeaderMap, HeaderValue, request::Parts};
use tokio::time::Instant;

use crate::{
    http::lineage,
    policy::{
        balance::{Chosen, Endpoints, NoEndpoint, Placed},
        breaker::{Breaker, Outcome, Refused, Ticket},
        budget::Budget,
        bulkhead::Gate,
        concurrency::Limit,
        fault::FaultSet,
        hedge::{ExtraLoad, Hedge},
        rate::Rate,
        retry::Retries,
        shadow::Observer,
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
    /// Ports of the application at which something is enforced.
    pub inbound_ports: HashMap<u16, Arc<Callee>>,
    /// Local mode: endpoints before which something is enforced.
    pub inbound_endpoints: HashMap<SocketAddr, Arc<Callee>>,
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
    /// The policy that is observed beside the one in force.
    pub observer: Option<Arc<Observer>>,
    /// Inbound: how many requests the application works on at once, if the policy limits that.
    pub limit: Option<Arc<Limit>>,
    /// Faults aimed at it.
    pub faults: Box<[Arc<FaultSet>]>,
    /// How much of this proxy it may take.
    pub gate: Arc<Gate>,
    /// What is counted about it.
    pub metrics: Arc<CalleeMetrics>,
}

/// Where a try goes, and what is to be told of its outcome.
#[derive(Debug, Default)]
pub struct Admitted {
    /// The way to the endpoint; `None` means the address that the caller called.
    pub way: Option<SocketAddr>,
    /// Of the callee's breaker.
    pub service: Option<Ticket>,
    /// Of the endpoint's.
    pub at_endpoint: Option<Ticket>,
    /// Its place among what the endpoint has to do.
    pub placed: Option<Placed>,
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
#[derive(Clone, Debug)]
pub struct Policy {
    /// `namespace/name`.
    pub name: Box<str>,
    /// Of the object that it was compiled from.
    pub generation: i64,
    /// What may be added to what callers ask for, if anything may.
    pub extra: Extra,
    base: Plan,
    routes: Box<[(Matcher, Plan)]>,
}

/// What tries may be added to those that callers ask for: counted over time, and carried from snapshot to snapshot.
#[derive(Clone, Debug, Default)]
pub struct Extra {
    /// If there are retries, or hedging.
    pub budget: Option<Arc<Budget>>,
    /// If there is hedging.
    pub hedges: Option<Arc<ExtraLoad>>,
}

/// Clocks, retries and hedging of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The four clocks.
    pub clocks: Clocks,
    /// Extra tries after those that failed.
    pub retries: Option<Retries>,
    /// A second try beside one that is slow.
    pub hedge: Option<Hedge>,
    /// What each try says of itself.
    pub labels: Vec<HeaderValue>,
}

/// The plan where there is no policy: no clock, no retry.
pub static TRANSPARENT: Plan = Plan {
    clocks: Clocks { connect: None, attempt: None, request: None, idle: None },
    retries: None,
    hedge: None,
    labels: Vec::new(),
};

impl Snapshot {
    /// The callee behind an address that a caller called.
    pub fn callee(&self, address: &SocketAddr) -> &Arc<Callee> {
        self.callees.get(address).unwrap_or(&self.unknown)
    }

    /// The application at that address: the pod's behind one of its ports, or in local mode an endpoint.
    pub fn application(&self, address: &SocketAddr) -> &Arc<Callee> {
        let at_port = || self.inbound_ports.get(&address.port());
        self.inbound_endpoints.get(address).or_else(at_port).unwrap_or(&self.inbound)
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

impl Extra {
    /// Counts a request at `now` that breakers have let through: what may be added is a share of these, as requests that go nowhere
    /// ask for nothing.
    pub fn request(&self, plan: &Plan, now: Instant) {
        if let Some(budget) = self.budget.as_ref().filter(|_| plan.repeats()) {
            budget.request(now);
        }
        if let (Some(hedges), Some(hedge)) = (&self.hedges, plan.hedge) {
            hedges.request(hedge, now);
        }
    }
}

impl Plan {
    /// A plan, and how many tries a request may come to: a second one beside the first is one of those that retries allow, or one
    /// more where there are none.
    pub fn new(clocks: Clocks, retries: Option<Retries>, hedge: Option<Hedge>) -> Self {
        let extra = retries.as_ref().map_or(0, |retries| retries.max).max(u32::from(hedge.is_some()));
        let labels = if extra == 0 { Vec::new() } else { lineage::attempts(extra + 1) };
        Self { clocks, retries, hedge, labels }
    }

    /// Whether a request may come to more than one try.
    pub fn repeats(&self) -> bool {
        self.retries.is_some() || self.hedge.is_some()
    }

    /// What it says of a second try beside try number `number`, if the request may come to one more.
    pub fn hedge_beside(&self, number: u32) -> Option<Hedge> {
        self.hedge.filter(|_| (number as usize) < self.labels.len())
    }
}

impl Policy {
    /// A policy with its exceptions, the first match to win.
    pub fn new(name: &str, generation: i64, extra: Extra, base: Plan, routes: Box<[(Matcher, Plan)]>) -> Self {
        Self { name: name.into(), generation, extra, base, routes }
    }

    /// Which of its exceptions a request is, if it is one.
    pub fn route(&self, request: &Parts) -> Option<usize> {
        self.routes.iter().position(|(matcher, _)| matcher.matches(request))
    }

    /// The plan of that exception, or of all other requests.
    pub fn plan_of(&self, route: Option<usize>) -> &Plan {
        route.and_then(|route| self.routes.get(route)).map_or(&self.base, |(_, plan)| plan)
    }

    fn plan(&self, request: &Parts) -> &Plan {
        self.plan_of(self.route(request))
    }
}

impl Admitted {
    /// A connection is there, and the callee may have to wait for what it is to be asked.
    pub fn connected(&mut self, now: Instant) {
        self.tickets().for_each(|ticket| ticket.connected(now));
        self.placed.iter_mut().for_each(|placed| placed.connected(now));
    }

    /// The head of the response has come, and its status will only at the end.
    pub fn answered(&mut self, now: Instant) {
        self.tickets().for_each(|ticket| ticket.answered(now));
        self.placed.iter_mut().for_each(|placed| placed.answered(now));
    }

    /// Says what became of the try. The endpoint has to do with it until this is dropped: its response may be under way.
    pub fn ended(&mut self, outcome: Outcome, now: Instant) {
        let tickets = [self.service.take(), self.at_endpoint.take()];
        tickets.into_iter().flatten().for_each(|ticket| ticket.ended(outcome, now));
        self.placed.iter_mut().for_each(|placed| placed.ended(outcome, now));
    }

    /// Whether it was admitted one by one, by a breaker that is not closed.
    pub fn is_leased(&self) -> bool {
        [&self.service, &self.at_endpoint].into_iter().flatten().any(Ticket::is_leased)
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

impl From<NoEndpoint> for NotAdmitted {
    fn from(none: NoEndpoint) -> Self {
        match none {
            NoEndpoint::Empty => Self { reason: Reason::NoEndpoints, retry_after: None },
            NoEndpoint::Refused(refused) => Self::from(refused),
        }
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

    /// What of a request names its endpoint, if anything does.
    pub fn hash_key(&self, headers: &HeaderMap) -> Option<u64> {
        self.endpoints.as_ref().and_then(|endpoints| endpoints.key(headers))
    }

    /// The address of the endpoint to which `way` leads.
    pub fn behind(&self, way: SocketAddr) -> SocketAddr {
        self.endpoints.as_ref().and_then(|endpoints| endpoints.behind(way)).unwrap_or(way)
    }

    /// Asks the breakers for a try at `now` that must have its answer by `end`, at the endpoint that `key` names, or another
    /// than the one that `last` leads to if there is another.
    ///
    /// # Errors
    /// When the callee is to be left alone, or there is no endpoint.
    pub fn admit(
        &self,
        key: Option<u64>,
        last: Option<SocketAddr>,
        now: Instant,
        end: Option<Instant>,
    ) -> Result<Admitted, NotAdmitted> {
        let service = self.breaker.as_ref().map(|breaker| breaker.admit(now, end)).transpose()?;
        let Some(endpoints) = &self.endpoints else { return Ok(Admitted { service, ..Admitted::default() }) };
        let Chosen { endpoint, ticket } = endpoints.next(key, last, now, end)?;
        let placed = Some(endpoint.load.place(now));
        Ok(Admitted { way: Some(endpoint.way), service, at_endpoint: ticket, placed })
    }
}
