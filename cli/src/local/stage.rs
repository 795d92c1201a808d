//! From manifests to what the proxy is told: the operator's own world, judge and render, with a memory.
//!
//! The memory is what a cluster keeps in the objects' status: when each fault started. It is kept while an object stays as it
//! is; a fault whose text changes is another fault and starts anew, as it would after `kubectl replace --force`.

mod cast;

use std::collections::BTreeMap;

use firebreak_crds::{
    marks,
    resources::Phase,
    spec::Labels,
    wire::{self, Body, Config},
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
use super::ports::{Given, Ports};
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
    pub(crate) given: Given,
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
        self.open_namespace(&mut world);
        let options = Options::local(now);
        self.live_faults(&mut world, &options);
        let mut config = render(&world, &self.caller.namespace, &options);
        let listeners = self.listen(&mut config, &chosen)?;
        warnings.extend(self.doubts(&world, manifests));
        Ok(Scene { config, listeners, warnings })
    }

    /// The caller's namespace carries the proxy, since here it is; where the files do not describe it, faults may act too.
    fn open_namespace(&self, world: &mut World) {
        let name = &self.caller.namespace;
        let known = world.namespace(name).cloned();
        let namespace = known.unwrap_or_else(|| Namespace {
            key: Key::cluster(name),
            labels: [("kubernetes.io/metadata.name".to_owned(), name.clone())].into(),
            faults: true,
            ..Namespace::default()
        });
        world.apply(Event::Namespace(Update::Apply(Namespace { inject: true, ..namespace })));
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

    fn listen(
        &mut self,
        config: &mut Config,
        chosen: &BTreeMap<Key, BTreeMap<u16, u16>>,
    ) -> std::io::Result<Vec<Listener>> {
        let mut services = Vec::new();
        for entry in &mut config.entries {
            if let (Body::Service(service), Some((namespace, name))) = (&mut entry.body, entry.name.split_once('/')) {
                services.push((Key::new(namespace, name), service));
            }
        }
        let choice = |key: &Key, port: u16| chosen.get(key).and_then(|them| them.get(&port)).copied();
        let wanted = services.iter().flat_map(|(key, service)| {
            service.ports.iter().map(move |port| ((key.clone(), port.port), choice(key, port.port)))
        });
        let given = self.ports.give(wanted.collect())?;
        let mut listeners = Vec::new();
        for (key, service) in services {
            for port in &mut service.ports {
                let Some(given) = given.get(&(key.clone(), port.port)) else { continue };
                port.listen = vec![given.address];
                listeners.push(Listener { service: key.clone(), port: port.clone(), given: given.clone() });
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
                    if policy.has_inbound() {
                        warn("spec.inbound", format!("has no effect here: {NOT_BESIDE}"));
                    }
                }
                "FaultSpec" => {
                    let Some(fault) = self.faults.get(&key) else { continue };
                    missing_targets(world, fault, &mut warn);
                    if fault.at_callee() {
                        warn("spec.at", format!("nobody is hit: {NOT_BESIDE}"));
                    }
                    if fault.status.phase == Some(Phase::Refused) {
                        warn("", fault.status.message.clone().unwrap_or_default());
                    } else if world.namespace(&self.caller.namespace).is_some_and(|it| !faults_act(it, "")) {
                        let (namespace, label) = (&self.caller.namespace, marks::FAULTS);
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

/// Why what acts beside the callee does not act in local mode.
const NOT_BESIDE: &str =
    "local mode stands for the callers' proxies, and there is none beside the callee; it acts in a cluster";

impl Scene {
    /// When the fault `name` ends, if it is active.
    pub(crate) fn end_of(&self, name: &str) -> Option<Timestamp> {
        self.config.entries.iter().filter(|entry| entry.name == name).find_map(|entry| match &entry.body {
            Body::Fault(fault) => Some(fault.expires_at),
            _ => None,
        })
    }
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
