//! A caller's connection, as the HTTP server reads it: bytes that were read to see what is spoken come first, and the
//! moment of a request's first byte is noted, because the request's clock starts there.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};

use super::opaque;
use crate::{h1::conn::Stream, http::serve::Link};

/// When the first byte of the request that is being read arrived, which the pipeline takes; and when a caller that had let
/// its responses pile up last took some of them.
///
/// Atomic only because an upgraded connection must be able to change threads; it never does.
#[derive(Clone, Debug)]
pub struct Moments {
    opened: Instant,
    marks: Arc<Marks>,
}

/// Nanoseconds after the connection was opened, and one more; zero for never.
#[derive(Debug, Default)]
struct Marks {
    first_byte: AtomicU64,
    drained: AtomicU64,
    /// The last write found no room.
    blocked: AtomicBool,
    reset: AtomicBool,
}

/// A caller's connection.
#[derive(Debug)]
pub struct ClientStream {
    stream: TcpStream,
    prefix: Bytes,
    moments: Moments,
}

impl Moments {
    /// For a connection that was opened at `opened`.
    pub fn new(opened: Instant) -> Self {
        Self { opened, marks: Arc::default() }
    }

    /// The moment, if a byte has arrived since it was last taken.
    pub fn take(&self) -> Option<Instant> {
        self.instant(self.marks.first_byte.swap(0, Relaxed))
    }

    /// Forgets bytes that belonged to the body of the request that is now over.
    pub fn reset(&self) {
        self.marks.first_byte.store(0, Relaxed);
    }

    /// Notes that a byte has arrived now, if none has.
    pub fn note(&self) {
        if self.marks.first_byte.load(Relaxed) == 0 {
            self.marks.first_byte.store(self.mark(), Relaxed);
        }
    }

    /// When a caller that had let its responses pile up last took some of them.
    pub fn drained(&self) -> Option<Instant> {
        self.instant(self.marks.drained.load(Relaxed))
    }

    /// Whether nothing has come that was not taken, and nothing waits for room to be written.
    pub fn is_at_rest(&self) -> bool {
        self.marks.first_byte.load(Relaxed) == 0 && !self.is_blocked()
    }

    /// Whether the last write found no room.
    pub fn is_blocked(&self) -> bool {
        self.marks.blocked.load(Relaxed)
    }

    /// The connection is to end by a reset.
    pub fn reset_at_close(&self) {
        self.marks.reset.store(true, Relaxed);
    }

    fn mark(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_nanos()).unwrap_or(u64::MAX - 1) + 1
    }

    fn instant(&self, mark: u64) -> Option<Instant> {
        mark.checked_sub(1).map(|since| self.opened + Duration::from_nanos(since))
    }
}

impl ClientStream {
    /// A connection of which `prefix` has been read already.
    pub fn new(stream: TcpStream, prefix: Bytes, link: &Link) -> Self {
        let moments = link.moments.clone();
        if !prefix.is_empty() {
            moments.note();
        }
        Self { stream, prefix, moments }
    }

    /// Resolves when there is something to read, or the end.
    pub async fn readable(&self) {
        // An error is for whoever reads.
        let _ = self.stream.readable().await;
    }

    /// The clock is read only after a write that found no room: rarely, unless the caller is slow.
    fn noted(&mut self, poll: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let marks = &self.moments.marks;
        if marks.blocked.load(Relaxed) != poll.is_pending() {
            marks.blocked.store(poll.is_pending(), Relaxed);
            if poll.is_ready() {
                marks.drained.store(self.moments.mark(), Relaxed);
            }
        }
        poll
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        if self.moments.marks.reset.load(Relaxed) {
            opaque::reset(&self.stream);
        }
    }
}

impl Stream for ClientStream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.prefix.has_remaining() { Poll::Ready(()) } else { self.stream.poll_readable(cx) }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.prefix.has_remaining() {
            let take = this.prefix.len().min(buf.remaining());
            buf.put_slice(&this.prefix.split_to(take));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let poll = Pin::new(&mut this.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            this.moments.note();
        }
        poll
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.noted(poll)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.noted(poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
