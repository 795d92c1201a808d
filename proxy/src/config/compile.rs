//! From the wire's words to the request path's tables: pure, apart from taking over what has a history.

mod inbound;

use std::{net::SocketAddr, sync::Arc};

use firebreak_crds::{
    pod::Ports,
    spec::{self, LabelSelector, Labels, Position},
    wire::{self, Body, Config},
};
use hashbrown::HashMap;
use tokio::time::Instant;

use self::inbound::{Application, Site};
use super::endpoints::EndpointSource;
use crate::{
    policy::{
        balance::{Endpoint, Endpoints, Load},
        breaker::{self, Breaker, Counts, Peers},
        budget::{self, Budget},
        bulkhead::{self, Gate},
        fault::FaultSet,
        health::Health,
        hedge::{ExtraLoad, Hedge},
        rate::Rate,
        retry::Retries,
        shadow::Observer,
        timeout::Clocks,
    },
    route::matcher::Matcher,
    snapshot::{Callee, Extra, Plan, Policy, Snapshot},
    telemetry::metrics::{Breakers, CalleeMetrics, Direction, Registry},
    upstream::checker::Checked,
};

/// Name and port of a callee, by which its state is carried on.
type Key = (Box<str>, u16);

/// What has a history, by name. It outlives the snapshots.
#[derive(Debug)]
pub struct Carried {
    registry: Arc<Registry>,
    source: Box<dyn EndpointSource>,
    callees: HashMap<Key, State>,
    faults: HashMap<Box<str>, Seen>,
    unknown: Arc<Callee>,
    inbound: Arc<Callee>,
    /// The pod's ports by their names, where they are known.
    pub(super) ports: Option<Ports>,
    /// The pod's own application by its ports, or in local mode those at endpoints.
    applications: HashMap<Site, Application>,
    next_id: u32,
}

#[derive(Debug)]
struct State {
    id: u32,
    /// Whether the config in force names it.
    named: bool,
    gate: Arc<Gate>,
    extra: Extra,
    breaker: Option<Arc<Breaker>>,
    rate: Option<Arc<Rate>>,
    observer: Option<Arc<Observer>>,
    endpoints: HashMap<SocketAddr, Endpoint>,
    peers: Option<Arc<Peers>>,
    metrics: Arc<CalleeMetrics>,
}

/// A fault as it was when this proxy first saw it; the same fault again is not a new one.
#[derive(Debug)]
struct Seen {
    fault: wire::Fault,
    since: Instant,
    compiled: Arc<FaultSet>,
}

impl Carried {
    /// No history yet; endpoints are those that `source` knows.
    pub fn new(registry: Arc<Registry>, source: Box<dyn EndpointSource>) -> Self {
        let nameless = |id, direction| {
            Arc::new(Callee {
                id,
                protocol: wire::Protocol::Detect,
                endpoints: None,
                policy: None,
                breaker: None,
                rate: None,
                observer: None,
                limit: None,
                faults: Box::default(),
                gate: Gate::new(bulkhead::Limits::NONE),
                metrics: registry.callee(direction, "unknown", None),
            })
        };
        let (unknown, inbound) = (nameless(0, Direction::Outbound), nameless(1, Direction::Inbound));
        let (callees, faults, applications) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { registry, source, callees, faults, unknown, inbound, ports: None, applications, next_id: 2 }
    }

    /// The snapshot of a proxy that knows nothing: it forwards.
    pub fn empty(&self) -> Snapshot {
        Snapshot {
            revision: Box::default(),
            transparent: false,
            unknown: Arc::clone(&self.unknown),
            inbound: Arc::clone(&self.inbound),
            inbound_ports: HashMap::new(),
            inbound_endpoints: HashMap::new(),
            callees: HashMap::new(),
        }
    }

    /// Compiles what a pod with these labels needs of `config`.
    pub fn compile(&mut self, config: &Config, revision: &str, labels: &Labels, now: Instant) -> Snapshot {
        let mut snapshot = self.empty();
        snapshot.revision = revision.into();
        snapshot.transparent = config.transparent;
        let entries = Entries::new(config, labels);
        self.faults.retain(|name, seen| {
            let stays = entries.faults.get(&**name).is_some_and(|fault| **fault == seen.fault);
            if !stays || config.transparent {
                seen.compiled.end();
            }
            stays
        });
        let mut kept = HashMap::new();
        for (name, service) in &entries.services {
            for port in &service.ports {
                let callee = Arc::new(self.callee(name, port, &entries, config.transparent, now, &mut kept));
                for address in addresses(service, port) {
                    snapshot.callees.insert(address, Arc::clone(&callee));
                }
            }
        }
        self.let_go(&mut kept);
        self.callees = kept;
        for (site, application) in self.applications(&entries, config.transparent, now) {
            match site {
                Site::Port(port) => drop(snapshot.inbound_ports.insert(port, application)),
                Site::Endpoint(address) => drop(snapshot.inbound_endpoints.insert(address, application)),
            }
        }
        snapshot
    }

    /// Endpoints whose health is to be checked.
    pub fn checked(&self) -> Arc<[Checked]> {
        self.callees.values().flat_map(State::checked).collect()
    }

    /// A callee that is no longer named keeps its state until its requests are over, so that it is counted once should it
    /// come back; no limit holds for it.
    fn let_go(&mut self, kept: &mut HashMap<Key, State>) {
        for (key, mut state) in self.callees.drain() {
            state.named = false;
            state.endpoints.values_mut().for_each(|endpoint| endpoint.health = None);
            state.gate.set(bulkhead::Limits::NONE);
            state.gate.wake();
            if state.stays() {
                kept.insert(key, state);
            }
        }
    }

    /// Lets go of callees that were still in use when they were last named, and of counts that nobody adds to.
    pub fn tidy(&mut self, now: Instant) {
        self.callees.retain(|_, state| state.stays());
        self.registry.expire(now);
    }

    fn callee(
        &mut self,
        name: &str,
        port: &wire::Port,
        entries: &Entries<'_>,
        transparent: bool,
        now: Instant,
        kept: &mut HashMap<Key, State>,
    ) -> Callee {
        let policy = port.policies.iter().find_map(|name| entries.policies.get_key_value(name.as_str()));
        let policy = policy.filter(|_| !transparent);
        let observed = shadow::observed(port, policy, entries).filter(|_| !transparent);
        let limits =
            policy.and_then(|(_, (_, policy))| policy.bulkhead.as_ref()).map_or(bulkhead::Limits::NONE, Into::into);
        let key = (Box::from(name), port.port);
        let mut state = self.callees.remove(&key).unwrap_or_else(|| self.new_state(name, port.port));
        state.named = true;
        state.gate.set(limits);
        state.gate.wake();
        let endpoints = self.source.endpoints(name, port);
        state.observe(observed, endpoints.as_deref(), now);
        let endpoints = state.endpoints(policy.map(|(_, (_, policy))| *policy), endpoints.as_deref(), now);
        state.limit_rate(policy.and_then(|(_, (_, policy))| policy.rate_limit), now);
        let policy = policy.map(|(name, policy)| state.policy(name, *policy, now));
        let faults =
            port.faults.iter().filter(|_| !transparent).filter_map(|name| self.fault(name, entries, None, now));
        let callee = Callee {
            id: state.id,
            protocol: port.protocol,
            endpoints,
            policy,
            breaker: state.breaker.clone(),
            rate: state.rate.clone(),
            observer: state.observer.clone(),
            limit: None,
            faults: faults.collect(),
            gate: Arc::clone(&state.gate),
            metrics: Arc::clone(&state.metrics),
        };
        kept.insert(key, state);
        callee
    }

    fn new_state(&mut self, name: &str, port: u16) -> State {
        let id = self.next_id;
        self.next_id += 1;
        let gate = Gate::new(bulkhead::Limits::NONE);
        let metrics = self.registry.callee(Direction::Outbound, name, Some(port));
        metrics.watch_gate(Some(Arc::clone(&gate)));
        State {
            id,
            named: true,
            gate,
            extra: Extra::default(),
            breaker: None,
            rate: None,
            observer: None,
            endpoints: HashMap::new(),
            peers: None,
            metrics,
        }
    }

    /// The fault of that name, where it acts, or at `at`.
    fn fault(
        &mut self,
        name: &str,
        entries: &Entries<'_>,
        at: Option<Position>,
        now: Instant,
    ) -> Option<Arc<FaultSet>> {
        let fault = *entries.faults.get(name)?;
        let at = at.unwrap_or(fault.at);
        let compiled = |since| Arc::new(FaultSet::new(name, fault, self.registry.fault(name), since).acting_at(at));
        let seen = self.faults.entry(name.into()).or_insert_with(|| Seen {
            fault: fault.clone(),
            since: now,
            compiled: compiled(now),
        });
        if seen.compiled.is_ended() {
            // It goes on after a break, and not for longer.
            seen.compiled = compiled(seen.since);
        }
        Some(Arc::clone(&seen.compiled))
    }
}

impl State {
    /// Whether its history goes on. What is shown of it ends with it.
    fn stays(&self) -> bool {
        let stays = self.named || self.gate.in_use();
        if !stays {
            self.metrics.watch_gate(None);
            self.metrics.watch_breakers(Breakers::default());
        }
        stays
    }

    /// Puts breakers in force, or takes them away: the callee's own, and one for each endpoint. What is known of an endpoint
    /// is kept as long as it is there.
    fn endpoints(
        &mut self,
        policy: Option<&wire::Policy>,
        list: Option<&[wire::Endpoint]>,
        now: Instant,
    ) -> Option<Endpoints> {
        let limits = policy.and_then(|policy| policy.circuit_breaker.as_ref()).map(breaker::Limits::from);
        self.breaker = limits.map(|limits| carried(self.breaker.take(), None, limits, &self.metrics.breaker, now));
        let outliers = policy.and_then(|policy| policy.outlier_detection.as_ref());
        let limits = breaker::Limits::of_endpoint(limits, outliers);
        self.compare(limits.filter(|_| outliers.is_some()), list.map_or(0, <[_]>::len), now);
        let balancing = policy.and_then(|policy| policy.load_balancing.as_ref());
        let slow_start = balancing.and_then(|balancing| balancing.slow_start);
        let checks = policy.and_then(|policy| policy.health_check.as_ref());
        let mut before = std::mem::take(&mut self.endpoints);
        // Where all are new, there is nobody to spare them.
        let all_new = list.into_iter().flatten().all(|endpoint| !before.contains_key(&endpoint.address));
        let endpoint = |endpoint: &wire::Endpoint| {
            let address = endpoint.address;
            let known = before.remove(&address);
            let health = checks.map(|check| checked(check, known.as_ref().and_then(|known| known.health.as_ref())));
            let (breaker, load) = known.map_or((None, None), |known| (known.breaker, Some(known.load)));
            let counts = &self.metrics.endpoint_breakers;
            let breaker = limits.map(|limits| carried(breaker, self.peers.as_ref(), limits, counts, now));
            let load = known_or_new(load, slow_start.filter(|_| !all_new), now);
            let endpoint = Endpoint { address, way: endpoint.way(), breaker, load, health };
            self.endpoints.insert(address, endpoint.clone());
            endpoint
        };
        let list: Option<Box<[Endpoint]>> = list.map(|list| list.iter().map(endpoint).collect());
        // Whoever is gone makes room, and then those who have come furthest go free while too many are out.
        for gone in before.values().filter_map(|gone| gone.breaker.as_ref()) {
            gone.retire(now);
        }
        if let Some(peers) = &self.peers {
            peers.settle(self.endpoints.values().filter_map(|endpoint| endpoint.breaker.as_deref()), now);
        }
        let watched = self.endpoints.values().filter(|_| limits.is_some() || balancing.is_some() || checks.is_some());
        let endpoints = watched.cloned().collect();
        let (callee, observed) = (self.breaker.clone(), self.observer.clone());
        self.metrics.watch_breakers(Breakers { callee, endpoints, observed });
        list.map(|list| Endpoints::new(list, balancing))
    }

    fn checked(&self) -> impl Iterator<Item = Checked> {
        self.endpoints.values().filter_map(|endpoint| {
            let (health, metrics) = (Arc::clone(endpoint.health.as_ref()?), Arc::clone(&self.metrics));
            Some(Checked { address: endpoint.address, health, metrics })
        })
    }

    /// Lets `endpoints` of them be compared with each other, or none.
    fn compare(&mut self, limits: Option<breaker::Limits>, endpoints: usize, now: Instant) {
        let peers = limits.map(|limits| match self.peers.take() {
            Some(peers) if peers.rate() == limits.above_others => peers,
            _ => Peers::new(limits.above_others, now),
        });
        self.peers = peers.inspect(|peers| peers.count(endpoints));
    }

    fn limit_rate(&mut self, limit: Option<spec::RateLimit>, now: Instant) {
        if self.rate.as_ref().map(|rate| rate.limit()) != limit {
            self.rate = limit.map(|limit| Arc::new(Rate::new(limit, now)));
        }
    }

    fn policy(&mut self, name: &str, (generation, policy): Versioned<'_>, now: Instant) -> Policy {
        self.extra = extra(std::mem::take(&mut self.extra), policy, now);
        compiled(name, generation, policy, self.extra.clone())
    }
}

/// A policy whose extra tries are counted here.
fn compiled(name: &str, generation: i64, policy: &wire::Policy, extra: Extra) -> Policy {
    let routes = policy.routes.iter().map(|route| (Matcher::from(&route.matches), route_plan(policy, route)));
    let base = plan(policy.timeouts.as_ref(), policy.retries.as_ref(), policy.hedge.as_ref());
    Policy::new(name, generation, extra, base, routes.collect())
}

/// What counts a policy's extra tries: what was before, where it counts the same.
fn extra(before: Extra, policy: &wire::Policy, now: Instant) -> Extra {
    let retries = policy.retries.as_ref().or_else(|| policy.routes.iter().find_map(|route| route.retries.as_ref()));
    let hedges = policy.hedge.is_some() || policy.routes.iter().any(|route| route.hedge.is_some());
    // What hedging costs is paid from the budget too, which has its defaults where nothing is said of it.
    let budget = retries.map(|retries| retries.budget.unwrap_or_default()).or(hedges.then(spec::Budget::default));
    let budget = budget.as_ref().map(budget::Limits::from).map(|limits| {
        let same = before.budget.filter(|budget| budget.limits() == limits);
        same.unwrap_or_else(|| Arc::new(Budget::new(limits, now)))
    });
    let hedges = hedges.then(|| before.hedges.unwrap_or_else(|| Arc::new(ExtraLoad::new(now))));
    Extra { budget, hedges }
}

/// What was known of an endpoint; of a new one nothing is, and it begins slowly where the policy says so.
fn known_or_new(before: Option<Arc<Load>>, slow_start: Option<spec::Duration>, now: Instant) -> Arc<Load> {
    match (before, slow_start) {
        (Some(load), Some(_)) => load,
        (Some(load), None) => {
            load.end_warm_up();
            load
        }
        (None, slow_start) => {
            let load = Load::new(now);
            if let Some(window) = slow_start {
                load.warm_up(window.get(), now);
            }
            load
        }
    }
}

/// What is known of the health of an endpoint that is checked like this.
fn checked(check: &spec::HealthCheck, before: Option<&Arc<Health>>) -> Arc<Health> {
    match before {
        Some(health) if health.check() == check => Arc::clone(health),
        _ => Arc::new(Health::new(check.clone(), before.map(|health| &**health))),
    }
}

/// A breaker with these limits, among these, that goes on where `before` was.
fn carried(
    before: Option<Arc<Breaker>>,
    peers: Option<&Arc<Peers>>,
    limits: breaker::Limits,
    counts: &Arc<Counts>,
    now: Instant,
) -> Arc<Breaker> {
    let same_peers = |breaker: &Breaker| breaker.peers().map(Arc::as_ptr) == peers.map(Arc::as_ptr);
    match before {
        Some(breaker) if breaker.limits() == limits && same_peers(&breaker) => breaker,
        Some(breaker) => breaker.with(peers.cloned(), limits, now),
        None => Breaker::among(peers.cloned(), limits, Arc::clone(counts), now),
    }
}

/// A policy, and the generation of its object.
type Versioned<'a> = (i64, &'a wire::Policy);

/// The entries by kind and name: those that concern a pod with the given labels.
struct Entries<'a> {
    services: Vec<(&'a str, &'a wire::Service)>,
    policies: HashMap<&'a str, Versioned<'a>>,
    faults: HashMap<&'a str, &'a wire::Fault>,
    inbound: Vec<(&'a str, &'a wire::Inbound)>,
}

impl<'a> Entries<'a> {
    fn new(config: &'a Config, labels: &Labels) -> Self {
        let concerns = |from: &Option<LabelSelector>| from.as_ref().is_none_or(|selector| selector.matches(labels));
        let (policies, faults) = (HashMap::new(), HashMap::new());
        let mut entries = Self { services: Vec::new(), policies, faults, inbound: Vec::new() };
        for entry in &config.entries {
            let name = entry.name.as_str();
            match &entry.body {
                Body::Service(service) => entries.services.push((name, service)),
                Body::Policy(policy) if concerns(&policy.from) => {
                    entries.policies.insert(name, (entry.generation, policy));
                }
                Body::Fault(fault) if concerns(&fault.from) => drop(entries.faults.insert(name, fault)),
                Body::Inbound(inbound)
                    if inbound.selector.iter().all(|(key, value)| labels.get(key) == Some(value)) =>
                {
                    entries.inbound.push((name, inbound));
                }
                Body::Policy(_) | Body::Fault(_) | Body::Inbound(_) => {}
            }
        }
        entries
    }
}

/// The addresses at which a port is called: cluster addresses, and in local mode those listened on.
fn addresses(service: &wire::Service, port: &wire::Port) -> impl Iterator<Item = SocketAddr> {
    let cluster = service.addresses.iter().map(|address| SocketAddr::new(*address, port.port));
    cluster.chain(port.listen.iter().copied())
}

fn route_plan(policy: &wire::Policy, route: &spec::Route) -> Plan {
    let timeouts = match (&policy.timeouts, &route.timeouts) {
        (Some(base), Some(over)) => Some(base.overridden_by(over)),
        (base, over) => over.as_ref().or(base.as_ref()).cloned(),
    };
    let retries = match (&policy.retries, &route.retries) {
        (Some(base), Some(over)) => Some(base.overridden_by(over)),
        (base, over) => over.as_ref().or(base.as_ref()).cloned(),
    };
    let hedge = match (&policy.hedge, &route.hedge) {
        (Some(base), Some(over)) => Some(base.overridden_by(over)),
        (base, over) => over.or(*base),
    };
    plan(timeouts.as_ref(), retries.as_ref(), hedge.as_ref())
}

fn plan(timeouts: Option<&spec::Timeouts>, retries: Option<&spec::Retries>, hedge: Option<&spec::Hedge>) -> Plan {
    Plan::new(
        timeouts.map(Clocks::from).unwrap_or_default(),
        retries.map(Retries::from).filter(|retries| retries.max > 0),
        hedge.and_then(Hedge::new),
    )
}

mod shadow;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use self::shadow::observed_alone;
