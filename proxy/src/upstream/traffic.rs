//! What a connection to a callee has carried, and how it went: the evidence when a try on it fails.
//!
//! An HTTP/2 connection on which nothing at all came during a whole try may lead nowhere: a host that is gone without a
//! word, a route that swallows packets. The kernel gives such a connection up after a quarter of an hour, and a PING that
//! would find out sooner is an offence to servers that count PINGs (gRPC's close with `too_many_pings` at more than two in
//! five minutes on a quiet stream). So the tries themselves tell.
//!
//! Only the connection's own thread writes; the counts are atomic because the HTTP library wants a stream that could be sent
//! elsewhere.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicI32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::keep_alive::KeepAlive;
use crate::{
    clock,
    h1::conn::Stream,
    telemetry::metrics::{CalleeMetrics, Counter},
};

/// The counts of one connection.
#[derive(Debug)]
pub struct Traffic {
    opened: Instant,
    sent: Counter,
    received: Counter,
    /// The last error of the system; 0 for none.
    errno: AtomicI32,
    /// When its last request ended: microseconds since it was opened, and one more. 0 while it carries one, or carried none.
    idle_since: AtomicU64,
    callee: Arc<CalleeMetrics>,
}

/// Volume both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// To the callee.
    pub sent: u64,
    /// From it.
    pub received: u64,
}

/// A connection that counts.
#[derive(Debug)]
pub struct Counting<T> {
    stream: T,
    traffic: Arc<Traffic>,
}

impl Traffic {
    /// Of a connection to this callee that was opened now.
    pub fn new(callee: &Arc<CalleeMetrics>) -> Arc<Self> {
        Arc::new(Self {
            opened: clock::now(),
            sent: Counter::default(),
            received: Counter::default(),
            errno: AtomicI32::new(0),
            idle_since: AtomicU64::new(0),
            callee: Arc::clone(callee),
        })
    }

    /// The bytes so far.
    pub fn bytes(&self) -> Volume {
        Volume { sent: self.sent.get(), received: self.received.get() }
    }

    /// How long it has been open.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.opened)
    }

    /// The last error of the system on it.
    pub fn errno(&self) -> Option<i32> {
        Some(self.errno.load(Relaxed)).filter(|errno| *errno != 0)
    }

    /// It carries no request any more.
    pub fn idle(&self, now: Instant) {
        let age = u64::try_from(self.age(now).as_micros()).unwrap_or(u64::MAX - 1);
        self.idle_since.store(age + 1, Relaxed);
    }

    /// It is to carry a request; for how long it has carried none since the last.
    pub fn busy(&self, now: Instant) -> Duration {
        let idle = self.idle_for(now);
        self.idle_since.store(0, Relaxed);
        idle.unwrap_or_default()
    }

    /// How long it has carried no request, since it carried one.
    pub fn idle_for(&self, now: Instant) -> Option<Duration> {
        let since = self.idle_since.load(Relaxed).checked_sub(1)?;
        Some(self.age(now).saturating_sub(Duration::from_micros(since)))
    }

    /// What is known of how long its callee lets connections be idle.
    pub fn keep_alive(&self) -> &KeepAlive {
        &self.callee.keep_alive
    }

    /// The callee has closed it.
    fn closed(&self) {
        let now = clock::now();
        if let Some(idle) = self.idle_for(now) {
            self.idle_since.store(0, Relaxed);
            self.keep_alive().closed(idle, now);
        }
    }

    fn failed(&self, error: &io::Error) {
        self.errno.store(error.raw_os_error().unwrap_or_default(), Relaxed);
        self.closed();
    }

    fn wrote(&self, poll: &Poll<io::Result<usize>>) {
        match poll {
            Poll::Ready(Ok(bytes)) => self.sent.add(*bytes as u64),
            Poll::Ready(Err(error)) => self.failed(error),
            Poll::Pending => {}
        }
    }
}

impl<T> Counting<T> {
    /// Counts in `traffic` what goes and comes by `stream`.
    pub fn new(stream: T, traffic: Arc<Traffic>) -> Self {
        Self { stream, traffic }
    }

    /// The connection itself.
    pub fn get_ref(&self) -> &T {
        &self.stream
    }
}

impl<T: Stream> Stream for Counting<T> {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_readable(cx)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Counting<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let (before, room) = (buf.filled().len(), buf.remaining());
        let poll = Pin::new(&mut this.stream).poll_read(cx, buf);
        match &poll {
            Poll::Ready(Ok(())) if buf.filled().len() > before => {
                this.traffic.received.add((buf.filled().len() - before) as u64);
            }
            Poll::Ready(Ok(())) if room > 0 => this.traffic.closed(),
            Poll::Ready(Err(error)) => this.traffic.failed(error),
            _ => {}
        }
        poll
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counting<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.traffic.wrote(&poll);
        poll
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.traffic.wrote(&poll);
        poll
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
