//! The world as the operator sees it: namespaces, Services, pods, policies and faults, each trimmed to what is asked of it.
//!
//! Watches feed it with [`Update`]s, in any order and as often as they like; the state depends only on what is there, not
//! on how it came. Each update answers with what it [`Affected`], so that the work that follows is proportional to the
//! change: a pod that restarts affects nothing, a Service that no policy names affects nothing.
//!
//! Objects are trimmed before they are stored: ten thousand pods are a few megabytes here and a few hundred as the API
//! server sends them. Policies and faults are parsed by us, not by the watch, so that one that does not parse is kept as
//! [`Invalid`] with its field and reason, and stops nothing.

pub mod endpoints;
pub mod faults;
pub mod namespaces;
pub mod pods;
pub mod policies;
pub mod services;

use std::{collections::BTreeMap, fmt, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use self::{
    endpoints::Slice,
    faults::Fault,
    namespaces::Namespace,
    pods::{Listens, Owner, Pod},
    policies::Policy,
    services::{Service, ServicePort, TargetPort},
};
use crate::affected::Affected;

/// Which object of a kind. A namespace's own key has an empty `namespace`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
}

/// What identifies one life of an object, and what a writer must know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Namespace and name.
    pub key: Key,
    /// Differs when an object is deleted and created again.
    pub uid: String,
    /// The version that a write is checked against.
    pub resource_version: String,
    /// Counts changes of the spec.
    pub generation: i64,
    /// Who is older wins a conflict. The epoch where it is not known (files).
    pub created: Timestamp,
}

/// A spec that does not parse: which field, what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct Invalid {
    /// Path of the field, from `spec` on.
    pub path: String,
    /// What was wrong and what would be right.
    pub message: String,
}

/// A spec, or why it does not parse.
pub type Parsed<Spec> = Result<Arc<Spec>, Invalid>;

/// An object that cannot even be filed: it has no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an object without a usable metadata: {0}")]
pub struct Nameless(String);

/// News of objects of one kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Update<T> {
    /// The object is now like this.
    Apply(T),
    /// The object is gone.
    Delete(Key),
    /// These objects exist and no others.
    Reset(Vec<T>),
}

/// News of any kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Of Namespaces.
    Namespace(Update<Namespace>),
    /// Of Services.
    Service(Update<Service>),
    /// Of `EndpointSlice`s.
    Slice(Update<Slice>),
    /// Of pods.
    Pod(Update<Pod>),
    /// Of `TrafficPolicy` objects.
    Policy(Update<Policy>),
    /// Of `FaultSpec` objects.
    Fault(Update<Fault>),
}

/// Objects of one kind, by key.
#[derive(Clone, Debug)]
pub struct Store<T>(BTreeMap<Key, T>);

/// An object that can be filed.
pub trait Filed {
    /// Where it is filed.
    fn key(&self) -> &Key;
}

/// Everything that decisions are made from.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Namespaces; their key's `namespace` is empty.
    pub namespaces: Store<Namespace>,
    /// Services.
    pub services: Store<Service>,
    /// Endpoints of Services. Only local mode fills it.
    pub slices: Store<Slice>,
    /// Pods that carry the proxy or ask for it, and others.
    pub pods: pods::Pods,
    /// Policies, broken ones included.
    pub policies: Store<Policy>,
    /// Faults, broken ones included.
    pub faults: Store<Fault>,
}

impl World {
    /// Takes in `event` and says what it affects.
    pub fn apply(&mut self, event: Event) -> Affected {
        match event {
            Event::Namespace(update) => self.namespaces.update(update, Affected::by_namespace),
            Event::Service(update) => {
                let (policies, faults) = (&self.policies, &self.faults);
                self.services.update(update, |before, after| Affected::by_service(policies, faults, before.or(after)))
            }
            Event::Slice(update) => self.slices.update(update, |_, _| Affected::configs()),
            Event::Pod(update) => self.pods.update(update),
            Event::Policy(update) => self.policies.update(update, Affected::by_policy),
            Event::Fault(update) => self.faults.update(update, Affected::by_fault),
        }
    }

    /// The namespace called `name`.
    pub fn namespace(&self, name: &str) -> Option<&Namespace> {
        self.namespaces.get(&Key::cluster(name))
    }

    /// Where the pods behind that port of `service` listen, as far as is known: a port with a name is where the pods with the
    /// proxy say it is. Nowhere, if it does not say which pods are behind it.
    pub fn targets(&self, service: &Service, port: &ServicePort) -> Vec<u16> {
        match &port.target {
            _ if !service.has_pods() => Vec::new(),
            TargetPort::Number(number) => vec![*number],
            TargetPort::Named(name) => self.pods.ports_named(&service.key.namespace, &service.selector, name),
        }
    }

    /// Whether proxies of the namespace need a config: it, or a pod in it, asks for the proxy, or a pod carries one.
    /// A namespace that is being deleted takes no new objects, so it counts as off.
    pub fn enabled(&self, namespace: &str) -> bool {
        self.namespace(namespace).is_some_and(|it| !it.terminating && (it.inject || self.pods.carries(namespace)))
    }

    /// The namespaces whose proxies need a config.
    pub fn enabled_namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.namespaces.iter().filter(|namespace| self.enabled(&namespace.key.name))
    }
}

impl<T: Filed + PartialEq> Store<T> {
    /// The object of that key.
    pub fn get(&self, key: &Key) -> Option<&T> {
        self.0.get(key)
    }

    /// All objects, in order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.values()
    }

    /// The objects of one namespace, in order of their names.
    pub fn within(&self, namespace: &str) -> impl Iterator<Item = &T> {
        let from = Key { namespace: namespace.to_owned(), name: String::new() };
        self.0.range(from..).take_while(move |(key, _)| key.namespace == namespace).map(|(_, object)| object)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Files the news and asks `affects` about each object that differs, with what it was and what it is.
    pub(crate) fn update(
        &mut self,
        update: Update<T>,
        mut affects: impl FnMut(Option<&T>, Option<&T>) -> Affected,
    ) -> Affected {
        match update {
            Update::Apply(object) => {
                let key = object.key().clone();
                let before = self.0.insert(key.clone(), object);
                let after = self.0.get(&key);
                if before.as_ref() == after { Affected::default() } else { affects(before.as_ref(), after) }
            }
            Update::Delete(key) => {
                self.0.remove(&key).map_or_else(Affected::default, |gone| affects(Some(&gone), None))
            }
            Update::Reset(objects) => {
                let fresh = objects.into_iter().map(|object| (object.key().clone(), object)).collect();
                let old = std::mem::replace(&mut self.0, fresh);
                let mut affected = Affected::default();
                for (key, gone) in old.iter().filter(|(key, _)| !self.0.contains_key(key)) {
                    debug_assert_eq!(key, gone.key());
                    affected.merge(affects(Some(gone), None));
                }
                for (key, now) in self.0.iter().filter(|(key, now)| old.get(key) != Some(now)) {
                    affected.merge(affects(old.get(key), Some(now)));
                }
                affected
            }
        }
    }
}

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl Key {
    /// An object `name` in `namespace`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// An object that belongs to no namespace.
    pub fn cluster(name: impl Into<String>) -> Self {
        Self { namespace: String::new(), name: name.into() }
    }

    /// The key of the object that `meta` belongs to.
    pub fn of(meta: &ObjectMeta) -> Self {
        Self::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

impl Meta {
    fn of(meta: &ObjectMeta) -> Self {
        Self {
            key: Key::of(meta),
            uid: meta.uid.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            generation: meta.generation.unwrap_or_default(),
            created: meta.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
        }
    }

    /// Whether `other` is the same life of the object with the same spec.
    fn same_spec(&self, other: &Self) -> bool {
        (&self.key, &self.uid, self.generation) == (&other.key, &other.uid, other.generation)
    }
}

/// Takes an object of ours apart: its metadata, its spec if that parses, its status if that does.
fn dissect<Spec, Status>(object: Value) -> Result<(Meta, Parsed<Spec>, Status), Nameless>
where
    Spec: DeserializeOwned,
    Status: DeserializeOwned + Default,
{
    let Value::Object(mut object) = object else { return Err(Nameless("not an object".into())) };
    let meta = object.remove("metadata").ok_or_else(|| Nameless("metadata is missing".into()))?;
    let meta: ObjectMeta = serde_json::from_value(meta).map_err(|error| Nameless(error.to_string()))?;
    if meta.name.is_none() {
        return Err(Nameless("metadata.name is missing".into()));
    }
    let spec = object.remove("spec").unwrap_or(Value::Null);
    let spec = serde_path_to_error::deserialize(spec).map(Arc::new).map_err(|error| {
        let path = error.path().to_string();
        let path = if path == "." { "spec".into() } else { format!("spec.{path}") };
        Invalid { path, message: error.into_inner().to_string() }
    });
    // A status that does not parse is not ours, or from another time: it is judged anew.
    let status = object.remove("status").and_then(|status| serde_json::from_value(status).ok()).unwrap_or_default();
    Ok((Meta::of(&meta), spec, status))
}

#[cfg(test)]
mod tests;
