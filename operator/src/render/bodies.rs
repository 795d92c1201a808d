//! The entries of a config, one function a kind.

use firebreak_crds::{
    spec::{Mode, Part, Position},
    wire::{self, Body, Endpoint, Entry, Port},
};

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
        observe: Vec::new(),
        faults: Vec::new(),
    });
    wire::Service { addresses: service.addresses.clone(), ports: ports.collect() }
}

/// Where the Service's port is served, sorted, each address once.
pub(super) fn endpoints(world: &World, service: &Key, port: &ServicePort) -> Vec<Endpoint> {
    let slices = world.slices.within(&service.namespace).filter(|slice| slice.service == service.name);
    let addresses = slices.flat_map(|slice| slice.addresses_for(port.name.as_deref()));
    let mut endpoints: Vec<_> = addresses.map(Endpoint::at).collect();
    endpoints.sort_unstable();
    endpoints.dedup();
    endpoints
}

/// The policy with its protections apart by mode. What is observed as a whole is named apart too, and stands here as any other.
pub(super) fn policy(policy: &Policy) -> Option<Entry> {
    let spec = policy.spec.as_ref().ok()?;
    let observed = spec.part(Mode::Observe);
    let body = if spec.observes() {
        part(observed)
    } else {
        let observe = (observed != Part::default()).then(|| Box::new(part(observed)));
        let (load_balancing, health_check) = (spec.load_balancing.clone(), spec.health_check.clone());
        wire::Policy { load_balancing, health_check, observe, ..part(spec.part(Mode::Enforce)) }
    };
    let body = wire::Policy { from: policy.pod_selector().cloned(), ..body };
    Some(entry(&policy.meta.key, policy.meta.generation, Body::Policy(body)))
}

fn part(part: Part) -> wire::Policy {
    wire::Policy {
        timeouts: part.timeouts,
        retries: part.retries,
        hedge: part.hedge,
        circuit_breaker: part.circuit_breaker,
        bulkhead: part.bulkhead,
        outlier_detection: part.outlier_detection,
        rate_limit: part.rate_limit,
        routes: part.routes,
        ..wire::Policy::default()
    }
}

/// The fault with its end; nothing for one that has not started.
pub(super) fn fault(fault: &Fault) -> Option<Entry> {
    let spec = fault.spec.as_ref().ok()?;
    let body = wire::Fault {
        from: fault.pod_selector().cloned(),
        matches: spec.matches.clone(),
        faults: spec.faults.clone(),
        at: if fault.at_callee() { Position::default() } else { spec.at },
        seed: spec.seed,
        blast_radius: spec.blast_radius,
        expires_at: fault.end()?,
        duration: spec.duration,
    };
    Some(entry(&fault.meta.key, fault.meta.generation, Body::Fault(body)))
}
