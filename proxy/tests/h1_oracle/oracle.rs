//! Two readers of the same bytes: the proxy's, and that of hyper, for what the proxy writes. Where they disagree about what is a
//! message and what is its body, somebody's request becomes part of somebody else's.

use std::{
    cell::RefCell,
    convert::Infallible,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use firebreak_proxy::h1::{Body, Conn, Framing, Sending, conn::Stream, framing, head};
use http::{Method, Request, Response, header};
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a reader made of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// Method and target, or status.
    pub(crate) line: String,
    /// Its body, as far as it came.
    pub(crate) body: Vec<u8>,
    /// Whether all of it came.
    pub(crate) whole: bool,
}

/// A connection in memory, whose bytes come in pieces.
#[derive(Debug)]
struct Memory {
    input: Bytes,
    piece: usize,
    output: Vec<u8>,
}

impl AsyncRead for Memory {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let take = self.input.len().min(self.piece).min(buf.remaining());
        buf.put_slice(&self.input.split_to(take));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Memory {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let take = buf.len().min(self.piece);
        self.output.extend_from_slice(&buf[..take]);
        Poll::Ready(Ok(take))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Stream for Memory {
    fn poll_readable(&self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

fn memory(input: &[u8], piece: usize) -> Rc<RefCell<Conn<Memory>>> {
    let stream = Memory { input: Bytes::copy_from_slice(input), piece: piece.max(1), output: Vec::new() };
    Rc::new(RefCell::new(Conn::new(stream)))
}

/// A body that keeps what went through it.
#[derive(Debug)]
struct Seen {
    body: Body<Memory>,
    data: Rc<RefCell<Vec<u8>>>,
}

impl http_body::Body for Seen {
    type Data = Bytes;
    type Error = firebreak_proxy::h1::conn::ReadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.data.borrow_mut().extend_from_slice(data);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// Passes the body that `from` has begun on to `to`, and says what went through.
fn pass(from: &Rc<RefCell<Conn<Memory>>>, to: &RefCell<Conn<Memory>>, line: String, framing: Framing) -> Message {
    let data = Rc::new(RefCell::new(Vec::new()));
    let mut sending = Sending::new(Seen { body: Body::new(from), data: Rc::clone(&data) }, framing);
    let cx = &mut Context::from_waker(Waker::noop());
    let whole = matches!(sending.poll(to, cx), Poll::Ready(Ok(())));
    // What was to be written when a body broke off goes out in the proxy too, or not; here it does.
    let _ = to.borrow_mut().poll_flush(cx);
    let body = data.borrow().clone();
    Message { line, body, whole }
}

/// The requests that the proxy reads of `bytes`, which come in pieces, and what it writes to their callee.
pub(crate) fn requests(bytes: &[u8], piece: usize) -> (Vec<Message>, Vec<u8>) {
    let (from, to) = (memory(bytes, piece), memory(&[], 1 << 20));
    let cx = &mut Context::from_waker(Waker::noop());
    let mut messages = Vec::new();
    loop {
        let Poll::Ready(Ok(Some(taken))) = from.borrow_mut().poll_head(cx, head::could_be_request) else { break };
        let Ok(mut request) = head::request(&taken) else { break };
        if request.parts.method == Method::CONNECT {
            break;
        }
        request.parts.headers.remove(header::TRANSFER_ENCODING);
        request.parts.headers.remove(header::CONNECTION);
        request.parts.headers.remove(header::UPGRADE);
        if !request.parts.headers.contains_key(header::HOST) {
            break;
        }
        head::write_request(&request.parts, &request.spelling, request.framing, to.borrow_mut().out());
        from.borrow_mut().begin_body(request.framing, false);
        let line = format!("{} {}", request.parts.method, request.parts.uri);
        let message = pass(&from, &to, line, request.framing);
        let goes_on = message.whole && request.persistent;
        messages.push(message);
        if !goes_on {
            break;
        }
    }
    let written = to.borrow().stream().output.clone();
    (messages, written)
}

/// The response that the proxy reads of `bytes`, and what it writes to its caller.
pub(crate) fn response(bytes: &[u8], method: &Method, piece: usize) -> Option<(Message, Vec<u8>)> {
    let (from, to) = (memory(bytes, piece), memory(&[], 1 << 20));
    let cx = &mut Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(Some(taken))) = from.borrow_mut().poll_head(cx, head::could_be_response) else { return None };
    let mut response = head::response(&taken, method).ok()?;
    if response.parts.status.is_informational() {
        return None;
    }
    for name in [header::TRANSFER_ENCODING, header::CONNECTION, header::UPGRADE] {
        response.parts.headers.remove(name);
    }
    let framing = match response.framing {
        Framing::None if framing::has_no_body(method, response.parts.status) => Framing::None,
        Framing::None => Framing::Length(0),
        Framing::UntilClose => Framing::Chunked,
        framing => framing,
    };
    let version = http::Version::HTTP_11;
    head::write_response(&response.parts, &response.spelling, framing, version, true, to.borrow_mut().out());
    from.borrow_mut().begin_body(response.framing, false);
    let message = pass(&from, &to, response.parts.status.as_str().to_owned(), framing);
    let written = to.borrow().stream().output.clone();
    Some((message, written))
}

/// For hyper: bytes that are all there as soon as it has been asked for them, and then the end.
struct Whole {
    bytes: Bytes,
    asked: bool,
}

impl hyper::rt::Read for Whole {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.asked {
            return Poll::Pending;
        }
        let take = self.bytes.len().min(buf.remaining());
        buf.put_slice(&self.bytes.split_to(take));
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Whole {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.asked = true;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

async fn read<B: hyper::body::Body<Data = Bytes> + Unpin>(line: String, mut body: B) -> Message {
    let mut data = Vec::new();
    loop {
        match body.frame().await {
            None => return Message { line, body: data, whole: true },
            Some(Err(_)) => return Message { line, body: data, whole: false },
            Some(Ok(frame)) => data.extend_from_slice(&frame.into_data().unwrap_or_default()),
        }
    }
}

/// The requests that hyper reads of bytes.
pub(crate) fn requests_by_hyper(bytes: &[u8]) -> Vec<Message> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| {
        let seen = Rc::clone(&seen);
        async move {
            let (parts, body) = request.into_parts();
            let message = read(format!("{} {}", parts.method, parts.uri), body).await;
            seen.borrow_mut().push(message);
            Ok::<_, Infallible>(Response::new(http_body_util::Empty::<Bytes>::new()))
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    // The end of the bytes is not the end of what is under way.
    builder.half_close(true).header_read_timeout(None).max_buf_size(1 << 20).max_headers(200);
    let connection = builder.serve_connection(Whole { bytes: Bytes::copy_from_slice(bytes), asked: true }, service);
    run(connection);
    seen.take()
}

/// The response that hyper reads of bytes.
pub(crate) fn response_by_hyper(bytes: &[u8], method: &Method) -> Option<Message> {
    let whole = Whole { bytes: Bytes::copy_from_slice(bytes), asked: false };
    run(async {
        let mut builder = hyper::client::conn::http1::Builder::new();
        builder.max_header_size(1 << 20).max_headers(200);
        let (mut sender, connection) = builder.handshake(whole).await.ok()?;
        let request = Request::builder().method(method.clone()).uri("/").header("host", "a");
        let request = request.body(http_body_util::Empty::<Bytes>::new()).ok()?;
        let exchange = async {
            let response = sender.send_request(request).await.ok()?;
            let (parts, body) = response.into_parts();
            Some(read(parts.status.as_str().to_owned(), body).await)
        };
        match futures::future::select(Box::pin(exchange), Box::pin(connection)).await {
            futures::future::Either::Left((message, _)) => message,
            futures::future::Either::Right((_, exchange)) => exchange.await,
        }
    })
    .flatten()
}

/// Runs what only waits for itself.
fn run<F: Future>(future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    let cx = &mut Context::from_waker(Waker::noop());
    (0..10_000).find_map(|_| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    })
}

/// What the proxy writes of `bytes` is read by others as it read them. The first byte says in what pieces they come.
///
/// # Panics
/// When it is not.
pub(crate) fn check_requests(bytes: &[u8]) {
    let Some((piece, bytes)) = bytes.split_first() else { return };
    let (ours, written) = requests(bytes, usize::from(*piece));
    let theirs = requests_by_hyper(&written);
    for (number, message) in ours.iter().enumerate() {
        let their = theirs.get(number);
        if message.whole {
            assert_eq!(their, Some(message), "request {number} of {:?}", Bytes::copy_from_slice(&written));
        } else {
            // It broke off, and must not look whole, nor be followed by anything.
            assert!(their.is_none_or(|their| !their.whole), "{their:?} of {:?}", Bytes::copy_from_slice(&written));
        }
    }
    assert!(theirs.len() <= ours.len(), "one more: {:?}", Bytes::copy_from_slice(&written));
    // What both take from the caller's own bytes is the same too.
    for (ours, theirs) in
        ours.iter().zip(requests_by_hyper(bytes)).take_while(|(ours, theirs)| ours.whole && theirs.whole)
    {
        assert_eq!(*ours, theirs, "{:?}", Bytes::copy_from_slice(bytes));
    }
}

/// The same for a response; the second byte says to what.
///
/// # Panics
/// When it is not.
pub(crate) fn check_response(bytes: &[u8]) {
    let [piece, method, bytes @ ..] = bytes else { return };
    let method = if method % 4 == 0 { Method::HEAD } else { Method::GET };
    let Some((ours, written)) = response(bytes, &method, usize::from(*piece)) else { return };
    let theirs = response_by_hyper(&written, &method);
    if ours.whole {
        assert_eq!(theirs, Some(ours), "{:?}", Bytes::copy_from_slice(&written));
    } else {
        assert!(
            theirs.as_ref().is_none_or(|theirs| !theirs.whole),
            "{theirs:?} of {:?}",
            Bytes::copy_from_slice(&written)
        );
    }
}
