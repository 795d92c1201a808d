//! A caller's connection, as the HTTP server reads it: bytes that were read to see what is spoken come first, and the
//! moment of a request's first byte is noted, because the request's clock starts there.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
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

/// When the first byte of the request that is being read arrived. The pipeline takes it.
///
/// Atomic only because an upgraded connection must be able to change threads; it never does.
#[derive(Clone, Debug)]
pub struct FirstByte {
    opened: Instant,
    /// Nanoseconds after `opened`, and one more; zero while no byte has come.
    since: Arc<AtomicU64>,
}

/// A caller's connection.
#[derive(Debug)]
pub struct ClientStream {
    stream: TcpStream,
    prefix: Bytes,
    first_byte: FirstByte,
}

impl FirstByte {
    /// For a connection that was opened at `opened`.
    pub fn new(opened: Instant) -> Self {
        Self { opened, since: Arc::default() }
    }

    /// The moment, if a byte has arrived since it was last taken.
    pub fn take(&self) -> Option<Instant> {
        let since = self.since.swap(0, Relaxed);
        since.checked_sub(1).map(|since| self.opened + Duration::from_nanos(since))
    }

    /// Forgets bytes that belonged to the body of the request that is now over.
    pub fn reset(&self) {
        self.since.store(0, Relaxed);
    }

    /// Notes that a byte has arrived now, if none has.
    pub fn note(&self) {
        if self.since.load(Relaxed) == 0 {
            let since = self.opened.elapsed().as_nanos();
            self.since.store(u64::try_from(since).unwrap_or(u64::MAX - 1) + 1, Relaxed);
        }
    }
}

impl ClientStream {
    /// A connection of which `prefix` has been read already.
    pub fn new(stream: TcpStream, prefix: Bytes, first_byte: FirstByte) -> Self {
        if !prefix.is_empty() {
            first_byte.note();
        }
        Self { stream, prefix, first_byte }
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
            this.first_byte.note();
        }
        poll
    }
}

impl AsyncWrite for ClientStream {
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
