//! What the proxy's workers share, compiled against the model checker loom: the very files of `proxy/src/policy`, in which
//! [`sync`] stands for the proxy's module of that name. A model is run once for each order of events that can matter, and with
//! each value that a relaxed load may see on a processor that keeps less order than the one at hand.
//!
//! It is a crate of its own because `--cfg loom`, the usual way, would take tokio's sockets and timers from the whole proxy.

// The files' own tests are the proxy's.
#![cfg(not(test))]

pub mod sync;

/// The protections that workers share.
#[path = "../../../proxy/src/policy"]
pub mod policy {
    /// What load balancing knows.
    pub mod balance {
        pub mod load;
    }
    pub mod breaker;
    pub mod budget;
    pub mod bulkhead;
    pub mod concurrency;
    /// Faults.
    pub mod fault {
        pub mod active;
    }
    pub mod rate;
    pub mod window;
}

/// How often a thread is stopped where it could have gone on. Most defects need one or two; each more multiplies the time.
const PREEMPTIONS: usize = 3;

/// Runs a model in every order of events, up to [`PREEMPTIONS`].
pub fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut loom = loom::model::Builder::new();
    loom.preemption_bound = Some(PREEMPTIONS);
    loom.max_branches = 10_000;
    loom.check(move || {
        // Chance has to be the same each time a model is run.
        fastrand::seed(7);
        model();
    });
}
