//! The pod's own ports at which something is enforced, whoever calls.
//!
//! Several Services may lead to one port. It is one application all the same: the faults of all of them act, one limit holds, that of
//! the first Service by name that has one, and what is counted bears that Service's name, or else the first one's.

use std::{collections::BTreeMap, sync::Arc};

use firebreak_crds::{
    spec::Position,
    wire::{self, InboundPort},
};
use hashbrown::HashMap;
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

/// What of a port of the application has a history.
#[derive(Debug)]
pub(super) struct Application {
    id: u32,
    gate: Arc<Gate>,
    limit: Option<Arc<Limit>>,
    metrics: Arc<CalleeMetrics>,
}

/// What leads to one port: Services by name, each with the port of its own.
type Leading<'a> = Vec<(&'a str, &'a InboundPort)>;

impl Carried {
    /// The ports at which something is enforced beside a pod whose entries these are.
    pub(super) fn applications(
        &mut self,
        entries: &Entries<'_>,
        transparent: bool,
        now: Instant,
    ) -> HashMap<u16, Arc<Callee>> {
        let mut ports: BTreeMap<u16, Leading<'_>> = BTreeMap::new();
        for (name, inbound) in entries.inbound.iter().filter(|_| !transparent) {
            for (target, port) in inbound.ports.iter().flat_map(|port| port.targets.iter().map(move |it| (*it, port))) {
                ports.entry(target).or_default().push((name, port));
            }
        }
        let mut before = std::mem::take(&mut self.applications);
        let compiled = ports.into_iter().map(|(target, leading)| {
            let known = before.remove(&target);
            (target, Arc::new(self.application(target, &leading, known, entries, now)))
        });
        let compiled = compiled.collect();
        before.values().for_each(|gone| gone.metrics.watch_limit(None));
        compiled
    }

    fn application(
        &mut self,
        target: u16,
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
            |known| {
                // It may have another name by now.
                known.metrics.watch_limit(None);
                (known.id, known.gate, known.limit)
            },
        );
        let limit = limited.and_then(|(_, port)| port.concurrency).map(|spec| {
            limit.inspect(|limit| limit.set(spec)).unwrap_or_else(|| Limit::new(spec, now))
        });
        metrics.watch_limit(limit.clone());
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
        self.applications.insert(target, Application { id, gate, limit, metrics });
        callee
    }
}

/// The policy by its name: what else it says is for callers.
fn in_force(name: &str, entries: &Entries<'_>) -> Policy {
    let generation = entries.policies.get(name).map_or(0, |(generation, _)| *generation);
    Policy::new(name, generation, Extra::default(), Plan::default(), Box::default())
}
