//! A connection that counts how often bytes came from its callee.
//!
//! An HTTP/2 connection on which nothing at all came during a whole try may lead nowhere: a host that is gone without a
//! word, a route that swallows packets. The kernel gives such a connection up after a quarter of an hour, and a PING that
//! would find out sooner is an offence to servers that count PINGs (gRPC's close with `too_many_pings` at more than two in
//! five minutes on a quiet stream). So the tries themselves tell.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How often bytes have come.
#[derive(Clone, Debug, Default)]
pub struct Received(Rc<Cell<u64>>);

/// A connection that counts.
#[derive(Debug)]
pub struct Counting<T> {
    stream: T,
    received: Received,
}

impl Received {
    /// The count so far.
    pub fn count(&self) -> u64 {
        self.0.get()
    }
}

impl<T> Counting<T> {
    /// Counts in `received` what comes by `stream`.
    pub fn new(stream: T, received: Received) -> Self {
        Self { stream, received }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Counting<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let poll = Pin::new(&mut this.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            this.received.0.set(this.received.0.get().wrapping_add(1));
        }
        poll
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counting<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
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
