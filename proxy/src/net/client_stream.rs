//! A caller's connection, as the HTTP server reads it: bytes that were read to see what is spoken come first, and the
//! moment of a request's first byte is noted, because the request's clock starts there.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};

use super::opaque;
use crate::{clock, h1::conn::Stream, http::serve::Link};

/// When the first byte of the request that is being read arrived, which the pipeline takes; and when a caller that had let
/// its responses pile up last took some of them.
#[derive(Clone, Debug, Default)]
pub struct Moments(Rc<Marks>);

#[derive(Debug, Default)]
struct Marks {
    first_byte: Cell<Option<Instant>>,
    drained: Cell<Option<Instant>>,
    /// The last write found no room.
    blocked: Cell<bool>,
    reset: Cell<bool>,
}

/// A caller's connection.
#[derive(Debug)]
pub struct ClientStream {
    stream: TcpStream,
    prefix: Bytes,
    moments: Moments,
}

impl Moments {
    /// The moment, if a byte has arrived since it was last taken.
    pub fn take(&self) -> Option<Instant> {
        self.0.first_byte.take()
    }

    /// The same without taking it.
    pub fn first_byte(&self) -> Option<Instant> {
        self.0.first_byte.get()
    }

    /// Forgets bytes that belonged to the body of the request that is now over.
    pub fn reset(&self) {
        self.0.first_byte.set(None);
    }

    /// Notes that a byte has arrived now, if none has.
    pub fn note(&self) {
        if self.0.first_byte.get().is_none() {
            self.0.first_byte.set(Some(clock::now()));
        }
    }

    /// When a caller that had let its responses pile up last took some of them.
    pub fn drained(&self) -> Option<Instant> {
        self.0.drained.get()
    }

    /// Whether the last write found no room.
    pub fn is_blocked(&self) -> bool {
        self.0.blocked.get()
    }

    /// The connection is to end by a reset.
    pub fn reset_at_close(&self) {
        self.0.reset.set(true);
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

    /// The same without a link.
    #[cfg(test)]
    pub fn after(stream: TcpStream, prefix: Bytes) -> Self {
        Self { stream, prefix, moments: Moments::default() }
    }

    /// Resolves when there is something to read, or the end.
    pub async fn readable(&self) {
        // An error is for whoever reads.
        let _ = self.stream.readable().await;
    }

    /// The clock is read only after a write that found no room: rarely, unless the caller is slow.
    fn noted(&mut self, poll: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let marks = &self.moments.0;
        if marks.blocked.get() != poll.is_pending() {
            marks.blocked.set(poll.is_pending());
            if poll.is_ready() {
                marks.drained.set(Some(clock::now()));
            }
        }
        poll
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        if self.moments.0.reset.get() {
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
