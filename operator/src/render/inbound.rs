//! What the proxies beside the callees enforce: faults with `at: Inbound`, and `inbound` of policies.
//!
//! In a cluster it is for the pods that a Service selects. In local mode, whose one proxy stands for all, it is for the Service's endpoints.
//!
//! A port of a Service has at most one policy here, the strongest of the Service's own namespace that is for everyone; one with
//! `from` is for some callers, whom the callee's proxy cannot tell from others. As among callers the strongest holds whole: where
//! it says nothing of `inbound`, nothing holds. A policy that is observed claims nothing here: an `inbound` of it has no effect.

use firebreak_crds::{
    spec::Labels,
    wire::{Body, Inbound, InboundPort},
};

use super::{Entries, Options, bodies};
use crate::{
    attach::{Attached, Attaches},
    index::{Fault, Namespace, Policy, Service, ServicePort, World},
};

/// What may act beside the callees of one namespace.
struct Acting<'w> {
    policies: Attached<'w, Policy>,
    faults: Attached<'w, Fault>,
}

impl<'w> Acting<'w> {
    fn within(world: &'w World, namespace: &Namespace, options: &Options) -> Self {
        let own = |policy: &&Policy| {
            policy.meta.key.namespace == namespace.key.name && policy.for_everyone() && !policy.observes()
        };
        let faults = options.active_faults(world, namespace).filter(|fault| fault.at_callee());
        let policies = Attached::to(namespace, world.policies.iter().filter(own));
        Self { policies, faults: Attached::to(namespace, faults) }
    }
}

impl<'w> Entries<'w> {
    /// Adds what is enforced beside the callees in `namespace`.
    pub(super) fn add_inbound(&mut self, world: &'w World, namespace: &Namespace, options: &Options) {
        let acting = Acting::within(world, namespace, options);
        for service in world.services.within(&namespace.key.name) {
            let ports =
                service.ports.iter().filter_map(|port| self.inbound_port(world, service, port, &acting, options));
            let ports: Vec<_> = ports.collect();
            if !ports.is_empty() {
                // Endpoints are named one by one, and whose proxy it is does not matter.
                let selector = if options.endpoints { Labels::new() } else { service.selector.clone() };
                self.inbound.push(bodies::entry(&service.key, 0, Body::Inbound(Inbound { selector, ports })));
            }
        }
    }

    fn inbound_port(
        &mut self,
        world: &'w World,
        service: &Service,
        port: &ServicePort,
        acting: &Acting<'w>,
        options: &Options,
    ) -> Option<InboundPort> {
        let (target_name, targets, endpoints) = if options.endpoints {
            (None, Vec::new(), bodies::endpoints(world, &service.key, port))
        } else {
            // Each pod has its own answer to a name, and its proxy knows it.
            let name = port.target.name().filter(|_| service.has_pods());
            (name.map(str::to_owned), world.targets(service, port), Vec::new())
        };
        let strongest = acting.policies.at(&service.key, port).into_iter().next();
        let inbound = |policy: &&Policy| policy.spec.as_ref().is_ok_and(|spec| spec.inbound.is_some());
        let policy = strongest.filter(inbound);
        let faults = acting.faults.at(&service.key, port);
        let nowhere = target_name.is_none() && targets.is_empty() && endpoints.is_empty();
        if nowhere || policy.is_none() && faults.is_empty() {
            return None;
        }
        let limit = policy.and_then(|policy| policy.spec.as_ref().ok()?.inbound);
        let names = faults.iter().map(|fault| fault.meta.key.to_string()).collect();
        self.policies.extend(policy.and_then(|it| Some((it.id(), bodies::policy(it)?))));
        self.faults.extend(faults.into_iter().filter_map(|it| Some((it.id(), bodies::fault(it)?))));
        Some(InboundPort {
            port: port.port,
            target_name,
            targets,
            endpoints,
            policy: policy.map(|policy| policy.meta.key.to_string()),
            concurrency: limit.map(|inbound| inbound.concurrency),
            faults: names,
        })
    }
}
