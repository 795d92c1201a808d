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
    exchange::{self, Sender, verdict},
    kind::Kind,
    raw::Raw,
    site::sum,
    tally::{End, Sent},
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
            let sent = world.tally.send(kind);
            return world.tally.end(&sent, End::BrokenOff);
        }
        // Nobody is there while the Service is not in the config.
        Err(_) if kind == Kind::Visits => return,
        Err(error) => return world.defect(kind, format_args!("cannot connect: {error}")),
    };
    match kind {
        Kind::Opaque => opaque(world, stream, rng).await,
        Kind::Garbage => garbage(world, stream, rng).await,
        Kind::Pipelines | Kind::Old | Kind::Expects | Kind::Upgrades => Raw::new(world, kind, stream).run(rng).await,
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

/// Bytes there and back. Some callers only send half of what they should, and stop there: nobody answers that.
async fn opaque(world: &World, mut stream: TcpStream, rng: &mut Rng) {
    let sent = world.tally.send(Kind::Opaque);
    let id = world.id();
    let request = format!("GET /echo/{id} HTTP/1.1\r\nhost: soak\r\nconnection: close\r\n\r\n");
    let length = if rng.u8(..4) == 0 { request.len() / 2 } else { request.len() };
    if stream.write_all(&request.as_bytes()[..length]).await.is_err() {
        return world.tally.end(&sent, End::BrokenOff);
    }
    let is_half = length < request.len();
    if is_half {
        // So that it ends: as callers do that have nothing more to say.
        let _ = stream.shutdown().await;
    }
    let wanted = format!("\r\n\r\n{id} {}", sum(b""));
    read_to_end(world, &sent, Kind::Opaque, id, stream, |answer| {
        let is_right = if is_half { answer.is_empty() } else { answer.ends_with(&wanted) };
        // No policy looks into what a bad callee says.
        let is_of_bad_callee = !answer.starts_with("HTTP/1.1 200") || answer.ends_with("half of it");
        let is_foreign = !is_right && !is_half && !is_of_bad_callee;
        if is_foreign { Err(format!("another's answer: {answer}")) } else { Ok(is_right) }
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
    let (id, sent) = (world.id(), world.tally.send(Kind::Garbage));
    if stream.write_all(NO_REQUESTS[rng.usize(..NO_REQUESTS.len())]).await.is_err() {
        return world.tally.end(&sent, End::BrokenOff);
    }
    read_to_end(world, &sent, Kind::Garbage, id, stream, |answer| {
        if answer.starts_with("HTTP/1.1 400") { Ok(true) } else { Err(format!("answered with {answer:?}")) }
    })
    .await;
}

/// Reads all that comes, and enters what `judge` says of it.
async fn read_to_end(
    world: &World,
    sent: &Sent,
    kind: Kind,
    id: u64,
    mut stream: TcpStream,
    judge: impl Fn(&str) -> Result<bool, String>,
) {
    let mut answer = Vec::new();
    match timeout(PATIENCE, stream.read_to_end(&mut answer)).await {
        Err(_) => world.defect(kind, format_args!("neither answered nor closed for {PATIENCE:?}")),
        Ok(Err(_)) => world.tally.end(sent, End::BrokenOff),
        Ok(Ok(_)) => world.tally.end(sent, verdict(world, kind, id, judge(&String::from_utf8_lossy(&answer)))),
    }
}
