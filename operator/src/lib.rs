//! The operator decides: it watches policies, faults and what they name, renders for each namespace what the proxies there
//! need to know, publishes it, and says on each object what became of it.
//!
//! Its core is pure and stands in the first modules: [`index`] holds the world, [`attach`] says who wins, [`render()`] turns
//! the world into a namespace's config, [`status`] into words for people. `firebreak local` and `firebreak lint` use that
//! core as it is. What talks to a cluster stands behind the feature `cluster`.

pub mod affected;
pub mod attach;
pub mod index;
pub mod render;
pub mod status;

#[cfg(feature = "cluster")]
pub mod args;
#[cfg(feature = "cluster")]
mod certs;
#[cfg(feature = "cluster")]
mod control;
#[cfg(feature = "cluster")]
mod events;
#[cfg(feature = "cluster")]
mod lease;
#[cfg(feature = "cluster")]
mod metrics;
#[cfg(feature = "cluster")]
mod poke;
#[cfg(feature = "cluster")]
mod publish;
#[cfg(feature = "cluster")]
mod queue;
#[cfg(feature = "cluster")]
mod reach;
#[cfg(feature = "cluster")]
pub mod run;
#[cfg(test)]
mod scenario;
#[cfg(feature = "cluster")]
mod watch;

pub use self::{
    index::{Event, Key, Update, World},
    render::{Options, Scope, render},
};

/// The name under which the operator owns fields (server-side apply) and tells Events.
#[cfg(feature = "cluster")]
const FIELD_MANAGER: &str = "firebreak-operator";
/// The label that marks objects as ours to delete.
#[cfg(feature = "cluster")]
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Its value.
#[cfg(feature = "cluster")]
const MANAGER: &str = "firebreak-operator";

/// Namespaces that never carry the proxy and where no fault acts: the cluster must start and heal without Firebreak, and
/// Firebreak without itself.
pub fn spared(namespace: &str, own_namespace: &str) -> bool {
    ["kube-system", "kube-node-lease"].contains(&namespace) || namespace == own_namespace
}
