//! Sockets: the part of the bulkhead that idle connections take.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering::SeqCst},
    task::{Context, Poll},
};

use tokio::sync::futures::Notified;

use super::{Gate, take};

/// A socket that counts against `maxConnections` until this is dropped.
#[derive(Debug)]
pub struct Opened(Arc<Gate>);

/// What to do before a socket may be opened.
#[derive(Debug)]
pub enum Room {
    /// Open it.
    Yes(Opened),
    /// Give up an idle connection of this callee, in this worker or another, then ask again after [`Gate::socket_freed`].
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

    /// Resolves when a socket has been closed, or has become idle, since the call. Call it before [`open`](Self::open),
    /// await it after.
    pub fn socket_freed(&self) -> Freed<'_> {
        self.wanting.fetch_add(1, SeqCst);
        Freed { gate: self, notified: Box::pin(self.freed.notified()) }
    }

    /// Tells who waits for room that there is an idle socket to give up. Costs nothing while nobody waits.
    pub fn socket_is_idle(&self) {
        if self.wanting.load(SeqCst) > 0 {
            self.freed.notify_waiters();
        }
    }
}

/// See [`Gate::socket_freed`].
#[derive(Debug)]
pub struct Freed<'a> {
    gate: &'a Gate,
    notified: Pin<Box<Notified<'a>>>,
}

impl Future for Freed<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.notified.as_mut().poll(cx)
    }
}

impl Drop for Freed<'_> {
    fn drop(&mut self) {
        self.gate.wanting.fetch_sub(1, SeqCst);
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.sockets.fetch_sub(1, SeqCst);
        self.0.socket_is_idle();
    }
}
