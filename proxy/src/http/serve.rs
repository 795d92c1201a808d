//! Serving HTTP on a caller's connection.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use http::{HeaderValue, Request, StatusCode, Version, header};
use hyper::{
    body,
    server::conn::http2,
    service::{HttpService, service_fn},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval_at, sleep},
};

use self::h1::Server;
use super::{headers::prepare_response, pipeline, reply_body::ReplyBody};
use crate::{
    h1::{Framing, Incoming, ResponseHead, Spelling, head},
    net::{
        accept::Kind,
        client_stream::{ClientStream, Moments},
        detect::Spoken,
    },
    snapshot::Callee,
    telemetry::{
        access_log::{Record, millis},
        metrics::Direction,
    },
    verdict::{Fate, Reason},
    woken::when_woken,
    worker::{LocalExecutor, Worker},
};

/// HTTP/2: largest head that is read, so that one of more than [`MAX_HEAD`] can be refused in our own words. It is what our SETTINGS
/// say; to a caller that sends more all the same, the library answers for itself.
const MAX_HEAD_READ: u32 = 128 * 1024;

/// How often an HTTP/1 connection is looked at: where no request has begun since the last time and none is under way, what is
/// held for it is given up until bytes come.
const REST: Duration = Duration::from_secs(2);

/// In how many looks a connection of HTTP/2 must have carried nothing to be idle. With fewer it would be found idle later.
const LOOKS: u32 = 4;

/// HTTP/1: above this many bytes of what is said before an answer, no more is passed on until some of it was written.
const INTERIM: usize = 16 * 1024;

/// HTTP/2: how long a caller that was told to go elsewhere may take to close a connection that carries nothing.
const GOODBYE: Duration = Duration::from_secs(5);

/// HTTP/2: streams that a caller may have open at once on a connection.
const MAX_STREAMS: u32 = 256;
/// HTTP/2: as towards callees, a stream may run a megabyte ahead and a connection four streams' worth.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// HTTP/2: bytes that are buffered for a stream whose reader is slow.
const SEND_BUFFER: usize = 256 * 1024;

/// A caller's connection, as far as its requests need to know it.
#[derive(Debug)]
pub struct Link {
    /// Who serves it.
    pub worker: Rc<Worker>,
    /// Which way.
    pub direction: Direction,
    /// Inbound, in local mode: this is not the proxy through which the application makes its own calls.
    pub is_alone: bool,
    /// The address that was called.
    pub destination: SocketAddr,
    /// The caller's address, where the callee would otherwise not see it.
    pub forwarded_for: Option<HeaderValue>,
    /// When the request that is being read began, and when the caller last took something.
    pub moments: Moments,
    /// Why there is no connection for the first request, where one was dialled before the request came.
    pub first_try: Cell<Option<Reason>>,
    /// HTTP/2: requests share the connection.
    pub multiplexed: bool,
    /// Requests that have begun on it, and those of them that are over.
    begun: Cell<u64>,
    over: Cell<u64>,
    /// HTTP/1: what callees said before their answers, and the caller is to be told (RFC 9110, 15.2).
    interim: RefCell<BytesMut>,
    /// Tells that the connection is to be closed although its caller does not read.
    cut: Notify,
}

impl Link {
    /// A connection from a caller, opened now.
    pub fn new(worker: &Rc<Worker>, kind: Kind, destination: SocketAddr, forwarded_for: Option<HeaderValue>) -> Self {
        Self {
            worker: Rc::clone(worker),
            direction: kind.direction(),
            is_alone: matches!(kind, Kind::Beside(_)),
            destination,
            forwarded_for,
            moments: Moments::default(),
            first_try: Cell::new(None),
            multiplexed: false,
            begun: Cell::new(0),
            over: Cell::new(0),
            interim: RefCell::default(),
            cut: Notify::new(),
        }
    }

    /// The callee, as the config now has it.
    pub fn callee(&self) -> Arc<Callee> {
        self.worker.callee(self.direction, &self.destination)
    }

    /// When a caller that had let its responses pile up last took some of them. On HTTP/2 that says nothing about a request.
    pub fn drained(&self) -> Option<Instant> {
        if self.multiplexed { None } else { self.moments.drained() }
    }

    /// Whether the caller does not take what is written to it. On HTTP/2 that says nothing about a request.
    pub fn is_blocked(&self) -> bool {
        !self.multiplexed && self.moments.is_blocked()
    }

    /// Enters in the books what was not a request that the pipeline could take: an opaque connection, or bytes that are not
    /// HTTP. No `reason` means that it ended well.
    pub fn enter(
        &self,
        callee: &Callee,
        started: Instant,
        status: Option<StatusCode>,
        reason: Option<Reason>,
        attempts: u32,
    ) {
        let shard = callee.metrics.shard(self.worker.id);
        let fate = reason.map_or(Fate::Succeeded, Fate::from);
        shard.request(fate, status, started.elapsed());
        let Some(reason) = reason else { return };
        shard.failure(reason, reason.domain());
        self.worker.common.log.put(Record {
            time: Timestamp::now(),
            direction: self.direction.name(),
            service: callee.metrics.service.clone(),
            port: callee.metrics.port.clone(),
            method: "-".into(),
            path: "-".into(),
            request_id: None,
            traceparent: None,
            status: status.map(|status| status.as_u16()),
            fate: fate.name(),
            reason: Some(reason.name()),
            fault_domain: Some(reason.domain().name()),
            slowed: false,
            attempts,
            duration_ms: millis(started.elapsed()),
            policy: callee.policy.as_ref().map(|policy| policy.name.clone()),
            policy_generation: callee.policy.as_ref().map(|policy| policy.generation),
            fault: None,
            dependency: None,
            callee_idle_timeout_ms: None,
            tries: Vec::new(),
            trace: None,
            took: started.elapsed(),
        });
    }

    /// When the first byte of the request came that begins now, where that is known.
    pub fn first_byte(&self) -> Option<Instant> {
        // On HTTP/2 bytes of other streams and of the connection itself come in between; there a request begins with its head.
        if self.multiplexed { None } else { self.moments.take() }
    }

    /// A request begins.
    pub fn begins(&self) {
        self.begun.set(self.begun.get() + 1);
    }

    /// A request that has begun is over.
    pub fn ends(&self) {
        self.over.set(self.over.get() + 1);
    }

    /// Tells the caller what its callee said before the answer. HTTP/2's library has no words for it; and one who does not read what
    /// there is already needs no more of it.
    pub fn say(&self, interim: ResponseHead) {
        let mut said = self.interim.borrow_mut();
        if !self.multiplexed && said.len() < INTERIM {
            let ResponseHead { mut parts, spelling, .. } = interim;
            prepare_response(&mut parts, false);
            // Whoever believed it would take the answer for a body (RFC 9110, 8.6).
            parts.headers.remove(header::CONTENT_LENGTH);
            head::write_response(&parts, &spelling, Framing::None, Version::HTTP_11, true, &mut said);
        }
    }

    fn is_unused(&self) -> bool {
        self.begun == self.over
    }

    /// Closes the connection under its one request. On HTTP/2 only the stream is to end, which is for its body to say.
    pub fn cut(&self) {
        if !self.multiplexed {
            self.cut.notify_one();
        }
    }
}

/// Serves a connection that speaks HTTP to its end.
pub async fn connection(link: Link, stream: ClientStream, spoken: Spoken) {
    let link = Rc::new(Link { multiplexed: spoken == Spoken::Http2, ..link });
    // How a connection ends is the caller's business; what became of its requests is in the books by then.
    if spoken == Spoken::Http2 {
        return Box::pin(http2(&link, stream)).await;
    }
    let mut stream = stream;
    loop {
        // In a box, so that a connection at rest holds no more than itself.
        let Some(resting) = Box::pin(http1(&link, stream)).await else { return };
        stream = resting;
        let common = &link.worker.common;
        let _resting = common.connections.rest();
        let idle = Box::pin(sleep(common.waits.idle));
        tokio::select! {
            biased;
            // A request that has come by then is served.
            () = stream.readable() => {}
            () = link.worker.drained(link.direction) => return,
            () = idle => return common.connections.close_idle(),
        }
    }
}

async fn http2(link: &Rc<Link>, stream: ClientStream) {
    let mut connection = pin!(http2_builder().serve_connection(TokioIo::new(stream), service(link)));
    tokio::select! {
        biased;
        _ = connection.as_mut() => return,
        () = when_woken(link.worker.drained(link.direction)) => {}
        () = Box::pin(when_woken(unused(link, link.worker.common.waits.idle))) => link.worker.common.connections.close_idle(),
    }
    // Streams that the caller opens before it has heard of it are served (RFC 9113, 6.8).
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        _ = connection => {}
        () = Box::pin(unused(link, GOODBYE)) => {}
    }
}

/// Resolves when a connection of HTTP/2 has carried no request for so long, and up to a fourth of it later.
async fn unused(link: &Link, time: Duration) {
    let (mut begun, mut since) = (link.begun.get(), Instant::now());
    while since.elapsed() < time {
        sleep(time / LOOKS).await;
        if begun != link.begun.get() || !link.is_unused() {
            (begun, since) = (link.begun.get(), Instant::now());
        }
    }
}

/// Why a connection of HTTP/1 is not served on.
enum Left {
    Ended,
    AtRest,
    /// The rest of a request's head does not come.
    SlowHead,
}

/// Serves HTTP/1 until the connection ends, or comes to rest: then it is given back without any buffer.
async fn http1(link: &Rc<Link>, stream: ClientStream) -> Option<ClientStream> {
    let server = Server::new(link, stream);
    let left = {
        let (mut serving, mut orders) = (pin!(server.serve()), pin!(when_woken(orders(link, &server))));
        tokio::select! {
            biased;
            () = &mut serving => Left::Ended,
            left = &mut orders => left,
        }
    };
    match left {
        Left::AtRest => return server.into_stream(),
        Left::SlowHead => Box::pin(server.refuse(Reason::RequestHeadTimeout)).await,
        Left::Ended => {}
    }
    None
}

/// What else than its requests decides about a connection. Resolves when it is not to be served on, and says why.
async fn orders(link: &Link, server: &Server<'_>) -> Left {
    let head = link.worker.common.waits.head;
    let every = REST.min(head);
    let mut look = interval_at(Instant::now() + every, every);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = link.begun.get();
    loop {
        tokio::select! {
            biased;
            () = link.cut.notified() => {
                server.break_off();
                return Left::Ended;
            }
            () = link.worker.drained(link.direction), if !server.is_closing() => {
                if server.is_idle() {
                    return Left::Ended;
                }
                server.close_soon();
            }
            _ = look.tick() => {
                let before = std::mem::replace(&mut seen, link.begun.get());
                if before == seen && server.is_at_rest() {
                    return Left::AtRest;
                }
                if server.reads_head_since().is_some_and(|since| since.elapsed() >= head) {
                    return Left::SlowHead;
                }
            }
        }
    }
}

fn service(
    link: &Rc<Link>,
) -> impl HttpService<body::Incoming, ResBody = ReplyBody, Error = Infallible, Future: 'static> + Unpin + use<> {
    let link = Rc::clone(link);
    service_fn(move |request: Request<body::Incoming>| {
        let link = Rc::clone(&link);
        async move {
            let request = request.map(Incoming::Http2);
            Ok::<_, Infallible>(pipeline::handle(request, Spelling::default(), link).await.response)
        }
    })
}

fn http2_builder() -> http2::Builder<LocalExecutor> {
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(MAX_HEAD_READ);
    builder
}

mod h1;
#[cfg(test)]
mod tests;
