//! Writing a message's body to a connection.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;

use super::{
    conn::{Conn, Stream},
    framing::Framing,
};

/// A body on its way to a connection, whose head is among what that is to write already.
#[derive(Debug)]
pub struct Sending<B: http_body::Body> {
    body: B,
    framing: Framing,
    ended: bool,
    /// Why the body goes no further. What came of it before is written first.
    failed: Option<SendFailed<B::Error>>,
}

/// Why a body was not sent to its end.
#[derive(Debug, thiserror::Error)]
pub enum SendFailed<E> {
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The body failed.
    #[error("the body ended early")]
    Body(E),
    /// It is not as long as its head says.
    #[error("the body is not as long as its head says")]
    Length,
}

impl<B: http_body::Body<Data = Bytes> + Unpin> Sending<B> {
    /// `body`, delimited by `framing`.
    pub fn new(body: B, framing: Framing) -> Self {
        Self { body, framing, ended: framing == Framing::None, failed: None }
    }

    /// The body, to tell it something.
    pub fn body(&mut self) -> &mut B {
        &mut self.body
    }

    /// The body, of which some may have been taken.
    pub fn into_body(self) -> B {
        self.body
    }

    /// Writes what there is of the body; ready when all of it was written.
    ///
    /// # Errors
    /// Why not all of it was.
    pub fn poll<S>(&mut self, conn: &RefCell<Conn<S>>, cx: &mut Context<'_>) -> Poll<Result<(), SendFailed<B::Error>>>
    where
        S: Stream,
    {
        loop {
            if self.ended || self.failed.is_some() || conn.borrow().is_full() {
                ready!(conn.borrow_mut().poll_flush(cx))?;
            }
            if let Some(failed) = self.failed.take() {
                return Poll::Ready(Err(failed));
            }
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            // The connection is not borrowed meanwhile: what the body holds may want it.
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
                // What is there goes out before the wait.
                if let Poll::Ready(Err(error)) = conn.borrow_mut().poll_flush(cx) {
                    return Poll::Ready(Err(error.into()));
                }
                return Poll::Pending;
            };
            self.failed = self.put(frame, &mut conn.borrow_mut()).err();
        }
    }

    fn put<S>(
        &mut self,
        frame: Option<Result<http_body::Frame<Bytes>, B::Error>>,
        conn: &mut Conn<S>,
    ) -> Result<(), SendFailed<B::Error>>
    where
        S: Stream,
    {
        match frame {
            None => self.end(None, conn),
            Some(Err(error)) => Err(SendFailed::Body(error)),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => self.put_data(data, conn),
                Err(frame) => self.end(frame.into_trailers().ok().as_ref(), conn),
            },
        }
    }

    fn put_data<S>(&mut self, data: Bytes, conn: &mut Conn<S>) -> Result<(), SendFailed<B::Error>>
    where
        S: Stream,
    {
        let is_last = self.body.is_end_stream();
        match &mut self.framing {
            // An empty chunk would be the last.
            Framing::Chunked if data.is_empty() => {
                return if is_last { self.end(None, conn) } else { Ok(()) };
            }
            Framing::Chunked => {
                put_size(data.len(), conn);
                conn.put_shared(data, if is_last { b"\r\n0\r\n\r\n" } else { b"\r\n" });
            }
            Framing::Length(left) => {
                *left = left
                    .checked_sub(data.len() as u64)
                    .filter(|left| *left == 0 || !is_last)
                    .ok_or(SendFailed::Length)?;
                conn.put_shared(data, b"");
            }
            Framing::UntilClose => conn.put_shared(data, b""),
            Framing::None => return Err(SendFailed::Length),
        }
        self.ended = is_last;
        Ok(())
    }

    fn end<S>(&mut self, trailers: Option<&HeaderMap>, conn: &mut Conn<S>) -> Result<(), SendFailed<B::Error>>
    where
        S: Stream,
    {
        match self.framing {
            Framing::Length(1..) => return Err(SendFailed::Length),
            Framing::Chunked => put_last(trailers, conn),
            Framing::Length(0) | Framing::None | Framing::UntilClose => {}
        }
        self.ended = true;
        Ok(())
    }
}

fn put_size<S: Stream>(size: usize, conn: &mut Conn<S>) {
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        conn.put(&[b"0123456789abcdef"[size >> (4 * place) & 0xf]]);
    }
    conn.put(b"\r\n");
}

fn put_last<S: Stream>(trailers: Option<&HeaderMap>, conn: &mut Conn<S>) {
    conn.put(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten() {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            conn.put(part);
        }
    }
    conn.put(b"\r\n");
}
