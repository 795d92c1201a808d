//! A caller: many requests, some at once, and what became of each.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use clap::ValueEnum;
use firebreak_crds::spec;
use futures::future::join_all;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};

use super::grpc;

/// Requests that the proxy answered itself and that are reported without being asked for.
const MOST_FAILURES: usize = 5;

/// What a caller that goes on until it is told to end prints when its first request is over.
pub const UNDER_WAY: &str = "under way";

/// What to send.
#[derive(Clone, Debug, clap::Args)]
pub struct Call {
    url: Uri,
    /// Requests in all; without it and without another end, one
    #[arg(long)]
    count: Option<usize>,
    /// How long to go on, such as 10s
    #[arg(long = "for")]
    duration: Option<spec::Duration>,
    /// Go on until standard input ends
    #[arg(long, conflicts_with_all = ["count", "duration"])]
    until_closed: bool,
    /// Between the end of a request and the next, such as 10ms: a load that leaves room for what it is to outlast
    #[arg(long)]
    pause: Option<spec::Duration>,
    /// Requests at once
    #[arg(long, default_value_t = 1)]
    concurrency: usize,
    #[arg(long, default_value = "GET")]
    method: Method,
    /// NAME:VALUE
    #[arg(long)]
    header: Vec<String>,
    /// Bytes of the request's body
    #[arg(long, default_value_t = 0)]
    body: usize,
    #[arg(long, value_enum, default_value_t = Protocol::Http1)]
    protocol: Protocol,
    /// A new connection for each request
    #[arg(long)]
    fresh: bool,
    /// How long the caller itself waits
    #[arg(long, default_value = "60s")]
    patience: spec::Duration,
    /// List each request in the report
    #[arg(long)]
    each: bool,
}

/// How to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// HTTP/1.1
    Http1,
    /// HTTP/2 with prior knowledge
    Http2,
    /// A gRPC call with one message
    Grpc,
}

/// What became of the requests.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Requests sent.
    pub sent: usize,
    /// How many ended with which status: an HTTP status, `grpc N`, or what kept an answer from coming.
    pub outcomes: BTreeMap<String, usize>,
    /// How many the proxy answered itself, by the reason it gave.
    pub reasons: BTreeMap<String, usize>,
    /// Milliseconds of the fastest, the middle, the 99th of a hundred and the slowest.
    pub fastest: u64,
    /// See `fastest`.
    pub median: u64,
    /// See `fastest`.
    pub p99: u64,
    /// See `fastest`.
    pub slowest: u64,
    /// Each request, when asked for; otherwise a few that the proxy answered itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub each: Vec<Outcome>,
}

/// What became of one request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// As in [`Report::outcomes`].
    pub outcome: String,
    /// The field `Proxy-Status`, as the proxy that is nearest to the caller wrote it.
    pub proxy_status: Option<String>,
    /// Milliseconds until the end of the body.
    pub ms: u64,
    /// The body, up to 2000 characters.
    pub body: String,
}

impl Report {
    /// Requests that ended with `outcome`.
    pub fn with(&self, outcome: &str) -> usize {
        self.outcomes.get(outcome).copied().unwrap_or_default()
    }

    fn of(mut each: Vec<Outcome>, keep: bool) -> Self {
        let mut report = Self { sent: each.len(), ..Self::default() };
        for outcome in &each {
            *report.outcomes.entry(outcome.outcome.clone()).or_default() += 1;
            if let Some(reason) = outcome.reason() {
                *report.reasons.entry(reason.into()).or_default() += 1;
            }
        }
        let mut times: Vec<u64> = each.iter().map(|outcome| outcome.ms).collect();
        times.sort_unstable();
        let at = |percent: usize| times.get(times.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default();
        (report.fastest, report.median, report.p99, report.slowest) = (at(0), at(50), at(99), at(100));
        if !keep {
            each.retain(|outcome| outcome.reason().is_some());
            each.truncate(MOST_FAILURES);
        }
        report.each = each;
        report
    }
}

impl Outcome {
    /// The parameter `firebreak-reason` of `Proxy-Status`.
    pub fn reason(&self) -> Option<&str> {
        self.parameter("firebreak-reason")
    }

    /// A parameter of `Proxy-Status` (RFC 9209), without quotes.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let parameters = self.proxy_status.as_deref()?.split(';').filter_map(|part| part.trim().split_once('='));
        parameters.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value.trim_matches('"'))
    }
}

struct Caller {
    call: Call,
    headers: HeaderMap,
    client: Client<HttpConnector, Full<Bytes>>,
    started: Instant,
    begun: Mutex<usize>,
    closed: AtomicBool,
}

/// Sends the requests and reports.
pub async fn run(call: Call) -> anyhow::Result<Report> {
    let mut headers = HeaderMap::new();
    for header in &call.header {
        let (name, value) = header.split_once(':').with_context(|| format!("`{header}` is not NAME:VALUE"))?;
        headers.append(HeaderName::try_from(name)?, HeaderValue::try_from(value.trim())?);
    }
    if call.protocol == Protocol::Grpc {
        grpc::headers(&mut headers);
    }
    let client = Client::builder(TokioExecutor::new())
        .http2_only(call.protocol != Protocol::Http1)
        .pool_max_idle_per_host(if call.fresh { 0 } else { usize::MAX })
        .retry_canceled_requests(false)
        .build_http();
    let (concurrency, each, until_closed) = (call.concurrency, call.each, call.until_closed);
    let (started, begun, closed) = (Instant::now(), Mutex::new(0), AtomicBool::new(false));
    let caller = Arc::new(Caller { call, headers, client, started, begun, closed });
    if until_closed {
        tokio::spawn(Arc::clone(&caller).listen());
    }
    let callers = (0..concurrency).map(|_| tokio::spawn(Arc::clone(&caller).call_until_done()));
    let outcomes = join_all(callers).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(Report::of(outcomes.concat(), each))
}

impl Caller {
    async fn call_until_done(self: Arc<Self>) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        while let Some(number) = self.next() {
            outcomes.push(self.one(number).await);
            if number == 0 && self.call.until_closed {
                println!("{UNDER_WAY}");
            }
            if let Some(pause) = self.call.pause {
                sleep(pause.get()).await;
            }
        }
        outcomes
    }

    async fn listen(self: Arc<Self>) {
        // A broken input is an ended one.
        let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await;
        self.closed.store(true, Relaxed);
    }

    fn next(&self) -> Option<usize> {
        let has_end = self.call.duration.is_some() || self.call.until_closed;
        let most = self.call.count.unwrap_or(if has_end { usize::MAX } else { 1 });
        let in_time = self.call.duration.is_none_or(|duration| self.started.elapsed() < duration.get());
        let in_time = in_time && !self.closed.load(Relaxed);
        let mut begun = self.begun.lock();
        let number = *begun;
        (number < most && in_time).then(|| {
            *begun += 1;
            number
        })
    }

    async fn one(&self, number: usize) -> Outcome {
        let start = Instant::now();
        let answer = timeout(self.call.patience.get(), self.exchange(number)).await;
        let (outcome, proxy_status, body) = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => (format!("error: {error:#}"), None, String::new()),
            Err(_) => ("no answer".into(), None, String::new()),
        };
        Outcome { outcome, proxy_status, body, ms: millis(start.elapsed()) }
    }

    async fn exchange(&self, number: usize) -> anyhow::Result<(String, Option<String>, String)> {
        let call = &self.call;
        let is_grpc = call.protocol == Protocol::Grpc;
        let body = if is_grpc { grpc::framed(b"hello") } else { Bytes::from(vec![b'x'; call.body]) };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = if is_grpc { Method::POST } else { call.method.clone() };
        *request.uri_mut() = call.url.clone();
        *request.headers_mut() = self.headers.clone();
        if !self.headers.contains_key("x-request-id") {
            let id = format!("{}-{number}", std::process::id());
            request.headers_mut().insert("x-request-id", HeaderValue::try_from(id)?);
        }
        let response = self.client.request(request).await?;
        let (parts, body) = response.into_parts();
        let collected = body.collect().await.context("the body broke off")?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        let outcome = match text(&trailers, "grpc-status").or_else(|| text(&parts.headers, "grpc-status")) {
            Some(status) => format!("grpc {status}"),
            None => parts.status.as_u16().to_string(),
        };
        let proxy_status = text(&parts.headers, "proxy-status").or_else(|| text(&trailers, "proxy-status"));
        let body = String::from_utf8_lossy(&collected.to_bytes()).chars().take(2000).collect();
        Ok((outcome, proxy_status, body))
    }
}

/// The last value: each proxy on the way adds its own to `Proxy-Status`, and the caller's comes last.
fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get_all(name).iter().next_back().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(outcome: &str, proxy_status: Option<&str>, ms: u64) -> Outcome {
        Outcome { outcome: outcome.into(), proxy_status: proxy_status.map(str::to_owned), ms, body: String::new() }
    }

    #[test]
    fn a_report_counts_by_outcome_and_by_the_proxys_reason() {
        let refused =
            r#"web-1; error=connection_limit_reached; firebreak-reason=bulkhead_full; firebreak-policy="shop/a""#;
        let outcomes = vec![outcome("200", None, 1), outcome("503", Some(refused), 3), outcome("200", None, 2)];
        assert_eq!(outcomes[1].parameter("firebreak-policy"), Some("shop/a"));
        let report = Report::of(outcomes, false);
        assert_eq!((report.with("200"), report.with("503"), report.with("404")), (2, 1, 0));
        assert_eq!(report.reasons, BTreeMap::from([("bulkhead_full".to_owned(), 1)]));
        assert_eq!((report.fastest, report.median, report.slowest), (1, 2, 3));
    }
}
