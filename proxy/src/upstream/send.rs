//! One exchange with a callee: take or open a connection, send the request, wait for the response's head.
//!
//! A connection that turns out to be dead is replaced for free, without counting a retry: with any method while nothing
//! was written, or where the callee's GOAWAY says that it did not look at the request; otherwise only for an idempotent
//! request whose body can be sent again, on a connection that had carried one before, while no byte of a response has come
//! (RFC 9110, 9.2.2; RFC 9112, 9.3.1; RFC 9113, 6.8).

use std::{
    cell::{Cell, RefCell},
    error::Error as _,
    future::poll_fn,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Version, request::Parts};
use http_body::{Body, Frame};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::{
    connect::{NotOpened, connect},
    exclusive,
    keep_alive::SHORTEST,
    pool::{Avoid, Exclusive, Found, Id, Key, Multiplexed, Opening, Shared, Single},
    traffic::{Counting, Traffic, Volume},
};
use crate::{
    clock,
    h1::{Conn, Incoming, MAX_HEAD, ResponseHead, Spelling},
    http::{
        headers::fields_size,
        send_body::{SendBody, Source, Upload},
    },
    policy::{
        bulkhead::{Need, Opened, Permit},
        timeout::{Clocks, End},
    },
    snapshot::Callee,
    telemetry::metrics::CalleeMetrics,
    verdict::Reason,
    worker::{LocalExecutor, Worker},
};

/// HTTP/2 windows: a stream may run ahead by a megabyte, a connection by four streams' worth, so that one slow stream
/// cannot hold up the others.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// HTTP/2: largest frame that a callee may send. With the 16 KiB that it may send anyway a long body costs a third more.
const MAX_FRAME: u32 = 64 * 1024;

/// How soon after a request was sent a connection ends that its callee had closed meanwhile: a round trip, and some time for a busy
/// callee. One that ends later has ended for another cause.
const STALE_WITHIN: Duration = Duration::from_millis(250);

/// HTTP/2: largest head that is read, so that one of more than [`MAX_HEAD`] can be called by its name: to the library it is a broken
/// protocol.
const MAX_HEAD_READ: u32 = 128 * 1024;

/// A callee's connection, as HTTP/1 is spoken on it.
pub type Upstream = Counting<TcpStream>;

/// The body of a callee's response.
pub type FromCallee = Incoming<Upstream>;

/// A response whose head has come, and the connection on which its body is coming.
#[derive(Debug)]
pub struct Answer {
    /// The response.
    pub response: Response<FromCallee>,
    /// How its head is spelled.
    pub spelling: Spelling,
    /// The connection.
    pub connection: Connection,
    /// What was read of the body already.
    pub first: Option<Box<Frame<Bytes>>>,
    /// Whether all of the request was sent.
    pub upload: Upload,
}

impl Answer {
    pub(super) fn new(
        response: Response<FromCallee>,
        spelling: Spelling,
        connection: Connection,
        upload: Upload,
    ) -> Self {
        Self { response, spelling, connection, first: None, upload }
    }

    /// The fields that say how it ended: its trailers, if they followed the head, or the head.
    pub fn ending(&self) -> &HeaderMap {
        let trailers = self.first.as_ref().and_then(|first| first.trailers_ref());
        trailers.unwrap_or(self.response.headers())
    }

    /// Waits for what follows the head, until then at most.
    ///
    /// # Errors
    /// When it broke off, which might as well have been before its head.
    pub async fn look_ahead(&mut self, until: Instant) -> Result<(), Reason> {
        let body = self.response.body_mut();
        let next = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
        if let Ok(Some(frame)) = timeout_at(until, next).await {
            self.first = Some(Box::new(frame.map_err(|_| Reason::ConnectionReset)?));
        }
        Ok(())
    }
}

/// Holds a connection while a response is read from it.
#[derive(Debug)]
pub enum Connection {
    /// Goes back to the pool when the response was read to its end.
    Exclusive(Exclusive),
    /// Its stream ends when this is dropped.
    Shared(Shared),
}

impl Connection {
    /// Its number, whether it has carried a request before, how long it carried none, and what it has carried.
    fn history(&self) -> (Id, bool, Duration, &Arc<Traffic>) {
        match self {
            Self::Exclusive(exclusive) => (exclusive.id, exclusive.carried, exclusive.idle, &exclusive.traffic),
            Self::Shared(shared) => (shared.id, shared.has_carried(), shared.idle, &shared.traffic),
        }
    }
}

/// The connection that a try was sent on.
#[derive(Clone, Debug)]
pub struct Used {
    /// Which one: the next try takes another.
    pub id: Id,
    /// Whether it had carried a request before.
    pub carried: bool,
    /// HTTP/2: where it leads.
    shared: Option<Key>,
    /// What it has carried, and what of it before this try.
    traffic: Arc<Traffic>,
    before: Volume,
    /// How long it had carried nothing when this try began.
    idle: Duration,
    began: Instant,
}

/// What is known of a try's connection when the try is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Whether it had carried a request before.
    pub reused: bool,
    /// How long it had been open when the try began.
    pub age: Duration,
    /// How long it had carried nothing then.
    pub idle: Duration,
    /// What it carried during the try; on HTTP/2 that of other streams too.
    pub bytes: Volume,
    /// The last error of the system on it.
    pub errno: Option<i32>,
}

impl From<(&Connection, Key)> for Used {
    fn from((connection, key): (&Connection, Key)) -> Self {
        let (id, carried, idle, traffic) = connection.history();
        let shared = matches!(connection, Connection::Shared(_)).then_some(key);
        let (before, traffic) = (traffic.bytes(), Arc::clone(traffic));
        Self { id, carried, shared, traffic, before, idle, began: clock::now() }
    }
}

impl Used {
    /// The try's time ran out. A shared connection that was silent all along carries no other: see
    /// [`traffic`](super::traffic).
    pub fn timed_out(&self, worker: &Worker) {
        if let Some(key) = self.shared
            && self.traffic.bytes().received == self.before.received
        {
            worker.pool.retire(key, self.id);
        }
    }

    /// What is known now.
    pub fn evidence(&self) -> Evidence {
        let now = self.traffic.bytes();
        let bytes = Volume { sent: now.sent - self.before.sent, received: now.received - self.before.received };
        let (age, errno) = (self.traffic.age(self.began), self.traffic.errno());
        Evidence { reused: self.carried, age, idle: self.idle, bytes, errno }
    }

    /// The connection ended before a response began: how that is called. Whether its callee had given it up shows in its idle
    /// time, in that nothing came, and in how soon it ended.
    fn lost(&self) -> Reason {
        let now = clock::now();
        let prompt = now.saturating_duration_since(self.began) <= STALE_WITHIN;
        let silent = self.traffic.bytes().received == self.before.received;
        if !(self.carried && prompt && silent && self.idle >= SHORTEST) {
            return Reason::ConnectionReset;
        }
        self.traffic.keep_alive().closed(self.idle, now);
        Reason::StaleConnection
    }
}

/// Where and how a try is sent.
pub struct Target<'a> {
    /// The worker whose connections are used.
    pub worker: &'a Worker,
    /// For whom.
    pub callee: &'a Callee,
    /// Where to.
    pub address: SocketAddr,
    /// Clocks of the request.
    pub clocks: Clocks,
    /// The connection of the last try, which this one does not take, then the connection of this one.
    pub used: &'a Cell<Option<Used>>,
    /// When the try must have its response.
    pub end: Option<End>,
    /// Set where the connection that could not be opened was another request's to open, which says so itself.
    pub another_dialled: &'a Cell<bool>,
    /// Where the error of the system is left behind which no connection could be opened.
    pub errno: &'a Cell<Option<i32>>,
}

/// A request, as it is sent any number of times.
pub struct Outgoing<'a> {
    /// Its head.
    pub head: &'a RefCell<Parts>,
    /// How that is spelled.
    pub spelling: &'a Spelling,
    /// Its body.
    pub source: &'a Source,
    /// Says in its head what is so now, each time before it is sent.
    pub tell: &'a dyn Fn(&mut HeaderMap),
    /// Takes what an HTTP/1 callee says before its answer (RFC 9110, 15.2).
    pub interim: &'a dyn Fn(ResponseHead),
}

/// What one sending brought, short of a response.
pub(super) enum Failed {
    /// Nothing was written: here is the body again.
    Unsent(Box<SendBody>),
    /// HTTP/2: the callee said that it would not look at it (RFC 9113, 6.8).
    Unprocessed,
    /// Something may have been written, then the connection ended without a byte of a response.
    ConnectionLost,
    /// The callee, or the caller's body, ended it otherwise.
    Sent(Reason),
}

impl Target<'_> {
    /// Sends the request in the client's version of HTTP, replacing dead connections.
    ///
    /// # Errors
    /// Why there is no response.
    pub async fn exchange(&self, outgoing: &Outgoing<'_>) -> Result<Answer, Reason> {
        let mut avoid = self.used.take().map_or(Avoid::Nothing, |used| Avoid::One(used.id));
        let source = outgoing.source;
        let mut body = source.body().ok_or(Reason::RequestIncomplete)?;
        let (version, is_idempotent) = {
            let head = outgoing.head.borrow();
            (head.version, head.method.is_idempotent())
        };
        loop {
            let first = !matches!(avoid, Avoid::UpTo(_));
            let (connection, pooled) = self.connection(version, avoid).await?;
            let used = Used::from((&connection, self.key()));
            self.used.set(Some(used.clone()));
            let carried = used.carried;
            let sent = send(connection, outgoing, body).await;
            // It says why, and is a lesson about the callee, also where the connection is replaced.
            let reason = match sent {
                Ok(answer) => return Ok(answer),
                Err(Failed::Sent(reason)) => return Err(reason),
                Err(Failed::Unprocessed) => Reason::StreamRefused,
                Err(Failed::Unsent(_) | Failed::ConnectionLost) => used.lost(),
            };
            let again = match sent {
                Err(Failed::Unsent(unsent)) if pooled && first => Some(*unsent),
                Err(Failed::Unprocessed) if first => source.body(),
                Err(Failed::ConnectionLost) if first && carried && is_idempotent => source.body(),
                _ => None,
            };
            body = again.ok_or(reason)?;
            // A try replaces once, and by a connection that was not there yet.
            avoid = self.worker.pool.all_so_far();
            self.worker.pool.retire(self.key(), used.id);
            self.callee.metrics.shard(self.worker.id).replaced.increment();
        }
    }

    /// A connection, and whether it was there already.
    async fn connection(&self, version: Version, avoid: Avoid) -> Result<(Connection, bool), Reason> {
        if version == Version::HTTP_2 {
            let shared = self.shared(avoid).await?;
            return Ok((Connection::Shared(shared.0), shared.1));
        }
        let pool = &self.worker.pool;
        let given_up = &self.callee.metrics.shard(self.worker.id).given_up;
        if let Some(idle) = pool.take(self.key(), avoid, given_up) {
            return Ok((Connection::Exclusive(idle), true));
        }
        // Opening one is rare and takes more room than all else that a request holds: it has a box of its own.
        let (stream, opened) = Box::pin(self.connect()).await?;
        let connection = single(stream, opened, &self.callee.metrics);
        Ok((Connection::Exclusive(pool.exclusive(self.key(), connection)), false))
    }

    async fn connect(&self) -> Result<(TcpStream, Opened), Reason> {
        self.try_connect().await.map_err(|why| self.not_opened(why))
    }

    async fn try_connect(&self) -> Result<(TcpStream, Opened), NotOpened> {
        connect(self.worker, self.callee, self.address, self.clocks, self.end).await
    }

    fn not_opened(&self, NotOpened { reason, errno }: NotOpened) -> Reason {
        self.errno.set(errno);
        reason
    }

    async fn shared(&self, avoid: Avoid) -> Result<(Shared, bool), Reason> {
        loop {
            match self.worker.pool.shared(self.key(), avoid) {
                Found::Connection(shared) => return Ok((shared, true)),
                Found::Opening(awaited) => awaited.done().await.map_err(|why| {
                    self.another_dialled.set(true);
                    self.not_opened(why)
                })?,
                Found::Nothing(opening) => return Box::pin(self.open_shared(opening, avoid)).await,
            }
        }
    }

    async fn open_shared(&self, opening: Opening, avoid: Avoid) -> Result<(Shared, bool), Reason> {
        let Some(permit) = self.shared_permit().await? else {
            drop(opening);
            let any = self.worker.pool.any_shared(self.key(), avoid);
            return any.map(|shared| (shared, true)).ok_or(Reason::ConnectFailed);
        };
        let (stream, opened) = self.try_connect().await.map_err(|why| {
            // What this request's own clocks cut short, another may still have the time for.
            if !why.reason.is_clock() {
                opening.failed(why);
            }
            self.not_opened(why)
        })?;
        let sender = handshake_h2(stream, opened, permit, &self.callee.metrics).await?;
        Ok((opening.fulfil(sender), false))
    }

    /// The right to open another shared connection; `None` if there is no room but a connection to share.
    async fn shared_permit(&self) -> Result<Option<Permit>, Reason> {
        if let Some(permit) = self.callee.gate.try_acquire(Need::Shared) {
            return Ok(Some(permit));
        }
        if self.worker.pool.any_shared(self.key(), Avoid::Nothing).is_some() {
            return Ok(None);
        }
        self.worker.give_up_idle(self.callee.id);
        let permit = self.callee.gate.acquire(Need::Shared, self.end.map(|end| end.at)).await;
        permit.map(Some).map_err(|refused| match (Reason::from(refused), self.end) {
            (Reason::RequestTimeout, Some(end)) => end.reason,
            (reason, _) => reason,
        })
    }

    fn key(&self) -> Key {
        Key { callee: self.callee.id, address: self.address }
    }
}

async fn send(connection: Connection, outgoing: &Outgoing<'_>, body: SendBody) -> Result<Answer, Failed> {
    (outgoing.tell)(&mut outgoing.head.borrow_mut().headers);
    match connection {
        Connection::Exclusive(exclusive) => exclusive::send(exclusive, outgoing, body).await,
        Connection::Shared(mut shared) => {
            let upload = body.upload();
            let request = Request::from_parts(outgoing.head.borrow().clone(), body);
            match shared.sender.try_send_request(request).await {
                Ok(response) => {
                    shared.carried();
                    if fields_size(response.headers()) > MAX_HEAD {
                        return Err(Failed::Sent(Reason::ResponseHeadTooLarge));
                    }
                    let response = response.map(Incoming::Http2);
                    Ok(Answer::new(response, Spelling::default(), Connection::Shared(shared), upload))
                }
                Err(mut error) => Err(failed(error.take_message(), error.error())),
            }
        }
    }
}

fn failed(unsent: Option<Request<SendBody>>, error: &hyper::Error) -> Failed {
    let h2 = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    match (unsent, reason(error)) {
        (Some(request), _) => Failed::Unsent(Box::new(request.into_body())),
        // Only streams above the last that the callee looks at get its GOAWAY as their error; those below it, when the
        // connection then ends, get the end.
        (None, _) if h2.is_some_and(|h2| h2.is_go_away() && h2.is_remote()) => Failed::Unprocessed,
        // A stream that the callee reset is an answer of its; the connection lives.
        (None, Reason::ConnectionReset) if h2.is_none_or(h2::Error::is_io) => Failed::ConnectionLost,
        (None, reason) => Failed::Sent(reason),
    }
}

/// The reason behind an error of the HTTP library, while no response has come.
pub fn reason(error: &hyper::Error) -> Reason {
    if let Some(h2) = error.source().and_then(|source| source.downcast_ref::<h2::Error>()) {
        return match h2.reason() {
            Some(h2::Reason::REFUSED_STREAM) => Reason::StreamRefused,
            // The last is said by a callee that wants to be called by HTTP/1.1.
            Some(
                h2::Reason::PROTOCOL_ERROR
                | h2::Reason::FRAME_SIZE_ERROR
                | h2::Reason::COMPRESSION_ERROR
                | h2::Reason::HTTP_1_1_REQUIRED,
            ) => Reason::ProtocolError,
            _ => Reason::ConnectionReset,
        };
    }
    // The caller's body broke off.
    if error.is_user() || error.is_body_write_aborted() { Reason::RequestIncomplete } else { Reason::ConnectionReset }
}

/// Makes an HTTP/1 connection of a stream; `opened` counts until it closes.
pub fn single(stream: TcpStream, opened: Opened, callee: &Arc<CalleeMetrics>) -> Single {
    let traffic = Traffic::new(callee);
    let conn = Conn::new(Counting::new(stream, Arc::clone(&traffic)));
    Single { conn: Rc::new(RefCell::new(conn)), opened, traffic }
}

/// Makes an HTTP/2 connection of a stream; `opened` and `permit` are released when it closes.
///
/// # Errors
/// When the stream is already broken.
pub async fn handshake_h2(
    stream: TcpStream,
    opened: Opened,
    permit: Permit,
    callee: &Arc<CalleeMetrics>,
) -> Result<Multiplexed, Reason> {
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(MAX_HEAD_READ);
    let traffic = Traffic::new(callee);
    let stream = TokioIo::new(Counting::new(stream, Arc::clone(&traffic)));
    let (sender, connection) = builder.handshake(stream).await.map_err(|error| reason(&error))?;
    let max_streams = Rc::new(Cell::new(connection.current_max_send_streams()));
    let limit = Rc::clone(&max_streams);
    tokio::task::spawn_local(clock::steady(async move {
        let mut connection = pin!(connection);
        // An error here also ends the streams that are under way, and is named there.
        let _ = poll_fn(|cx| {
            let poll = connection.as_mut().poll(cx);
            limit.set(connection.current_max_send_streams());
            poll
        })
        .await;
        drop((opened, permit));
    }));
    Ok(Multiplexed { sender, max_streams, traffic })
}
