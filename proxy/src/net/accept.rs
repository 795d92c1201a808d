//! A caller's connection, from accept to its end: where was it going, what does it speak, who serves it.
//!
//! Where the config says what a port speaks, that is believed. Elsewhere whoever speaks first decides: the callee is dialled
//! at once, and both sides are watched. A server that greets (MySQL, SMTP) is forwarded without a time-out to wait for; a
//! client that speaks HTTP is served as HTTP, and the connection that was dialled carries its first request.

use std::{net::SocketAddr, pin::pin, rc::Rc, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use firebreak_crds::wire::Protocol;
use http::HeaderValue;
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};

use super::{
    client_stream::ClientStream,
    connections::Counted,
    detect::{PREFACE, Spoken, spoken},
    opaque::{self, Dialled, reset},
    original_dst::original_dst,
};
use crate::{
    http::serve::{self, Link},
    policy::bulkhead::Need,
    snapshot::Callee,
    telemetry::metrics::Direction,
    upstream::{
        pool::Key,
        send::{handshake_h2, single},
    },
    verdict::Reason,
    worker::Worker,
};

/// How long a client may take to speak after its callee could not be reached: an HTTP client gets an answer that says why,
/// anybody else a reset.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Which listener a connection came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Redirected on its way out of the pod.
    Outbound,
    /// Redirected on its way into the pod.
    Inbound,
    /// On its way to the application that listens here, where nothing redirects and callers use the proxy's address: what tests
    /// of several pods on one machine do.
    Before(SocketAddr),
    /// Local mode: the address that was called is ours.
    Local,
    /// Local mode: on its way to this endpoint, before which we stand as though beside it.
    Beside(SocketAddr),
}

impl Kind {
    /// Which way it is going, seen from whom the proxy stands beside.
    pub fn direction(self) -> Direction {
        match self {
            Self::Outbound | Self::Local => Direction::Outbound,
            Self::Inbound | Self::Before(_) | Self::Beside(_) => Direction::Inbound,
        }
    }
}

/// A connection that turned out to speak HTTP.
type Http = (Link, ClientStream, Spoken);

/// Serves a connection to its end, unless it is one too many.
pub async fn serve(worker: &Rc<Worker>, stream: TcpStream, peer: SocketAddr, kind: Kind, counted: &Counted) {
    // In a box: what comes before takes room that an HTTP connection need not hold while it is at rest.
    if let Some((link, stream, spoken)) = Box::pin(begin(worker, stream, peer, kind, counted)).await {
        serve::connection(link, stream, spoken).await;
    }
}

/// Serves a connection that does not speak HTTP; or finds out that it does.
async fn begin(
    worker: &Rc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    kind: Kind,
    counted: &Counted,
) -> Option<Http> {
    let Some(destination) = destination(&stream, kind) else {
        reset(&stream);
        return None;
    };
    let direction = kind.direction();
    let callee = worker.callee(direction, &destination);
    let forwarded_for =
        (direction == Direction::Inbound).then(|| HeaderValue::try_from(peer.ip().to_canonical().to_string()).ok());
    let link = Link::new(worker, kind, destination, forwarded_for.flatten());
    let is_ours = stream.local_addr().is_ok_and(|local| local == destination);
    if is_ours && (kind != Kind::Local || callee.endpoints.is_none()) {
        // Nobody was redirected here, or in local mode the Service that listened here has just left the config: forwarding would
        // come back for ever.
        link.enter(&callee, Instant::now(), None, Some(Reason::LoopDetected), 0);
        reset(&stream);
        return None;
    }
    if counted.exceeds() {
        link.enter(&callee, Instant::now(), None, Some(Reason::TooManyConnections), 0);
        reset(&stream);
        return None;
    }
    let _ = stream.set_nodelay(true);
    let protocol = if worker.transparent() { Protocol::Tcp } else { callee.protocol };
    match protocol {
        Protocol::Tcp => {
            opaque::forward(&link, &callee, stream, Bytes::new(), None).await;
            None
        }
        Protocol::Http => declared_http(link, &callee, stream).await,
        Protocol::Detect => first_speaker(link, &callee, stream).await,
    }
}

fn destination(stream: &TcpStream, kind: Kind) -> Option<SocketAddr> {
    let destination = match kind {
        Kind::Before(application) | Kind::Beside(application) => Ok(application),
        Kind::Local => stream.local_addr(),
        Kind::Outbound | Kind::Inbound => original_dst(stream),
    };
    destination.inspect_err(|error| tracing::warn!(%error, "a connection's destination is unknown")).ok()
}

async fn declared_http(link: Link, callee: &Arc<Callee>, mut stream: TcpStream) -> Option<Http> {
    let mut bytes = BytesMut::with_capacity(PREFACE.len());
    match listen(&link, &mut stream, &mut bytes, true).await {
        Heard::Clear(Spoken::Opaque) => opaque::forward(&link, callee, stream, bytes.freeze(), None).await,
        Heard::Clear(spoken) => {
            let stream = ClientStream::new(stream, bytes.freeze(), &link);
            return Some((link, stream, spoken));
        }
        Heard::Ended | Heard::Stopping => {}
    }
    None
}

async fn first_speaker(link: Link, callee: &Arc<Callee>, mut stream: TcpStream) -> Option<Http> {
    let started = Instant::now();
    let mut bytes = BytesMut::with_capacity(PREFACE.len());
    let (heard, dialled) = {
        let mut hear = pin!(listen(&link, &mut stream, &mut bytes, false));
        let mut dial = pin!(opaque::dial(&link, callee));
        tokio::select! {
            dialled = dial.as_mut() => match dialled {
                Ok(dialled) => tokio::select! {
                    // Readable includes closed: either way the callee has spoken.
                    _ = dialled.stream.readable() => (Heard::Clear(Spoken::Opaque), Ok(dialled)),
                    heard = hear.as_mut() => (heard, Ok(dialled)),
                },
                Err(reason) => (timeout(LAST_WORDS, hear.as_mut()).await.unwrap_or(Heard::Ended), Err(reason)),
            },
            heard = hear.as_mut() => (heard, if heard == Heard::Stopping { return None } else { dial.await }),
        }
    };
    match (heard, dialled) {
        (Heard::Clear(spoken @ (Spoken::Http1 | Spoken::Http2)), dialled) => {
            match dialled {
                Ok(dialled) => adopt(&link, callee, dialled, spoken).await,
                // The dialling was the first try of the request that is coming, which so learns what became of it.
                Err(reason) => link.first_try.set(Some(reason)),
            }
            let stream = ClientStream::new(stream, bytes.freeze(), &link);
            return Some((link, stream, spoken));
        }
        (Heard::Clear(Spoken::Opaque) | Heard::Ended, Ok(dialled)) => {
            opaque::forward(&link, callee, stream, bytes.freeze(), Some(dialled)).await;
        }
        (Heard::Clear(Spoken::Opaque) | Heard::Ended, Err(reason)) => {
            opaque::record(&link, callee, started, Some(reason));
            reset(&stream);
        }
        (Heard::Stopping, _) => {}
    }
    None
}

/// What came of listening to a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// It is clear what is spoken.
    Clear(Spoken),
    /// The caller has nothing to say.
    Ended,
    /// The proxy stops, and nothing is under way on this connection that would have to be finished.
    Stopping,
}

/// Reads until the bytes say what is spoken, or have been too few for too long: then they are no HTTP, or, where that is declared,
/// a request whose head comes too slowly.
async fn listen(link: &Link, stream: &mut TcpStream, bytes: &mut BytesMut, declared: bool) -> Heard {
    let waits = link.worker.common.waits;
    let read = async {
        loop {
            if let Some(spoken) = spoken(bytes, declared) {
                return Heard::Clear(spoken);
            }
            let first_byte = link.moments.first_byte();
            let until = match first_byte {
                Some(first_byte) => Some(first_byte + waits.head),
                // Elsewhere it may be the callee that speaks first, in its own time.
                None => declared.then(|| Instant::now() + waits.idle),
            };
            let read = stream.read_buf(bytes);
            let read = match until {
                Some(until) => timeout_at(until, read).await,
                None => Ok(read.await),
            };
            match (read, first_byte) {
                (Ok(Ok(1..)), _) => link.moments.note(),
                (Ok(_), _) => return Heard::Ended,
                (Err(_), Some(_)) => return Heard::Clear(if declared { Spoken::Http1 } else { Spoken::Opaque }),
                (Err(_), None) => {
                    link.worker.common.connections.close_idle();
                    return Heard::Ended;
                }
            }
        }
    };
    tokio::select! {
        heard = read => heard,
        () = link.worker.drained(Direction::Outbound) => Heard::Stopping,
    }
}

/// Puts the connection that was dialled to see who speaks first into the pool, for the first request to take.
async fn adopt(link: &Link, callee: &Callee, dialled: Dialled, spoken: Spoken) {
    let Dialled { stream, opened, permit, address, admitted } = dialled;
    drop(admitted);
    let pool = &link.worker.pool;
    let key = Key { callee: callee.id, address };
    if spoken == Spoken::Http1 {
        // The request that comes takes its own lease.
        drop(permit);
        pool.add(pool.exclusive(key, single(stream, opened, &callee.metrics)), &callee.gate);
    } else if let Some(shared) = callee.gate.try_acquire(Need::Shared) {
        drop(permit);
        if let Ok(sender) = handshake_h2(stream, opened, shared, &callee.metrics).await {
            pool.add_shared(key, sender);
        }
    }
}
