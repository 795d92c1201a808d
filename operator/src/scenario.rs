//! Worlds in a few words, for tests.

use jiff::Timestamp;
use k8s_openapi::{api::core::v1, apimachinery::pkg::apis::meta::v1::Condition};
use serde_json::{Value, json};

use crate::{
    Event, Key, Options, Update, World,
    index::{Fault, Pod, Policy},
    status::{Judge, Published},
};

/// The moment at which scenarios play, unless they say otherwise.
pub(crate) fn noon() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

pub(crate) fn options(now: Timestamp) -> Options {
    Options::cluster("firebreak-system", now)
}

/// An enabled namespace, labelled with its own name as `team`.
pub(crate) fn namespace(name: &str, more: &[(&str, &str)]) -> Event {
    let mut labels = json!({"firebreak.dev/inject": "enabled", "team": name});
    for (label, value) in more {
        labels[*label] = json!(value);
    }
    let object = json!({"metadata": {"name": name, "labels": labels}});
    Event::Namespace(Update::Apply(serde_json::from_value::<v1::Namespace>(object).unwrap().into()))
}

/// A Service with a cluster IP made from `number` and ports written as `name:port`.
pub(crate) fn service(key: &str, number: u8, ports: &[&str]) -> Event {
    let ports: Vec<_> = ports.iter().map(|port| port.split_once(':').unwrap()).collect();
    let ports: Vec<_> =
        ports.iter().map(|(name, port)| json!({"name": name, "port": port.parse::<u16>().unwrap()})).collect();
    let spec = json!({"clusterIPs": [format!("10.96.0.{number}")], "ports": ports});
    service_with(key, &spec)
}

pub(crate) fn service_with(key: &str, spec: &Value) -> Event {
    let object = json!({"metadata": metadata(key, 0), "spec": spec});
    Event::Service(Update::Apply(serde_json::from_value::<v1::Service>(object).unwrap().into()))
}

/// A policy created `second`s after the epoch.
pub(crate) fn policy(key: &str, second: i64, spec: Value) -> Event {
    let mut spec = spec;
    if spec.get("timeouts").is_none() {
        spec["timeouts"] = json!({"request": "3s"});
    }
    Event::Policy(Update::Apply(Policy::from_json(json!({"metadata": metadata(key, second), "spec": spec})).unwrap()))
}

/// A fault created `second`s after the epoch, with a duration of ten minutes.
pub(crate) fn fault(key: &str, second: i64, spec: Value, status: &Value) -> Event {
    let mut spec = spec;
    for (field, value) in
        [("duration", json!("10m")), ("faults", json!([{"abort": {"percent": 20, "httpStatus": 503}}]))]
    {
        if spec.get(field).is_none() {
            spec[field] = value;
        }
    }
    let object = json!({"metadata": metadata(key, second), "spec": spec, "status": status});
    Event::Fault(Update::Apply(Fault::from_json(object).unwrap()))
}

/// A fault's status as it is after its start, a minute before noon.
pub(crate) fn running() -> Value {
    json!({"phase": "Running", "startedAt": "2026-03-01T11:59:00Z", "expiresAt": "2026-03-01T12:09:00Z"})
}

pub(crate) fn pod(key: &str, injected: bool) -> Event {
    let key = self::key(key);
    Event::Pod(Update::Apply(Pod { key, injected, running: true, ..Pod::default() }))
}

pub(crate) fn world(events: impl IntoIterator<Item = Event>) -> World {
    let mut world = World::default();
    for event in events {
        world.apply(event);
    }
    world
}

/// What is published once every enabled namespace's config is written.
pub(crate) fn all_published(world: &World, options: &Options) -> Published {
    let mut published = Published::default();
    for namespace in world.enabled_namespaces() {
        let name = &namespace.key.name;
        let _ = published.wrote(name, &crate::render(world, name, options));
    }
    published
}

/// The conditions of a policy as `Type=Status Reason: message` lines.
pub(crate) fn verdicts(world: &World, published: &Published, policy: &str) -> Vec<String> {
    let options = options(noon());
    let policy = world.policies.get(&key(policy)).unwrap();
    let status = Judge::new(world, published, &options).policy(policy);
    let line = |it: &Condition| format!("{}={} {}: {}", it.type_, it.status, it.reason, it.message);
    status.conditions.iter().map(line).collect()
}

pub(crate) fn key(text: &str) -> Key {
    let (namespace, name) = text.split_once('/').unwrap();
    Key::new(namespace, name)
}

fn metadata(key: &str, second: i64) -> Value {
    let key = self::key(key);
    let created = Timestamp::from_second(second).unwrap().to_string();
    json!({"namespace": key.namespace, "name": key.name, "uid": "u", "generation": 1, "creationTimestamp": created})
}
