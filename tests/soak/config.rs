//! The configs: one Service for each kind of caller, so that the books of each can be compared, and all of it changed each second.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use serde_json::{Value, json};

use crate::{callers::Kind, world::World};

/// A callee as the proxy knows it.
pub(crate) struct Service {
    pub(crate) kind: Kind,
    /// Where the proxy listens for it.
    pub(crate) address: SocketAddr,
}

impl Service {
    /// One for each kind of caller, at ports that are free: kept until all are found, so that each is another.
    pub(crate) fn all() -> anyhow::Result<Vec<Self>> {
        let mut kept = Vec::new();
        for kind in Kind::ALL {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            kept.push((kind, listener.local_addr()?, listener));
        }
        Ok(kept.into_iter().map(|(kind, address, _)| Self { kind, address }).collect())
    }
}

/// No faults, and no endpoint but good ones.
pub(crate) fn calm(world: &World) -> Value {
    document(world, &world.peers.good, &policy(0), &json!([]))
}

/// The config of this second. Policies, faults and endpoints go round at different paces, so that all meet.
pub(crate) fn churned(world: &World, revision: u64) -> Value {
    let peers = &world.peers;
    let out = usize::try_from(revision).unwrap_or_default() % peers.bad.len();
    let bad = peers.bad.iter().enumerate().filter(|(place, _)| *place != out).map(|(_, address)| *address);
    let endpoints: Vec<_> = match revision % 7 {
        5 => peers.good.clone(),
        6 => bad.collect(),
        _ => peers.good.iter().copied().chain(bad).collect(),
    };
    document(world, &endpoints, &policy(revision), &faults(revision))
}

fn document(world: &World, endpoints: &[SocketAddr], policy: &Value, faults: &Value) -> Value {
    let endpoints: Vec<_> = endpoints.iter().map(|address| json!({"address": address})).collect();
    let services = world.services.iter().map(|service| {
        let port = json!({
            "port": 80,
            "protocol": if service.kind == Kind::Opaque { "Tcp" } else { "Http" },
            "listen": [service.address],
            "endpoints": endpoints,
            "policies": ["soak/policy"],
            "faults": ["soak/faults"],
        });
        json!({"kind": "Service", "name": format!("soak/{}", service.kind.name()), "body": {"ports": [port]}})
    });
    let mut entries: Vec<_> = services.collect();
    entries.push(json!({"kind": "TrafficPolicy", "name": "soak/policy", "body": policy}));
    let ends = "2100-01-01T00:00:00Z";
    let faults = json!({"faults": faults, "seed": 7, "expiresAt": ends, "duration": "24h"});
    entries.push(json!({"kind": "FaultSpec", "name": "soak/faults", "body": faults}));
    json!({"format": 1, "namespace": "soak", "entries": entries})
}

/// All clocks are short: what hangs is to end within the soak, often.
fn policy(revision: u64) -> Value {
    let mut policy = json!({"timeouts": {"connect": "200ms", "attempt": "300ms", "request": "1500ms", "idle": "1s"}});
    let more = match revision % 5 {
        0 => {
            json!({"retries": {"maxRetries": 2, "conditions": ["5xx", "connect-failure", "reset-before-response"], "methods": "All"}})
        }
        1 => json!({
            "circuitBreaker": {"tripOn": {"consecutiveFailures": 5}, "openFor": {"initial": "200ms", "max": "500ms"}},
            "outlierDetection": {"consecutiveFailures": 3, "ejectFor": {"initial": "200ms", "max": "400ms"}},
        }),
        2 => json!({
            "bulkhead": {"maxConnections": 6, "maxRequests": 6, "maxPending": 3, "maxPendingTime": "50ms"},
            "loadBalancing": {"algorithm": "LeastRequest"},
        }),
        3 => json!({
            "healthCheck": {"tcp": {}, "interval": "1s", "timeout": "200ms"},
            "retries": {"maxRetries": 3, "backoff": {"base": "5ms", "max": "20ms"}},
            "loadBalancing": {"algorithm": "RoundRobin"},
        }),
        _ => json!({"rateLimit": {"requestsPerSecond": 200, "burst": 20}}),
    };
    if let (Value::Object(policy), Value::Object(more)) = (&mut policy, more) {
        policy.extend(more);
    }
    policy
}

fn faults(revision: u64) -> Value {
    match revision % 3 {
        0 => {
            json!([{"delay": {"percent": 20, "min": "1ms", "max": "400ms"}}, {"abort": {"percent": 5, "httpStatus": 503}}])
        }
        1 => json!([{"abort": {"percent": 3, "reset": true}}, {"abort": {"percent": 3, "blackhole": true}}]),
        _ => json!([{"abort": {"percent": 3, "refuse": true}}, {"abort": {"percent": 3, "grpcStatus": 14}}]),
    }
}
