//! Spans on their way to a collector, by OTLP over HTTP (<https://opentelemetry.io/docs/specs/otlp/#otlphttp>).
//!
//! Only the control thread has to do with it: it makes spans of the records that requests leave, and sends them in batches. A
//! collector that is slow or gone must not hold anything up: the queue has an end, and what does not fit is dropped and counted. The
//! messages are those of `opentelemetry-proto` that are needed, by their field numbers; the crate itself would bring the whole SDK.

use std::{
    io, mem,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Collected, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use prost::Message;
use tokio::{
    net::TcpStream,
    sync::{
        OwnedSemaphorePermit, Semaphore,
        mpsc::{Receiver, Sender, channel},
    },
    time::{sleep, timeout},
};

use super::{
    access_log::{Record, Try},
    metrics::Registry,
    trace::Trace,
};

/// Spans that may wait.
const QUEUE: usize = 2048;
/// Bytes that they may take, with those of the batch that is under way.
const BYTES: u32 = 4 << 20;
/// Most spans in a batch.
const BATCH: usize = 512;
/// How long a batch waits for more.
const WAIT: Duration = Duration::from_secs(1);
/// How long the collector may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a batch is sent before it is dropped, and the first pause; it doubles.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);
/// Most that is read of the collector's answer.
const ANSWER: usize = 16 * 1024;

/// A batch (`ExportTraceServiceRequest`).
#[derive(Clone, PartialEq, Message)]
pub struct Export {
    /// One for this proxy.
    #[prost(message, repeated, tag = "1")]
    pub resource_spans: Vec<ResourceSpans>,
}

/// The spans of a process.
#[derive(Clone, PartialEq, Message)]
pub struct ResourceSpans {
    /// Who it is.
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    /// Its spans.
    #[prost(message, repeated, tag = "2")]
    pub scope_spans: Vec<ScopeSpans>,
}

/// Who made spans.
#[derive(Clone, PartialEq, Message)]
pub struct Resource {
    /// By attributes.
    #[prost(message, repeated, tag = "1")]
    pub attributes: Vec<KeyValue>,
}

/// The spans of a part of a process.
#[derive(Clone, PartialEq, Message)]
pub struct ScopeSpans {
    /// Which part.
    #[prost(message, optional, tag = "1")]
    pub scope: Option<Scope>,
    /// Its spans.
    #[prost(message, repeated, tag = "2")]
    pub spans: Vec<Span>,
}

/// A part of a process.
#[derive(Clone, PartialEq, Message)]
pub struct Scope {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its version.
    #[prost(string, tag = "2")]
    pub version: String,
}

/// A span.
#[derive(Clone, PartialEq, Message)]
pub struct Span {
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub trace_id: Vec<u8>,
    /// 8 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub span_id: Vec<u8>,
    /// 8 bytes, or none.
    #[prost(bytes = "vec", tag = "4")]
    pub parent_span_id: Vec<u8>,
    /// What it is called.
    #[prost(string, tag = "5")]
    pub name: String,
    /// 1 within, 2 server, 3 client.
    #[prost(int32, tag = "6")]
    pub kind: i32,
    /// Nanoseconds since 1970.
    #[prost(fixed64, tag = "7")]
    pub start: u64,
    /// Likewise.
    #[prost(fixed64, tag = "8")]
    pub end: u64,
    /// What is known of it.
    #[prost(message, repeated, tag = "9")]
    pub attributes: Vec<KeyValue>,
    /// Whether it failed.
    #[prost(message, optional, tag = "15")]
    pub status: Option<Status>,
}

/// How a span ended.
#[derive(Clone, PartialEq, Message)]
pub struct Status {
    /// The reason.
    #[prost(string, tag = "2")]
    pub message: String,
    /// 2 for an error.
    #[prost(int32, tag = "3")]
    pub code: i32,
}

/// An attribute.
#[derive(Clone, PartialEq, Message)]
pub struct KeyValue {
    /// Its name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its value.
    #[prost(message, optional, tag = "2")]
    pub value: Option<AnyValue>,
}

/// A value.
#[derive(Clone, PartialEq, Message)]
pub struct AnyValue {
    /// Text or number.
    #[prost(oneof = "Value", tags = "1, 3")]
    pub value: Option<Value>,
}

/// Text or number.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Value {
    /// Text.
    #[prost(string, tag = "1")]
    Text(String),
    /// Number.
    #[prost(int64, tag = "3")]
    Number(i64),
}

/// What the collector answers (`ExportTraceServiceResponse`).
#[derive(Clone, PartialEq, Message)]
struct Exported {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

/// What it did not take, and why.
#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_spans: i64,
    #[prost(string, tag = "2")]
    error_message: String,
}

/// Why a batch did not arrive.
#[derive(Debug, thiserror::Error)]
enum NotSent {
    #[error("the collector cannot be reached: {0}")]
    Connect(#[from] io::Error),
    #[error("the collector does not answer: {0}")]
    Http(#[from] hyper::Error),
    #[error("the request cannot be made: {0}")]
    Request(#[from] http::Error),
    #[error("the collector took longer than 10 s")]
    Slow,
    #[error("the collector answered {0}")]
    Refused(StatusCode),
}

/// Where spans are put that are to be sent.
#[derive(Clone, Debug)]
pub struct Spans {
    queue: Sender<Queued>,
    room: Arc<Semaphore>,
}

/// Spans that wait.
pub type Queue = Receiver<Queued>;

/// A span that waits, and the room that it takes.
#[derive(Debug)]
pub struct Queued {
    span: Span,
    room: OwnedSemaphorePermit,
}

/// Both ends of the queue.
pub fn queue() -> (Spans, Queue) {
    let (queue, spans) = channel(QUEUE);
    (Spans { queue, room: Arc::new(Semaphore::new(BYTES as usize)) }, spans)
}

impl Spans {
    /// Puts a span into the queue, unless as many wait as may, or take as many bytes. Whether it is there.
    pub fn put(&self, span: Span) -> bool {
        let bytes = u32::try_from(span.bytes()).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).try_acquire_many_owned(bytes);
        room.is_ok_and(|room| self.queue.try_send(Queued { span, room }).is_ok())
    }
}

impl Span {
    /// Bytes of memory that it takes.
    fn bytes(&self) -> usize {
        let attribute = |it: &KeyValue| {
            let value = match it.value.as_ref().and_then(|value| value.value.as_ref()) {
                Some(Value::Text(text)) => text.len(),
                Some(Value::Number(_)) | None => 0,
            };
            mem::size_of::<KeyValue>() + it.key.len() + value
        };
        let ids = self.trace_id.len() + self.span_id.len() + self.parent_span_id.len();
        let message = self.status.as_ref().map_or(0, |status| status.message.len());
        mem::size_of::<Self>() + ids + self.name.len() + message + self.attributes.iter().map(attribute).sum::<usize>()
    }
}

/// What sends spans.
#[derive(Debug)]
pub struct Exporter {
    /// Where to.
    pub endpoint: Uri,
    /// Whose they are: the name of the service.
    pub service: String,
    /// This proxy.
    pub name: String,
    /// What is counted.
    pub registry: Arc<Registry>,
}

/// The spans of a record: the request's own, and one for each try of a call.
pub fn spans(record: &Record, trace: &Trace) -> Vec<Span> {
    let took = record.took;
    let began = nanos(record.time).saturating_sub(as_nanos(took));
    let outbound = record.direction == "outbound";
    let name = format!("{} {}", record.method, if outbound { &record.service } else { "inbound" });
    let mut own = span(trace, trace.span, trace.parent, name, if outbound { 1 } else { 2 });
    (own.start, own.end) = (began, began + as_nanos(took));
    own.status = failed(record.reason);
    own.attributes = request_attributes(record);
    let tries = record.tries.iter().filter(|_| outbound).map(|told| {
        let mut span = span(trace, trace.span_of(told.number), Some(trace.span), own.name.clone(), 3);
        span.start = began + as_nanos(told.started);
        span.end = span.start + as_nanos(told.took);
        span.status = failed(told.reason);
        span.attributes = try_attributes(told);
        span
    });
    let tries: Vec<_> = tries.collect();
    std::iter::once(own).chain(tries).collect()
}

fn span(trace: &Trace, id: u64, parent: Option<u64>, name: String, kind: i32) -> Span {
    let parent = parent.map(|parent| parent.to_be_bytes().to_vec()).unwrap_or_default();
    let (trace_id, span_id) = (trace.id.to_be_bytes().to_vec(), id.to_be_bytes().to_vec());
    Span { trace_id, span_id, parent_span_id: parent, name, kind, ..Span::default() }
}

fn failed(reason: Option<&str>) -> Option<Status> {
    reason.map(|reason| Status { message: reason.to_owned(), code: 2 })
}

fn request_attributes(record: &Record) -> Vec<KeyValue> {
    let mut attributes = vec![
        text("http.request.method", &record.method),
        text("url.path", &record.path),
        text("firebreak.service", &record.service),
        text("firebreak.port", &record.port),
        text("firebreak.fate", record.fate),
        number("firebreak.attempts", record.attempts),
    ];
    attributes.extend(record.status.map(|status| number("http.response.status_code", status)));
    attributes.extend(record.policy_generation.map(|generation| number("firebreak.policy.generation", generation)));
    let words = [
        ("firebreak.reason", record.reason),
        ("firebreak.fault_domain", record.fault_domain),
        ("firebreak.policy", record.policy.as_deref()),
        ("firebreak.fault", record.fault.as_deref()),
        ("firebreak.dependency", record.dependency.as_deref()),
    ];
    attributes.extend(words.into_iter().filter_map(|(key, word)| Some(text(key, word?))));
    attributes
}

fn try_attributes(told: &Try) -> Vec<KeyValue> {
    let mut attributes = vec![
        text("server.address", &told.endpoint.ip().to_string()),
        number("server.port", told.endpoint.port()),
        number("firebreak.attempt", told.number),
    ];
    attributes.extend(told.hedge.then(|| text("firebreak.hedge", "true")));
    attributes.extend(told.status.map(|status| number("http.response.status_code", status)));
    attributes.extend(told.grpc_status.map(|status| number("rpc.grpc.status_code", status)));
    let words = [
        ("firebreak.outcome", told.outcome),
        ("firebreak.reason", told.reason),
        ("firebreak.fault", told.fault.as_deref()),
        ("firebreak.errno", told.errno.as_deref()),
    ];
    attributes.extend(words.into_iter().filter_map(|(key, word)| Some(text(key, word?))));
    attributes
}

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(Value::Text(value.to_owned())) }) }
}

fn number(key: &str, value: impl Into<i64>) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(Value::Number(value.into())) }) }
}

fn nanos(time: Timestamp) -> u64 {
    u64::try_from(time.as_nanosecond()).unwrap_or_default()
}

fn as_nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 4)
}

impl Exporter {
    /// Sends what comes by the queue, until it ends.
    pub async fn run(self, mut queue: Queue) {
        let mut batch = Vec::new();
        while queue.recv_many(&mut batch, BATCH).await > 0 {
            // Its end is noticed below.
            let _ = timeout(WAIT, fill(&mut queue, &mut batch)).await;
            let (spans, _room): (Vec<_>, Vec<_>) = batch.drain(..).map(|queued| (queued.span, queued.room)).unzip();
            let count = spans.len() as u64;
            let taken = count - self.send_all(spans, &queue).await.unwrap_or(count).min(count);
            self.registry.spans_exported.fetch_add(taken, Relaxed);
            self.registry.spans_dropped.fetch_add(count - taken, Relaxed);
        }
    }

    /// Sends a batch until it has arrived, or there is no hope that it does. How many of its spans the collector did not take;
    /// nothing if it did not arrive.
    async fn send_all(&self, spans: Vec<Span>, queue: &Queue) -> Option<u64> {
        let body = Bytes::from(self.message(spans).encode_to_vec());
        let mut pause = PAUSE;
        for attempt in 1..=TRIES {
            let error = match timeout(PATIENCE, self.send(body.clone())).await.unwrap_or(Err(NotSent::Slow)) {
                Ok(rejected) => return Some(rejected),
                Err(error) => error,
            };
            // A proxy that stops has no time to wait.
            let last = attempt == TRIES || queue.is_closed() || !error.may_pass();
            if last {
                tracing::warn!(%error, endpoint = %self.endpoint, "spans are dropped");
                return None;
            }
            sleep(pause).await;
            pause *= 2;
        }
        None
    }

    fn message(&self, spans: Vec<Span>) -> Export {
        let attributes = vec![text("service.name", &self.service), text("service.instance.id", &self.name)];
        let scope = Scope { name: "firebreak-proxy".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans }];
        Export { resource_spans: vec![ResourceSpans { resource: Some(Resource { attributes }), scope_spans }] }
    }

    /// How many spans the collector did not take of a batch that it has got.
    async fn send(&self, body: Bytes) -> Result<u64, NotSent> {
        let host = self.endpoint.host().unwrap_or_default();
        let address = (host.trim_matches(['[', ']']), self.endpoint.port_u16().unwrap_or(80));
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the answer, or with the patience for it.
        let connection = tokio::spawn(connection);
        let path = match self.endpoint.path() {
            "" | "/" => "/v1/traces",
            path => path,
        };
        let request = Request::post(path)
            .header(header::HOST, self.endpoint.authority().map_or(host, |authority| authority.as_str()))
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .body(Full::new(body))?;
        let answer = async {
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            // What cannot be read of an answer that says that all is well rejects nothing.
            let body = Limited::new(answer.into_body(), ANSWER).collect().await;
            Ok::<_, hyper::Error>((status, body.map(Collected::to_bytes).unwrap_or_default()))
        };
        let answer = answer.await;
        connection.abort();
        let (status, body) = answer?;
        if !status.is_success() {
            return Err(NotSent::Refused(status));
        }
        let partial = Exported::decode(body).ok().and_then(|exported| exported.partial_success).unwrap_or_default();
        if partial.rejected_spans > 0 {
            tracing::warn!(
                rejected = partial.rejected_spans,
                why = partial.error_message,
                "the collector took only a part"
            );
        }
        Ok(u64::try_from(partial.rejected_spans).unwrap_or_default())
    }
}

impl NotSent {
    /// Whether another try may help (OTLP/HTTP, "Failures").
    fn may_pass(&self) -> bool {
        match self {
            Self::Refused(status) => matches!(status.as_u16(), 429 | 502 | 503 | 504),
            Self::Request(_) => false,
            _ => true,
        }
    }
}

async fn fill(queue: &mut Queue, batch: &mut Vec<Queued>) {
    while batch.len() < BATCH {
        let room = BATCH - batch.len();
        if queue.recv_many(batch, room).await == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn spans_wait_up_to_a_number_and_up_to_a_size() {
        let (spans, mut queue) = queue();
        let small = Span { name: "a".to_owned(), ..Span::default() };
        assert_eq!((0..2 * QUEUE).filter(|_| spans.put(small.clone())).count(), QUEUE);
        let mut taken = Vec::new();
        while taken.len() < QUEUE {
            queue.recv_many(&mut taken, QUEUE).await;
        }
        let large = Span { attributes: vec![text("url.path", &"x".repeat(64 * 1024))], ..Span::default() };
        let fits = (BYTES as usize - QUEUE * small.bytes()) / large.bytes();
        assert_eq!(
            (0..QUEUE).filter(|_| spans.put(large.clone())).count(),
            fits,
            "what is taken and held takes room too"
        );
        drop(taken);
        assert!(spans.put(large), "and gives it back");
    }
}
