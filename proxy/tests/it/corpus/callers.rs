//! Callers, who listen to whatever address they are given: ours or another proxy's.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use super::{Protocol, peers::Peer};
use crate::support::is_reset;

/// The id by which the request is known that is judged.
pub(super) const ID: &str = "judged-request";

/// More than the 500 ms for which a connection must have been idle to count as stale.
const REST: Duration = Duration::from_millis(600);

/// What happens before the request that is judged.
#[derive(Clone, Copy, Debug)]
pub(super) enum Before {
    Nothing,
    /// So many requests, one after the other, to their ends.
    Calls(u64),
    /// So many requests, which are under way still.
    Holds(usize),
    /// One request, and then nothing for a while.
    Rests,
    /// One request on a connection that stays open.
    Keeps,
}

/// What the caller does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Caller {
    /// A request with these headers.
    Calls(&'static [(&'static str, &'static str)]),
    /// HTTP: the same by POST, which may not be sent twice.
    Posts,
    /// Goes away when the callee has the request.
    Leaves,
    /// Goes away when a part of the answer has come.
    LeavesMidway,
    /// Breaks off in the middle of its request's body.
    BreaksOff,
    /// HTTP/2: ends its request before as many bytes have come as were announced.
    EndsShort,
    /// A request with so many headers of so many bytes.
    BigHead(usize, usize),
    /// These bytes.
    Says(&'static [u8]),
    /// A connection and nothing else.
    Connects,
}

/// Announces ten bytes.
const TEN: &[(&str, &str)] = &[("content-length", "10")];

type Body = BoxBody<Bytes, io::Error>;

/// A connection of a caller's.
enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

/// What happened before, kept for as long as it is to last.
#[derive(Default)]
pub(super) struct Held {
    pub ended: u64,
    under_way: JoinSet<()>,
}

impl Before {
    pub(super) async fn happen(self, address: SocketAddr, protocol: Protocol, peer: &Peer) -> Held {
        let mut held = Held::default();
        match self {
            Self::Nothing => {}
            Self::Calls(count) => {
                for _ in 0..count {
                    call(address, protocol, request(protocol, "GET", "/", &[]), peer).await;
                }
                held.ended = count;
            }
            Self::Holds(count) => {
                for _ in 0..count {
                    let mut sender = connect(address, protocol).await;
                    let request = request(protocol, "GET", HELD, &[]);
                    held.under_way.spawn(async move { drop(sender.send(request).await) });
                }
                peer.has_seen(count).await;
            }
            Self::Rests => {
                call(address, protocol, request(protocol, "GET", "/", &[]), peer).await;
                // Idle time is what the reason depends on.
                tokio::time::sleep(REST).await;
                held.ended = 1;
            }
            Self::Keeps => {
                let mut sender = connect(address, protocol).await;
                let response = sender.send(request(protocol, "GET", "/", &[])).await.unwrap();
                response.into_body().collect().await.unwrap();
                held.under_way.spawn(async move {
                    std::future::pending::<()>().await;
                    drop(sender);
                });
                held.ended = 1;
            }
        }
        held
    }
}

impl Caller {
    /// Does what it does; the last thing that `Proxy-Status` said, if anything.
    pub(super) async fn act(self, address: SocketAddr, protocol: Protocol, peer: &Peer) -> Option<String> {
        let judged = |method, fields| {
            let mut request = request(protocol, method, "/", fields);
            request.headers_mut().insert("x-request-id", ID.parse().unwrap());
            request
        };
        match self {
            Self::Calls(fields) => call(address, protocol, judged("GET", fields), peer).await,
            Self::Posts => call(address, protocol, judged("POST", &[]), peer).await,
            Self::BigHead(count, bytes) => {
                let value = "x".repeat(bytes);
                call(address, protocol, judged("GET", &vec![("x-big", value.as_str()); count]), peer).await
            }
            Self::Leaves => {
                let mut sender = connect(address, protocol).await;
                tokio::select! {
                    answer = sender.send(judged("GET", &[])) => panic!("answered: {answer:?}"),
                    () = peer.has_seen(1) => None,
                }
            }
            Self::LeavesMidway => {
                let mut sender = connect(address, protocol).await;
                let mut response = sender.send(judged("GET", &[])).await.unwrap();
                response.body_mut().frame().await.unwrap().unwrap();
                None
            }
            Self::BreaksOff | Self::EndsShort => {
                let mut request = judged("POST", TEN);
                *request.body_mut() = part(self, peer);
                call(address, protocol, request, peer).await
            }
            Self::Says(bytes) => says(address, bytes).await,
            Self::Connects => {
                assert!(is_reset(address).await, "it is taken");
                None
            }
        }
    }
}

/// Where requests go that are held.
const HELD: &str = "/held";

/// The caller's trace, which a callee passes on.
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn request(protocol: Protocol, method: &str, path: &str, fields: &[(&str, &str)]) -> Request<Body> {
    let request = match protocol {
        Protocol::Http1 => Request::builder().method(method).uri(path).header("host", "callee"),
        Protocol::Http2 => {
            Request::builder().method(method).uri(format!("http://callee{path}")).version(http::Version::HTTP_2)
        }
        Protocol::Grpc => Request::post(format!("http://callee{path}"))
            .version(http::Version::HTTP_2)
            .header("content-type", "application/grpc")
            .header("te", "trailers"),
    };
    let body = if protocol == Protocol::Grpc { Bytes::from_static(b"\0\0\0\0\0") } else { Bytes::new() };
    let request = request.header("traceparent", TRACE);
    let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(BodyExt::boxed(Full::new(body).map_err(|never| match never {}))).unwrap()
}

async fn connect(address: SocketAddr, protocol: Protocol) -> Sender {
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    if protocol == Protocol::Http1 {
        let (sender, connection) = http1::handshake(stream).await.unwrap();
        tokio::spawn(connection.map(drop));
        return Sender::Http1(sender);
    }
    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection.map(drop));
    Sender::Http2(sender)
}

impl Sender {
    async fn send(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => sender.send_request(request).await,
            Self::Http2(sender) => sender.send_request(request).await,
        }
    }
}

/// One request on a connection of its own, and its answer to the end, however that comes.
async fn call(address: SocketAddr, protocol: Protocol, request: Request<Body>, peer: &Peer) -> Option<String> {
    let mut sender = connect(address, protocol).await;
    let response = sender.send(request).await.ok()?;
    peer.head_seen.notify_one();
    let mut said = last(response.headers());
    let mut body = response.into_body();
    while let Some(Ok(frame)) = body.frame().await {
        said = frame.trailers_ref().and_then(last).or(said);
    }
    said
}

/// Four of ten bytes.
fn part(caller: Caller, peer: &Peer) -> Body {
    // Without a length of its own, which the library would compare.
    let part = stream::once(async { Ok(Frame::data(Bytes::from_static(b"\0\0\0\0"))) });
    if matches!(caller, Caller::EndsShort) {
        return BodyExt::boxed(StreamBody::new(Box::pin(part)));
    }
    let seen = Arc::clone(&peer.seen);
    let broken = stream::once(async move {
        while seen.load(SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        Err(io::Error::other("the caller breaks off"))
    });
    BodyExt::boxed(StreamBody::new(Box::pin(part.chain(broken))))
}

fn last(fields: &HeaderMap) -> Option<String> {
    Some(fields.get_all("proxy-status").iter().next_back()?.to_str().unwrap().to_owned())
}

async fn says(address: SocketAddr, bytes: &[u8]) -> Option<String> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A refusal may reset what was not read.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    Some(answer.split("proxy-status: ").nth(1)?.split("\r\n").next()?.to_owned())
}
