//! An answer's body under a fault: it ends early.
//!
//! A cut must not overtake what went before it. The HTTP library drops what it has not written when a body fails, so the body
//! first says that it has nothing more for now, which makes the library write; only then it fails.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep};

use super::call::Call;
use crate::{
    policy::fault::{Cut, Spoil},
    telemetry::metrics::FaultKind,
    verdict::Reason,
};

/// How often it is looked whether a slow caller has taken what went before a cut.
const LOOK: Duration = Duration::from_millis(5);

/// How far a body has come that a fault spoils.
#[derive(Debug)]
pub struct Spoiled {
    cut: Cut,
    /// Bytes that may pass before a cut.
    left: u64,
    /// What was read and has not passed.
    held: Option<Frame<Bytes>>,
    cutting: bool,
    yielded: bool,
    pause: Option<Pin<Box<Sleep>>>,
}

/// The next frame of a body, as a fault lets it pass, or why there is no more.
pub type Next = Poll<Option<Result<Frame<Bytes>, Reason>>>;

impl Spoiled {
    /// Nothing has passed yet; `first` was read before.
    pub fn new(spoil: Spoil, first: Option<Frame<Bytes>>) -> Self {
        let left = match spoil.cut {
            Cut::AfterBytes(bytes) => bytes,
            Cut::AfterHeaders => u64::MAX,
        };
        Self { cut: spoil.cut, left, held: first, cutting: false, yielded: false, pause: None }
    }

    /// Whether nothing is left to be done here, so that the body's end is the end.
    pub fn is_done(&self) -> bool {
        self.held.is_none() && !self.cutting
    }

    /// The next frame of `body`.
    pub fn poll_frame(&mut self, body: &mut Incoming, call: &Call, cx: &mut Context<'_>) -> Next {
        if self.cut == Cut::AfterHeaders && !self.cutting {
            self.begin_cut(FaultKind::Abort, call);
        }
        if self.cutting {
            return self.poll_cut(call, cx);
        }
        let frame = match self.held.take() {
            Some(frame) => frame,
            None => match ready!(Pin::new(body).poll_frame(cx)) {
                None => return Poll::Ready(None),
                Some(Err(_)) => return Poll::Ready(Some(Err(Reason::ResponseIncomplete))),
                Some(Ok(frame)) => frame,
            },
        };
        if self.left == 0 && frame.data_ref().is_none_or(|data| !data.is_empty()) {
            self.begin_cut(FaultKind::Truncate, call);
            return self.poll_cut(call, cx);
        }
        Poll::Ready(Some(Ok(self.pass(frame))))
    }

    /// As much of a frame as may pass.
    fn pass(&mut self, mut frame: Frame<Bytes>) -> Frame<Bytes> {
        let Some(data) = frame.data_mut() else { return frame };
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        if data.len() > most {
            self.held = Some(Frame::data(data.split_off(most)));
        }
        self.left -= data.len() as u64;
        frame
    }

    fn begin_cut(&mut self, kind: FaultKind, call: &Call) {
        self.cutting = true;
        self.held = None;
        call.fault.iter().for_each(|fault| fault.count(kind));
    }

    fn poll_cut(&mut self, call: &Call, cx: &mut Context<'_>) -> Next {
        // A turn for the library to write in; then a caller that is slow to read has its time.
        if !std::mem::replace(&mut self.yielded, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        while call.link.is_blocked() {
            ready!(self.pause.get_or_insert_with(|| Box::pin(sleep(LOOK))).as_mut().poll(cx));
            self.pause = None;
        }
        Poll::Ready(Some(Err(self.cut.reason())))
    }
}
