//! What the proxies of one namespace need to know, as a pure function of the world.
//!
//! The config holds the Services that policies and faults touch for callers in that namespace, and nothing else: a Service
//! that nobody names comes and goes without a byte changing, and an unchanged world renders to the same bytes, whatever
//! order its news came in. Local mode asks for every Service ([`Scope::All`]) because there each gets a listener, and for
//! endpoints, because there is no cluster IP behind which somebody else balances.
//!
//! What acts beside the callee is in the config of the callee's namespace only ([`inbound`]); in local mode, whose one proxy stands for
//! all, that of every namespace the world knows is in one.

mod bodies;
mod inbound;

use std::collections::BTreeMap;

use firebreak_crds::wire::{Config, Entry};
use jiff::Timestamp;

use crate::{
    attach::{Attached, Attaches},
    index::{Fault, Key, Namespace, Policy, Service, World},
};

/// How to render.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Which Services the config holds.
    pub scope: Scope,
    /// Whether it says where each Service's endpoints are.
    pub endpoints: bool,
    /// The namespace Firebreak runs in, where faults never act.
    pub own_namespace: String,
    /// Faults that end before this moment are left out.
    pub now: Timestamp,
}

/// Which Services a config holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those that a policy or fault touches for these callers: in a cluster.
    Touched,
    /// Every one: in local mode.
    All,
}

/// The config for callers in `namespace`.
///
/// A namespace that the world does not know is rendered as one without labels, so faults do not act in it.
pub fn render(world: &World, namespace: &str, options: &Options) -> Config {
    let unknown = Namespace { key: Key::cluster(namespace), ..Namespace::default() };
    let caller = world.namespace(namespace).unwrap_or(&unknown);
    let (observed, enforced) = world.policies.iter().partition::<Vec<_>, _>(|policy| policy.observes());
    let policies = Policies {
        enforced: Attached::to(caller, enforced.into_iter()),
        observed: Attached::to(caller, observed.into_iter()),
    };
    let faults = Attached::to(caller, options.active_faults(world, caller).filter(|fault| !fault.at_callee()));
    let mut entries = Entries::default();
    for service in world.services.iter().filter(|service| options.addressable(service)) {
        if options.scope == Scope::All || policies.touch(&service.key) || faults.touches(&service.key) {
            entries.add(world, service, &policies, &faults, options);
        }
    }
    match options.scope {
        Scope::Touched => entries.add_inbound(world, caller, options),
        Scope::All => world.namespaces.iter().for_each(|callees| entries.add_inbound(world, callees, options)),
    }
    Config { namespace: namespace.to_owned(), transparent: caller.transparent, entries: entries.into_vec() }
}

/// Whether faults may act on callers in `namespace`: only where its people said so, and never where the cluster or
/// Firebreak itself would be hit.
pub fn faults_act(namespace: &Namespace, own_namespace: &str) -> bool {
    namespace.faults && !crate::spared(&namespace.key.name, own_namespace)
}

impl Options {
    /// For the proxies of a cluster.
    pub fn cluster(own_namespace: impl Into<String>, now: Timestamp) -> Self {
        Self { scope: Scope::Touched, endpoints: false, own_namespace: own_namespace.into(), now }
    }

    /// For local mode.
    pub fn local(now: Timestamp) -> Self {
        Self { scope: Scope::All, endpoints: true, own_namespace: String::new(), now }
    }

    /// The faults that are active where they are to act in `namespace`.
    fn active_faults<'w>(&self, world: &'w World, namespace: &Namespace) -> impl Iterator<Item = &'w Fault> {
        let (faulty, now) = (faults_act(namespace, &self.own_namespace), self.now);
        world.faults.iter().filter(move |fault| faulty && fault.active(now))
    }

    /// Without endpoints a Service is recognised by its addresses only; a headless one has none.
    fn addressable(&self, service: &Service) -> bool {
        self.endpoints || !service.addresses.is_empty()
    }
}

/// The policies for callers of one namespace. What is observed has a precedence of its own, beside what is enforced.
struct Policies<'w> {
    enforced: Attached<'w, Policy>,
    observed: Attached<'w, Policy>,
}

impl Policies<'_> {
    fn touch(&self, service: &Key) -> bool {
        self.enforced.touches(service) || self.observed.touches(service)
    }
}

/// The entries as they gather, each once.
#[derive(Default)]
struct Entries<'w> {
    services: Vec<Entry>,
    policies: BTreeMap<&'w Key, Entry>,
    faults: BTreeMap<&'w Key, Entry>,
    inbound: Vec<Entry>,
}

impl<'w> Entries<'w> {
    fn add(
        &mut self,
        world: &'w World,
        service: &Service,
        policies: &Policies<'w>,
        faults: &Attached<'w, Fault>,
        options: &Options,
    ) {
        let mut body = bodies::service(service);
        for (port, wire) in service.ports.iter().zip(&mut body.ports) {
            let (observed, policies) =
                (policies.observed.at(&service.key, port), policies.enforced.at(&service.key, port));
            // For one request a proxy draws from the first fault that is for it, so the order is precedence's, as with policies.
            let faults = faults.at(&service.key, port);
            wire.policies = policies.iter().map(|policy| policy.meta.key.to_string()).collect();
            wire.observe = observed.iter().map(|policy| policy.meta.key.to_string()).collect();
            wire.faults = faults.iter().map(|fault| fault.meta.key.to_string()).collect();
            wire.endpoints = options.endpoints.then(|| bodies::endpoints(world, &service.key, port));
            self.policies
                .extend(policies.into_iter().chain(observed).filter_map(|it| Some((it.id(), bodies::policy(it)?))));
            self.faults.extend(faults.into_iter().filter_map(|it| Some((it.id(), bodies::fault(it)?))));
        }
        self.services.push(bodies::entry(&service.key, 0, firebreak_crds::wire::Body::Service(body)));
    }

    fn into_vec(self) -> Vec<Entry> {
        let objects = self.policies.into_values().chain(self.faults.into_values());
        self.services.into_iter().chain(objects).chain(self.inbound).collect()
    }
}

#[cfg(test)]
mod tests;
