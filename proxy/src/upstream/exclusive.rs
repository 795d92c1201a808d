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
    /// It asks for another protocol.
    upgrade: bool,
    interim: &'a dyn Fn(ResponseHead),
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
    let mut exchange = Exchange::new(&exclusive.conn, outgoing, body).map_err(Failed::Sent)?;
    let outcome = std::future::poll_fn(|cx| exchange.poll(cx)).await;
    let Exchange { sending, sent, broken, before, method, .. } = exchange;
    let head = match outcome {
        Ok(head) => head,
        Err(Ended::Failed(reason)) => return Err(Failed::Sent(reason)),
        Err(Ended::Lost) if exclusive.conn.borrow().written() == before => {
            let body = sending.into_body().give_back().or_else(|| outgoing.source.body());
            return Err(body.map_or(Failed::ConnectionLost, |body| Failed::Unsent(Box::new(body))));
        }
        Err(Ended::Lost) => return Err(Failed::ConnectionLost),
    };
    // What it carries from then on is another protocol's.
    let switches = agrees_to_switch(&method, head.parts.status);
    exclusive.persistent = head.persistent && !broken && !switches;
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
    fn new(conn: &'a Shared<Upstream>, outgoing: &Outgoing<'a>, body: SendBody) -> Result<Self, Reason> {
        let parts = outgoing.head.borrow();
        let framing = framing(&parts.headers, &body).ok_or(Reason::RequestIncomplete)?;
        let mut to = conn.borrow_mut();
        head::write_request(&parts, outgoing.spelling, framing, to.out());
        let (before, method, upgrade) =
            (to.written(), parts.method.clone(), parts.headers.contains_key(header::UPGRADE));
        let sending = Sending::new(body, framing);
        let interim = outgoing.interim;
        Ok(Self { conn, method, sending, sent: false, broken: false, upgrade, interim, before })
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
            if self.conn.borrow().written() > self.before {
                self.sending.body().written();
            }
        }
        loop {
            let head = ready!(self.conn.borrow_mut().poll_head(cx, head::could_be_response));
            let Some(bytes) = head.map_err(Ended::from)? else {
                let began = !self.conn.borrow().is_drained();
                return Poll::Ready(Err(if began { Ended::Failed(Reason::ConnectionReset) } else { Ended::Lost }));
            };
            let head = head::response(&bytes, &self.method).map_err(Ended::from)?;
            match head.parts.status {
                StatusCode::SWITCHING_PROTOCOLS if !self.upgrade => {
                    return Poll::Ready(Err(Ended::Failed(Reason::ProtocolError)));
                }
                // The proxy itself asks its callers for bodies, so this is for the proxy (RFC 9110, 10.1.1).
                StatusCode::CONTINUE => {}
                status if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS => {
                    (self.interim)(head);
                }
                _ => return Poll::Ready(Ok(head)),
            }
        }
    }
}

/// A request's body goes on as long as its head says, or in chunks. `None` if the head speaks of one that is not there.
fn framing(headers: &HeaderMap, body: &SendBody) -> Option<Framing> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    match (body.is_end_stream(), length) {
        (true, None | Some(0)) => Some(Framing::None),
        (true, Some(_)) => None,
        (false, None) => Some(Framing::Chunked),
        (false, Some(length)) => Some(Framing::Length(length)),
    }
}

/// Whether a response agrees to change the protocol.
pub fn agrees_to_switch(method: &Method, status: StatusCode) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS || *method == Method::CONNECT && status.is_success()
}

impl From<HeadError> for Ended {
    fn from(error: HeadError) -> Self {
        Self::Failed(match error {
            HeadError::Syntax => Reason::ProtocolError,
            HeadError::TooLarge => Reason::ResponseHeadTooLarge,
        })
    }
}

#[cfg(test)]
mod tests;
