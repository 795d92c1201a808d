//! One request over HTTP, and what its caller does with it.

use std::{future::pending, sync::Arc, time::Duration};

use bytes::BytesMut;
use fastrand::Rng;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::TcpStream,
    sync::oneshot,
    time::{sleep, timeout},
};

use crate::{
    callers::PATIENCE,
    kind::{Conduct, Kind},
    request::{self, Wanted},
    site::{Body, LARGE_FRAMES},
    tally::{End, Sent},
    world::World,
};

/// One pause of so many, while a large answer is read, is a long one.
const RARELY: usize = 200;
const LONG_PAUSE: Duration = Duration::from_millis(1500);

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
    let (request, wanted) = request::new(world, id, kind, &mut rng);
    let arrival = (kind.conduct() == Conduct::Leave).then(|| world.peers.site.arrival(id));
    let sent = world.tally.send(kind);
    let answer = tokio::select! {
        biased;
        () = arrived(arrival) => {
            world.tally.end(&sent, End::Left);
            // On HTTP/2 the answer's future goes, and with it the stream; on HTTP/1 the connection.
            return sender.share();
        }
        answer = timeout(PATIENCE, sender.send(request)) => answer,
    };
    world.peers.site.forget(id);
    match answer {
        Err(_) => world.defect(kind, format_args!("request {id} has no answer after {PATIENCE:?}")),
        // The connection was closed while the request waited for its turn.
        Ok(Err(error)) if error.is_canceled() => world.tally.not_sent(&sent),
        Ok(Err(_)) => {
            if kind == Kind::Visits {
                world.tally.unsure(&sent);
            }
            world.tally.end(&sent, End::BrokenOff);
        }
        Ok(Ok(response)) => {
            let exchange = Exchange { world, kind, id, wanted, sent };
            return exchange.read(response, &mut rng).await.then_some(sender);
        }
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

/// A request whose answer has begun.
struct Exchange<'a> {
    world: &'a World,
    kind: Kind,
    id: u64,
    wanted: Wanted,
    sent: Sent,
}

impl Exchange<'_> {
    /// Reads the answer. Whether another request may follow on the connection.
    async fn read(&self, response: Response<Incoming>, rng: &mut Rng) -> bool {
        let Self { world, kind, id, .. } = *self;
        let (head, mut body) = response.into_parts();
        let reads_slowly = kind.conduct() == Conduct::ReadSlowly && head.status == StatusCode::OK;
        let leaves_after = (reads_slowly && rng.bool()).then(|| rng.usize(1..LARGE_FRAMES));
        let (mut bytes, mut frames, mut trailers) = (BytesMut::new(), 0, None);
        loop {
            let frame = match timeout(PATIENCE, body.frame()).await {
                Err(_) => {
                    world.defect(kind, format_args!("the answer to {id} does not go on after {PATIENCE:?}"));
                    return false;
                }
                Ok(None) => break,
                Ok(Some(Err(_))) => return self.end(End::BrokenOff),
                Ok(Some(Ok(frame))) => frame,
            };
            match frame.into_data() {
                Ok(data) => bytes.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
            frames += 1;
            if leaves_after == Some(frames) {
                return self.end(End::Left);
            }
            if reads_slowly {
                sleep(pause(world, rng)).await;
            }
        }
        let told = if head.status == StatusCode::OK {
            self.wanted.compare(&head, &bytes, trailers.as_ref())
        } else {
            tells_failure(head.status)
        };
        let end = verdict(world, kind, id, told);
        world.tally.end(&self.sent, end);
        // Much of a large body may not have been sent when its failure is told: whoever answers so early may close.
        end == End::Right || kind != Kind::Chunks
    }

    /// It ends before its answer does.
    fn end(&self, end: End) -> bool {
        self.world.tally.end(&self.sent, end);
        self.kind.multiplexes()
    }
}

/// What became of a request whose answer came to its end.
pub(crate) fn verdict(world: &World, kind: Kind, id: u64, told: Result<bool, String>) -> End {
    match told {
        Ok(true) => End::Right,
        Ok(false) => End::Failed,
        Err(what) => {
            world.defect(kind, format_args!("request {id}: {what}"));
            End::Failed
        }
    }
}

/// Whatever is not answered as it should be is told so by a status that says it is not the caller's fault, or too much.
pub(crate) fn tells_failure(status: StatusCode) -> Result<bool, String> {
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        return Ok(false);
    }
    Err(format!("answered with {status}"))
}

/// While it is calm nobody stops: an answer is to come to its end within it.
fn pause(world: &World, rng: &mut Rng) -> Duration {
    if rng.usize(..RARELY) == 0 && !world.is_calm() { LONG_PAUSE } else { Duration::from_millis(rng.u64(..3)) }
}
