//! The bulkhead: how much of this proxy one callee may take.
//!
//! Two things are counted for each callee, exactly and across workers: requests in flight, and connection *leases*. A
//! request over HTTP/1 (or an opaque connection) cannot share its connection, so it takes a lease together with its place;
//! an HTTP/2 request takes a place only, and the HTTP/2 connection holds the lease. Both are taken at once and kept through
//! retries and back-offs, so a request that was let in never waits again.
//!
//! Who finds no room waits in one queue, first come first served, bounded in length and time; who finds the queue full is
//! refused at once. The numbers mean what they say: with `maxConnections` and `maxPending` of 100, a hanging callee holds
//! 100 requests, 100 wait, and request 201 is refused (Envoy's are checked per worker and may be exceeded,
//! envoyproxy/envoy#2927).
//!
//! Idle connections in the pools hold no lease, but they are sockets: [`Gate::open`] counts every socket and, when the
//! limit is reached, asks the caller to give up an idle one first. Since leases never exceed the limit, there then always
//! is an idle one somewhere.
//!
//! The way through is one exchange of a word; only who has to wait, or leaves while others wait, takes the lock.

mod open;

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use firebreak_crds::spec::{self, defaults};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

pub use self::open::{Opened, Room};
use crate::sync::{AtomicU32, AtomicU64, Mutex, timeout_at};

/// What a policy says, defaults applied; what it leaves out is unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections, idle ones included.
    pub max_connections: u32,
    /// Requests in flight.
    pub max_requests: u32,
    /// Requests waiting.
    pub max_pending: u32,
    /// How long one may wait.
    pub max_pending_time: Duration,
}

/// What a request needs to be let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A place in flight and a connection of its own: HTTP/1, and opaque connections.
    Exchange,
    /// A place in flight on a connection that others use too: HTTP/2.
    Stream,
    /// A connection that requests will share: HTTP/2.
    Shared,
}

/// Why a request was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// As many were waiting as may.
    Full,
    /// It waited as long as it may.
    TimedOut,
    /// Its own time was up first.
    Deadline,
}

/// A callee's bulkhead, shared by all workers.
#[derive(Debug)]
pub struct Gate {
    max_connections: AtomicU32,
    max_requests: AtomicU32,
    max_pending: AtomicU32,
    max_pending_millis: AtomicU64,
    /// Leases (the upper half) and requests in flight: one word, so that what takes both takes both or neither, and nobody is
    /// kept out by what another takes and gives back again.
    used: AtomicU64,
    sockets: AtomicU32,
    freed: Notify,
    wanting: AtomicU32,
    waiting: AtomicU32,
    queue: Mutex<VecDeque<Waiter>>,
    tickets: AtomicU64,
}

/// The right to one exchange, stream or shared connection, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    gate: Arc<Gate>,
    need: Need,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    need: Need,
    admit: oneshot::Sender<Permit>,
}

/// Takes a waiter out of the queue, however its wait ends.
struct Queued<'a> {
    gate: &'a Arc<Gate>,
    ticket: u64,
}

/// What is in use, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Requests in flight.
    pub requests: u32,
    /// Open sockets.
    pub connections: u32,
    /// Requests waiting.
    pub pending: u32,
}

impl Limits {
    /// No limits at all.
    pub const NONE: Self = Self {
        max_connections: u32::MAX,
        max_requests: u32::MAX,
        max_pending: u32::MAX,
        max_pending_time: Duration::MAX,
    };
}

impl From<&spec::Bulkhead> for Limits {
    fn from(bulkhead: &spec::Bulkhead) -> Self {
        Self {
            max_connections: bulkhead.max_connections.unwrap_or(u32::MAX),
            max_requests: bulkhead.max_requests.unwrap_or(u32::MAX),
            max_pending: bulkhead.max_pending.unwrap_or(defaults::MAX_PENDING),
            max_pending_time: bulkhead.max_pending_time.map_or(defaults::MAX_PENDING_TIME, spec::Duration::get),
        }
    }
}

impl Gate {
    /// An empty bulkhead.
    pub fn new(limits: Limits) -> Arc<Self> {
        let gate = Self {
            max_connections: AtomicU32::new(0),
            max_requests: AtomicU32::new(0),
            max_pending: AtomicU32::new(0),
            max_pending_millis: AtomicU64::new(0),
            used: AtomicU64::new(0),
            sockets: AtomicU32::new(0),
            freed: Notify::new(),
            wanting: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            queue: Mutex::default(),
            tickets: AtomicU64::new(0),
        };
        gate.set(limits);
        Arc::new(gate)
    }

    /// Puts other limits in force. What is in use stays; with less room than that, nobody is let in until it shrinks.
    pub fn set(&self, limits: Limits) {
        self.max_connections.store(limits.max_connections, SeqCst);
        self.max_requests.store(limits.max_requests, SeqCst);
        self.max_pending.store(limits.max_pending, SeqCst);
        self.max_pending_millis.store(u64::try_from(limits.max_pending_time.as_millis()).unwrap_or(u64::MAX), SeqCst);
    }

    /// The limits in force.
    pub fn limits(&self) -> Limits {
        Limits {
            max_connections: self.max_connections.load(SeqCst),
            max_requests: self.max_requests.load(SeqCst),
            max_pending: self.max_pending.load(SeqCst),
            max_pending_time: Duration::from_millis(self.max_pending_millis.load(SeqCst)),
        }
    }

    /// Lets a request in, at once or after a wait.
    ///
    /// # Errors
    /// Says why not. `deadline` is the request's own end, if it has one.
    pub async fn acquire(self: &Arc<Self>, need: Need, deadline: Option<Instant>) -> Result<Permit, Refused> {
        match self.try_acquire(need) {
            Some(permit) => Ok(permit),
            None => self.wait(need, deadline).await,
        }
    }

    /// Lets a request in if there is room and nobody waits.
    pub fn try_acquire(self: &Arc<Self>, need: Need) -> Option<Permit> {
        // A shared connection is for requests that are inside already: it does not queue behind those who are not.
        let first = need == Need::Shared || self.waiting.load(SeqCst) == 0;
        (first && self.admit(need)).then(|| Permit { gate: Arc::clone(self), need })
    }

    /// Lets in whoever now fits, after limits have grown.
    pub fn wake(self: &Arc<Self>) {
        let admitted = if self.waiting.load(SeqCst) == 0 { return } else { self.admit_waiting(&mut self.queue.lock()) };
        // A permit whose waiter is gone comes back here, outside the lock, since dropping it wakes again.
        drop(admitted);
    }

    /// Whether anything is under way, waiting or open.
    pub fn in_use(&self) -> bool {
        self.usage() != Usage::default()
    }

    /// What is in use now.
    pub fn usage(&self) -> Usage {
        Usage {
            requests: requests(self.used.load(SeqCst)),
            connections: self.sockets.load(SeqCst),
            pending: self.waiting.load(SeqCst),
        }
    }

    async fn wait(self: &Arc<Self>, need: Need, deadline: Option<Instant>) -> Result<Permit, Refused> {
        let (admit, mut admitted) = oneshot::channel();
        let ticket = self.tickets.fetch_add(1, SeqCst);
        let queued = {
            let mut queue = self.queue.lock();
            if queue.len() >= self.max_pending.load(SeqCst) as usize {
                return Err(Refused::Full);
            }
            let waiter = Waiter { ticket, need, admit };
            if need == Need::Shared {
                queue.push_front(waiter);
            } else {
                queue.push_back(waiter);
            }
            self.waiting.store(length(&queue), SeqCst);
            Queued { gate: self, ticket }
        };
        // Room may have appeared between the first look and the queue; whoever made it may not have seen us waiting.
        self.wake();
        let patience = Duration::from_millis(self.max_pending_millis.load(SeqCst));
        let patience = Instant::now().checked_add(patience);
        let until = [patience, deadline].into_iter().flatten().min();
        let outcome = match until {
            None => (&mut admitted).await.ok(),
            Some(until) => timeout_at(until, &mut admitted).await.ok().and_then(Result::ok),
        };
        drop(queued);
        // Out of the queue now; an admission that crossed the time-out is still ours.
        outcome.or_else(|| admitted.try_recv().ok()).ok_or(if until == patience {
            Refused::TimedOut
        } else {
            Refused::Deadline
        })
    }

    /// Admits from the front of the queue while there is room. Returns permits whose waiters had gone.
    fn admit_waiting(self: &Arc<Self>, queue: &mut VecDeque<Waiter>) -> Vec<Permit> {
        let mut orphans = Vec::new();
        while queue.front().is_some_and(|waiter| self.admit(waiter.need)) {
            let Some(waiter) = queue.pop_front() else { break };
            let permit = Permit { gate: Arc::clone(self), need: waiter.need };
            orphans.extend(waiter.admit.send(permit).err());
        }
        self.waiting.store(length(queue), SeqCst);
        orphans
    }

    /// Takes what `need` needs, all or nothing.
    fn admit(&self, need: Need) -> bool {
        let (max_requests, max_connections) = (self.max_requests.load(SeqCst), self.max_connections.load(SeqCst));
        let take = |used| {
            let room =
                (!need.place() || requests(used) < max_requests) && (!need.lease() || leases(used) < max_connections);
            room.then(|| used + need.word())
        };
        self.used.fetch_update(SeqCst, SeqCst, take).is_ok()
    }
}

impl Need {
    fn place(self) -> bool {
        self != Self::Shared
    }

    fn lease(self) -> bool {
        self != Self::Stream
    }

    /// What it adds to what is used.
    fn word(self) -> u64 {
        u64::from(self.lease()) << 32 | u64::from(self.place())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.used.fetch_sub(self.need.word(), SeqCst);
        self.gate.wake();
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        {
            let mut queue = self.gate.queue.lock();
            queue.retain(|waiter| waiter.ticket != self.ticket);
            self.gate.waiting.store(length(&queue), SeqCst);
        }
        // Who stood behind may fit where this one did not.
        self.gate.wake();
    }
}

/// Adds one unless that would exceed the limit.
fn take(used: &AtomicU32, limit: &AtomicU32) -> bool {
    let limit = limit.load(SeqCst);
    used.fetch_update(SeqCst, SeqCst, |used| (used < limit).then(|| used + 1)).is_ok()
}

#[allow(clippy::cast_possible_truncation, reason = "the lower half is what is wanted")]
fn requests(used: u64) -> u32 {
    used as u32
}

#[allow(clippy::cast_possible_truncation, reason = "half of it is left")]
fn leases(used: u64) -> u32 {
    (used >> 32) as u32
}

fn length(queue: &VecDeque<Waiter>) -> u32 {
    u32::try_from(queue.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
