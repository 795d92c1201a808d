//! The response's body on its way to the caller. It holds the call: its place in the bulkhead, its connection and its
//! clocks are given up with the last byte, or when the caller goes away.

use std::{
    cell::RefCell,
    error::Error,
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::{
    task::{AbortHandle, spawn_local},
    time::sleep_until,
};

use super::{
    call::Call,
    grpc,
    reply::{failure_of, own_trailers},
    send_body::{Activity, Upload},
    spoil::Spoiled,
};
use crate::{
    clock,
    policy::timeout::{End, nearest},
    upstream::send::{Connection, FromCallee},
    verdict::{Domain, Reason},
};

/// A response's body.
#[derive(Debug)]
pub struct ReplyBody(Kind);

#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "relayed bodies are the rule; a box would cost each of them an allocation"
)]
enum Kind {
    Empty,
    Whole(Bytes),
    Relayed(Relay),
    /// The same, once it did not end with its first frame and a clock runs.
    Watched(Rc<RefCell<Watched>>),
}

/// The callee's body, and what ends with it.
#[derive(Debug)]
struct Relay {
    /// Gone when the call was ended before it: what it still holds back would take room on a connection that others share.
    body: Option<FromCallee>,
    /// What was read of it before.
    first: Option<Box<Frame<Bytes>>>,
    /// Where a fault is at it.
    spoiled: Option<Box<Spoiled>>,
    /// Gone when the body has ended, one way or another.
    tail: Option<Tail>,
}

/// A body with a task beside it that looks at the clocks, because nobody asks a body for more while the caller does not read.
#[derive(Debug)]
struct Watched {
    relay: Relay,
    ended: Option<Ending>,
    reader: Option<Waker>,
    watch: Option<AbortHandle>,
}

/// What ends with the body.
#[derive(Debug)]
pub struct Tail {
    call: Box<Call>,
    connection: Connection,
    upload: Upload,
    /// What the head said already.
    reason: Option<Reason>,
    idle: Option<(Activity, Duration)>,
    /// Whether a gRPC status must still come: a callee that ends without one has broken off, however orderly that looks.
    owes_status: bool,
}

/// How a body ends early.
#[derive(Debug)]
struct Ending {
    reason: Reason,
    /// What a gRPC call is told.
    trailers: Option<HeaderMap>,
}

impl Ending {
    fn frame(&mut self) -> Result<Frame<Bytes>, Broken> {
        self.trailers.take().map(Frame::trailers).ok_or(Broken(self.reason))
    }
}

/// Why a body ended early. The caller's connection is cut, so that nobody takes the part for the whole.
#[derive(Debug, thiserror::Error)]
#[error("{0:?}")]
struct Broken(Reason);

impl Tail {
    /// `reason` is why the call failed, if the response's head says that it did;
    /// `owes_status`, whether it is a gRPC response that must still have one.
    pub fn new(
        call: Box<Call>,
        connection: Connection,
        upload: Upload,
        reason: Option<Reason>,
        idle: Option<(Activity, Duration)>,
        owes_status: bool,
    ) -> Self {
        Self { call, connection, upload, reason, idle, owes_status }
    }

    /// The last byte has gone.
    fn finish(mut self) {
        match self.reason {
            None => self.call.succeeded(),
            Some(reason) => self.call.failed(reason),
        }
        if let (Connection::Exclusive(exclusive), true) = (self.connection, self.upload.is_done()) {
            self.call.link.worker.pool.put(exclusive, &self.call.callee.gate);
        }
    }

    fn moved(&self) {
        if let Some((last, _)) = &self.idle {
            last.set(clock::now());
        }
    }

    /// What the callee says at its end. A server error gets its reason here as it would in a head.
    fn trailers(&mut self, trailers: &mut HeaderMap) {
        let status = if self.call.grpc { grpc::status(trailers) } else { None };
        if std::mem::take(&mut self.owes_status) && status.is_none() {
            self.reason = Some(Reason::ResponseIncomplete);
            trailers.extend(own_trailers(&self.call, Reason::ResponseIncomplete));
        }
        let received = self.call.status.unwrap_or_default();
        if self.reason.is_none()
            && let Some(reason) = failure_of(&self.call, received, status, trailers)
        {
            self.reason = Some(reason);
            self.call.find_dependency(reason, trailers);
            self.call.member(reason, Some(received)).append_to(trailers);
        }
    }

    /// The callee's answer goes no further. A gRPC call is told so by a status in its trailers, anything else by a cut.
    fn broken(mut self, reason: Reason) -> Ending {
        // On HTTP/1 nobody would see trailers, and the part would look like the whole. What a fault cuts ends without a word.
        let says_why = self.call.grpc && self.call.link.multiplexed && reason.domain() != Domain::Injected;
        let trailers = says_why.then(|| own_trailers(&self.call, reason));
        self.call.failed(reason);
        if reason == Reason::FaultReset {
            self.call.link.moments.reset_at_close();
        }
        if trailers.is_none() {
            self.call.link.cut();
        }
        Ending { reason, trailers }
    }

    /// The next moment at which a clock may run out.
    fn next_end(&self) -> Option<End> {
        let silent = self.idle.as_ref().map(|(last, idle)| {
            let moved = self.call.link.drained().map_or(last.get(), |drained| drained.max(last.get()));
            End { at: moved + *idle, reason: Reason::IdleTimeout }
        });
        nearest(self.call.request_end, silent)
    }
}

impl Relay {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match ready!(self.poll_next(cx)) {
            Some(Ok(mut frame)) => {
                if let Some(tail) = &mut self.tail {
                    tail.moved();
                    frame.trailers_mut().into_iter().for_each(|trailers| tail.trailers(trailers));
                }
                if self.is_end_stream() {
                    self.tail.take().into_iter().for_each(Tail::finish);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            None if !self.owes_status() => {
                self.tail.take().into_iter().for_each(Tail::finish);
                Poll::Ready(None)
            }
            ended => {
                let reason = ended.and_then(Result::err).unwrap_or(Reason::ResponseIncomplete);
                self.body = None;
                Poll::Ready(Some(self.tail.take().map_or(Err(Broken(reason)), |tail| tail.broken(reason).frame())))
            }
        }
    }

    fn owes_status(&self) -> bool {
        self.tail.as_ref().is_some_and(|tail| tail.owes_status)
    }

    /// The callee's next frame, as far as a fault lets it pass.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Reason>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        if let (Some(spoiled), Some(tail)) = (&mut self.spoiled, &self.tail) {
            return spoiled.poll_frame(body, &tail.call, cx);
        }
        let next = match self.first.take() {
            Some(first) => Some(Ok(*first)),
            None => ready!(Pin::new(body).poll_frame(cx)),
        };
        Poll::Ready(next.map(|next| next.map_err(|_| Reason::ResponseIncomplete)))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none()
            && self.spoiled.as_ref().is_none_or(|spoiled| spoiled.is_done())
            && self.body.as_ref().is_none_or(FromCallee::is_end_stream)
            && !self.owes_status()
    }

    fn size_hint(&self) -> SizeHint {
        // The body does not count what was read before.
        let is_whole = self.first.is_none() && self.spoiled.as_ref().is_none_or(|spoiled| spoiled.is_done());
        let body = self.body.as_ref().filter(|_| is_whole);
        body.map_or_else(SizeHint::default, FromCallee::size_hint)
    }

    /// Whether somebody must look at the clocks from now on.
    fn has_clocks(&self) -> bool {
        self.tail.as_ref().is_some_and(|tail| tail.next_end().is_some())
    }
}

impl Watched {
    fn new(relay: Relay) -> Rc<RefCell<Self>> {
        let watched = Rc::new(RefCell::new(Self { relay, ended: None, reader: None, watch: None }));
        let watch = spawn_local(Self::watch(Rc::downgrade(&watched)));
        watched.borrow_mut().watch = Some(watch.abort_handle());
        watched
    }

    async fn watch(watched: Weak<RefCell<Self>>) {
        loop {
            let next = watched.upgrade().and_then(|this| this.borrow().relay.tail.as_ref()?.next_end());
            let Some(end) = next else { return };
            sleep_until(end.at).await;
            let Some(this) = watched.upgrade() else { return };
            // Bytes may have moved since.
            let due = this.borrow().relay.tail.as_ref().and_then(Tail::next_end).filter(|end| end.at <= clock::now());
            if let Some(due) = due {
                let reader = this.borrow_mut().end(due.reason);
                return reader.into_iter().for_each(Waker::wake);
            }
        }
    }

    /// Gives up what the call holds.
    fn end(&mut self, reason: Reason) -> Option<Waker> {
        let tail = self.relay.tail.take()?;
        (self.relay.body, self.relay.first, self.relay.spoiled) = (None, None, None);
        self.ended = Some(tail.broken(reason));
        self.reader.take()
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Some(ended) = &mut self.ended {
            return Poll::Ready(Some(ended.frame()));
        }
        let poll = self.relay.poll_frame(cx);
        if poll.is_pending() {
            self.reader = Some(cx.waker().clone());
        }
        poll
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watch.take().into_iter().for_each(|watch| watch.abort());
    }
}

impl From<Kind> for ReplyBody {
    fn from(kind: Kind) -> Self {
        Self(kind)
    }
}

impl ReplyBody {
    /// No body.
    pub fn empty() -> Self {
        Kind::Empty.into()
    }

    /// A body that is all there.
    pub fn whole(bytes: Bytes) -> Self {
        Kind::Whole(bytes).into()
    }

    /// The callee's body, with what ends with it; `first` was read of it before.
    pub fn relayed(body: FromCallee, mut first: Option<Box<Frame<Bytes>>>, mut tail: Tail) -> Self {
        if first.is_none() && body.is_end_stream() {
            // There is nothing to spoil.
            tail.call.spoil = None;
            if !tail.owes_status {
                tail.finish();
                return Self::empty();
            }
        }
        let spoil = tail.call.spoil.as_deref().copied();
        let spoiled = spoil.map(|spoil| Box::new(Spoiled::new(spoil, first.take().map(|first| *first))));
        Kind::Relayed(Relay { body: Some(body), first, spoiled, tail: Some(tail) }).into()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut self.0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                self.0 = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Kind::Watched(watched) => {
                let poll = watched.borrow_mut().poll_frame(cx);
                if watched.borrow().relay.tail.is_none() && poll.is_ready() {
                    self.0 = Kind::Empty;
                }
                poll
            }
            Kind::Relayed(relay) => {
                let poll = relay.poll_frame(cx);
                if relay.tail.is_none() {
                    self.0 = Kind::Empty;
                } else if relay.has_clocks() {
                    return self.watch(poll, cx);
                }
                poll
            }
        }
    }

    /// Puts a task beside a body that goes on.
    fn watch<T>(&mut self, poll: Poll<T>, cx: &Context<'_>) -> Poll<T> {
        if let Kind::Relayed(relay) = std::mem::replace(&mut self.0, Kind::Empty) {
            let watched = Watched::new(relay);
            if poll.is_pending() {
                watched.borrow_mut().reader = Some(cx.waker().clone());
            }
            self.0 = Kind::Watched(watched);
        }
        poll
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.get_mut().poll(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Whole(_) => false,
            Kind::Relayed(relay) => relay.is_end_stream(),
            Kind::Watched(watched) => {
                let watched = watched.borrow();
                watched.ended.is_none() && watched.relay.is_end_stream()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Relayed(relay) => relay.size_hint(),
            Kind::Watched(watched) => watched.borrow().relay.size_hint(),
        }
    }
}
