//! How many requests are under a fault at once: its blast radius.
//!
//! A place is taken in one step, so racing workers never hit more requests than `maxActive`, and spare none while there is a place.
//! Nothing else is read by what is counted here, so the order of memory does not matter.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use crate::sync::{AtomicU32, AtomicU64};

/// The requests under one FaultSpec, in all of this proxy.
#[derive(Debug, Default)]
pub struct Active {
    requests: AtomicU32,
    spared: AtomicU64,
}

/// One of the requests, until this is dropped.
#[derive(Debug)]
pub struct Place(Arc<Active>);

impl Active {
    /// Takes a place for a request, if fewer than `most` have one; else the request is spared, which is counted.
    pub fn take(self: &Arc<Self>, most: u32) -> Option<Place> {
        let one_more = |requests: u32| requests.checked_add(1).filter(|requests| *requests <= most);
        let taken = self.requests.fetch_update(Relaxed, Relaxed, one_more).is_ok();
        if !taken {
            self.spared.fetch_add(1, Relaxed);
        }
        taken.then(|| Place(Arc::clone(self)))
    }

    /// Requests that have a place now.
    pub fn requests(&self) -> u32 {
        self.requests.load(Relaxed)
    }

    /// Tries that would have been hit, had there been a place.
    pub fn spared(&self) -> u64 {
        self.spared.load(Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Relaxed);
    }
}
