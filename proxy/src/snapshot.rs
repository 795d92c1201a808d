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
};

use firebreak_crds::wire::Protocol;
use hashbrown::HashMap;
use http::request::Parts;

use crate::{
    policy::{budget::Budget, bulkhead::Gate, fault::FaultSet, retry::Retries, timeout::Clocks},
    route::matcher::Matcher,
    telemetry::metrics::CalleeMetrics,
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
    addresses: Box<[SocketAddr]>,
    turn: AtomicUsize,
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

impl Endpoints {
    /// Endpoints in the order of the config.
    pub fn new(addresses: Box<[SocketAddr]>) -> Self {
        Self { addresses, turn: AtomicUsize::new(0) }
    }

    /// The next endpoint in turn, another than `last` if there is another. `None` when there is none at all.
    pub fn next(&self, last: Option<SocketAddr>) -> Option<SocketAddr> {
        let count = self.addresses.len();
        let pick = || self.addresses.get(self.turn.fetch_add(1, Relaxed) % count.max(1)).copied();
        match pick()? {
            again if Some(again) == last && count > 1 => pick().filter(|other| Some(*other) != last).or(Some(again)),
            endpoint => Some(endpoint),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_take_turns_and_a_retry_goes_elsewhere() {
        let addresses: Vec<SocketAddr> = (1..=3).map(|port| ([127, 0, 0, 1], port).into()).collect();
        let endpoints = Endpoints::new(addresses.clone().into());
        assert_eq!((0..6).map(|_| endpoints.next(None).unwrap().port()).collect::<Vec<_>>(), [1, 2, 3, 1, 2, 3]);
        let first = endpoints.next(None);
        assert_ne!(endpoints.next(first), first);
        let one = Endpoints::new(addresses[..1].into());
        assert_eq!(one.next(one.next(None)).unwrap().port(), 1);
        assert_eq!(Endpoints::new(Box::default()).next(None), None);
    }
}
