//! What all callers share: whom they call, whether it is calm, and what should not have happened.

use std::{
    fmt,
    sync::atomic::{
        AtomicBool, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};

use anyhow::ensure;
use parking_lot::Mutex;

use crate::{config::Service, kind::Kind, peers::Peers, tally::Tally};

/// How many defects are told; the rest is counted.
const TOLD: usize = 10;

/// Everything around the proxy.
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) peers: Peers,
    pub(crate) services: Vec<Service>,
    pub(crate) tally: Tally,
    /// No callee is to be fickle: nothing is wrong with the world.
    calm: AtomicBool,
    next: AtomicU64,
    defects: Mutex<Vec<String>>,
}

impl World {
    pub(crate) fn new(seed: u64, peers: Peers, services: Vec<Service>) -> Self {
        Self {
            seed,
            peers,
            services,
            tally: Tally::default(),
            calm: AtomicBool::new(false),
            next: AtomicU64::new(1),
            defects: Mutex::default(),
        }
    }

    /// A number that no other request has.
    pub(crate) fn id(&self) -> u64 {
        self.next.fetch_add(1, Relaxed)
    }

    /// Whether nothing is wrong with the world now.
    pub(crate) fn is_calm(&self) -> bool {
        self.calm.load(SeqCst)
    }

    /// Said after a calm config has come into force, and before one that is not.
    pub(crate) fn set_calm(&self, calm: bool) {
        if self.calm.swap(calm, SeqCst) != calm {
            self.tally.turn();
        }
    }

    /// Something that must not happen.
    pub(crate) fn defect(&self, kind: Kind, what: impl fmt::Display) {
        self.defects.lock().push(format!("{}: {what}", kind.name()));
    }

    /// Whether nothing has happened that must not.
    pub(crate) fn verdict(&self) -> anyhow::Result<()> {
        let mut defects = self.defects.lock().clone();
        defects.extend(self.peers.site.defects());
        let told: Vec<_> = defects.iter().take(TOLD).map(String::as_str).collect();
        ensure!(defects.is_empty(), "{} defects:\n{}", defects.len(), told.join("\n"));
        Ok(())
    }
}
