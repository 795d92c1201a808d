//! The request's body, on its way to the callee, perhaps more than once.
//!
//! What has been read from the caller is kept up to [`REPLAY_BYTES`] as long as another try may need it. A longer body is
//! passed through and the request is then sent once. The body is read from the caller only as fast as a try takes it.

use std::{
    cell::{Cell, RefCell},
    error::Error,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use firebreak_crds::spec::defaults::REPLAY_BYTES;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::{
    clock,
    h1::{BodyError, Incoming},
    net::client_stream::ClientStream,
};

/// Where a request's body comes from. Tries take their bodies from it.
#[derive(Debug)]
pub struct Source {
    kind: Kind,
    activity: Option<Activity>,
    /// Whether a callee wants the next part of it, and the caller has not sent that.
    awaited: Option<Rc<Cell<bool>>>,
}

/// Whether a try has handed over the request's body to its end. A connection on which it has not must not carry another
/// request, although its response is complete.
#[derive(Clone, Debug)]
pub struct Upload(Option<Rc<Cell<bool>>>);

impl Upload {
    /// Whether nothing is left to send.
    pub fn is_done(&self) -> bool {
        self.0.as_ref().is_none_or(|done| done.get())
    }

    fn done(&self) {
        if let Some(done) = &self.0 {
            done.set(true);
        }
    }
}

/// When a byte last moved, either way.
pub type Activity = Rc<Cell<Instant>>;

#[derive(Debug)]
enum Kind {
    /// There is none.
    Empty,
    /// It can be sent again as long as it fits.
    Kept(Rc<RefCell<Kept>>),
    /// It was handed to a try, or will be.
    Once(RefCell<Option<FromCaller>>),
}

/// A body as it comes from the caller.
#[derive(Debug)]
struct FromCaller {
    body: Incoming<ClientStream>,
    ended: bool,
    awaited: Rc<Cell<bool>>,
}

/// What was read so far, and the rest.
#[derive(Debug)]
struct Kept {
    rest: FromCaller,
    hint: SizeHint,
    frames: Vec<Frame<Bytes>>,
    bytes: usize,
    ended: bool,
    /// Too long to be kept: whoever reads now is the last.
    overflown: bool,
    /// The newest try. An older one, which its connection may still poll, takes nothing that has not come yet.
    turn: u32,
}

/// One try's view of the body.
#[derive(Debug)]
pub struct SendBody {
    kind: SendKind,
    activity: Option<Activity>,
    upload: Upload,
    begun: bool,
}

#[derive(Debug)]
enum SendKind {
    Empty,
    Kept { source: Rc<RefCell<Kept>>, next: usize, turn: u32 },
    Once(FromCaller),
}

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The caller's body broke off.
    #[error("the caller's body broke off")]
    Caller(#[source] BodyError),
    /// Another try has taken over.
    #[error("another try has taken over")]
    Superseded,
}

impl Source {
    /// The body of a request; kept for replay if `keep`, watched if there is an idle clock.
    pub fn new(body: Incoming<ClientStream>, keep: bool, activity: Option<Activity>) -> Self {
        if body.is_end_stream() {
            return Self { kind: Kind::Empty, activity, awaited: None };
        }
        let awaited = Rc::new(Cell::new(false));
        let body = FromCaller { body, ended: false, awaited: Rc::clone(&awaited) };
        let kind = if keep {
            let hint = body.body.size_hint();
            let kept = Kept { rest: body, hint, frames: Vec::new(), bytes: 0, ended: false, overflown: false, turn: 0 };
            Kind::Kept(Rc::new(RefCell::new(kept)))
        } else {
            Kind::Once(RefCell::new(Some(body)))
        };
        Self { kind, activity, awaited: Some(awaited) }
    }

    /// Whether it is the caller that everybody waits for: a callee has taken all that has come, and wants the rest.
    pub fn awaits_caller(&self) -> bool {
        self.awaited.as_ref().is_some_and(|awaited| awaited.get())
    }

    /// Whether all of it has come from the caller and is kept, so that two tries may send it at the same time.
    pub fn is_whole(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Kept(kept) => kept.borrow().is_whole(),
            Kind::Once(_) => false,
        }
    }

    /// Whether another try could send the same body.
    pub fn replayable(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Kept(kept) => !kept.borrow().overflown,
            Kind::Once(_) => false,
        }
    }

    /// The body for one more try.
    pub fn body(&self) -> SendBody {
        let kind = match &self.kind {
            Kind::Empty => SendKind::Empty,
            Kind::Kept(kept) => {
                let turn = kept.borrow().turn + 1;
                kept.borrow_mut().turn = turn;
                SendKind::Kept { source: Rc::clone(kept), next: 0, turn }
            }
            Kind::Once(body) => body.borrow_mut().take().map_or(SendKind::Empty, SendKind::Once),
        };
        let upload = Upload((!matches!(kind, SendKind::Empty)).then(Rc::default));
        SendBody { kind, activity: self.activity.clone(), upload, begun: false }
    }
}

impl SendBody {
    /// Tells when all of it was sent.
    pub fn upload(&self) -> Upload {
        self.upload.clone()
    }

    /// Whether some of it was taken.
    pub fn is_begun(&self) -> bool {
        self.begun
    }
}

impl FromCaller {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, SendError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.awaited.set(polled.is_pending());
        let frame = ready!(polled);
        self.ended |= frame.is_none();
        Poll::Ready(frame.map(|frame| frame.map_err(SendError::Caller)))
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }
}

impl Kept {
    fn is_whole(&self) -> bool {
        !self.overflown && (self.ended || self.rest.is_end_stream())
    }

    fn poll_frame(&mut self, next: &mut usize, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, SendError>>> {
        if let Some(frame) = self.frames.get(*next) {
            *next += 1;
            return Poll::Ready(Some(Ok(copy(frame))));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = ready!(self.rest.poll_frame(cx));
        match &frame {
            None => self.ended = true,
            Some(Err(_)) => {}
            Some(Ok(frame)) => {
                self.keep(frame);
                *next = self.frames.len();
            }
        }
        Poll::Ready(frame)
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        self.bytes += frame.data_ref().map_or(0, Bytes::len);
        self.overflown |= self.bytes > REPLAY_BYTES;
        if self.overflown {
            self.frames = Vec::new();
        } else {
            self.frames.push(copy(frame));
        }
    }
}

/// Few bytes are copied: shared, they would hold all of the buffer that they were read into.
const FEW: usize = 1024;

fn copy(frame: &Frame<Bytes>) -> Frame<Bytes> {
    match (frame.data_ref(), frame.trailers_ref()) {
        (_, Some(trailers)) => Frame::trailers(trailers.clone()),
        (Some(few), None) if few.len() < FEW => Frame::data(Bytes::copy_from_slice(few)),
        (data, None) => Frame::data(data.cloned().unwrap_or_default()),
    }
}

impl Body for SendBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let frame = match &mut this.kind {
            SendKind::Empty => return Poll::Ready(None),
            SendKind::Once(body) => ready!(body.poll_frame(cx)),
            SendKind::Kept { source, next, turn } => {
                let mut kept = source.borrow_mut();
                if kept.turn != *turn && !kept.is_whole() {
                    return Poll::Ready(Some(Err(SendError::Superseded.into())));
                }
                let frame = ready!(kept.poll_frame(next, cx));
                drop(kept);
                frame
            }
        };
        this.begun = true;
        if let Some(activity) = &this.activity {
            activity.set(clock::now());
        }
        if !matches!(frame, Some(Err(_))) && (frame.is_none() || this.is_end_stream()) {
            this.upload.done();
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            SendKind::Empty => true,
            SendKind::Once(body) => body.is_end_stream(),
            SendKind::Kept { source, next, .. } => {
                let kept = source.borrow();
                *next >= kept.frames.len() && (kept.ended || kept.rest.is_end_stream())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            SendKind::Empty => SizeHint::with_exact(0),
            SendKind::Once(body) => body.body.size_hint(),
            SendKind::Kept { source, next: 0, .. } => source.borrow().hint,
            SendKind::Kept { .. } => SizeHint::default(),
        }
    }
}
