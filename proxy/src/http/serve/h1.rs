//! A caller's HTTP/1 connection: one request after the other, each with its response.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::pin,
    rc::Rc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, StatusCode, Version, header, response};
use http_body::Body as _;
use tokio::time::{Instant, timeout};

use super::Link;
use crate::{
    h1::{Body, Conn, Framing, HeadError, Incoming, RequestHead, Sending, Spelling, conn::Shared, framing, head},
    http::{
        pipeline,
        reply::{self, Reply},
        reply_body::ReplyBody,
        upgrade::Switch,
    },
    net::client_stream::ClientStream,
    verdict::{Reason, proxy_status::Member},
};

/// How much of a request's body is read away that nobody wanted, so that the caller can go on, and for how long. Also what is
/// read before a connection is closed, since a caller that is sending would lose the response by a reset (RFC 9112, 9.6).
const DISCARD_BYTES: usize = 256 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(2);

/// Serves a connection.
pub(super) struct Server<'a> {
    link: &'a Rc<Link>,
    conn: Shared<ClientStream>,
    stage: Cell<Stage>,
    /// It is to end with the request that is under way.
    closing: Cell<bool>,
    /// Of the answer that is under way the end of the connection is the end.
    until_close: Cell<bool>,
}

/// Where a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It waits for a request of which nothing has come.
    Idle,
    /// Some of a request's head has come.
    Head,
    /// A request is under way.
    Request,
}

/// What a request says about its response and what comes after it.
struct Asked {
    method: Method,
    version: Version,
    persistent: bool,
}

impl<'a> Server<'a> {
    pub(super) fn new(link: &'a Rc<Link>, stream: ClientStream) -> Self {
        let conn = Rc::new(RefCell::new(Conn::new(stream)));
        Self { link, conn, stage: Cell::new(Stage::Request), closing: Cell::default(), until_close: Cell::default() }
    }

    /// Whether nothing is under way, and nothing of a request has come.
    pub(super) fn is_idle(&self) -> bool {
        self.stage.get() == Stage::Idle
    }

    /// When the first byte came of the request whose head is being read.
    pub(super) fn reads_head_since(&self) -> Option<Instant> {
        if self.stage.get() == Stage::Head { self.link.moments.first_byte() } else { None }
    }

    /// Whether it holds nothing but the connection.
    pub(super) fn is_at_rest(&self) -> bool {
        self.is_idle() && Rc::strong_count(&self.conn) == 1
    }

    /// The connection of a server at rest. What served it must not be polled again.
    pub(super) fn into_stream(self) -> Option<ClientStream> {
        Rc::into_inner(self.conn).map(|conn| conn.into_inner().into_parts().0)
    }

    /// Whether it is to end with the request that is under way.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// Ends it with the request that is under way.
    pub(super) fn close_soon(&self) {
        self.closing.set(true);
    }

    /// Serves requests until the connection ends.
    pub(super) async fn serve(&self) {
        loop {
            let head = match self.next_head().await {
                Ok(Some(head)) => head,
                Ok(None) => return,
                Err(error) => return self.refuse(error.into()).await,
            };
            if !self.one(head).await {
                return;
            }
            if self.closing.get() {
                // It was told that the connection goes on, and may have sent more.
                return self.close().await;
            }
        }
    }

    async fn next_head(&self) -> Result<Option<RequestHead>, HeadError> {
        if !self.conn.borrow().is_drained() {
            // It came with what was before it. Its time begins now that it has its turn.
            self.link.moments.reset();
            self.link.moments.note();
        }
        let bytes = poll_fn(|cx| {
            let mut conn = self.conn.borrow_mut();
            let head = conn.poll_head(cx, head::could_be_request);
            self.stage.set(match head.is_pending() {
                true if conn.is_drained() => Stage::Idle,
                true => Stage::Head,
                false => Stage::Request,
            });
            if self.is_idle() {
                // What has come was of the request before, or empty lines.
                self.link.moments.reset();
            }
            head
        })
        .await?;
        bytes.as_ref().map(head::request).transpose()
    }

    /// Serves one request. Returns whether the connection goes on.
    async fn one(&self, head: RequestHead) -> bool {
        let RequestHead { parts, spelling, framing, persistent, expects } = head;
        let asked = Asked { method: parts.method.clone(), version: parts.version, persistent };
        self.conn.borrow_mut().begin_body(framing, expects);
        let request = Request::from_parts(parts, Incoming::Http1(Body::new(&self.conn)));
        let reply = {
            let mut handling = pin!(pipeline::handle(request, spelling, Rc::clone(self.link)));
            poll_fn(|cx| match handling.as_mut().poll(cx) {
                Poll::Ready(reply) => {
                    self.put_interim(asked.version);
                    self.link.interim.take();
                    Poll::Ready(Some(reply))
                }
                Poll::Pending => {
                    if self.put_interim(asked.version) {
                        // Whether the caller is gone is seen below.
                        let _ = self.conn.borrow_mut().poll_flush(cx);
                    }
                    self.conn.borrow_mut().poll_gone(cx).map(|()| None)
                }
            })
            .await
        };
        match reply {
            // The caller has gone, and with it the request.
            None => false,
            Some(Reply { response, spelling, switch: Some(switch) }) => {
                self.switch(response.into_parts().0, &spelling, *switch).await;
                false
            }
            Some(Reply { response, spelling, switch: None }) => {
                let (parts, body) = response.into_parts();
                self.respond(parts, body, &spelling, asked).await && self.read_away().await
            }
        }
    }

    /// Puts what was said before the answer where it is written, unless a caller of `version` would not understand it (RFC 9110, 15.2).
    /// Whether there is something to write.
    fn put_interim(&self, version: Version) -> bool {
        let (mut said, mut conn) = (self.link.interim.borrow_mut(), self.conn.borrow_mut());
        if version == Version::HTTP_11 && !said.is_empty() && !conn.is_full() {
            conn.put(&said.split());
        }
        !conn.is_flushed()
    }

    /// Writes a response. Returns whether the connection goes on.
    async fn respond(&self, mut parts: response::Parts, body: ReplyBody, spelling: &Spelling, asked: Asked) -> bool {
        let Asked { method, version, persistent } = asked;
        let framing = framing(&mut parts, &body, &method, version);
        // A caller that was not asked for the body may send it all the same, or not.
        let is_waiting = self.conn.borrow_mut().waive_continue() && !self.conn.borrow().is_read();
        let is_clear = !is_waiting && !self.conn.borrow().is_broken();
        let persistent = persistent && is_clear && framing != Framing::UntilClose && !self.closing.get();
        head::write_response(&parts, spelling, framing, version, persistent, self.conn.borrow_mut().out());
        self.until_close.set(framing == Framing::UntilClose);
        let mut sending = Sending::new(body, framing);
        let sent = poll_fn(|cx| match sending.poll(&self.conn, cx) {
            Poll::Ready(sent) => Poll::Ready(sent.is_ok()),
            Poll::Pending => self.conn.borrow_mut().poll_gone_after_body(cx).map(|()| false),
        })
        .await;
        // Broken off, so that nobody takes the part for the whole.
        if !sent {
            self.break_off();
            return false;
        }
        drop(sending);
        if !persistent {
            self.close().await;
        }
        persistent
    }

    /// An answer that is under way will not be whole. Where the end of the connection is that of the body, that must be a reset.
    pub(super) fn break_off(&self) {
        if self.until_close.get() {
            self.link.moments.reset_at_close();
        }
    }

    /// Reads what is left of a request that was answered. Returns whether there is an end to it.
    async fn read_away(&self) -> bool {
        if self.conn.borrow().is_read() {
            return true;
        }
        let mut left = DISCARD_BYTES;
        let mut body = Body::new(&self.conn);
        let read = async {
            while let Some(frame) = poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await {
                let Ok(frame) = frame else { return false };
                let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else { return false };
                left = rest;
            }
            true
        };
        let ended = !self.conn.borrow().is_broken() && timeout(DISCARD_TIME, read).await.unwrap_or(false);
        // These bytes were of no request to come.
        self.link.moments.reset();
        if !ended {
            self.close().await;
        }
        ended
    }

    /// Passes on that the protocol changes, and what is said in it.
    async fn switch(&self, head: response::Parts, spelling: &Spelling, switch: Switch) {
        head::write_response(&head, spelling, Framing::None, Version::HTTP_11, true, self.conn.borrow_mut().out());
        match poll_fn(|cx| self.conn.borrow_mut().poll_flush(cx)).await {
            Ok(()) => Box::pin(switch.forward(&self.conn)).await,
            Err(_) => switch.failed(),
        }
    }

    /// Answers what is no request, and enters it in the books.
    pub(super) async fn refuse(&self, reason: Reason) {
        let started = self.link.moments.take().unwrap_or_else(Instant::now);
        self.link.enter(&self.link.callee(), started, Some(reason.status()), Some(reason), 0);
        self.conn.borrow_mut().put(refusal(&self.link.worker.common.name, reason).as_bytes());
        let flushed = timeout(DISCARD_TIME, poll_fn(|cx| self.conn.borrow_mut().poll_flush(cx))).await;
        if matches!(flushed, Ok(Ok(()))) {
            self.close().await;
        }
    }

    /// Says that no more will come, and lets a caller that is still sending read what it was told.
    async fn close(&self) {
        let mut left = DISCARD_BYTES;
        let close = async {
            poll_fn(|cx| self.conn.borrow_mut().poll_shutdown(cx)).await?;
            while left > 0 {
                self.conn.borrow_mut().discard();
                let read = poll_fn(|cx| self.conn.borrow_mut().poll_fill(cx)).await?;
                left = if read == 0 { 0 } else { left.saturating_sub(read) };
            }
            Ok::<_, std::io::Error>(())
        };
        // Whatever becomes of it, the connection is dropped now.
        let _ = timeout(DISCARD_TIME, close).await;
    }
}

impl From<HeadError> for Reason {
    /// What is wrong with a request that has such a head.
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::Syntax => Self::RequestMalformed,
            HeadError::TooLarge => Self::RequestHeadTooLarge,
        }
    }
}

/// Where a response's body ends for a caller of `version`.
fn framing(parts: &mut response::Parts, body: &ReplyBody, method: &Method, version: Version) -> Framing {
    if framing::has_no_body(method, parts.status) {
        if parts.status == StatusCode::NO_CONTENT {
            parts.headers.remove(header::CONTENT_LENGTH);
        }
        return Framing::None;
    }
    let said = || parts.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    match body.size_hint().exact().or_else(said) {
        Some(length) => Framing::Length(length),
        None if version == Version::HTTP_11 => Framing::Chunked,
        None => Framing::UntilClose,
    }
}

fn refusal(name: &str, reason: Reason) -> String {
    let member = Member::new(name, reason, reason.domain());
    let body = reply::text(reason);
    format!(
        "HTTP/1.1 {}\r\nconnection: close\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nproxy-status: {}\r\n\r\n{body}",
        reason.status(),
        body.len(),
        member.to_text()
    )
}
