//! One record for each request that did not simply succeed, told where it does not hold up traffic.
//!
//! A worker only fills a record and puts it into a bounded queue; the control thread turns it into text, which goes to the
//! flight recorder and, if the request failed, to who takes it: a line of the log (see [`output`](super::output)). When the queue is full the
//! record is dropped and counted: a log must not become the outage.

use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{HeaderValue, Method};
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::{
    metrics::Registry,
    otlp::{self, Spans},
    output::Output,
    trace::Trace,
};
use crate::verdict::recorder::Recorder;

/// Records that may wait to be told.
const QUEUE: usize = 1024;

/// Longest path that is told, in bytes; the rest is cut.
const PATH: usize = 256;

/// Longest id, in characters.
pub const ID: usize = 128;

/// Longest method, in characters.
const METHOD: usize = 32;

/// What the line says.
#[derive(Debug, Serialize)]
pub struct Record {
    /// When the request ended.
    pub time: Timestamp,
    /// Which way.
    pub direction: &'static str,
    /// The callee.
    pub service: Box<str>,
    /// Its port.
    pub port: Box<str>,
    /// Method of the request.
    pub method: Box<str>,
    /// Path without the query, which may hold secrets.
    pub path: Box<str>,
    /// `x-request-id`, if the request had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Box<str>>,
    /// `traceparent`, if the request had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<Box<str>>,
    /// Status that the caller saw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// How it ended.
    pub fate: &'static str,
    /// Why it failed, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// Whose problem it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault_domain: Option<&'static str>,
    /// It succeeded, but only after another try or an injected delay.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub slowed: bool,
    /// Tries made.
    pub attempts: u32,
    /// Milliseconds it took.
    pub duration_ms: u64,
    /// The policy in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Box<str>>,
    /// Its generation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_generation: Option<i64>,
    /// The FaultSpec that hit it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<Box<str>>,
    /// What the callee's application called in its turn, where that failed: `namespace/name:port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dependency: Option<Box<str>>,
    /// A stale connection: after how many milliseconds the callee closes idle ones, as far as is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub callee_idle_timeout_ms: Option<u64>,
    /// Its tries. Of more than 16 the first 15 and the last; none for what is not HTTP.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tries: Vec<Try>,
    /// Its trace, if it is sampled. One that simply succeeded has a record for that alone.
    #[serde(skip)]
    pub trace: Option<Box<Trace>>,
    /// What `duration_ms` says, exactly.
    #[serde(skip)]
    pub took: Duration,
}

/// One try of a request.
#[derive(Debug, Serialize)]
pub struct Try {
    /// From 1.
    pub number: u32,
    /// Whether it was sent beside one that was slow.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub hedge: bool,
    /// Where it was sent, or would have been.
    pub endpoint: SocketAddr,
    /// Milliseconds from the request's first byte to its beginning.
    pub started_ms: u64,
    /// Milliseconds until the response's head, or until it ended without one.
    pub duration_ms: u64,
    /// What it counts as; nothing if it was under way when the caller left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<&'static str>,
    /// Why it did not simply succeed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The answer's status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Its gRPC status, where the head has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u8>,
    /// The FaultSpec that hit it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<Box<str>>,
    /// Milliseconds by which that was to delay it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// Whether its connection had carried a request before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_reused: Option<bool>,
    /// Milliseconds for which it had been open when the try began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_age_ms: Option<u64>,
    /// Milliseconds for which it had carried nothing then; nothing where it had carried no request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_idle_ms: Option<u64>,
    /// Bytes to the callee during the try; on HTTP/2 those of other streams on the connection too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_sent: Option<u64>,
    /// Bytes from it, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_received: Option<u64>,
    /// The error of the system, by its name (`ECONNRESET`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno: Option<Cow<'static, str>>,
    /// What `started_ms` says, exactly.
    #[serde(skip)]
    pub started: Duration,
    /// What `duration_ms` says, exactly.
    #[serde(skip)]
    pub took: Duration,
}

/// The names of errors that a connection meets, as Linux numbers them on all its 64-bit platforms that we run on.
const ERRNOS: [(i32, &str); 15] = [
    (13, "EACCES"),
    (12, "ENOMEM"),
    (23, "ENFILE"),
    (24, "EMFILE"),
    (32, "EPIPE"),
    (99, "EADDRNOTAVAIL"),
    (100, "ENETDOWN"),
    (101, "ENETUNREACH"),
    (103, "ECONNABORTED"),
    (104, "ECONNRESET"),
    (105, "ENOBUFS"),
    (107, "ENOTCONN"),
    (110, "ETIMEDOUT"),
    (111, "ECONNREFUSED"),
    (113, "EHOSTUNREACH"),
];

/// The name of an error of the system; its number, if it is an unusual one.
pub fn errno(number: i32) -> Cow<'static, str> {
    let known = ERRNOS.iter().find(|(known, _)| *known == number);
    known.map_or_else(|| number.to_string().into(), |(_, name)| (*name).into())
}

/// Where workers put their records.
#[derive(Clone, Debug)]
pub struct Log {
    queue: Sender<Record>,
    registry: Arc<Registry>,
}

/// The end of the queue from which records are told.
#[derive(Debug)]
pub struct Records {
    queue: Receiver<Record>,
    registry: Arc<Registry>,
    recorder: Recorder,
    taker: Option<Taker>,
    spans: Option<Spans>,
}

/// Who takes the records of requests that failed.
#[derive(Clone, Debug)]
pub enum Taker {
    /// Somebody who makes of them what they like.
    Channel(Sender<Record>),
    /// A log, a line of JSON for each.
    Output(Output),
}

/// Both ends of the queue. What failed goes to `taker`; the recorder gets all that did not simply succeed, and `spans` what is
/// sampled.
pub fn new(registry: Arc<Registry>, recorder: Recorder, taker: Option<Taker>, spans: Option<Spans>) -> (Log, Records) {
    let (sender, queue) = channel(QUEUE);
    let log = Log { queue: sender, registry: Arc::clone(&registry) };
    (log, Records { queue, registry, recorder, taker, spans })
}

impl Taker {
    /// Where it counts the lines that it drops.
    pub fn dropped(&self) -> Arc<AtomicU64> {
        match self {
            Self::Channel(_) => Arc::default(),
            Self::Output(output) => output.dropped(),
        }
    }

    /// Takes a record, of which `line` is the text. Whether there was room for it; an output counts for itself.
    fn take(&self, record: Record, mut line: String) -> bool {
        match self {
            Self::Channel(channel) => channel.try_send(record).is_ok(),
            Self::Output(output) => {
                line.push('\n');
                output.put(line.as_bytes());
                true
            }
        }
    }
}

impl Record {
    /// Whether the request failed or was refused; else it was slowed.
    pub fn failed(&self) -> bool {
        self.reason.is_some()
    }

    /// Whether it is for the recorder.
    pub fn is_told(&self) -> bool {
        self.failed() || self.slowed
    }
}

impl Log {
    /// Puts a record into the queue, or drops it when the queue is full.
    pub fn put(&self, record: Record) {
        let (failed, told, traced) = (record.failed(), record.is_told(), record.trace.is_some());
        // What was only slowed or is traced leaves the second half of the queue to failures.
        let room = failed || self.queue.capacity() > QUEUE / 2;
        if room && self.queue.try_send(record).is_ok() {
            return;
        }
        self.registry.recorder.dropped.fetch_add(u64::from(told), Relaxed);
        self.registry.spans_dropped.fetch_add(u64::from(traced), Relaxed);
        if failed {
            self.registry.log_dropped.fetch_add(1, Relaxed);
        }
    }
}

impl Records {
    /// Tells records until all workers are gone.
    pub async fn tell(mut self) {
        let mut batch = Vec::new();
        while self.queue.recv_many(&mut batch, 64).await > 0 {
            for record in batch.drain(..) {
                self.trace(&record);
                if !record.is_told() {
                    continue;
                }
                let Ok(text) = serde_json::to_string(&record) else { continue };
                self.recorder.put(&record, &text);
                let taker = self.taker.as_ref().filter(|_| record.failed());
                if taker.is_some_and(|taker| !taker.take(record, text)) {
                    self.registry.log_dropped.fetch_add(1, Relaxed);
                }
            }
        }
    }
}

impl Records {
    fn trace(&self, record: &Record) {
        let Some((spans, trace)) = self.spans.as_ref().zip(record.trace.as_ref()) else { return };
        for span in otlp::spans(record, trace) {
            if !spans.put(span) {
                self.registry.spans_dropped.fetch_add(1, Relaxed);
            }
        }
    }
}

/// The path as it may be logged.
pub fn path(path: &str) -> Box<str> {
    let end = path.char_indices().map(|(at, _)| at).find(|at| *at >= PATH).unwrap_or(path.len());
    path[..end].into()
}

/// The value of an id's header as it may be logged, if it is text.
pub fn id(value: &HeaderValue) -> Option<Box<str>> {
    value.to_str().ok().map(|id| id[..id.len().min(ID)].into())
}

/// The method as it may be logged.
pub fn method(method: &Method) -> Box<str> {
    method.as_str()[..method.as_str().len().min(METHOD)].into()
}

/// Whole milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
