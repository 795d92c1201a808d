//! The response's body on its way to the caller. It holds the call: its place in the bulkhead, its connection and its
//! clocks are given up with the last byte, or when the caller goes away.

use std::{
    error::Error,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    call::Call,
    grpc::{self, GRPC_MESSAGE, GRPC_STATUS},
    send_body::{Activity, Upload},
};
use crate::{policy::timeout::End, upstream::send::Connection, verdict::Reason};

/// A response's body.
#[derive(Debug)]
pub struct ReplyBody {
    kind: Kind,
    tail: Option<Tail>,
}

#[derive(Debug)]
enum Kind {
    Empty,
    Whole(Bytes),
    Relayed(Incoming),
}

/// What ends with the body.
#[derive(Debug)]
pub struct Tail {
    call: Call,
    connection: Connection,
    upload: Upload,
    /// What the head said already.
    reason: Option<Reason>,
    idle: Option<(Activity, Duration)>,
    sleep: Option<Pin<Box<Sleep>>>,
}

/// Why a body ended early. The caller's connection is cut, so that nobody takes the part for the whole.
#[derive(Debug, thiserror::Error)]
#[error("{0:?}")]
struct Broken(Reason);

impl Tail {
    /// `reason` is why the call failed, if the response's head says that it did.
    pub fn new(
        call: Call,
        connection: Connection,
        upload: Upload,
        reason: Option<Reason>,
        idle: Option<(Activity, Duration)>,
    ) -> Self {
        Self { call, connection, upload, reason, idle, sleep: None }
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
            last.set(Instant::now());
        }
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        if self.call.grpc && grpc::status(trailers).is_some_and(grpc::is_server_error) {
            self.reason.get_or_insert(Reason::CalleeError);
        }
    }

    /// Whether a clock has run out. The timer is made when the body first has to wait: most never do.
    fn poll_clocks(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        loop {
            let request = self.call.request_end.map(|at| End { at, reason: Reason::RequestTimeout });
            let silent =
                self.idle.as_ref().map(|(last, idle)| End { at: last.get() + *idle, reason: Reason::IdleTimeout });
            let Some(end) = [request, silent].into_iter().flatten().min_by_key(|end| end.at) else {
                return Poll::Pending;
            };
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(end.at)));
            if sleep.deadline() != end.at {
                sleep.as_mut().reset(end.at);
            }
            std::task::ready!(sleep.as_mut().poll(cx));
            if Instant::now() >= end.at {
                return Poll::Ready(end.reason);
            }
        }
    }
}

impl ReplyBody {
    /// No body.
    pub fn empty() -> Self {
        Self { kind: Kind::Empty, tail: None }
    }

    /// A body that is all there.
    pub fn whole(bytes: Bytes) -> Self {
        Self { kind: Kind::Whole(bytes), tail: None }
    }

    /// The callee's body, with what ends with it.
    pub fn relayed(body: Incoming, tail: Tail) -> Self {
        if body.is_end_stream() {
            tail.finish();
            return Self::empty();
        }
        Self { kind: Kind::Relayed(body), tail: Some(tail) }
    }

    fn poll_relayed(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        // A caller that reads slowly, or a callee that always has more, does not stop the request's clock.
        if self.tail.as_ref().and_then(|tail| tail.call.request_end).is_some_and(|end| Instant::now() >= end) {
            return Poll::Ready(Some(self.end(Reason::RequestTimeout)));
        }
        let Kind::Relayed(body) = &mut self.kind else { return Poll::Ready(None) };
        match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let ended = body.is_end_stream();
                if let Some(tail) = &mut self.tail {
                    tail.moved();
                    frame.trailers_ref().into_iter().for_each(|trailers| tail.trailers(trailers));
                }
                if ended {
                    self.tail.take().into_iter().for_each(Tail::finish);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                self.tail.take().into_iter().for_each(Tail::finish);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(self.cut(Reason::ResponseIncomplete)))),
            Poll::Pending => match self.tail.as_mut().map(|tail| tail.poll_clocks(cx)) {
                Some(Poll::Ready(reason)) => Poll::Ready(Some(self.end(reason))),
                _ => Poll::Pending,
            },
        }
    }

    /// Ends a response whose clock ran out: a gRPC call with a status in its trailers, anything else by a cut.
    fn end(&mut self, reason: Reason) -> Result<Frame<Bytes>, Broken> {
        let is_grpc = self.tail.as_ref().is_some_and(|tail| tail.call.grpc);
        let broken = self.cut(reason);
        if !is_grpc {
            return Err(broken);
        }
        let mut trailers = HeaderMap::new();
        trailers.insert(GRPC_STATUS, HeaderValue::from(u16::from(reason.grpc_status())));
        trailers.insert(GRPC_MESSAGE, HeaderValue::from_static(reason.details()));
        Ok(Frame::trailers(trailers))
    }

    fn cut(&mut self, reason: Reason) -> Broken {
        if let Some(mut tail) = self.tail.take() {
            tail.call.failed(reason);
        }
        self.kind = Kind::Empty;
        Broken(reason)
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        match &mut this.kind {
            Kind::Empty => Poll::Ready(None),
            Kind::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                this.kind = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Kind::Relayed(_) => this.poll_relayed(cx).map(|frame| frame.map(|frame| frame.map_err(Into::into))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Whole(_) => false,
            Kind::Relayed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Relayed(body) => body.size_hint(),
        }
    }
}
