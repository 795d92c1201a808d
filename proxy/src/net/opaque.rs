//! Connections that are forwarded without looking inside. For the books, one connection is one request with one try.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::Instant};

use super::relay::{End, relay};
use crate::{
    http::serve::Link,
    policy::{
        breaker::Outcome,
        bulkhead::{Need, Opened, Permit},
    },
    snapshot::{Admitted, Callee},
    upstream::connect::{NotOpened, connect},
    verdict::{AttemptOutcome, Fate, Reason},
};

/// A connection to a callee that no request has used yet.
#[derive(Debug)]
pub struct Dialled {
    /// The connection.
    pub stream: TcpStream,
    /// Its place among the callee's sockets.
    pub opened: Opened,
    /// Its place in the callee's bulkhead.
    pub permit: Permit,
    /// Where it leads.
    pub address: SocketAddr,
    /// Breakers that are to be told. A request that uses the connection asks for itself, and these are given back.
    pub admitted: Admitted,
}

/// Opens a connection before any request is there to use it, under the callee's bulkhead and clocks.
///
/// # Errors
/// Why there is none.
pub async fn dial(link: &Link, callee: &Callee) -> Result<Dialled, Reason> {
    let clocks = callee.clocks();
    let request_end = clocks.request_end(Instant::now());
    let permit = callee.gate.acquire(Need::Exchange, request_end.map(|end| end.at)).await?;
    let now = Instant::now();
    let end = clocks.attempt_end(now, request_end);
    let mut admitted = callee.admit(None, None, now, end.map(|end| end.at)).map_err(|refused| refused.reason)?;
    let address = admitted.way.unwrap_or(link.destination);
    match connect(&link.worker, callee, address, clocks, end).await {
        Ok((stream, opened)) => {
            // A caller may keep a connection without a word; that is no probe that does not come back.
            admitted.connected(Instant::now());
            Ok(Dialled { stream, opened, permit, address, admitted })
        }
        Err(NotOpened { reason, .. }) => {
            if reason.is_outcome() {
                admitted.ended(Outcome::Failed, Instant::now());
            }
            Err(reason)
        }
    }
}

/// Forwards a connection to its end. `prefix` was read from the caller already; `dialled` is used if it is there.
pub async fn forward(link: &Link, callee: &Arc<Callee>, caller: TcpStream, prefix: Bytes, dialled: Option<Dialled>) {
    let started = Instant::now();
    let dialled = match (callee.take(started), dialled) {
        (Err(refused), _) => Err(refused.reason),
        (Ok(()), Some(dialled)) => Ok(dialled),
        (Ok(()), None) => dial(link, callee).await,
    };
    let Dialled { mut stream, opened, permit, mut admitted, .. } = match dialled {
        Ok(dialled) => dialled,
        Err(reason) => {
            record(link, callee, started, Some(reason));
            return reset(&caller);
        }
    };
    // More than that somebody accepts connections cannot be known of what is not looked into.
    admitted.ended(Outcome::Passed, Instant::now());
    if let Err(error) = stream.write_all(&prefix).await {
        tracing::debug!(%error, "the callee closed before the caller's first bytes were sent");
        record(link, callee, started, Some(Reason::ConnectionReset));
        return reset(&caller);
    }
    let (mut caller, mut callee_stream) = (caller, stream);
    let (end, bytes) = relay(&mut caller, &mut callee_stream, callee.clocks().idle).await;
    let reason = match end {
        End::Closed => None,
        // Which side broke does not show here; either way both are told.
        End::Broken(_) => Some(Reason::ConnectionReset),
        End::Idle => Some(Reason::IdleTimeout),
    };
    if reason.is_some() {
        reset(&caller);
        reset(&callee_stream);
    }
    let shard = callee.metrics.shard(link.worker.id);
    shard.opaque.increment();
    shard.opaque_bytes.add(bytes);
    record(link, callee, started, reason);
    drop((opened, permit, admitted));
}

/// Enters an opaque exchange in the books.
pub fn record(link: &Link, callee: &Callee, started: Instant, reason: Option<Reason>) {
    let refused = reason.is_some_and(|reason| Fate::from(reason).is_refusal());
    if !refused {
        let outcome = reason.map_or(AttemptOutcome::Answered, AttemptOutcome::from);
        callee.metrics.shard(link.worker.id).attempt(outcome);
    }
    link.enter(callee, started, None, reason, u32::from(!refused));
}

/// Makes the coming close a reset, so that the other side does not take it for an orderly end.
pub fn reset(stream: &TcpStream) {
    // A socket that is already gone needs no reset.
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
