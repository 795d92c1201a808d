//! The callers' connections: bounded in number and in how long they may be kept waiting, because each takes memory however little
//! comes by it, and counted, so that the end of the last can be awaited.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use firebreak_crds::spec::defaults::{CALLER_IDLE, REQUEST_HEAD_TIME};

use tokio::sync::Notify;

/// The most connections where nothing says how much memory there is.
pub const DEFAULT_LIMIT: usize = 10_000;

/// What the proxy takes of its memory limit before the first connection, and what one connection takes at most while nothing
/// moves on it: an HTTP/1 connection at both sides, with its buffers.
const BASE: u64 = 24 << 20;
const EACH: u64 = 48 << 10;

/// Open connections from callers, of all workers.
#[derive(Clone, Debug)]
pub struct Connections(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    open: AtomicUsize,
    resting: AtomicUsize,
    limit: usize,
    idle_closed: AtomicU64,
    last_closed: Notify,
}

/// A connection that counts until this is dropped.
#[derive(Debug)]
pub struct Counted {
    connections: Connections,
    /// How many there were, this one included.
    number: usize,
}

/// A connection that counts as being at rest until this is dropped.
#[derive(Debug)]
pub struct Resting(Connections);

/// How long callers may keep their connections waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    /// For the rest of a request's head, from its first byte.
    pub head: Duration,
    /// For the next request, while none is under way.
    pub idle: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self { head: REQUEST_HEAD_TIME, idle: CALLER_IDLE }
    }
}

/// How many connections fit into `memory` bytes of which bodies may take `replay`; at least a hundred.
pub fn limit_for(memory: u64, replay: usize) -> usize {
    let left = memory.saturating_sub(BASE).saturating_sub(u64::try_from(replay).unwrap_or(u64::MAX));
    usize::try_from(left / EACH).unwrap_or(usize::MAX).max(100)
}

impl Default for Connections {
    fn default() -> Self {
        Self::new(DEFAULT_LIMIT)
    }
}

impl Connections {
    /// None yet, and never more than `limit` that are served.
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Inner {
            open: AtomicUsize::new(0),
            resting: AtomicUsize::new(0),
            limit,
            idle_closed: AtomicU64::new(0),
            last_closed: Notify::new(),
        }))
    }

    /// Counts one more. Whoever [exceeds](Counted::exceeds) the limit is to be refused.
    pub fn count(&self) -> Counted {
        let number = self.0.open.fetch_add(1, SeqCst) + 1;
        Counted { connections: self.clone(), number }
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.0.open.load(SeqCst)
    }

    /// Counts a connection that is at rest, until what is returned is dropped.
    pub fn rest(&self) -> Resting {
        self.0.resting.fetch_add(1, SeqCst);
        Resting(self.clone())
    }

    /// How many of those that are open are at rest.
    pub fn resting(&self) -> usize {
        self.0.resting.load(SeqCst)
    }

    /// How many may be.
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// Counts a connection that is closed because it has carried no request for so long.
    pub fn close_idle(&self) {
        self.0.idle_closed.fetch_add(1, Relaxed);
    }

    /// How many were closed for that.
    pub fn idle_closed(&self) -> u64 {
        self.0.idle_closed.load(Relaxed)
    }

    /// Resolves when none is open.
    pub async fn none(&self) {
        loop {
            let closed = self.0.last_closed.notified();
            if self.open() == 0 {
                return;
            }
            closed.await;
        }
    }
}

impl Counted {
    /// Whether it is one too many.
    pub fn exceeds(&self) -> bool {
        self.number > self.connections.limit()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let inner = &self.connections.0;
        if inner.open.fetch_sub(1, SeqCst) == 1 {
            inner.last_closed.notify_waiters();
        }
    }
}

impl Drop for Resting {
    fn drop(&mut self) {
        self.0.0.resting.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_one_too_many_is_told_and_room_comes_back() {
        let connections = Connections::new(2);
        let two = [connections.count(), connections.count()];
        assert!(two.iter().all(|counted| !counted.exceeds()));
        assert!(connections.count().exceeds());
        drop(two);
        assert!(!connections.count().exceeds());
        assert_eq!(connections.open(), 0);
    }

    #[test]
    fn the_limit_follows_the_memory() {
        assert_eq!(limit_for(128 << 20, 16 << 20), 1877);
        assert_eq!(limit_for(0, 0), 100);
    }
}
