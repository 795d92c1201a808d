//! A message's body as it is read from its connection.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::{
    chunked::Part,
    conn::{ReadError, Shared, Stream},
};

/// A body that comes by a connection of either version.
#[derive(Debug)]
pub enum Incoming<S> {
    /// By HTTP/1.
    Http1(Body<S>),
    /// By a stream of HTTP/2.
    Http2(hyper::body::Incoming),
}

/// The body that a connection is reading. It holds the connection, which reads no other message meanwhile.
#[derive(Debug)]
pub struct Body<S> {
    /// Gone when it was read: from then on the connection's bytes belong to others. A body that broke off never is.
    conn: Option<Shared<S>>,
}

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// On HTTP/1.
    #[error(transparent)]
    Http1(#[from] ReadError),
    /// On HTTP/2.
    #[error(transparent)]
    Http2(#[from] hyper::Error),
}

impl<S: Stream> Body<S> {
    /// The body that `conn` has begun.
    pub fn new(conn: &Shared<S>) -> Self {
        let is_read = conn.borrow().is_read();
        Self { conn: (!is_read).then(|| Rc::clone(conn)) }
    }
}

impl<S: Stream> http_body::Body for Body<S> {
    type Data = Bytes;
    type Error = ReadError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ReadError>>> {
        let this = self.get_mut();
        let Some(conn) = &this.conn else { return Poll::Ready(None) };
        let part = ready!(conn.borrow_mut().poll_part(cx));
        if conn.borrow().is_read() {
            this.conn = None;
        }
        Poll::Ready(match part {
            Ok(Part::End) => None,
            Ok(Part::Data(data)) => Some(Ok(Frame::data(data))),
            Ok(Part::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Err(error) => Some(Err(error)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.conn.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.conn.as_ref().map_or(Some(0), |conn| conn.borrow().left()) {
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::default(),
        }
    }
}

impl<S: Stream> http_body::Body for Incoming<S> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::from),
            Self::Http2(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::from),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}
