//! What the proxies beside the callees enforce: faults with `at: Inbound`, and `inbound` of policies.
//!
//! A port of a Service has at most one policy here, the strongest of the Service's own namespace that is for everyone; one with
//! `from` is for some callers, whom the callee's proxy cannot tell from others. As among callers the strongest holds whole: where
//! it says nothing of `inbound`, nothing holds. A policy that is observed claims nothing here: an `inbound` of it has no effect.

use firebreak_crds::wire::{Body, Inbound, InboundPort};

use super::{Entries, bodies};
use crate::{
    attach::{Attached, Attaches},
    index::{Fault, Namespace, Policy, Service, ServicePort, World},
};

/// The policies that may say something of the inbound side of Services in `namespace`.
pub(super) fn policies<'w>(world: &'w World, namespace: &Namespace) -> Attached<'w, Policy> {
    let own = |policy: &&Policy| {
        policy.meta.key.namespace == namespace.key.name && policy.for_everyone() && !policy.observes()
    };
    Attached::to(namespace, world.policies.iter().filter(own))
}

impl<'w> Entries<'w> {
    /// Adds what is enforced beside the pods of the Services in `namespace`.
    pub(super) fn add_inbound(
        &mut self,
        world: &'w World,
        namespace: &str,
        policies: &Attached<'w, Policy>,
        faults: &Attached<'w, Fault>,
    ) {
        for service in world.services.within(namespace).filter(|service| service.has_pods()) {
            let ports =
                service.ports.iter().filter_map(|port| self.inbound_port(world, service, port, policies, faults));
            let ports: Vec<_> = ports.collect();
            if !ports.is_empty() {
                let body = Body::Inbound(Inbound { selector: service.selector.clone(), ports });
                self.inbound.push(bodies::entry(&service.key, 0, body));
            }
        }
    }

    fn inbound_port(
        &mut self,
        world: &'w World,
        service: &Service,
        port: &ServicePort,
        policies: &Attached<'w, Policy>,
        faults: &Attached<'w, Fault>,
    ) -> Option<InboundPort> {
        let targets = world.targets(service, port);
        let strongest = policies.at(&service.key, port).into_iter().next();
        let inbound = |policy: &&Policy| policy.spec.as_ref().is_ok_and(|spec| spec.inbound.is_some());
        let policy = strongest.filter(inbound);
        let faults = faults.at(&service.key, port);
        if targets.is_empty() || policy.is_none() && faults.is_empty() {
            return None;
        }
        let limit = policy.and_then(|policy| policy.spec.as_ref().ok()?.inbound);
        let names = faults.iter().map(|fault| fault.meta.key.to_string()).collect();
        self.policies.extend(policy.and_then(|it| Some((it.id(), bodies::policy(it)?))));
        self.faults.extend(faults.into_iter().filter_map(|it| Some((it.id(), bodies::fault(it)?))));
        Some(InboundPort {
            port: port.port,
            targets,
            policy: policy.map(|policy| policy.meta.key.to_string()),
            concurrency: limit.map(|inbound| inbound.concurrency),
            faults: names,
        })
    }
}
