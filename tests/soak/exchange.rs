//! One request over HTTP, and what its caller does with it.

use std::{convert::Infallible, future::pending, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use fastrand::Rng;
use firebreak_tests::app::grpc;
use futures::stream;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, response::Parts};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::TcpStream,
    sync::oneshot,
    time::{sleep, timeout},
};

use crate::{
    callers::{Kind, PATIENCE},
    peers::{LARGE_FRAME, LARGE_FRAMES},
    world::World,
};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Pieces of a body that is sent slowly, and the most that lies between two. Some pauses are longer than the policies allow.
const PIECES: usize = 10;
const PAUSE_MILLIS: u64 = 60;
/// One pause of so many, while a large answer is read, is a long one.
const RARELY: usize = 200;
const LONG_PAUSE: Duration = Duration::from_millis(1500);

/// What the caller does besides sending and reading.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conduct {
    /// Nothing.
    Plain,
    /// It leaves once its request has arrived.
    Leave,
    /// It sends slowly.
    SendSlowly,
    /// It reads slowly, or leaves in the middle.
    ReadSlowly,
}

/// A way to the proxy: a connection, or a share of one.
pub(crate) enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

impl Sender {
    /// A connection that speaks the version of this kind of caller.
    pub(crate) async fn new(world: &World, kind: Kind, stream: TcpStream) -> Option<Self> {
        let stream = TokioIo::new(stream);
        let opened = if kind.multiplexes() {
            let opened = http2::handshake(TokioExecutor::new(), stream).await;
            opened.map(|(sender, connection)| {
                tokio::spawn(connection);
                Self::Http2(sender)
            })
        } else {
            let opened = http1::handshake(stream).await;
            opened.map(|(sender, connection)| {
                tokio::spawn(connection);
                Self::Http1(sender)
            })
        };
        opened.inspect_err(|error| world.defect(kind, format_args!("no handshake: {error}"))).ok()
    }

    /// Another share of the connection, where it has any.
    pub(crate) fn share(&self) -> Option<Self> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(sender) => Some(Self::Http2(sender.clone())),
        }
    }

    /// Whether the next request can go out on it.
    async fn ready(&mut self) -> bool {
        match self {
            Self::Http1(sender) => sender.ready().await.is_ok(),
            Self::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    async fn send(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => sender.send_request(request).await,
            Self::Http2(sender) => sender.send_request(request).await,
        }
    }
}

/// Sends a request and does with it what the caller does. The way to the proxy, if it can be used again.
pub(crate) async fn run(world: &Arc<World>, kind: Kind, mut sender: Sender, mut rng: Rng) -> Option<Sender> {
    if !sender.ready().await {
        return None;
    }
    let id = world.id();
    let (request, wanted) = request(id, kind, &mut rng);
    let arrival = (kind.conduct() == Conduct::Leave).then(|| world.peers.held.arrival(id));
    world.tally.send(kind);
    let answer = tokio::select! {
        biased;
        () = arrived(arrival) => {
            world.tally.leave();
            // On HTTP/2 the answer's future goes, and with it the stream; on HTTP/1 the connection.
            return sender.share();
        }
        answer = timeout(PATIENCE, sender.send(request)) => answer,
    };
    world.peers.held.forget(id);
    match answer {
        Err(_) => world.defect(kind, format_args!("request {id} has no answer after {PATIENCE:?}")),
        // The connection was closed while the request waited for its turn.
        Ok(Err(error)) if error.is_canceled() => world.tally.not_sent(kind),
        Ok(Err(_)) => world.tally.break_off(),
        Ok(Ok(response)) => return read(world, kind, id, wanted.as_ref(), response, &mut rng).await.then_some(sender),
    }
    None
}

/// Resolves when the request has arrived, if anybody waits for that.
async fn arrived(arrival: Option<oneshot::Receiver<()>>) {
    let Some(arrival) = arrival else { return pending().await };
    if arrival.await.is_err() {
        pending::<()>().await;
    }
}

/// A request, and the body of the right answer to it; that of a large one is not compared.
fn request(id: u64, kind: Kind, rng: &mut Rng) -> (Request<Body>, Option<Bytes>) {
    let path = match kind.conduct() {
        Conduct::Leave => "hold",
        Conduct::ReadSlowly => "large",
        Conduct::SendSlowly | Conduct::Plain => "echo",
    };
    let length = if kind.conduct() == Conduct::Plain { rng.usize(..2000) * rng.usize(..2) } else { PIECES };
    let body = match kind.conduct() {
        Conduct::SendSlowly => slowly(rng.fork()),
        _ if kind == Kind::Grpc => Full::from(grpc::framed(b"ask")).boxed_unsync(),
        _ => Full::from(vec![b'u'; length]).boxed_unsync(),
    };
    let authority = if kind.multiplexes() { "http://soak" } else { "" };
    let mut request = Request::new(body);
    *request.method_mut() = if length == 0 && kind != Kind::Grpc { Method::GET } else { Method::POST };
    *request.uri_mut() = format!("{authority}/{path}/{id}").try_into().unwrap_or_default();
    if kind == Kind::Grpc {
        grpc::headers(request.headers_mut());
    } else if !kind.multiplexes() {
        request.headers_mut().insert("host", HeaderValue::from_static("soak"));
    }
    let wanted = match kind.conduct() {
        Conduct::ReadSlowly => None,
        _ if kind == Kind::Grpc => Some(grpc::framed(id.to_string().as_bytes())),
        _ => Some(Bytes::from(format!("{id} {length}"))),
    };
    (request, wanted)
}

fn slowly(rng: Rng) -> Body {
    let pieces = stream::unfold((PIECES, rng), |(left, mut rng)| async move {
        let left = left.checked_sub(1)?;
        sleep(Duration::from_millis(rng.u64(..PAUSE_MILLIS))).await;
        Some((Ok(Frame::data(Bytes::from_static(b"u"))), (left, rng)))
    });
    StreamBody::new(pieces).boxed_unsync()
}

/// Reads an answer. Whether another request may follow on the connection.
async fn read(
    world: &World,
    kind: Kind,
    id: u64,
    wanted: Option<&Bytes>,
    response: Response<Incoming>,
    rng: &mut Rng,
) -> bool {
    let (head, mut body) = response.into_parts();
    let leaves_after = (kind.conduct() == Conduct::ReadSlowly && rng.bool()).then(|| rng.usize(1..LARGE_FRAMES));
    let (mut bytes, mut frames, mut trailers) = (BytesMut::new(), 0, None);
    loop {
        let frame = match timeout(PATIENCE, body.frame()).await {
            Err(_) => {
                world.defect(kind, format_args!("the answer to {id} does not go on after {PATIENCE:?}"));
                return false;
            }
            Ok(None) => break,
            Ok(Some(Err(_))) => {
                world.tally.break_off();
                return kind.multiplexes();
            }
            Ok(Some(Ok(frame))) => frame,
        };
        match frame.into_data() {
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
        frames += 1;
        if leaves_after == Some(frames) {
            world.tally.leave();
            return kind.multiplexes();
        }
        if kind.conduct() == Conduct::ReadSlowly {
            sleep(pause(rng)).await;
        }
    }
    world.tally.answer();
    if let Some(what) = wrong(kind, wanted, &head, &bytes, trailers.as_ref()) {
        world.defect(kind, format_args!("request {id}: {what}"));
    }
    true
}

fn pause(rng: &mut Rng) -> Duration {
    if rng.usize(..RARELY) == 0 { LONG_PAUSE } else { Duration::from_millis(rng.u64(..3)) }
}

/// What is wrong with an answer that came to its end: it must be the one to this request, and whole, or tell its failure.
fn wrong(
    kind: Kind,
    wanted: Option<&Bytes>,
    head: &Parts,
    body: &[u8],
    trailers: Option<&HeaderMap>,
) -> Option<String> {
    if head.status != StatusCode::OK {
        return (!head.status.is_server_error() && head.status != StatusCode::TOO_MANY_REQUESTS)
            .then(|| format!("answered with {}", head.status));
    }
    if kind == Kind::Grpc {
        let Some(status) = trailers.unwrap_or(&head.headers).get("grpc-status") else {
            return Some("no grpc-status".to_owned());
        };
        if status != "0" {
            return None;
        }
    }
    let is_right = match wanted {
        Some(wanted) => body == wanted,
        None => body.len() == LARGE_FRAME * LARGE_FRAMES,
    };
    (!is_right).then(|| format!("{} bytes that are not its answer: {:.40}", body.len(), String::from_utf8_lossy(body)))
}
