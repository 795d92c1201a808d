//! The request's body, on its way to the callee, perhaps more than once.
//!
//! What has been read from the caller is kept up to [`REPLAY_BYTES`] as long as another try may need it, and as long as all
//! requests together keep no more than they may ([`replay`](super::replay)). Any other body is passed through and the request is then
//! sent once. It is kept as one run of bytes, so that many small parts take no more than their bytes. The body is read from the caller
//! only as fast as a try takes it.

use std::{
    cell::{Cell, RefCell},
    error::Error,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use firebreak_crds::spec::defaults::REPLAY_BYTES;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::{
    headers::fields_size,
    replay::{Held, Replay},
};
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
    data: Vec<u8>,
    trailers: Option<HeaderMap>,
    held: Held,
    ended: bool,
    /// Too long to be kept, or one too many: whoever reads now is the last.
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
    Kept { source: Rc<RefCell<Kept>>, given: Given, turn: u32 },
    Once { rest: FromCaller, first: First },
}

/// The first part of a body that is not kept. It can be given back as long as no other was taken and nothing was written of it.
#[derive(Debug)]
enum First {
    NotTaken,
    Taken(Bytes),
    /// It was given back, and is to be taken again.
    Again(Bytes),
    Gone,
}

/// What a try was given of a body that is kept.
#[derive(Clone, Copy, Debug, Default)]
struct Given {
    bytes: usize,
    trailers: bool,
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
    /// The body of a request; kept for another try among what `keep` holds, if that is given; watched if there is an idle clock.
    pub fn new(body: Incoming<ClientStream>, keep: Option<&Replay>, activity: Option<Activity>) -> Self {
        if body.is_end_stream() {
            return Self { kind: Kind::Empty, activity, awaited: None };
        }
        let awaited = Rc::new(Cell::new(false));
        let body = FromCaller { body, ended: false, awaited: Rc::clone(&awaited) };
        let kind = match keep {
            Some(replay) => Kind::Kept(Rc::new(RefCell::new(Kept::new(body, replay.hold())))),
            None => Kind::Once(RefCell::new(Some(body))),
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

    /// The body for one more try. `None` where some of it is gone: an earlier try took it, and it was not kept.
    pub fn body(&self) -> Option<SendBody> {
        let kind = match &self.kind {
            Kind::Empty => SendKind::Empty,
            Kind::Kept(kept) if kept.borrow().overflown => return None,
            Kind::Kept(kept) => {
                let turn = kept.borrow().turn + 1;
                kept.borrow_mut().turn = turn;
                SendKind::Kept { source: Rc::clone(kept), given: Given::default(), turn }
            }
            Kind::Once(body) => {
                let rest = body.borrow_mut().take()?;
                SendKind::Once { rest, first: First::NotTaken }
            }
        };
        Some(SendBody::new(kind, self.activity.clone()))
    }
}

impl SendBody {
    fn new(kind: SendKind, activity: Option<Activity>) -> Self {
        let upload = Upload((!matches!(kind, SendKind::Empty)).then(Rc::default));
        Self { kind, activity, upload, begun: false }
    }

    /// Tells when all of it was sent.
    pub fn upload(&self) -> Upload {
        self.upload.clone()
    }
}

impl SendBody {
    /// Something was written: what was taken cannot be given back any more.
    pub fn written(&mut self) {
        if let SendKind::Once { first, .. } = &mut self.kind {
            *first = First::Gone;
        }
    }

    /// The body as it was before any of it was taken, where nothing was written of it and it can still be had.
    pub fn give_back(self) -> Option<Self> {
        let kind = match self.kind {
            _ if !self.begun => return Some(self),
            SendKind::Once { rest, first: First::Taken(data) } => SendKind::Once { rest, first: First::Again(data) },
            SendKind::Empty | SendKind::Kept { .. } | SendKind::Once { .. } => return None,
        };
        Some(Self::new(kind, self.activity))
    }
}

impl First {
    /// Takes the next part: this one again, or what comes from the caller.
    fn poll_frame(
        &mut self,
        rest: &mut FromCaller,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, SendError>>> {
        if let Self::Again(data) = self {
            let data = data.clone();
            *self = Self::Taken(data.clone());
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let frame = ready!(rest.poll_frame(cx));
        match (&frame, &self) {
            // That there is no more of it is remembered.
            (None, _) => {}
            (Some(Ok(frame)), Self::NotTaken) => *self = frame.data_ref().cloned().map_or(Self::Gone, Self::Taken),
            (Some(_), _) => *self = Self::Gone,
        }
        Poll::Ready(frame)
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
    fn new(rest: FromCaller, held: Held) -> Self {
        let hint = rest.body.size_hint();
        Self { rest, hint, data: Vec::new(), trailers: None, held, ended: false, overflown: false, turn: 0 }
    }

    fn is_whole(&self) -> bool {
        !self.overflown && (self.ended || self.rest.is_end_stream())
    }

    fn poll_frame(&mut self, given: &mut Given, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, SendError>>> {
        if let Some(kept) = self.after(given) {
            return Poll::Ready(Some(Ok(kept)));
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
                *given = Given { bytes: self.data.len(), trailers: self.trailers.is_some() };
            }
        }
        Poll::Ready(frame)
    }

    /// What is kept of the body after what was given of it.
    fn after(&self, given: &mut Given) -> Option<Frame<Bytes>> {
        if given.bytes < self.data.len() {
            let had = std::mem::replace(&mut given.bytes, self.data.len());
            return Some(Frame::data(Bytes::copy_from_slice(&self.data[had..])));
        }
        let trailers = self.trailers.as_ref().filter(|_| !given.trailers)?;
        given.trailers = true;
        Some(Frame::trailers(trailers.clone()))
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        if self.overflown {
            return;
        }
        let data = frame.data_ref().map_or(&[][..], Bytes::as_ref);
        let trailers = frame.trailers_ref().or(self.trailers.as_ref());
        let length = self.data.len() + data.len();
        if length <= REPLAY_BYTES {
            // By doubling, so that many small parts are not copied often, but never to more than may be kept.
            let room = if length > self.data.capacity() {
                length.max((2 * length).min(REPLAY_BYTES))
            } else {
                self.data.capacity()
            };
            if self.held.keep(room + trailers.map_or(0, fields_size)) {
                self.data.reserve_exact(room - self.data.len());
                self.data.extend_from_slice(data);
                self.trailers = trailers.cloned();
                return;
            }
        }
        self.overflown = true;
        self.held.release();
        (self.data, self.trailers) = (Vec::new(), None);
    }
}

impl Body for SendBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let frame = match &mut this.kind {
            SendKind::Empty => return Poll::Ready(None),
            SendKind::Once { rest, first } => ready!(first.poll_frame(rest, cx)),
            SendKind::Kept { source, given, turn } => {
                let mut kept = source.borrow_mut();
                if kept.turn != *turn && !kept.is_whole() {
                    return Poll::Ready(Some(Err(SendError::Superseded.into())));
                }
                let frame = ready!(kept.poll_frame(given, cx));
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
            SendKind::Once { rest, first } => !matches!(first, First::Again(_)) && rest.is_end_stream(),
            SendKind::Kept { source, given, .. } => {
                let kept = source.borrow();
                let has_all = given.bytes >= kept.data.len() && (given.trailers || kept.trailers.is_none());
                has_all && (kept.ended || kept.rest.is_end_stream())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            SendKind::Empty => SizeHint::with_exact(0),
            SendKind::Once { rest, first: First::NotTaken } => rest.body.size_hint(),
            SendKind::Kept { source, given: Given { bytes: 0, .. }, .. } => source.borrow().hint,
            SendKind::Kept { .. } | SendKind::Once { .. } => SizeHint::default(),
        }
    }
}
