//! Sockets: the part of the bulkhead that idle connections take.

use std::sync::{Arc, atomic::Ordering::SeqCst};

use super::{Gate, take};

/// A socket that counts against `maxConnections` until this is dropped.
#[derive(Debug)]
pub struct Opened(Arc<Gate>);

/// What to do before a socket may be opened.
#[derive(Debug)]
pub enum Room {
    /// Open it.
    Yes(Opened),
    /// Give up an idle connection of this callee, in this worker or another, then ask again after [`Gate::closed`].
    AfterClosingIdle,
}

impl Gate {
    /// Counts a socket that is about to be opened, if the limit leaves room.
    pub fn open(self: &Arc<Self>) -> Room {
        if take(&self.sockets, &self.max_connections) {
            Room::Yes(Opened(Arc::clone(self)))
        } else {
            Room::AfterClosingIdle
        }
    }

    /// Resolves when a socket has been closed since the call. Call it before [`open`](Self::open), await it after.
    pub fn closed(&self) -> tokio::sync::futures::Notified<'_> {
        self.socket_closed.notified()
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.sockets.fetch_sub(1, SeqCst);
        self.0.socket_closed.notify_waiters();
    }
}
