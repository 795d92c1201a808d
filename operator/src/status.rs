//! What became of each policy and fault, in conditions that people and `kubectl wait` read.
//!
//! Conditions are those of GEP-713 with a summary for kstatus. A status is a pure function of the world, of what is
//! [`Published`], and of the status before, of which it keeps the transition times of what did not change. So the same world
//! gives the same status, and whoever compares finds nothing to write.
//!
//! A fault's life is in its status too (`fault`): its start is written here before any render may contain it.

mod conditions;
mod fault;
mod policy;
mod refs;

use std::collections::{BTreeMap, BTreeSet};

use firebreak_crds::{
    resources::{FaultSpecStatus, TrafficPolicyStatus},
    spec::TargetRef,
    wire::Config,
};

use crate::{
    attach::{Attaches, Conflict, conflicts},
    index::{Fault, Key, Namespace, Policy, World},
    render::Options,
};

pub(crate) use self::conditions::ours;
pub use self::fault::{conflicts as fault_conflicts, next_end};

/// Reasons of conditions. Programs compare them, so they never change.
pub mod reason {
    /// The object is valid and has what it claims.
    pub const ACCEPTED: &str = "Accepted";
    /// Another object has the same claim and comes first: it is older, or of the same second with the smaller name.
    pub const CONFLICTED: &str = "Conflicted";
    /// The object does not parse.
    pub const INVALID: &str = "Invalid";
    /// Every target exists.
    pub const RESOLVED: &str = "ResolvedRefs";
    /// A Service that is named does not exist.
    pub const TARGET_NOT_FOUND: &str = "TargetNotFound";
    /// The Service exists and has no TCP port of that name.
    pub const PORT_NOT_FOUND: &str = "PortNotFound";
    /// The Service is headless: callers connect to its pods' addresses, which are not in the config.
    pub const NEEDS_ENDPOINTS: &str = "NeedsEndpoints";
    /// The Service has no selector: which pods are behind it, and what is beside them, is not known.
    pub const NO_SELECTOR: &str = "NoSelector";
    /// The Service calls its pods by a port's name, and no pod with the proxy has a port of that name.
    pub const TARGET_PORT_UNKNOWN: &str = "TargetPortUnknown";
    /// The Service is an alias for a DNS name.
    pub const EXTERNAL_NAME: &str = "ExternalName";
    /// The config that proxies read holds the object.
    pub const PUBLISHED: &str = "Published";
    /// The config is about to be written.
    pub const PENDING: &str = "Pending";
    /// No namespace that the object is for has the proxy.
    pub const NO_CALLERS: &str = "NoCallers";
    /// No target can be recognised by address, so there is nothing to publish.
    pub const NO_TARGETS: &str = "NoTargets";
    /// The config of a namespace does not fit into a `ConfigMap`.
    pub const CONFIG_TOO_LARGE: &str = "ConfigTooLarge";
    /// The API server did not take the config.
    pub const WRITE_FAILED: &str = "WriteFailed";
    /// Proxies do not acknowledge what they read.
    pub const NO_ACKNOWLEDGEMENTS: &str = "NoAcknowledgements";
    /// The fault is over.
    pub const COMPLETED: &str = "Completed";
    /// The fault is stopped by hand.
    pub const SUSPENDED: &str = "Suspended";
}

/// What the ConfigMaps hold, by namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published(BTreeMap<String, Publication>);

/// What the `ConfigMap` of one namespace holds, and what keeps it from holding more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Publication {
    held: BTreeSet<(&'static str, String, i64)>,
    problem: Option<Problem>,
}

/// Why a config was not written. The one before it stays in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It does not fit.
    #[error(
        "the config has {bytes} bytes and a ConfigMap holds at most {limit}: split the namespace, or target fewer Services"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The most that is written.
        limit: usize,
    },
    /// The API server did not take it.
    #[error("the ConfigMap could not be written: {0}")]
    Refused(String),
}

/// Judges objects of one world.
#[derive(Debug)]
pub struct Judge<'w> {
    world: &'w World,
    published: &'w Published,
    options: &'w Options,
    policy_conflicts: BTreeMap<Key, Vec<Conflict>>,
    fault_conflicts: BTreeMap<Key, Conflict>,
}

impl<'w> Judge<'w> {
    /// A judge who knows the conflicts of `world` at the moment that `options` names.
    pub fn new(world: &'w World, published: &'w Published, options: &'w Options) -> Self {
        Self {
            world,
            published,
            options,
            policy_conflicts: conflicts(world.policies.iter()),
            fault_conflicts: fault::conflicts(world, options.now),
        }
    }

    /// The status that `policy` should have.
    pub fn policy(&self, policy: &Policy) -> TrafficPolicyStatus {
        policy::judge(self, policy)
    }

    /// The status that `fault` should have; its start, if this is the moment.
    pub fn fault(&self, fault: &Fault) -> FaultSpecStatus {
        fault::judge(self, fault)
    }

    /// The namespaces with the proxy whose callers `object` is for.
    fn callers<T: Attaches>(&self, object: &T) -> Vec<&'w Namespace> {
        let reached = |caller: &&Namespace| object.targets().any(|target| object.reaches(&target, caller));
        let spared = |caller: &&Namespace| crate::spared(&caller.key.name, &self.options.own_namespace);
        self.world.enabled_namespaces().filter(|caller| !spared(caller) && reached(caller)).collect()
    }
}

impl Published {
    /// The `ConfigMap` of `namespace` holds `config`. Whether that is news.
    pub fn wrote(&mut self, namespace: &str, config: &Config) -> bool {
        let entries = config.entries.iter();
        let held = entries.map(|entry| (entry.body.kind(), entry.name.clone(), entry.generation)).collect();
        let publication = Publication { held, problem: None };
        let news = self.0.get(namespace) != Some(&publication);
        self.0.insert(namespace.to_owned(), publication);
        news
    }

    /// The `ConfigMap` of `namespace` still holds what it held, because of `problem`. Whether that is news.
    pub fn failed(&mut self, namespace: &str, problem: Problem) -> bool {
        let publication = self.0.entry(namespace.to_owned()).or_default();
        let news = publication.problem.as_ref().map(std::mem::discriminant) != Some(std::mem::discriminant(&problem));
        publication.problem = Some(problem);
        news
    }

    /// The `ConfigMap` of `namespace` is gone.
    pub fn removed(&mut self, namespace: &str) {
        self.0.remove(namespace);
    }

    fn holds(&self, namespace: &str, kind: &'static str, key: &Key, generation: i64) -> bool {
        let held = |publication: &Publication| publication.held.contains(&(kind, key.to_string(), generation));
        self.0.get(namespace).is_some_and(held)
    }

    fn problem(&self, namespace: &str) -> Option<&Problem> {
        self.0.get(namespace)?.problem.as_ref()
    }
}

/// The targets in short: `service2`, `service2:http`, `payments/api`, `namespace`.
fn target_column(targets: &[TargetRef]) -> Option<String> {
    let short = |target: &TargetRef| match (&target.kind, &target.namespace, &target.section_name) {
        (firebreak_crds::spec::TargetKind::Namespace, ..) => "namespace".to_owned(),
        (_, namespace, port) => {
            let namespace = namespace.as_ref().map(|it| format!("{it}/")).unwrap_or_default();
            let port = port.as_ref().map(|it| format!(":{it}")).unwrap_or_default();
            format!("{namespace}{}{port}", target.name)
        }
    };
    (!targets.is_empty()).then(|| targets.iter().map(short).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests;
