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
#[cfg(test)]
mod scenario;
pub mod status;

pub use self::{
    index::{Event, Key, Update, World},
    render::{Options, Scope, render},
};

/// Namespaces that never carry the proxy and where no fault acts: the cluster must start and heal without Firebreak, and
/// Firebreak without itself.
pub fn spared(namespace: &str, own_namespace: &str) -> bool {
    ["kube-system", "kube-node-lease"].contains(&namespace) || namespace == own_namespace
}
