//! The entries of a config, one function a kind.

use firebreak_crds::wire::{self, Body, Endpoint, Entry, Port};

use crate::{
    attach::Attaches,
    index::{Fault, Key, Policy, Service, ServicePort, World},
};

pub(super) fn entry(key: &Key, generation: i64, body: Body) -> Entry {
    Entry { name: key.to_string(), generation, body }
}

/// The Service with its ports, before it is known what is attached to them.
pub(super) fn service(service: &Service) -> wire::Service {
    let ports = service.ports.iter().map(|port| Port {
        name: port.name.clone(),
        port: port.port,
        protocol: port.protocol,
        listen: Vec::new(),
        endpoints: None,
        policies: Vec::new(),
        faults: Vec::new(),
    });
    wire::Service { addresses: service.addresses.clone(), ports: ports.collect() }
}

/// Where the Service's port is served, sorted, each address once.
pub(super) fn endpoints(world: &World, service: &Key, port: &ServicePort) -> Vec<Endpoint> {
    let slices = world.slices.within(&service.namespace).filter(|slice| slice.service == service.name);
    let addresses = slices.flat_map(|slice| slice.addresses_for(port.name.as_deref()));
    let mut endpoints: Vec<_> = addresses.map(|address| Endpoint { address }).collect();
    endpoints.sort_unstable();
    endpoints.dedup();
    endpoints
}

pub(super) fn policy(policy: &Policy) -> Option<Entry> {
    let spec = policy.spec.as_ref().ok()?;
    let body = wire::Policy {
        from: policy.pod_selector().cloned(),
        timeouts: spec.timeouts.clone(),
        retries: spec.retries.clone(),
        hedge: spec.hedge,
        circuit_breaker: spec.circuit_breaker.clone(),
        bulkhead: spec.bulkhead.clone(),
        load_balancing: spec.load_balancing.clone(),
        outlier_detection: spec.outlier_detection,
        health_check: spec.health_check.clone(),
        rate_limit: spec.rate_limit,
        routes: spec.routes.clone(),
    };
    Some(entry(&policy.meta.key, policy.meta.generation, Body::Policy(body)))
}

/// The fault with its end; nothing for one that has not started.
pub(super) fn fault(fault: &Fault) -> Option<Entry> {
    let spec = fault.spec.as_ref().ok()?;
    let body = wire::Fault {
        from: fault.pod_selector().cloned(),
        matches: spec.matches.clone(),
        faults: spec.faults.clone(),
        at: spec.at,
        seed: spec.seed,
        blast_radius: spec.blast_radius,
        expires_at: fault.end()?,
        duration: spec.duration,
    };
    Some(entry(&fault.meta.key, fault.meta.generation, Body::Fault(body)))
}
