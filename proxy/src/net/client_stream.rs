//! A caller's connection, as the HTTP server reads it: bytes that were read to see what is spoken come first, and the
//! moment of a request's first byte is noted, because the request's clock starts there.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};

use super::opaque;
use crate::{
    http::{reply, serve::Link},
    verdict::{REASONS, Reason, proxy_status::Member},
    worker::Common,
};

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
    /// A reason and one more.
    malformed: AtomicUsize,
    /// The last write found no room.
    blocked: AtomicBool,
    upgraded: AtomicBool,
    reset: AtomicBool,
}

/// A caller's connection.
#[derive(Debug)]
pub struct ClientStream {
    stream: TcpStream,
    prefix: Bytes,
    moments: Moments,
    common: Arc<Common>,
    /// What is being written in the place of the HTTP library's own answer.
    refusal: Option<Refusal>,
}

#[derive(Debug)]
struct Refusal {
    text: Bytes,
    /// Bytes of the answer that it stands for.
    instead_of: usize,
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

    /// Why the connection could not go on, if the caller's bytes were not HTTP.
    pub fn malformed(&self) -> Option<Reason> {
        REASONS.get(self.marks.malformed.load(Relaxed).checked_sub(1)?).copied()
    }

    /// From now on the connection carries another protocol, whose bytes are none of ours.
    pub fn upgrade(&self) {
        self.marks.upgraded.store(true, Relaxed);
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

    fn upgraded(&self) -> bool {
        self.marks.upgraded.load(Relaxed)
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
        let (moments, common) = (link.moments.clone(), Arc::clone(&link.worker.common));
        if !prefix.is_empty() {
            moments.note();
        }
        Self { stream, prefix, moments, common, refusal: None }
    }

    /// Resolves when there is something to read, or the end.
    pub async fn readable(&self) {
        // An error is for whoever reads.
        let _ = self.stream.readable().await;
    }

    /// Takes back bytes that were read from it and not used.
    pub fn unread(&mut self, bytes: &[u8]) {
        debug_assert!(self.prefix.is_empty(), "what was read comes after the prefix");
        // A copy, because however few they are they hold the whole buffer that they were read into.
        self.prefix = Bytes::copy_from_slice(bytes);
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

    /// Writes, and answers in our own words where the HTTP library answers by itself.
    fn poll_write_explained(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.refusal.is_none() {
            match bare(buf).filter(|_| !self.moments.upgraded()) {
                None => return Pin::new(&mut self.stream).poll_write(cx, buf),
                // The answer before it first.
                Some((from @ 1.., _)) => return Pin::new(&mut self.stream).poll_write(cx, &buf[..from]),
                Some((0, reason)) => {
                    self.moments.marks.malformed.store(reason as usize + 1, Relaxed);
                    self.refusal =
                        Some(Refusal { text: refusal(&self.common.name, reason).into(), instead_of: buf.len() });
                }
            }
        }
        while let Some(refusal) = self.refusal.as_mut().filter(|refusal| !refusal.text.is_empty()) {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &refusal.text))?;
            refusal.text.advance(written);
        }
        Poll::Ready(Ok(self.refusal.take().map_or(0, |refusal| refusal.instead_of)))
    }
}

/// How the HTTP library's answers to a head that it cannot read end, after their status line. Ours always say more.
const BARE: &[u8] = b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Whether bytes end like such an answer. A body that does is handed over in two pieces.
pub fn ends_like_a_refusal(bytes: &[u8]) -> bool {
    bare(bytes).is_some()
}

/// Where such an answer begins, if one ends `buf`, and why it was given.
fn bare(buf: &[u8]) -> Option<(usize, Reason)> {
    let before = buf.strip_suffix(BARE)?;
    let from = before.windows(2).rposition(|end| end == b"\r\n").map_or(0, |end| end + 2);
    let reason = match before[from..].strip_prefix(b"HTTP/1.1 ")?.get(..3)? {
        b"400" => Reason::RequestMalformed,
        b"414" | b"431" => Reason::RequestHeadTooLarge,
        _ => return None,
    };
    Some((from, reason))
}

fn refusal(name: &str, reason: Reason) -> String {
    let member = Member::new(name, reason, reason.domain());
    let body = reply::text(reason);
    format!(
        "HTTP/1.1 {}\r\nconnection: close\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nproxy-status: {}\r\n\r\n{body}",
        reason.status(),
        body.len(),
        member.to_text()
    )
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        if self.moments.marks.reset.load(Relaxed) {
            opaque::reset(&self.stream);
        }
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
        let poll = this.poll_write_explained(cx, buf);
        this.noted(poll)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = match bufs.iter().rposition(|buf| !buf.is_empty()) {
            // A head alone, or the library's own answer: both come last.
            Some(last) if bare(&bufs[last]).is_some() && !this.moments.upgraded() => {
                match bufs[..last].iter().find(|buf| !buf.is_empty()) {
                    Some(first) => Pin::new(&mut this.stream).poll_write(cx, first),
                    None => this.poll_write_explained(cx, &bufs[last]),
                }
            }
            _ => Pin::new(&mut this.stream).poll_write_vectored(cx, bufs),
        };
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
