//! The configs: one Service for each kind of caller, so that the books of each can be compared, and all of it changed each second.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::{kind::Kind, world::World};

/// How often it is calm: so many seconds of so many.
const CALM: u64 = 4;
const ROUND: u64 = 16;
/// A Service that leaves is away for one second of so many.
const VISIT: u64 = 3;

/// A callee as the proxy knows it.
pub(crate) struct Service {
    pub(crate) kind: Kind,
    /// Where the proxy listens for it.
    pub(crate) address: SocketAddr,
    /// Bound, and not listening, so that nobody else gets the port while the proxy does not listen there.
    _port: Socket,
}

impl Service {
    /// One for each kind of caller, at ports that are free.
    pub(crate) fn all() -> anyhow::Result<Vec<Self>> {
        Kind::ALL.into_iter().map(Self::new).collect()
    }

    fn new(kind: Kind) -> anyhow::Result<Self> {
        let port = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        port.set_reuse_address(true)?;
        port.set_reuse_port(true)?;
        port.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let address = port.local_addr()?.as_socket().context("a port has no address")?;
        Ok(Self { kind, address, _port: port })
    }
}

/// Whether it is calm in this second.
pub(crate) fn is_calm(second: u64) -> bool {
    second % ROUND >= ROUND - CALM
}

/// No faults, no endpoint but good ones, all Services, and clocks that run out for nothing but a proxy that stands still.
pub(crate) fn calm(world: &World) -> Value {
    let policy = json!({"timeouts": {"connect": "2s", "attempt": "8s", "request": "10s", "idle": "8s"}});
    document(world, |_| true, &world.peers.good, &policy, &json!({"faults": []}))
}

/// The config of this second. Policies, faults and endpoints go round at different paces, so that all meet.
pub(crate) fn churned(world: &World, second: u64) -> Value {
    let peers = &world.peers;
    let out = usize::try_from(second).unwrap_or_default() % peers.bad.len();
    let bad = peers.bad.iter().enumerate().filter(|(place, _)| *place != out).map(|(_, address)| *address);
    let endpoints: Vec<_> = match second % 7 {
        5 => peers.good.clone(),
        6 => bad.collect(),
        _ => peers.good.iter().copied().chain(bad).collect(),
    };
    let is_there = |kind| kind != Kind::Visits || !second.is_multiple_of(VISIT);
    document(world, is_there, &endpoints, &policy(second), &faults(second))
}

fn document(
    world: &World,
    is_there: impl Fn(Kind) -> bool,
    endpoints: &[SocketAddr],
    policy: &Value,
    faults: &Value,
) -> Value {
    let endpoints: Vec<_> = endpoints.iter().map(|address| json!({"address": address})).collect();
    let services = world.services.iter().filter(|service| is_there(service.kind)).map(|service| {
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
    let ends = json!({"seed": 7, "expiresAt": "2100-01-01T00:00:00Z", "duration": "24h"});
    let faults = merged(faults.clone(), ends);
    entries.push(json!({"kind": "FaultSpec", "name": "soak/faults", "body": faults}));
    json!({"format": 1, "namespace": "soak", "entries": entries})
}

/// All clocks are short: what hangs is to end within the soak, often.
fn policy(revision: u64) -> Value {
    let policy = json!({"timeouts": {"connect": "200ms", "attempt": "300ms", "request": "1500ms", "idle": "1s"}});
    let more = match revision % 6 {
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
        4 => json!({
            "hedge": {"after": "20ms", "maxExtraLoadPercent": 50},
            "retries": {"maxRetries": 2, "conditions": ["5xx"], "methods": "All", "budget": {"percent": 100, "minPerSecond": 100}},
            "circuitBreaker": {"tripOn": {"consecutiveFailures": 50}},
        }),
        _ => json!({"rateLimit": {"requestsPerSecond": 200, "burst": 20}}),
    };
    // What is not in force now is observed, so that each protection is at work at all times.
    let observed = json!({
        "rateLimit": {"requestsPerSecond": 20, "burst": 5},
        "bulkhead": {"maxRequests": 4, "maxPending": 4, "maxPendingTime": "100ms"},
        "circuitBreaker": {"tripOn": {"consecutiveFailures": 5}, "openFor": {"initial": "200ms", "max": "500ms"}},
        "timeouts": {"attempt": "100ms", "request": "500ms"},
        "retries": {"maxRetries": 2, "conditions": ["5xx", "connect-failure"]},
        "hedge": {"after": "10ms", "maxExtraLoadPercent": 20},
        "outlierDetection": {"consecutiveFailures": 3},
    });
    merged(merged(policy, more), json!({"observe": observed}))
}

fn merged(mut one: Value, more: Value) -> Value {
    if let (Value::Object(one), Value::Object(more)) = (&mut one, more) {
        one.extend(more);
    }
    one
}

/// Each kind of fault, below and above the policy, with and without a bound on how many it hits at once.
fn faults(revision: u64) -> Value {
    let faults = match revision % 5 {
        0 => {
            json!([{"delay": {"percent": 20, "min": "1ms", "max": "400ms"}}, {"abort": {"percent": 5, "httpStatus": 503}}])
        }
        1 => json!([{"abort": {"percent": 3, "reset": true}}, {"abort": {"percent": 3, "blackhole": true}}]),
        2 => json!([{"abort": {"percent": 3, "refuse": true}}, {"abort": {"percent": 3, "grpcStatus": 14}}]),
        3 => {
            json!([{"truncate": {"percent": 5, "afterBytes": 3}}, {"throttle": {"percent": 20, "bytesPerSecond": 65536}}])
        }
        _ => json!([{"abort": {"percent": 3, "resetAfterHeaders": true}}, {"delay": {"percent": 50, "fixed": "30ms"}}]),
    };
    // Above the policy no clock ends what a blackhole has swallowed, and the last config of a load stays until all callers have ended.
    let swallows = faults[1]["abort"]["blackhole"] == true;
    let at = if revision % 4 == 3 && !swallows { "Request" } else { "Attempt" };
    let bound = if revision % 3 == 2 { json!({"blastRadius": {"maxActive": 2}}) } else { json!({}) };
    merged(json!({"faults": faults, "at": at}), bound)
}
