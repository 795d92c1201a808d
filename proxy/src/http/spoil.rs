//! An answer's body under a fault: it ends early, or comes slowly.
//!
//! A cut must not overtake what went before it. What was not written is dropped when a body fails, so the body first says that it
//! has nothing more for now, which makes the connection write; only then it fails.

use std::{
    future::Future,
    num::NonZeroU32,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::{Instant, Sleep, sleep_until};

use super::call::Call;
use crate::{
    policy::fault::{Cut, Spoil},
    telemetry::metrics::FaultKind,
    upstream::send::FromCallee,
    verdict::Reason,
};

/// How often it is looked whether a slow caller has taken what went before a cut.
const LOOK: Duration = Duration::from_millis(5);

/// Bytes pass a throttle in so many slices a second, so that they move as on a slow line and not by fits.
const SLICES: u32 = 100;
/// The shortest pause: timers are no finer. What is not waited for adds up.
const GRAIN: Duration = Duration::from_millis(1);
/// How far a throttle catches up where it was woken late; a callee's silence is not made up for.
const LAG: Duration = Duration::from_millis(50);

/// How far a body has come that a fault spoils.
#[derive(Debug)]
pub struct Spoiled {
    cut: Option<Cut>,
    /// Bytes that may pass before a cut.
    left: u64,
    rate: Option<NonZeroU32>,
    /// When the next bytes may pass, or the next look is due.
    due: Instant,
    /// What was read and has not passed.
    held: Option<Frame<Bytes>>,
    throttled: bool,
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
            Some(Cut::AfterBytes(bytes)) => bytes,
            Some(Cut::AfterHeaders) | None => u64::MAX,
        };
        Self {
            cut: spoil.cut,
            left,
            rate: spoil.rate,
            due: Instant::now(),
            held: first,
            throttled: false,
            cutting: false,
            yielded: false,
            pause: None,
        }
    }

    /// Whether nothing is left to be done here, so that the body's end is the end.
    pub fn is_done(&self) -> bool {
        self.held.is_none() && !self.cutting
    }

    /// The next frame of `body`.
    pub fn poll_frame(&mut self, body: &mut FromCallee, call: &Call, cx: &mut Context<'_>) -> Next {
        if !self.cutting && call.fault.as_ref().is_none_or(|fault| !fault.active(Instant::now())) {
            // The fault is over; what is still to come is not spoiled.
            (self.cut, self.rate, self.left) = (None, None, u64::MAX);
        }
        if self.cut == Some(Cut::AfterHeaders) && !self.cutting {
            self.begin_cut(FaultKind::Abort, call);
        }
        if self.cutting {
            return self.poll_cut(call, cx);
        }
        if self.rate.is_some() && self.due > Instant::now() + GRAIN {
            ready!(self.poll_due(cx));
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
        Poll::Ready(Some(Ok(self.pass(frame, call))))
    }

    /// As much of a frame as may pass.
    fn pass(&mut self, mut frame: Frame<Bytes>, call: &Call) -> Frame<Bytes> {
        let Some(data) = frame.data_mut().filter(|data| !data.is_empty()) else { return frame };
        let mut most = self.left;
        if let Some(rate) = self.rate {
            most = most.min(u64::from(rate.get() / SLICES)).max(1);
            if !std::mem::replace(&mut self.throttled, true) {
                count(call, FaultKind::Throttle);
            }
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        if data.len() > most {
            self.held = Some(Frame::data(data.split_off(most)));
        }
        self.left -= data.len() as u64;
        if let Some(rate) = self.rate {
            let not_before = Instant::now().checked_sub(LAG).unwrap_or(self.due);
            self.due = self.due.max(not_before) + Duration::from_secs(data.len() as u64) / rate.get();
        }
        frame
    }

    fn begin_cut(&mut self, kind: FaultKind, call: &Call) {
        self.cutting = true;
        self.held = None;
        count(call, kind);
    }

    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let pause = self.pause.get_or_insert_with(|| Box::pin(sleep_until(self.due)));
        if pause.deadline() != self.due {
            pause.as_mut().reset(self.due);
        }
        pause.as_mut().poll(cx)
    }

    fn poll_cut(&mut self, call: &Call, cx: &mut Context<'_>) -> Next {
        // A turn for the connection to write in; then a caller that is slow to read has its time.
        if !std::mem::replace(&mut self.yielded, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        while call.link.is_blocked() {
            let now = Instant::now();
            if self.due <= now {
                self.due = now + LOOK;
            }
            ready!(self.poll_due(cx));
        }
        Poll::Ready(self.cut.map(|cut| Err(cut.reason())))
    }
}

fn count(call: &Call, kind: FaultKind) {
    call.fault.iter().for_each(|fault| fault.count(kind));
}
