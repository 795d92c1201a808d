//! What a change affects: which namespaces' configs to render again, and which objects' status to judge again.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::{
    attach::{Attaches, Target},
    index::{Fault, Filed, Key, Namespace, Policy, Service, Store, World},
};

/// What is to be looked at again after a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affected {
    /// Namespaces whose config may differ now.
    pub configs: Touched<String>,
    /// Policies whose status may differ now.
    pub policies: Touched<Key>,
    /// Faults whose status may differ now.
    pub faults: Touched<Key>,
}

/// Some of a kind, or all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touched<T> {
    /// These.
    Some(BTreeSet<T>),
    /// Every one.
    All,
}

impl Affected {
    /// Everything: for the first look, and for a replica that takes over.
    pub fn everything() -> Self {
        Self { configs: Touched::All, policies: Touched::All, faults: Touched::All }
    }

    /// One config, no status.
    pub fn config(namespace: String) -> Self {
        Self { configs: Touched::one(namespace), ..Self::default() }
    }

    /// Whether it is nothing.
    pub fn is_empty(&self) -> bool {
        self.configs.is_empty() && self.policies.is_empty() && self.faults.is_empty()
    }

    /// Every config, no status.
    pub(crate) fn configs() -> Self {
        Self { configs: Touched::All, ..Self::default() }
    }

    /// The status of every policy and fault: cheap to judge, and only a difference is written.
    fn statuses() -> Self {
        Self { policies: Touched::All, faults: Touched::All, ..Self::default() }
    }

    /// Adds what `other` affects.
    pub fn merge(&mut self, other: Self) {
        self.configs.merge(other.configs);
        self.policies.merge(other.policies);
        self.faults.merge(other.faults);
    }

    /// A namespace began or ceased to need a config.
    pub(crate) fn by_enabling(namespace: String) -> Self {
        Self { configs: Touched::one(namespace), ..Self::statuses() }
    }

    pub(crate) fn by_namespace(before: Option<&Namespace>, after: Option<&Namespace>) -> Self {
        before.or(after).map_or_else(Self::default, |namespace| Self::by_enabling(namespace.key.name.clone()))
    }

    /// A Service matters to those who call it under a policy or fault, and to nobody else.
    pub(crate) fn by_service(policies: &Store<Policy>, faults: &Store<Fault>, service: Option<&Service>) -> Self {
        let Some(key) = service.map(Filed::key) else { return Self::default() };
        let policies = policies.iter().filter_map(|policy| reach(policy, |target| target.names(key)));
        let faults = faults.iter().filter_map(|fault| reach(fault, |target| target.names(key)));
        let mut affected = Self::default();
        for configs in policies.chain(faults) {
            affected.merge(Self { configs, ..Self::statuses() });
        }
        affected
    }

    pub(crate) fn by_policy(before: Option<&Policy>, after: Option<&Policy>) -> Self {
        match (before, after) {
            (Some(before), Some(after)) if before.renders_as(after) => {
                Self { policies: Touched::one(after.meta.key.clone()), ..Self::default() }
            }
            _ => Self::by_spec(before, after),
        }
    }

    pub(crate) fn by_fault(before: Option<&Fault>, after: Option<&Fault>) -> Self {
        match (before, after) {
            (Some(before), Some(after)) if before.renders_as(after) => {
                Self { faults: Touched::one(after.meta.key.clone()), ..Self::default() }
            }
            _ => Self::by_spec(before, after),
        }
    }

    /// Faults that end after `since` and not after `now`.
    pub fn by_time(world: &World, since: Timestamp, now: Timestamp) -> Self {
        let mut affected = Self::default();
        let ended = |fault: &&Fault| fault.end().is_some_and(|end| since < end && end <= now);
        for fault in world.faults.iter().filter(ended) {
            affected.merge(Self::by_spec(Some(fault), None));
        }
        affected
    }

    fn by_spec<T: Attaches>(before: Option<&T>, after: Option<&T>) -> Self {
        let mut affected = Self::statuses();
        for configs in [before, after].into_iter().flatten().filter_map(|object| reach(object, |_| true)) {
            affected.configs.merge(configs);
        }
        affected
    }
}

/// Whose callers see those targets of `object` that `wanted` picks: everyone's, or only the object's own namespace's.
fn reach<T: Attaches>(object: &T, wanted: impl Fn(&Target<'_>) -> bool) -> Option<Touched<String>> {
    let own = &object.meta().key.namespace;
    object.targets().filter(|target| wanted(target)).fold(None, |reached, target| {
        let all = target.namespace == own || reached == Some(Touched::All);
        Some(if all { Touched::All } else { Touched::one(own.clone()) })
    })
}

impl<T: Ord> Touched<T> {
    fn one(item: T) -> Self {
        Self::Some(BTreeSet::from([item]))
    }

    /// Whether it is nothing.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Some(some) if some.is_empty())
    }

    /// The items themselves; `all` is asked only when it is every one.
    pub fn resolve(self, all: impl IntoIterator<Item = T>) -> BTreeSet<T> {
        match self {
            Self::Some(some) => some,
            Self::All => all.into_iter().collect(),
        }
    }

    fn merge(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Some(mine), Self::Some(mut more)) => mine.append(&mut more),
            (_, Self::All) => *self = Self::All,
            (Self::All, _) => {}
        }
    }
}

impl<T> Default for Touched<T> {
    fn default() -> Self {
        Self::Some(BTreeSet::new())
    }
}
