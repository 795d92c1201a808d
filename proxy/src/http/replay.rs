//! What is kept of requests' bodies for another try, of all requests of the proxy together.
//!
//! Each keeps 64 KiB at most, and a burst of uploads could take more memory than the proxy has. Beyond the bound a body is not kept:
//! its request goes through as ever, and is sent once.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use firebreak_crds::spec::defaults::REPLAY_TOTAL;

/// Which part of the memory limit it may be.
const PART: u64 = 8;

/// Bytes that are kept, of all workers.
#[derive(Clone, Debug)]
pub struct Replay(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    held: AtomicUsize,
    limit: usize,
    refused: AtomicU64,
}

/// What one request keeps. It counts until this is dropped.
#[derive(Debug)]
pub struct Held {
    replay: Replay,
    bytes: usize,
}

/// How many bytes bodies may take, of `memory` where that is known: an eighth.
pub fn limit_for(memory: Option<u64>) -> usize {
    memory.map_or(REPLAY_TOTAL, |memory| usize::try_from(memory / PART).unwrap_or(usize::MAX))
}

impl Default for Replay {
    fn default() -> Self {
        Self::new(REPLAY_TOTAL)
    }
}

impl Replay {
    /// Nothing yet, and never more than `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Inner { held: AtomicUsize::new(0), limit, refused: AtomicU64::new(0) }))
    }

    /// For one more request, which keeps nothing yet.
    pub fn hold(&self) -> Held {
        Held { replay: self.clone(), bytes: 0 }
    }

    /// Bytes that are kept now.
    pub fn held(&self) -> usize {
        self.0.held.load(Relaxed)
    }

    /// How many may be.
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// Requests whose bodies were not kept because others took all there was.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Relaxed)
    }
}

impl Held {
    /// Keeps `bytes` in all, or nothing any more where there is no room for them. Whether there is.
    pub fn keep(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let inner = &self.replay.0;
        let held = inner.held.fetch_add(more, Relaxed) + more;
        self.bytes += more;
        if held <= inner.limit {
            return true;
        }
        inner.refused.fetch_add(1, Relaxed);
        self.release();
        false
    }

    /// Keeps nothing any more.
    pub fn release(&mut self) {
        self.replay.0.held.fetch_sub(std::mem::take(&mut self.bytes), Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn together_they_keep_no_more_than_the_limit() {
        let replay = Replay::new(100);
        let (mut one, mut other) = (replay.hold(), replay.hold());
        assert!(one.keep(40) && one.keep(60) && other.keep(40));
        assert_eq!(replay.held(), 100);
        assert!(!other.keep(41), "there is no room for one more");
        assert_eq!((replay.held(), replay.refused()), (60, 1), "and what it had is given back");
        assert!(one.keep(100));
        drop((one, other));
        assert_eq!(replay.held(), 0);
    }

    #[test]
    fn the_limit_follows_the_memory() {
        assert_eq!(limit_for(Some(256 << 20)), 32 << 20);
    }
}
