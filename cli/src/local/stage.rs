//! From manifests to what the proxy is told: the operator's own world, judge and render, with a memory.
//!
//! The memory is what a cluster keeps in the objects' status: when each fault started. It is kept while an object stays as it
//! is; a fault whose text changes is another fault and starts anew, as it would after `kubectl replace --force`.

mod cast;

use std::collections::{BTreeMap, BTreeSet};

use firebreak_crds::{
    marks,
    resources::Phase,
    spec::Labels,
    wire::{self, Body, Config, Endpoint},
};
use firebreak_operator::{
    Event, Key, Options, Update, World,
    attach::Attaches,
    index::{Fault, Namespace},
    render::{faults_act, render},
    status::{Judge, Published},
};
use jiff::Timestamp;

use self::cast::Cast;
use super::ports::{Given, Ports, Use};
use crate::{
    lint::{self, Finding, Severity},
    manifest::{Document, Manifests},
};

/// Who calls, in local mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) namespace: String,
    pub(crate) labels: Labels,
}

/// What is remembered from one reading to the next.
#[derive(Debug)]
pub(crate) struct Stage {
    caller: Caller,
    faults: BTreeMap<Key, Fault>,
    ports: Ports,
}

/// What one reading came to.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    pub(crate) config: Config,
    pub(crate) listeners: Vec<Listener>,
    /// Nothing that keeps the config from being in force.
    pub(crate) warnings: Vec<Finding>,
}

/// One Service port on loopback.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Listener {
    pub(crate) service: Key,
    pub(crate) port: wire::Port,
    /// What acts before its endpoints, whoever calls.
    pub(crate) inbound: Option<wire::InboundPort>,
    pub(crate) given: Given,
}

impl Listener {
    /// The faults that act on its requests, wherever they do.
    pub(crate) fn faults(&self) -> impl Iterator<Item = &str> {
        let beside = self.inbound.iter().flat_map(|inbound| &inbound.faults);
        self.port.faults.iter().chain(beside).map(String::as_str)
    }
}

/// Why there is no scene.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoScene {
    #[error("the files have errors")]
    Findings(Vec<Finding>),
    #[error(transparent)]
    Definition(#[from] lint::BadDefinition),
    #[error("no port is free on 127.0.0.1: {0}")]
    NoPort(#[from] std::io::Error),
}

impl Stage {
    pub(crate) fn new(caller: Caller) -> Self {
        Self { caller, faults: BTreeMap::new(), ports: Ports::default() }
    }

    /// Sets the stage anew. On an error nothing is forgotten and nothing changes.
    pub(crate) fn set(&mut self, manifests: &Manifests, now: Timestamp) -> Result<Scene, NoScene> {
        let (mut errors, mut warnings): (Vec<_>, Vec<_>) =
            lint::check(manifests)?.findings.into_iter().partition(|finding| finding.severity == Severity::Error);
        // Here everything acts that there is.
        warnings.retain(|finding| finding.severity != Severity::Note);
        // What lint has found is not said twice.
        let said = !errors.is_empty();
        let mut cast = Cast::default();
        for document in &manifests.documents {
            if let Err(wrong) = cast.add(document, &self.caller.namespace)
                && !said
            {
                errors.push(wrong.of(document));
            }
        }
        if !errors.is_empty() {
            return Err(NoScene::Findings(errors));
        }
        let Cast { mut world, chosen } = cast;
        self.open_namespaces(&mut world);
        let options = Options::local(now);
        self.live_faults(&mut world, &options);
        let mut config = render(&world, &self.caller.namespace, &options);
        let listeners = self.listen(&mut config, &chosen)?;
        warnings.extend(self.doubts(&world, manifests));
        Ok(Scene { config, listeners, warnings })
    }

    /// The namespaces of the caller and of callees carry the proxy, since here it is; where the files do not describe one, faults may
    /// act too.
    fn open_namespaces(&self, world: &mut World) {
        let callees = world.services.iter().map(|service| service.key.namespace.clone());
        let names: BTreeSet<_> = callees.chain([self.caller.namespace.clone()]).collect();
        for name in names {
            let known = world.namespace(&name).cloned();
            let namespace = known.unwrap_or_else(|| Namespace {
                key: Key::cluster(&name),
                labels: [("kubernetes.io/metadata.name".to_owned(), name.clone())].into(),
                faults: true,
                ..Namespace::default()
            });
            world.apply(Event::Namespace(Update::Apply(Namespace { inject: true, ..namespace })));
        }
    }

    /// Starts faults that are new, and remembers the start of those that are not.
    fn live_faults(&mut self, world: &mut World, options: &Options) {
        let remembered = |fault: &Fault| {
            let before = self.faults.get(&fault.meta.key).filter(|before| same_fault(before, fault));
            Fault { status: before.map(|before| before.status.clone()).unwrap_or_default(), ..fault.clone() }
        };
        let faults = world.faults.iter().map(remembered).collect();
        world.apply(Event::Fault(Update::Reset(faults)));
        let published = Published::default();
        let judge = Judge::new(world, &published, options);
        let judged: Vec<Fault> =
            world.faults.iter().map(|fault| Fault { status: judge.fault(fault), ..fault.clone() }).collect();
        self.faults = judged.iter().map(|fault| (fault.meta.key.clone(), fault.clone())).collect();
        world.apply(Event::Fault(Update::Reset(judged)));
    }

    /// Gives each Service port a port here for its callers, and one to each endpoint before which something is enforced.
    fn listen(
        &mut self,
        config: &mut Config,
        chosen: &BTreeMap<Key, BTreeMap<u16, u16>>,
    ) -> std::io::Result<Vec<Listener>> {
        let choice = |key: &Key, port: u16| chosen.get(key).and_then(|them| them.get(&port)).copied();
        let mut wanted = BTreeMap::new();
        let mut beside = BTreeMap::new();
        for entry in &config.entries {
            match &entry.body {
                Body::Service(service) => wanted.extend(service.ports.iter().map(|port| {
                    let key = key(&entry.name);
                    let choice = choice(&key, port.port);
                    (Use::Service(key, port.port), choice)
                })),
                Body::Inbound(inbound) => inbound.ports.iter().for_each(|port| {
                    wanted.extend(port.endpoints.iter().map(|endpoint| (Use::Beside(endpoint.address), None)));
                    beside.insert((entry.name.clone(), port.port), port.clone());
                }),
                Body::Policy(_) | Body::Fault(_) => {}
            }
        }
        let given = self.ports.give(wanted)?;
        let lead = |endpoints: &mut [Endpoint]| {
            for endpoint in endpoints {
                endpoint.beside = given.get(&Use::Beside(endpoint.address)).map(|given| given.address);
            }
        };
        let mut listeners = Vec::new();
        for entry in &mut config.entries {
            match &mut entry.body {
                Body::Service(service) => {
                    for port in &mut service.ports {
                        let service = key(&entry.name);
                        let Some(given) = given.get(&Use::Service(service.clone(), port.port)) else { continue };
                        port.listen = vec![given.address];
                        lead(port.endpoints.as_deref_mut().unwrap_or_default());
                        let inbound = beside.remove(&(entry.name.clone(), port.port));
                        listeners.push(Listener { service, port: port.clone(), inbound, given: given.clone() });
                    }
                }
                Body::Inbound(inbound) => inbound.ports.iter_mut().for_each(|port| lead(&mut port.endpoints)),
                Body::Policy(_) | Body::Fault(_) => {}
            }
        }
        Ok(listeners)
    }

    /// What is valid and does nothing here.
    fn doubts(&self, world: &World, manifests: &Manifests) -> Vec<Finding> {
        let mut found = Vec::new();
        for document in &manifests.documents {
            let key = key_of(document, &self.caller.namespace);
            let mut warn = |field: &str, message: String| {
                found.push(Finding::of(document, Severity::Warning, field, message));
            };
            match document.text("/kind") {
                "TrafficPolicy" => {
                    let Some(policy) = world.policies.get(&key) else { continue };
                    missing_targets(world, policy, &mut warn);
                }
                "FaultSpec" => {
                    let Some(fault) = self.faults.get(&key) else { continue };
                    missing_targets(world, fault, &mut warn);
                    let acts_in = if fault.at_callee() { &key.namespace } else { &self.caller.namespace };
                    if fault.status.phase == Some(Phase::Refused) {
                        warn("", fault.status.message.clone().unwrap_or_default());
                    } else if world.namespace(acts_in).is_some_and(|it| !faults_act(it, "")) {
                        let (namespace, label) = (acts_in, marks::FAULTS);
                        warn(
                            "",
                            format!("nobody is hit: Namespace {namespace} needs the label {label}: {}", marks::ENABLED),
                        );
                    }
                }
                _ => {}
            }
        }
        found
    }
}

impl Scene {
    /// When the fault `name` ends, if it is active.
    pub(crate) fn end_of(&self, name: &str) -> Option<Timestamp> {
        self.config.entries.iter().filter(|entry| entry.name == name).find_map(|entry| match &entry.body {
            Body::Fault(fault) => Some(fault.expires_at),
            _ => None,
        })
    }
}

/// The key of the object that an entry of the config is of.
fn key(entry: &str) -> Key {
    let (namespace, name) = entry.split_once('/').unwrap_or_default();
    Key::new(namespace, name)
}

fn key_of(document: &Document, default: &str) -> Key {
    let namespace = document.text("/metadata/namespace");
    Key::new(if namespace.is_empty() { default } else { namespace }, document.text("/metadata/name"))
}

fn missing_targets<T: Attaches>(world: &World, object: &T, warn: &mut impl FnMut(&str, String)) {
    for (index, target) in object.targets().enumerate() {
        let mut services = world.services.within(target.namespace);
        if !services.any(|service| target.names(&service.key) && target.ports(service).next().is_some()) {
            warn(
                &format!("spec.targetRefs[{index}]"),
                format!("{target} is not in the folder: nothing is protected or faulted there"),
            );
        }
    }
}

/// Whether it is the same object as far as a cluster would say: only `suspend` may change.
fn same_fault(before: &Fault, now: &Fault) -> bool {
    let (Ok(before), Ok(now)) = (&before.spec, &now.spec) else { return false };
    let mut before = before.as_ref().clone();
    before.suspend = now.suspend;
    before == **now
}

#[cfg(test)]
mod tests;
