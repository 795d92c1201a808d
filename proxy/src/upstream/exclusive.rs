//! A request and its response on an HTTP/1 connection of their own.
//!
//! The request's own task writes and reads. Only where a response comes before all of the request was sent, a task beside it sends
//! the rest, which ends with the response: what a callee has answered it needs no more of.

use std::{
    rc::Rc,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, Method, Response, StatusCode, header};
use http_body::Body as _;
use tokio::task::{AbortHandle, spawn_local};

use super::{
    pool::Exclusive,
    send::{Answer, Connection, Failed, Outgoing, Upstream},
};
use crate::{
    h1::{Body, Framing, HeadError, Incoming, ResponseHead, SendFailed, Sending, conn::Shared, head},
    http::send_body::SendBody,
    verdict::Reason,
};

/// The rest of a request, which is sent beside its response until this is dropped.
#[derive(Debug)]
pub(super) struct Rest(AbortHandle);

impl Drop for Rest {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An exchange that has no response yet.
struct Exchange<'a> {
    conn: &'a Shared<Upstream>,
    method: Method,
    sending: Sending<SendBody>,
    /// Nothing is left to send, or it cannot be sent.
    sent: bool,
    broken: bool,
    /// Bytes that the connection had written before.
    before: u64,
}

/// Why there is no response.
enum Ended {
    /// The connection ended before any byte of one.
    Lost,
    Failed(Reason),
}

/// Sends a request whose head says all by now, and waits for the head of its response.
pub(super) async fn send(mut exclusive: Exclusive, outgoing: &Outgoing<'_>, body: SendBody) -> Result<Answer, Failed> {
    let upload = body.upload();
    let mut exchange = Exchange::new(&exclusive.conn, outgoing, body);
    let outcome = std::future::poll_fn(|cx| exchange.poll(cx)).await;
    let Exchange { sending, sent, broken, before, .. } = exchange;
    let head = match outcome {
        Ok(head) => head,
        Err(Ended::Failed(reason)) => return Err(Failed::Sent(reason)),
        Err(Ended::Lost) if exclusive.conn.borrow().written() == before => {
            let body = sending.into_body();
            return match (body.is_begun(), outgoing.source.replayable()) {
                (false, _) => Err(Failed::Unsent(Box::new(body))),
                (true, true) => Err(Failed::Unsent(Box::new(outgoing.source.body()))),
                (true, false) => Err(Failed::ConnectionLost),
            };
        }
        Err(Ended::Lost) => return Err(Failed::ConnectionLost),
    };
    exclusive.persistent = head.persistent && !broken;
    exclusive.conn.borrow_mut().begin_body(head.framing, false);
    if !sent {
        exclusive.rest = Some(Rest::send(sending, &exclusive.conn));
    }
    let body = Incoming::Http1(Body::new(&exclusive.conn));
    let response = Response::from_parts(head.parts, body);
    Ok(Answer::new(response, head.spelling, Connection::Exclusive(exclusive), upload))
}

impl Rest {
    fn send(mut sending: Sending<SendBody>, conn: &Shared<Upstream>) -> Self {
        let conn = Rc::clone(conn);
        let task = spawn_local(async move {
            // How it ends shows in the upload, which is over or is not, and in the response.
            let _ = std::future::poll_fn(|cx| sending.poll(&conn, cx)).await;
        });
        Self(task.abort_handle())
    }
}

impl<'a> Exchange<'a> {
    fn new(conn: &'a Shared<Upstream>, outgoing: &Outgoing<'_>, body: SendBody) -> Self {
        let parts = outgoing.head.borrow();
        let framing = framing(&parts.headers, &body);
        let mut to = conn.borrow_mut();
        head::write_request(&parts, outgoing.spelling, framing, to.out());
        let (before, method) = (to.written(), parts.method.clone());
        Self { conn, method, sending: Sending::new(body, framing), sent: false, broken: false, before }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Ended>> {
        if !self.sent {
            match self.sending.poll(self.conn, cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.sent = true,
                // The callee may have answered before it hung up.
                Poll::Ready(Err(SendFailed::Io(_))) => (self.sent, self.broken) = (true, true),
                Poll::Ready(Err(SendFailed::Body(_) | SendFailed::Length)) => {
                    return Poll::Ready(Err(Ended::Failed(Reason::RequestIncomplete)));
                }
            }
        }
        loop {
            let head = ready!(self.conn.borrow_mut().poll_head(cx, head::could_be_response));
            let Some(bytes) = head.map_err(Ended::from)? else {
                let began = !self.conn.borrow().is_drained();
                return Poll::Ready(Err(if began { Ended::Failed(Reason::ConnectionReset) } else { Ended::Lost }));
            };
            let head = head::response(&bytes, &self.method).map_err(Ended::from)?;
            // What is said before the answer is for the proxy (RFC 9110, 15.2).
            if !head.parts.status.is_informational() || head.parts.status == StatusCode::SWITCHING_PROTOCOLS {
                return Poll::Ready(Ok(head));
            }
        }
    }
}

/// A request's body goes on as long as its head says, or in chunks.
fn framing(headers: &HeaderMap, body: &SendBody) -> Framing {
    if body.is_end_stream() {
        return Framing::None;
    }
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    length.map_or(Framing::Chunked, Framing::Length)
}

impl From<HeadError> for Ended {
    fn from(error: HeadError) -> Self {
        Self::Failed(match error {
            HeadError::Syntax => Reason::ProtocolError,
            HeadError::TooLarge => Reason::ResponseHeadTooLarge,
        })
    }
}
