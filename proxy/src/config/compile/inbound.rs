//! The pod's own ports at which something is enforced, whoever calls; in local mode, endpoints before which something is.
//!
//! Several Services may lead to one of them. It is one application all the same: the faults of all of them act, one limit holds, that of
//! the first Service by name that has one, and what is counted bears that Service's name, or else the first one's.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use firebreak_crds::{
    pod::Ports,
    spec::Position,
    wire::{self, InboundPort},
};
use tokio::time::Instant;

use super::{Carried, Entries};
use crate::{
    policy::{
        bulkhead::{self, Gate},
        concurrency::Limit,
    },
    snapshot::{Callee, Extra, Plan, Policy},
    telemetry::metrics::{CalleeMetrics, Direction},
};

/// Where an application is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Site {
    /// At this port of the pod.
    Port(u16),
    /// Local mode: at this endpoint.
    Endpoint(SocketAddr),
}

/// What of an application has a history.
#[derive(Debug)]
pub(super) struct Application {
    id: u32,
    gate: Arc<Gate>,
    limit: Option<Arc<Limit>>,
    metrics: Arc<CalleeMetrics>,
}

/// What leads to one site: Services by name, each with the port of its own.
type Leading<'a> = Vec<(&'a str, &'a InboundPort)>;

impl Carried {
    /// The sites at which something is enforced beside a pod whose entries these are.
    pub(super) fn applications(
        &mut self,
        entries: &Entries<'_>,
        transparent: bool,
        now: Instant,
    ) -> Vec<(Site, Arc<Callee>)> {
        let mut sites: BTreeMap<Site, Leading<'_>> = BTreeMap::new();
        for (name, inbound) in entries.inbound.iter().filter(|_| !transparent) {
            for (site, port) in
                inbound.ports.iter().flat_map(|port| sites_of(port, self.ports.as_ref()).map(move |it| (it, port)))
            {
                sites.entry(site).or_default().push((name, port));
            }
        }
        let mut before = std::mem::take(&mut self.applications);
        let shown: Vec<_> = before.values().map(|known| Arc::clone(&known.metrics)).collect();
        let compiled = sites.into_iter().map(|(site, leading)| {
            let known = before.remove(&site);
            (site, Arc::new(self.application(site, &leading, known, entries, now)))
        });
        let compiled = compiled.collect();
        self.show_limits(shown);
        compiled
    }

    /// Shows the limits beside the counts of their Services: several sites may be of one port of a Service, and those `shown` before
    /// may have another name by now, or be gone.
    fn show_limits(&self, shown: Vec<Arc<CalleeMetrics>>) {
        let names = shown.into_iter().chain(self.applications.values().map(|it| Arc::clone(&it.metrics)));
        for metrics in names {
            let theirs = self.applications.values().filter(|it| Arc::ptr_eq(&it.metrics, &metrics));
            metrics.watch_limits(theirs.filter_map(|it| it.limit.clone()).collect());
        }
    }

    fn application(
        &mut self,
        site: Site,
        leading: &Leading<'_>,
        known: Option<Application>,
        entries: &Entries<'_>,
        now: Instant,
    ) -> Callee {
        let limited = leading.iter().find(|(_, port)| port.concurrency.is_some());
        let (service, port) =
            limited.or(leading.first()).map_or(("unknown", None), |(name, it)| (*name, Some(it.port)));
        let metrics = self.registry.callee(Direction::Inbound, service, port);
        let (id, gate, limit) = known.map_or_else(
            || {
                self.next_id += 1;
                (self.next_id - 1, Gate::new(bulkhead::Limits::NONE), None)
            },
            |known| (known.id, known.gate, known.limit),
        );
        let limit = limited
            .and_then(|(_, port)| port.concurrency)
            .map(|spec| limit.inspect(|limit| limit.set(spec)).unwrap_or_else(|| Limit::new(spec, now)));
        let mut names: Vec<_> = leading.iter().flat_map(|(_, port)| &port.faults).collect();
        names.sort();
        names.dedup();
        let faults = names.iter().filter_map(|name| self.fault(name, entries, Some(Position::Inbound), now)).collect();
        let policy = limited.and_then(|(_, port)| port.policy.as_deref());
        let callee = Callee {
            id,
            protocol: wire::Protocol::Detect,
            endpoints: None,
            policy: policy.map(|name| in_force(name, entries)),
            breaker: None,
            rate: None,
            observer: None,
            limit: limit.clone(),
            faults,
            gate: Arc::clone(&gate),
            metrics: Arc::clone(&metrics),
        };
        self.applications.insert(site, Application { id, gate, limit, metrics });
        callee
    }
}

/// Where a port of a Service leads to: by a name to this pod's own port of that name, if its names are known.
fn sites_of<'a>(port: &'a InboundPort, names: Option<&'a Ports>) -> impl Iterator<Item = Site> + 'a {
    let by_name = names.zip(port.target_name.as_ref()).map(|(names, name)| names.0.get(name));
    let targets = by_name.map_or(port.targets.as_slice(), |own| own.map_or(&[], std::slice::from_ref));
    let endpoints = port.endpoints.iter().map(|endpoint| Site::Endpoint(endpoint.address));
    targets.iter().copied().map(Site::Port).chain(endpoints)
}

/// The policy by its name: what else it says is for callers.
fn in_force(name: &str, entries: &Entries<'_>) -> Policy {
    let generation = entries.policies.get(name).map_or(0, |(generation, _)| *generation);
    Policy::new(name, generation, Extra::default(), Plan::default(), Box::default())
}
