//! Trace headers that travel, and spans that arrive.

use std::{process::Stdio, time::Duration};

use bytes::Bytes;
use firebreak_proxy::{
    Settings,
    boot::Tracing,
    telemetry::{
        otlp::{Export, Span, Value},
        trace::Sampling,
    },
};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use prost::Message;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    sync::mpsc,
};

use super::support::{Body, Callee, Mesh, free_address};

const W3C: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A collector that answers with these statuses in turn, the last for ever, and shows what it took.
async fn collector(statuses: &'static [u16]) -> (Callee, mpsc::UnboundedReceiver<Export>) {
    let (taken, takes) = mpsc::unbounded_channel();
    let collector = Callee::start(move |number, request| {
        let taken = taken.clone();
        async move {
            assert_eq!(
                (request.uri().path(), &request.headers()["content-type"]),
                ("/v1/traces", &"application/x-protobuf".parse().unwrap())
            );
            let status = statuses[(number - 1).min(statuses.len() - 1)];
            let body: Bytes = request.into_body().collect().await.unwrap().to_bytes();
            if status == 200 {
                taken.send(Export::decode(body).unwrap()).unwrap();
            }
            Response::builder().status(status).body(Body::default()).unwrap()
        }
    })
    .await;
    (collector, takes)
}

fn traced(collector: &str, share: f64) -> Settings {
    let tracing = Tracing { endpoint: collector.parse().unwrap(), sampling: Sampling { share } };
    Settings { tracing: Some(tracing), ..Settings::default() }
}

/// A callee that fails once, then answers, and tells the headers that it was sent.
async fn flaky() -> (Callee, mpsc::UnboundedReceiver<HeaderMap>) {
    let (tell, told) = mpsc::unbounded_channel();
    let callee = Callee::start(move |number, request| {
        tell.send(request.headers().clone()).unwrap();
        let status = if number == 1 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        async move { Response::builder().status(status).body(Body::default()).unwrap() }
    })
    .await;
    (callee, told)
}

fn retrying(settings: Settings, callee: &Callee) -> Mesh {
    let policy = json!({"retries": {"maxRetries": 1, "conditions": ["5xx"], "backoff": {"base": "1ms", "max": "1ms"}}});
    Mesh::set(settings, &[callee.address], json!({"protocol": "Http"}), &[("TrafficPolicy", policy)])
}

fn attribute(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    Some(match found.value.clone()?.value? {
        Value::Text(text) => text,
        Value::Number(number) => number.to_string(),
    })
}

fn spans(export: Export) -> Vec<Span> {
    export.resource_spans.into_iter().flat_map(|it| it.scope_spans).flat_map(|it| it.spans).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

#[tokio::test]
async fn a_call_and_each_try_is_a_span_whose_child_the_callee_is() {
    let (collector, mut takes) = collector(&[503, 200]).await;
    let (callee, mut told) = flaky().await;
    let mesh = retrying(traced(&format!("http://{}", collector.address), 0.0), &callee);
    assert_eq!(mesh.send(Request::get("/pay?card=1").header("traceparent", W3C)).await.status, 200);
    let spans = spans(takes.recv().await.unwrap());
    assert_eq!(collector.requests(), 2, "a batch that was not taken is sent again");
    let [call, first, second] = spans.as_slice() else { panic!("{spans:#?}") };
    assert!(spans.iter().all(|span| hex(&span.trace_id) == W3C[3..35] && span.start <= span.end), "{spans:#?}");
    assert_eq!((hex(&call.parent_span_id).as_str(), call.kind, &call.status), (&W3C[36..52], 1, &None));
    for (number, attempt) in [first, second].into_iter().enumerate() {
        assert_eq!((&attempt.parent_span_id, attempt.kind), (&call.span_id, 3));
        assert!(call.start <= attempt.start && attempt.end <= call.end, "{spans:#?}");
        let sent = told.recv().await.unwrap()["traceparent"].to_str().unwrap().to_owned();
        assert_eq!(sent, format!("{}{}-01", &W3C[..36], hex(&attempt.span_id)), "try {number}");
    }
    assert_eq!(first.status.as_ref().unwrap().message, "callee_error");
    assert_eq!((attribute(first, "firebreak.outcome").unwrap(), &second.status), ("error".to_owned(), &None));
    for (key, value) in
        [("firebreak.fate", "succeeded_after_retry"), ("firebreak.policy", "shop/test"), ("url.path", "/pay")]
    {
        assert_eq!(attribute(call, key).as_deref(), Some(value));
    }
    let metrics = mesh.metrics().await;
    assert!(metrics.contains("firebreak_spans_dropped_total 0"), "{metrics}");
}

#[tokio::test]
async fn a_second_try_beside_a_slow_one_is_a_span_too() {
    let (collector, mut takes) = collector(&[200]).await;
    let (slow, fast) = (Callee::hanging().await, Callee::answering(&[200]).await);
    let mesh = Mesh::set(
        traced(&format!("http://{}", collector.address), 0.0),
        &[slow.address, fast.address],
        json!({"protocol": "Http"}),
        &[("TrafficPolicy", json!({"hedge": {"after": "20ms", "maxExtraLoadPercent": 100}}))],
    );
    assert_eq!(mesh.send(Request::get("/").header("traceparent", W3C)).await.status, 200);
    let spans = spans(takes.recv().await.unwrap());
    let [call, first, second] = spans.as_slice() else { panic!("{spans:#?}") };
    let told = |span| ["firebreak.outcome", "firebreak.hedge"].map(|key| attribute(span, key));
    assert_eq!(told(first), [Some("cancelled".to_owned()), None]);
    assert_eq!(told(second), ["answered", "true"].map(|word| Some(word.to_owned())));
    assert!(
        first.start < second.start && second.start < first.end && first.end <= call.end,
        "side by side: {spans:#?}"
    );
}

#[tokio::test]
async fn a_number_names_the_last_request_that_can_be_looked_up() {
    const ACCEPT: &str = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    let (collector, _takes) = collector(&[200]).await;
    let callee = Callee::answering(&[200, 503, 200]).await;
    let settings = traced(&format!("http://{}", collector.address), 0.0);
    let mesh = Mesh::set(settings, &[callee.address], json!({"protocol": "Http"}), &[("TrafficPolicy", json!({}))]);
    let examples = async || -> Vec<String> {
        let text = mesh.metrics_as(ACCEPT).await;
        assert!(text.ends_with("# EOF\n"), "{text}");
        text.lines().filter(|line| line.contains(" # {")).map(ToOwned::to_owned).collect()
    };
    mesh.send(Request::get("/").header("x-request-id", "well")).await;
    mesh.fates(1).await;
    assert!(examples().await.is_empty(), "what succeeds and is not sampled cannot be looked up");

    mesh.send(Request::get("/").header("x-request-id", "a\\quote\"d")).await;
    mesh.fates(2).await;
    let failed = examples().await;
    let id = " # {request_id=\"a\\\\quote\\\"d\"} ";
    assert!(failed.len() == 2 && failed.iter().all(|line| line.contains(id)), "{failed:#?}");
    assert!(failed[0].starts_with("firebreak_failures_total{") && failed[0].contains(&format!("{id}1.0 ")));
    assert!(failed[1].starts_with("firebreak_request_duration_seconds_bucket{"), "{failed:#?}");

    mesh.send(Request::get("/").header("traceparent", W3C)).await;
    mesh.fates(3).await;
    let id = format!(" # {{trace_id=\"{}\"}} ", &W3C[3..35]);
    let sampled = examples().await;
    let of_trace: Vec<_> = sampled.iter().filter(|line| line.contains(&id)).collect();
    assert!(of_trace.len() == 1 && of_trace[0].contains("_bucket{"), "it did not fail: {sampled:#?}");
    assert!(!mesh.metrics().await.contains(" # {"), "who does not ask for OpenMetrics may not know what it is");
}

#[tokio::test]
async fn b3_goes_on_as_b3_and_what_is_not_sampled_as_it_came() {
    let (collector, _takes) = collector(&[200]).await;
    let (callee, mut told) = flaky().await;
    let mesh = retrying(traced(&format!("http://{}", collector.address), 0.0), &callee);
    let b3 = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1";
    mesh.send(Request::get("/").header("b3", b3)).await;
    for _ in 0..2 {
        let headers = told.recv().await.unwrap();
        let sent = headers["b3"].to_str().unwrap();
        assert!(sent.starts_with(&b3[..33]) && sent.ends_with("-1") && sent != b3, "{sent}");
        assert!(!headers.contains_key("traceparent"));
    }
    let not = W3C.replace("-01", "-00");
    mesh.send(Request::get("/").header("traceparent", &not)).await;
    assert_eq!(told.recv().await.unwrap()["traceparent"], not);
    mesh.send(Request::get("/")).await;
    assert!(!told.recv().await.unwrap().contains_key("traceparent"), "of none is begun at a share of 0");
}

#[tokio::test]
async fn a_trace_that_begins_here_is_known_and_one_that_simply_succeeds_leaves_no_record() {
    let (collector, mut takes) = collector(&[200]).await;
    let callee = Callee::answering(&[200, 503]).await;
    let mesh = Mesh::set(
        traced(&format!("http://{}", collector.address), 1.0),
        &[callee.address],
        json!({"protocol": "Http"}),
        &[("TrafficPolicy", json!({}))],
    );
    mesh.get("/").await;
    mesh.get("/").await;
    let record = &mesh.records("", 1).await[0];
    let mut all = Vec::new();
    while all.len() < 4 {
        all.extend(spans(takes.recv().await.unwrap()));
    }
    let failed = all.iter().find(|span| span.status.is_some()).unwrap();
    assert_eq!(record["traceparent"].as_str().unwrap()[3..35], hex(&failed.trace_id));
}

#[tokio::test]
async fn spans_that_a_collector_does_not_take_do_not_count_as_exported() {
    // ExportTraceServiceResponse: one span was rejected, and why.
    let answer: &[u8] = b"\x0a\x07\x08\x01\x12\x03why";
    let collector = Callee::start(move |_, _| async move { Response::new(Body::from(answer)) }).await;
    let callee = Callee::answering(&[200]).await;
    let settings = traced(&format!("http://{}", collector.address), 1.0);
    let mesh = Mesh::set(settings, &[callee.address], json!({"protocol": "Http"}), &[]);
    mesh.get("/").await;
    // A request and its try.
    let registry = mesh.proxy.registry();
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    while count(&registry.spans_exported) + count(&registry.spans_dropped) < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!((count(&registry.spans_exported), count(&registry.spans_dropped)), (1, 1));
}

#[tokio::test]
async fn a_collector_that_is_gone_holds_up_nothing() {
    let callee = Callee::answering(&[200]).await;
    let mesh = Mesh::set(
        traced(&format!("http://{}", free_address()), 1.0),
        &[callee.address],
        json!({"protocol": "Http"}),
        &[],
    );
    for _ in 0..1500 {
        assert_eq!(mesh.get("/").await.status, 200);
    }
    // More than may wait and be on their way; the control thread counts them a moment later.
    let dropped = || mesh.proxy.registry().spans_dropped.load(std::sync::atomic::Ordering::Relaxed);
    tokio::time::timeout(Duration::from_secs(20), async {
        while dropped() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
#[ignore = "needs the program of the OpenTelemetry Collector in FIREBREAK_COLLECTOR: tests/run builds it"]
async fn the_opentelemetry_collector_understands_the_spans() {
    let address = free_address();
    let config = format!(
        "{{receivers: {{otlp: {{protocols: {{http: {{endpoint: \"{address}\"}}}}}}}}, exporters: {{debug: {{verbosity: detailed}}}}, \
         service: {{telemetry: {{metrics: {{level: none}}}}, pipelines: {{traces: {{receivers: [otlp], exporters: [debug]}}}}}}}}"
    );
    let mut collector = tokio::process::Command::new(std::env::var("FIREBREAK_COLLECTOR").unwrap())
        .args(["--config", &format!("yaml:{config}")])
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(collector.stderr.take().unwrap()).lines();
    let (callee, _told) = flaky().await;
    let mesh = retrying(traced(&format!("http://{address}"), 0.0), &callee);
    let until = async |lines: &mut tokio::io::Lines<_>, words: &str| {
        let mut seen = String::new();
        tokio::time::timeout(Duration::from_secs(30), async {
            while let Some(line) = lines.next_line().await.unwrap() {
                seen = format!("{seen}{line}\n");
                if line.contains(words) {
                    break;
                }
            }
        })
        .await
        .unwrap_or_else(|_| panic!("no {words} in {seen}"));
        seen
    };
    until(&mut lines, "Everything is ready").await;
    mesh.send(Request::get("/").header("traceparent", W3C)).await;
    let seen = until(&mut lines, "firebreak.attempt: Int(2)").await;
    for words in [
        "Trace ID       : 4bf92f3577b34da6a3ce929d0e0e4736",
        "Parent ID      : 00f067aa0ba902b7",
        "Kind           : Client",
        "Status code    : Error",
        "firebreak.reason: Str(callee_error)",
        "firebreak.fate: Str(succeeded_after_retry)",
        "service.name: Str(caller-pod)",
    ] {
        assert!(seen.contains(words), "no {words} in {seen}");
    }
}
