//! Callees that fail as a script says. They work on bare sockets, because a library would put right what is to go wrong.

use std::{
    any::Any,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use firebreak_proxy::{Settings, net::accept::Kind};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

use super::{Protocol, frames};
use crate::{
    layers::{Pod, forwards},
    support::{Callee, Mesh, free_address, full_listener},
};

/// How a connection ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// In good order.
    Close,
    /// With a reset.
    Reset,
}

/// What a callee is like.
#[derive(Clone, Copy, Debug)]
pub(super) enum Script {
    /// There is none.
    Absent,
    /// Nobody listens there.
    Refuses,
    /// No route leads there.
    Unroutable,
    /// Connections to it do not open.
    Swallows,
    /// Ends each connection as soon as it is open.
    Accepts(End),
    /// Whatever it is sent, these are its bytes, and then it closes.
    Says(&'static [u8]),
    /// Does this with each request.
    Does(Act),
    /// A pod whose proxy runs and whose application does not listen.
    WithoutApplication,
    /// A pod whose application calls another, which answers 503, and passes that on.
    Depends,
    /// Answers so many requests well, and does this with the others.
    After(usize, Act),
}

/// What a callee does with a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Act {
    /// A whole answer with these fields.
    Answer(u16, &'static [(&'static str, &'static str)]),
    /// gRPC: a message, and this status in the trailers.
    Trailers(&'static str),
    /// An answer whose head has so many fields of so many bytes.
    BigHead(usize, usize),
    /// Nothing, while the connection stays open.
    Silence,
    /// These bytes instead of an answer, then a close.
    Raw(&'static [u8]),
    /// The connection ends before any byte of an answer.
    Ends(End),
    /// The head of an answer and the first part of its body, and then this, once the caller has seen the head.
    Part(Rest),
    /// HTTP/1: the same in chunks.
    Chunks(Rest),
    /// HTTP/2: resets the stream with this code.
    ResetsStream(u32),
    /// HTTP/2: GOAWAY, which says whether this stream is looked at, and then a close.
    GoesAway { looks: bool },
}

/// How an answer goes on that has begun.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rest {
    Ends(End),
    Silence,
    /// A byte from time to time, without end.
    Drips,
    /// Bytes that have no place there.
    Raw(&'static [u8]),
    /// HTTP/2: resets the stream with this code.
    ResetsStream(u32),
    /// HTTP/2: ends the stream before as many bytes have come as were announced.
    Short,
}

/// A callee that runs.
pub(super) struct Peer {
    pub endpoints: Vec<SocketAddr>,
    /// Requests whose heads have come.
    pub seen: Arc<AtomicUsize>,
    /// Told when the caller has the head of an answer.
    pub head_seen: Arc<Notify>,
    _held: Option<Box<dyn Any + Send + Sync>>,
}

/// What one connection needs to know.
#[derive(Clone)]
pub(super) struct Stage {
    pub protocol: Protocol,
    script: Script,
    seen: Arc<AtomicUsize>,
    head_seen: Arc<Notify>,
}

impl Peer {
    pub(super) async fn start(script: Script, protocol: Protocol) -> Self {
        let (seen, head_seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let mut held = None::<Box<dyn Any + Send + Sync>>;
        let endpoints = match script {
            Script::Absent => vec![],
            Script::Refuses => vec![free_address()],
            // A datagram could go to everybody, a connection cannot.
            Script::Unroutable => vec![(Ipv4Addr::BROADCAST, 80).into()],
            Script::Swallows => {
                let full = full_listener().await;
                let address = full.0.local_addr().unwrap();
                held = Some(Box::new(full));
                vec![address]
            }
            Script::WithoutApplication => {
                let inbound = free_address();
                let redirected = vec![(inbound, Kind::Before(free_address()))];
                let settings = Settings { redirected, ..Settings::default() };
                held = Some(Box::new(Mesh::set(settings, &[], json!({"protocol": "Http"}), &[])));
                vec![inbound]
            }
            Script::Depends => {
                let bottom = Callee::answering(&[503]).await;
                let pod = Pod::before(bottom.address, json!({}), forwards).await;
                let inbound = pod.inbound;
                held = Some(Box::new((pod, bottom)));
                vec![inbound]
            }
            _ => {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
                let address = listener.local_addr().unwrap();
                let stage = Stage { protocol, script, seen: Arc::clone(&seen), head_seen: Arc::clone(&head_seen) };
                tokio::spawn(accept(listener, stage));
                vec![address]
            }
        };
        Self { endpoints, seen, head_seen, _held: held }
    }

    /// Waits until so many requests have come.
    pub(super) async fn has_seen(&self, count: usize) {
        while self.seen.load(SeqCst) < count {
            tokio::task::yield_now().await;
        }
    }
}

async fn accept(listener: TcpListener, stage: Stage) {
    while let Ok((stream, _)) = listener.accept().await {
        let stage = stage.clone();
        // An error is the other side's way to end.
        tokio::spawn(async move { stage.play(stream).await.is_ok() });
    }
}

impl Stage {
    async fn play(&self, mut stream: TcpStream) -> io::Result<()> {
        match self.script {
            Script::Accepts(how) => end(stream, how).await,
            Script::Says(bytes) => {
                stream.read_u8().await?;
                stream.write_all(bytes).await?;
                end(stream, End::Close).await
            }
            _ if self.protocol == Protocol::Http1 => self.http1(stream).await,
            _ => frames::serve(self, stream).await,
        }
    }

    /// A request has come; which is it?
    pub(super) fn count(&self) -> usize {
        self.seen.fetch_add(1, SeqCst) + 1
    }

    /// What is to be done with that request.
    pub(super) fn act(&self, number: usize) -> Act {
        match self.script {
            Script::Does(act) => act,
            Script::After(good, act) if number > good => act,
            _ if self.protocol == Protocol::Grpc => {
                Act::Answer(200, &[("content-type", "application/grpc"), ("grpc-status", "0")])
            }
            _ => Act::Answer(200, &[]),
        }
    }

    /// Waits until the caller has the head of its answer.
    pub(super) async fn head_seen(&self) {
        self.head_seen.notified().await;
    }

    async fn http1(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let length = head(&mut stream).await?;
            let number = self.count();
            stream.read_exact(&mut vec![0; length]).await?;
            match self.act(number) {
                Act::Answer(status, fields) => stream.write_all(&answer(status, fields)).await?,
                Act::BigHead(count, bytes) => stream.write_all(&big_head(count, bytes)).await?,
                Act::Silence => return until_closed(&mut stream).await,
                Act::Raw(bytes) => {
                    stream.write_all(bytes).await?;
                    return end(stream, End::Close).await;
                }
                Act::Ends(how) => return end(stream, how).await,
                Act::Part(rest) => {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\npart").await?;
                    return self.rest(stream, rest, b".").await;
                }
                Act::Chunks(rest) => {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n").await?;
                    return self.rest(stream, rest, b"1\r\n.\r\n").await;
                }
                act => unreachable!("HTTP/1 has no {act:?}"),
            }
        }
    }

    async fn rest(&self, mut stream: TcpStream, rest: Rest, drop: &'static [u8]) -> io::Result<()> {
        self.head_seen().await;
        match rest {
            Rest::Ends(how) => end(stream, how).await,
            Rest::Silence => until_closed(&mut stream).await,
            Rest::Drips => drip(&mut stream, drop).await,
            Rest::Raw(bytes) => {
                stream.write_all(bytes).await?;
                end(stream, End::Close).await
            }
            Rest::ResetsStream(_) | Rest::Short => unreachable!("HTTP/1 has no {rest:?}"),
        }
    }
}

/// Reads the head of a request; how long its body is.
async fn head(stream: &mut TcpStream) -> io::Result<usize> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next());
    Ok(length.map_or(0, |length| length.parse().unwrap()))
}

fn answer(status: u16, fields: &[(&str, &str)]) -> Vec<u8> {
    use std::fmt::Write;
    let mut text = format!("HTTP/1.1 {status} Answer\r\ncontent-length: 0\r\n");
    for (name, value) in fields {
        write!(text, "{name}: {value}\r\n").unwrap();
    }
    format!("{text}\r\n").into_bytes()
}

fn big_head(count: usize, bytes: usize) -> Vec<u8> {
    let fields = format!("x-big: {}\r\n", "x".repeat(bytes)).repeat(count);
    format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{fields}\r\n").into_bytes()
}

/// Ends a connection.
pub(super) async fn end(mut stream: TcpStream, how: End) -> io::Result<()> {
    match how {
        // What was not read would make the close a reset.
        End::Close => {
            stream.shutdown().await?;
            until_closed(&mut stream).await
        }
        End::Reset => socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)),
    }
}

/// Reads until the other side closes.
pub(super) async fn until_closed(stream: &mut TcpStream) -> io::Result<()> {
    let mut buffer = [0; 1024];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

/// Writes the same again and again.
pub(super) async fn drip(stream: &mut TcpStream, drop: &[u8]) -> io::Result<()> {
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        stream.write_all(drop).await?;
    }
}
