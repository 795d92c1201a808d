//! The callers. Each kind has a Service of its own, opens a connection, does something with it, and begins anew until time is up.

use std::{io::ErrorKind, net::SocketAddr, sync::Arc, time::Duration};

use fastrand::Rng;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    exchange::{self, Conduct, Sender},
    world::World,
};

/// Longer than any clock of the policies: a request that has no answer by then has been forgotten.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);
/// Between what a caller does and what it does next, at most: the load is to be mixed, not to be all that the machine can.
const THINKING_MILLIS: u64 = 20;
/// Streams that a caller has open at once on a connection.
const STREAMS: usize = 8;
/// Requests on one connection, at most.
const REQUESTS: usize = 30;

/// What a caller is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Requests on a connection that stays open.
    Http1,
    /// Streams at once.
    Http2,
    /// gRPC calls.
    Grpc,
    /// Leaves when its request has arrived: by closing its connection.
    Leaves1,
    /// The same, by a reset of its stream.
    Leaves2,
    /// Sends its body slowly.
    Uploads,
    /// Reads a large answer slowly, or stops in the middle of it.
    Reads1,
    /// The same on HTTP/2.
    Reads2,
    /// TCP that nobody looks into.
    Opaque,
    /// Sends what is no HTTP.
    Garbage,
}

impl Kind {
    pub(crate) const ALL: [Self; 10] = [
        Self::Http1,
        Self::Http2,
        Self::Grpc,
        Self::Leaves1,
        Self::Leaves2,
        Self::Uploads,
        Self::Reads1,
        Self::Reads2,
        Self::Opaque,
        Self::Garbage,
    ];

    /// Also that of its Service.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Leaves1 => "leaves1",
            Self::Leaves2 => "leaves2",
            Self::Uploads => "uploads",
            Self::Reads1 => "reads1",
            Self::Reads2 => "reads2",
            Self::Opaque => "opaque",
            Self::Garbage => "garbage",
        }
    }

    /// How many there are at once.
    fn callers(self) -> usize {
        match self {
            Self::Http1 => 8,
            Self::Opaque | Self::Leaves1 => 6,
            Self::Garbage => 1,
            _ => 3,
        }
    }

    /// What they do besides sending and reading.
    pub(crate) fn conduct(self) -> Conduct {
        match self {
            Self::Leaves1 | Self::Leaves2 => Conduct::Leave,
            Self::Uploads => Conduct::SendSlowly,
            Self::Reads1 | Self::Reads2 => Conduct::ReadSlowly,
            _ => Conduct::Plain,
        }
    }

    /// Whether they send several requests at once on a connection: HTTP/2.
    pub(crate) fn multiplexes(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc | Self::Leaves2 | Self::Reads2)
    }
}

/// Sets all callers to work until `end`.
pub(crate) fn start(world: &Arc<World>, end: Instant) -> JoinSet<()> {
    let mut callers = JoinSet::new();
    let mut seed = world.seed;
    for service in &world.services {
        let (kind, address) = (service.kind, service.address);
        for _ in 0..kind.callers() {
            seed += 1;
            let (world, mut rng) = (Arc::clone(world), Rng::with_seed(seed));
            callers.spawn(async move {
                while Instant::now() < end {
                    call(&world, kind, address, &mut rng, end).await;
                    sleep(Duration::from_millis(rng.u64(..THINKING_MILLIS))).await;
                }
            });
        }
    }
    callers
}

/// One connection from its beginning to its end.
async fn call(world: &Arc<World>, kind: Kind, address: SocketAddr, rng: &mut Rng, end: Instant) {
    let stream = match TcpStream::connect(address).await {
        Ok(stream) => stream,
        // The proxy may have reset it before we look: where it forwards nothing but bytes, that is how it tells a failure.
        Err(error) if kind == Kind::Opaque && error.kind() == ErrorKind::ConnectionReset => {
            world.tally.send(kind);
            return world.tally.break_off();
        }
        Err(error) => return world.defect(kind, format_args!("cannot connect: {error}")),
    };
    match kind {
        Kind::Opaque => opaque(world, stream, rng).await,
        Kind::Garbage => garbage(world, stream, rng).await,
        _ => {
            if let Some(sender) = Sender::new(world, kind, stream).await {
                http(world, kind, sender, rng, end).await;
            }
        }
    }
}

/// Some requests on a connection, several at once where they can be.
async fn http(world: &Arc<World>, kind: Kind, sender: Sender, rng: &mut Rng, end: Instant) {
    let mut next = Some(sender);
    while let Some(sender) = next.filter(|_| Instant::now() < end && rng.usize(..REQUESTS) > 0) {
        let others: Vec<_> = (1..STREAMS).filter_map(|_| sender.share()).collect();
        let others = others.into_iter().map(|share| exchange::run(world, kind, share, rng.fork()));
        let others = futures::future::join_all(others);
        next = futures::future::join(exchange::run(world, kind, sender, rng.fork()), others).await.0;
        sleep(Duration::from_millis(rng.u64(..THINKING_MILLIS))).await;
    }
}

/// Bytes there and back. Some callers only send half of what they should, and stop there until they are left.
async fn opaque(world: &World, mut stream: TcpStream, rng: &mut Rng) {
    world.tally.send(Kind::Opaque);
    let id = world.id();
    let request = format!("GET /echo/{id} HTTP/1.1\r\nhost: soak\r\nconnection: close\r\n\r\n");
    let length = if rng.u8(..4) == 0 { request.len() / 2 } else { request.len() };
    if stream.write_all(&request.as_bytes()[..length]).await.is_err() {
        return world.tally.break_off();
    }
    if length < request.len() {
        // So that it ends: as callers do that have nothing more to say.
        let _ = stream.shutdown().await;
    }
    read_to_end(world, Kind::Opaque, stream, |answer| {
        let well = !answer.starts_with("HTTP/1.1 200")
            || answer.contains(&format!("{id} 0"))
            || answer.ends_with("half of it");
        (!well).then(|| format!("another's answer to {id}: {answer}"))
    })
    .await;
}

/// Bytes that are no request; they are answered, and entered once.
async fn garbage(world: &World, mut stream: TcpStream, rng: &mut Rng) {
    const NO_REQUESTS: [&[u8]; 3] = [
        b"GET / HTTP/1.1\r\nno colon here\r\n\r\n",
        b"GET  HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
    ];
    world.tally.send(Kind::Garbage);
    if stream.write_all(NO_REQUESTS[rng.usize(..NO_REQUESTS.len())]).await.is_err() {
        return world.tally.break_off();
    }
    read_to_end(world, Kind::Garbage, stream, |answer| {
        (!answer.starts_with("HTTP/1.1 400")).then(|| format!("answered with {answer:?}"))
    })
    .await;
}

async fn read_to_end(world: &World, kind: Kind, mut stream: TcpStream, wrong: impl Fn(&str) -> Option<String>) {
    let mut answer = Vec::new();
    match timeout(PATIENCE, stream.read_to_end(&mut answer)).await {
        Err(_) => world.defect(kind, format_args!("neither answered nor closed for {PATIENCE:?}")),
        Ok(Err(_)) => world.tally.break_off(),
        Ok(Ok(_)) => {
            world.tally.answer();
            if let Some(what) = wrong(&String::from_utf8_lossy(&answer)) {
                world.defect(kind, what);
            }
        }
    }
}
