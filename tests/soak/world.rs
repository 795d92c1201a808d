//! What all callers share: whom they call, what they have sent, and what should not have happened.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use anyhow::ensure;
use parking_lot::Mutex;

use crate::{callers::Kind, config::Service, peers::Peers};

/// How many defects are told; the rest is counted.
const TOLD: usize = 10;

/// Everything around the proxy.
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) peers: Peers,
    pub(crate) services: Vec<Service>,
    pub(crate) tally: Tally,
    next: AtomicU64,
    defects: Mutex<Vec<String>>,
}

/// What callers have done, by kind of caller.
#[derive(Default)]
pub(crate) struct Tally {
    sent: [AtomicU64; Kind::ALL.len()],
    answered: AtomicU64,
    left: AtomicU64,
    broken: AtomicU64,
}

impl World {
    pub(crate) fn new(seed: u64, peers: Peers, services: Vec<Service>) -> Self {
        Self { seed, peers, services, tally: Tally::default(), next: AtomicU64::new(1), defects: Mutex::default() }
    }

    /// A number that no other request has.
    pub(crate) fn id(&self) -> u64 {
        self.next.fetch_add(1, Relaxed)
    }

    /// Something that must not happen.
    pub(crate) fn defect(&self, kind: Kind, what: impl fmt::Display) {
        self.defects.lock().push(format!("{}: {what}", kind.name()));
    }

    /// Whether nothing has happened that must not, and everything that should.
    pub(crate) fn verdict(&self) -> anyhow::Result<()> {
        let defects = self.defects.lock();
        let told: Vec<_> = defects.iter().take(TOLD).map(String::as_str).collect();
        ensure!(defects.is_empty(), "{} defects:\n{}", defects.len(), told.join("\n"));
        let idle: Vec<_> =
            Kind::ALL.iter().filter(|kind| self.tally.sent(**kind) == 0).map(|kind| kind.name()).collect();
        ensure!(idle.is_empty(), "nothing was sent by {}", idle.join(", "));
        ensure!(self.tally.left.load(Relaxed) > 0, "no caller left");
        Ok(())
    }
}

impl Tally {
    pub(crate) fn sent(&self, kind: Kind) -> u64 {
        self.sent[kind as usize].load(Relaxed)
    }

    /// One request more.
    pub(crate) fn send(&self, kind: Kind) {
        self.sent[kind as usize].fetch_add(1, Relaxed);
    }

    /// It was not sent after all.
    pub(crate) fn not_sent(&self, kind: Kind) {
        self.sent[kind as usize].fetch_sub(1, Relaxed);
    }

    /// It was answered to the end.
    pub(crate) fn answer(&self) {
        self.answered.fetch_add(1, Relaxed);
    }

    /// Its caller left.
    pub(crate) fn leave(&self) {
        self.left.fetch_add(1, Relaxed);
    }

    /// Its answer, or its connection, broke off.
    pub(crate) fn break_off(&self) {
        self.broken.fetch_add(1, Relaxed);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sent: u64 = Kind::ALL.iter().map(|kind| self.sent(*kind)).sum();
        let [answered, left, broken] = [&self.answered, &self.left, &self.broken].map(|count| count.load(Relaxed));
        write!(f, "{sent} sent, {answered} answered, {left} left, {broken} broken off")
    }
}
