//! Breakers, seen from outside: what callers get, what the callee gets, and what the metrics say.

use std::{
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

use super::support::{Body, Callee, Mesh, Seen, call_h2, counts, free_address, h2_request};

const MS: fn(u64) -> Duration = Duration::from_millis;

/// A callee that fails until it is healed.
async fn ill() -> (Callee, Arc<AtomicBool>) {
    let healed = Arc::new(AtomicBool::new(false));
    let is_healed = Arc::clone(&healed);
    let callee = Callee::start(move |_, _| {
        let status = if is_healed.load(SeqCst) { 200 } else { 503 };
        async move { Response::builder().status(status).body(Body::default()).unwrap() }
    })
    .await;
    (callee, healed)
}

fn breaker(more: Value) -> Value {
    let mut breaker = json!({
        "tripOn": {"consecutiveFailures": 3},
        "openFor": {"initial": "200ms", "max": "400ms"},
        "halfOpen": {"probes": 2},
        "recovery": {"ramp": "1s", "startPercent": 20},
    });
    breaker.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"circuitBreaker": breaker})
}

fn is_refusal(seen: &Seen) -> bool {
    let refused = seen.has_reason("breaker_open");
    assert_eq!(refused, seen.status == 503 && seen.headers.contains_key("retry-after"), "{}", seen.verdict());
    refused
}

async fn state(mesh: &Mesh) -> String {
    let metrics = mesh.metrics().await;
    let mut current =
        metrics.lines().filter(|line| line.starts_with("firebreak_breaker_state{") && line.ends_with("} 1"));
    current
        .next()
        .and_then(|line| line.split("state=\"").nth(1))
        .map_or_else(String::new, |rest| rest.split('"').next().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn it_opens_probes_recovers_and_closes() {
    let (callee, healed) = ill().await;
    let mesh = Mesh::new(&[callee.address], breaker(json!({})));
    for _ in 0..3 {
        assert_eq!(mesh.get("/").await.status, 503);
    }
    let refused = mesh.get("/").await;
    assert!(is_refusal(&refused) && refused.verdict().contains("attempts=0"), "{}", refused.verdict());
    assert_eq!((callee.requests(), state(&mesh).await.as_str()), (3, "open"));
    healed.store(true, SeqCst);
    let mut states = vec![state(&mesh).await];
    let mut sent = 4;
    while states.last().is_none_or(|state| state != "closed") {
        mesh.get("/").await;
        sent += 1;
        let now = state(&mesh).await;
        if states.last() != Some(&now) {
            states.push(now);
        }
        assert!(sent < 100_000, "{states:?}");
    }
    assert_eq!(states, ["open", "half_open", "recovering", "closed"]);
    let fates = mesh.fates(sent).await;
    assert_eq!((fates["failed"], fates["succeeded"]), (3, callee.requests() as u64 - 3), "{fates:?}");
    assert_eq!(fates["refused_by_breaker"], sent - callee.requests() as u64);
    assert_eq!(mesh.reasons(sent - fates["succeeded"]).await["breaker_open"], fates["refused_by_breaker"]);
}

#[tokio::test]
async fn while_it_is_ill_a_callee_gets_probes_and_nothing_else() {
    let (callee, _) = ill().await;
    let mesh = Arc::new(Mesh::new(&[callee.address], breaker(json!({}))));
    let started = tokio::time::Instant::now();
    while started.elapsed() < MS(2_000) {
        mesh.get("/").await;
    }
    // It opens for at least 100 ms the first time and 200 ms after that; one probe that fails is enough each time.
    assert!(callee.requests() <= 3 + 1 + 10, "{}", callee.requests());
    assert!(callee.requests() >= 3 + 3, "{}", callee.requests());
}

#[tokio::test]
async fn a_retry_that_finds_the_breaker_open_returns_the_answer_there_is() {
    let (callee, _) = ill().await;
    let mut policy = breaker(json!({"openFor": {"initial": "1m"}}));
    policy["retries"] = json!({"maxRetries": 9, "conditions": ["5xx"], "backoff": {"base": "1ms"}});
    let mesh = Mesh::new(&[callee.address], policy);
    let seen = mesh.get("/").await;
    assert!(seen.has_reason("callee_error") && seen.verdict().contains("attempts=3"), "{}", seen.verdict());
    assert_eq!(callee.requests(), 3);
    assert!(is_refusal(&mesh.get("/").await));
}

#[tokio::test]
async fn half_an_outage_is_not_a_whole_one() {
    let ((bad, _), good) = (ill().await, Callee::answering(&[200]).await);
    let mesh = Mesh::new(&[bad.address, good.address], breaker(json!({"openFor": {"initial": "1m"}})));
    let mut failed = 0;
    for _ in 0..40 {
        failed += u32::from(mesh.get("/").await.status == 503);
    }
    assert_eq!((failed, bad.requests(), good.requests()), (3, 3, 37), "the rest goes where it is answered");
    assert_eq!(state(&mesh).await, "closed");
    let metrics = mesh.metrics().await;
    assert!(
        metrics.contains(
            "firebreak_endpoints{direction=\"outbound\",service=\"shop/callee\",port=\"80\",state=\"open\"} 1"
        ),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_refused_connection_is_a_failure_and_a_full_bulkhead_is_none() {
    let policy = breaker(json!({"openFor": {"initial": "1m"}}));
    let mesh = Mesh::new(&[free_address()], policy.clone());
    for _ in 0..3 {
        assert!(mesh.get("/").await.has_reason("connection_refused"));
    }
    assert!(is_refusal(&mesh.get("/").await));

    let hanging = Callee::hanging().await;
    let mut full = policy;
    full["bulkhead"] = json!({"maxRequests": 1, "maxPending": 0});
    let mesh = Arc::new(Mesh::new(&[hanging.address], full));
    let first = tokio::spawn({
        let mesh = Arc::clone(&mesh);
        async move { mesh.get("/").await }
    });
    super::bulkheads::wait_for(&mesh, "resource=\"requests\"} 1").await;
    for _ in 0..10 {
        assert!(mesh.get("/").await.has_reason("bulkhead_full"));
    }
    first.abort();
    assert_eq!(mesh.fates(11).await, counts(&[("cancelled", 1), ("refused_by_bulkhead", 10)]));
    assert_eq!(state(&mesh).await, "closed", "neither a refusal nor a caller that left says anything of the callee");
}

#[tokio::test]
async fn time_outs_and_slow_answers_open_it() {
    let hanging = Callee::hanging().await;
    let mut policy = breaker(json!({"openFor": {"initial": "1m"}}));
    policy["timeouts"] = json!({"attempt": "50ms"});
    let mesh = Mesh::new(&[hanging.address], policy);
    for _ in 0..3 {
        assert!(mesh.get("/").await.has_reason("attempt_timeout"));
    }
    assert!(is_refusal(&mesh.get("/").await));

    let slow = Callee::start(|_, _| async {
        sleep(MS(60)).await;
        Response::new(Body::default())
    })
    .await;
    let trips = json!({"tripOn": {"slowCalls": {"percent": 80, "threshold": "20ms", "minRequests": 5}}, "openFor": {"initial": "1m"}});
    let mesh = Mesh::new(&[slow.address], breaker(trips));
    for _ in 0..5 {
        assert_eq!(mesh.get("/").await.status, 200);
    }
    assert!(is_refusal(&mesh.get("/").await));
}

#[tokio::test]
async fn injected_faults_count() {
    let callee = Callee::answering(&[200]).await;
    let fault = json!({"faults": [{"abort": {"percent": 100, "httpStatus": 503}}], "expiresAt": "2100-01-01T00:00:00Z", "duration": "1h"});
    let policy = breaker(json!({"openFor": {"initial": "1m"}}));
    let entries = [("TrafficPolicy", policy), ("FaultSpec", fault)];
    let mesh = Mesh::with(&[callee.address], json!({"protocol": "Http"}), &entries);
    for _ in 0..3 {
        assert!(mesh.get("/").await.has_reason("fault_abort"));
    }
    assert!(is_refusal(&mesh.get("/").await));
}

/// A gRPC callee whose status comes in trailers.
async fn grpc(status: &'static str) -> Callee {
    Callee::serve(move |_, _, _| async move {
        let status = HeaderValue::from_static(status);
        let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), status)]);
        let frames = [Frame::data(bytes::Bytes::from_static(b"\0\0\0\0\x02hi")), Frame::trailers(trailers)];
        let body = StreamBody::new(futures::stream::iter(frames.map(Ok::<_, std::convert::Infallible>)));
        Response::builder().header("content-type", "application/grpc").body(body).unwrap()
    })
    .await
}

#[tokio::test]
async fn a_grpc_status_in_trailers_counts_and_a_refusal_is_said_in_grpc() {
    let call = || h2_request("/shop.Cart/Get").header("content-type", "application/grpc");
    for (status, opens) in [("14", true), ("5", false)] {
        let callee = grpc(status).await;
        let mesh = Mesh::new(&[callee.address], breaker(json!({"openFor": {"initial": "1m"}})));
        for _ in 0..3 {
            let seen = call_h2(mesh.address, call()).await.unwrap();
            assert_eq!(seen.trailers.unwrap()["grpc-status"], status);
        }
        let seen = call_h2(mesh.address, call()).await.unwrap();
        assert_eq!(seen.has_reason("breaker_open"), opens, "{status}: {}", seen.verdict());
        if opens {
            assert_eq!((seen.status.as_u16(), &seen.headers["grpc-status"]), (200, &HeaderValue::from_static("14")));
        }
    }
}

#[tokio::test]
async fn it_is_held_by_hand_and_survives_a_config_that_does_not_concern_it() {
    let (callee, healed) = ill().await;
    let mut mesh = Mesh::new(&[callee.address], breaker(json!({"openFor": {"initial": "1m"}})));
    for _ in 0..3 {
        mesh.get("/").await;
    }
    healed.store(true, SeqCst);
    mesh.change(|config| config["entries"][1]["body"]["timeouts"] = json!({"attempt": "5s"}));
    assert!(is_refusal(&mesh.get("/").await), "still open");
    mesh.change(|config| config["entries"][1]["body"]["circuitBreaker"]["tripOn"] = json!({"consecutiveFailures": 9}));
    assert!(is_refusal(&mesh.get("/").await), "other numbers do not let traffic back in");
    mesh.change(|config| config["entries"][1]["body"]["circuitBreaker"]["force"] = json!("Closed"));
    assert_eq!((mesh.get("/").await.status.as_u16(), state(&mesh).await.as_str()), (200, "forced_closed"));
    mesh.change(|config| config["entries"][1]["body"]["circuitBreaker"]["force"] = json!("Open"));
    assert!(is_refusal(&mesh.get("/").await));
    assert_eq!(state(&mesh).await, "forced_open");
    mesh.change(|config| config["entries"][1]["body"]["circuitBreaker"] = Value::Null);
    assert_eq!(mesh.get("/").await.status, 200);
    assert_eq!(state(&mesh).await, "");
}

#[tokio::test]
async fn where_the_protocol_is_not_declared_dialling_asks_the_breaker() {
    let policy = breaker(json!({"openFor": {"initial": "1m"}}));
    let mesh = Mesh::with(&[free_address()], json!({"protocol": "Detect"}), &[("TrafficPolicy", policy)]);
    for _ in 0..3 {
        assert!(mesh.get("/").await.has_reason("connection_refused"));
    }
    assert!(is_refusal(&mesh.get("/").await));
    assert_eq!(mesh.fates(4).await, counts(&[("refused_by_breaker", 1), ("unreachable", 3)]));
}

/// The end of a request that allows one full try is that try's end.
#[tokio::test]
async fn a_callee_that_hangs_opens_it_although_the_requests_clock_ends_the_tries() {
    let hanging = Callee::hanging().await;
    let mut policy = breaker(json!({"openFor": {"initial": "200ms", "max": "200ms"}, "halfOpen": {"probes": 1}}));
    policy["timeouts"] = json!({"attempt": "100ms", "request": "100ms"});
    let mesh = Mesh::new(&[hanging.address], policy);
    for _ in 0..3 {
        assert!(mesh.get("/").await.has_reason("request_timeout"));
    }
    assert_eq!(state(&mesh).await, "open");
    sleep(MS(250)).await;
    assert!(mesh.get("/").await.has_reason("request_timeout"), "a probe");
    assert_eq!(state(&mesh).await, "open", "which failed");
}

#[tokio::test]
async fn a_stream_that_outlives_the_requests_clock_says_nothing() {
    let callee = Callee::dripping(b"\0\0\0\0\x02hi", MS(20)).await;
    let mut policy = breaker(json!({}));
    policy["timeouts"] = json!({"attempt": "1s", "request": "150ms"});
    let mesh = Mesh::new(&[callee.address], policy);
    for _ in 0..6 {
        let call = h2_request("/shop.Cart/Watch").header("content-type", "application/grpc");
        assert_eq!(call_h2(mesh.address, call).await.unwrap().trailers.unwrap()["grpc-status"], "4");
    }
    assert_eq!(mesh.reasons(6).await, counts(&[("request_timeout", 6)]));
    assert_eq!(state(&mesh).await, "closed");
}

#[tokio::test]
async fn a_connection_without_a_word_is_no_probe_that_failed() {
    let (callee, healed) = ill().await;
    let mut policy = breaker(json!({"openFor": {"initial": "200ms", "max": "200ms"}}));
    policy["timeouts"] = json!({"attempt": "200ms"});
    let mesh = Mesh::with(&[callee.address], json!({"protocol": "Detect"}), &[("TrafficPolicy", policy)]);
    for _ in 0..3 {
        mesh.get("/").await;
    }
    healed.store(true, SeqCst);
    sleep(MS(250)).await;
    let _silent = tokio::net::TcpStream::connect(mesh.address).await.unwrap();
    super::bulkheads::wait_for(&mesh, "resource=\"requests\"} 1").await;
    sleep(MS(300)).await;
    let mut answered = 0;
    for _ in 0..50 {
        answered += u32::from(mesh.get("/").await.status == 200);
    }
    assert!(answered > 0 && state(&mesh).await != "open", "{answered}");
}

/// The proxy cannot know how long a caller takes; the callee has nothing to answer until then.
#[tokio::test]
async fn a_caller_that_is_slow_to_send_is_no_failure_of_the_callee() {
    let callee = Callee::start(|_, request| async move {
        let whole = request.into_body().collect().await.unwrap().to_bytes();
        Response::new(Body::from(whole))
    })
    .await;
    let policy = json!({"timeouts": {"attempt": "100ms"}, "circuitBreaker": {"tripOn": {"consecutiveFailures": 2}}});
    let mesh = Mesh::new(&[callee.address], policy);
    for _ in 0..3 {
        let mut slow = TcpStream::connect(mesh.address).await.unwrap();
        slow.write_all(b"POST / HTTP/1.1\r\nhost: callee\r\ncontent-length: 10\r\n\r\nbegin").await.unwrap();
        let mut answer = [0; 4096];
        let count = slow.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
        assert!(answer.contains("firebreak-reason=attempt_timeout; firebreak-domain=caller;"), "{answer}");
    }
    assert_eq!(mesh.get("/").await.status, 200, "the breaker is closed");
}

/// What was left of a request's time after a wait in the caller's own bulkhead says nothing of the callee.
#[tokio::test]
async fn a_wait_in_the_bulkhead_is_not_the_callees_time() {
    let callee = Callee::start(|_, _| async {
        tokio::time::sleep(Duration::from_millis(250)).await;
        Response::new(Body::default())
    })
    .await;
    let policy = json!({
        "timeouts": {"request": "400ms"},
        "bulkhead": {"maxRequests": 1, "maxPending": 10, "maxPendingTime": "5s"},
        "circuitBreaker": {"tripOn": {"consecutiveFailures": 1}},
    });
    let mesh = Mesh::new(&[callee.address], policy);
    let (one, other) = futures::future::join(mesh.get("/"), mesh.get("/")).await;
    let mut statuses = [one.status.as_u16(), other.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 504]);
    assert_eq!(mesh.get("/").await.status, 200, "the breaker is closed");
}
