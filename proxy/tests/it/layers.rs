//! Pods that call each other: deadlines travel through them, and their retries do not multiply.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use firebreak_proxy::{boot::Settings, net::accept::Kind};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::support::{Body, Callee, Mesh, Seen, call, call_h2, counts, free_address, h2_request};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const CHILD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-b7ad6b7169203331-01";

/// An application between two proxies' sides, which answers what its own callee answers.
pub(crate) struct Pod {
    pub mesh: Mesh,
    pub inbound: SocketAddr,
}

impl Pod {
    /// `calls` makes the call's headers of those of the request, after whatever time it likes to take.
    pub(crate) async fn before<F>(
        callee: SocketAddr,
        policy: Value,
        calls: impl Fn(HeaderMap) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = HeaderMap> + Send + 'static,
    {
        let outbound = Arc::new(OnceLock::new());
        let known = Arc::clone(&outbound);
        let application = Callee::start(move |_, request| {
            let (known, headers) = (Arc::clone(&known), calls(request.headers().clone()));
            // It does not notice when its caller has left.
            let work = tokio::spawn(async move {
                let mut request = Request::get("/").header("host", "callee").body(Body::default()).unwrap();
                request.headers_mut().extend(headers.await);
                call(*known.get().unwrap(), request).await.map_or(StatusCode::BAD_GATEWAY, |seen| seen.status)
            });
            async move { Response::builder().status(work.await.unwrap()).body(Body::default()).unwrap() }
        })
        .await;
        let inbound = free_address();
        let settings =
            Settings { redirected: vec![(inbound, Kind::Before(application.address))], ..Settings::default() };
        let mesh = Mesh::set(settings, &[callee], json!({"protocol": "Http"}), &[("TrafficPolicy", policy)]);
        outbound.set(mesh.address).unwrap();
        Self { mesh, inbound }
    }
}

pub(crate) async fn forwards(headers: HeaderMap) -> HeaderMap {
    headers.get("traceparent").map(|_| ("traceparent".parse().unwrap(), CHILD.parse().unwrap())).into_iter().collect()
}

async fn forwards_nothing(_: HeaderMap) -> HeaderMap {
    HeaderMap::new()
}

/// Three layers over `bottom`, the caller's own proxy first.
async fn three_layers(bottom: SocketAddr, policy: &Value, forwarded: bool) -> (Mesh, [Pod; 2]) {
    let pod = async |callee| {
        if forwarded {
            Pod::before(callee, policy.clone(), forwards).await
        } else {
            Pod::before(callee, policy.clone(), forwards_nothing).await
        }
    };
    let lower = pod(bottom).await;
    let upper = pod(lower.inbound).await;
    (Mesh::new(&[upper.inbound], policy.clone()), [upper, lower])
}

async fn calls(mesh: &Mesh, number: usize) {
    for count in 0..number {
        let trace = format!("00-{:032x}-00f067aa0ba902b7-01", count + 1);
        let seen = mesh.send(Request::get("/").header("traceparent", trace)).await;
        assert_eq!(seen.status, 503);
    }
}

/// Tries for each request at the bottom, of `number` requests at the top, where each layer may make three.
async fn load_at_the_bottom(budget: Value, forwarded: bool, number: usize) -> f64 {
    let bottom = Callee::answering(&[503]).await;
    let retries = json!({"retries": {"maxRetries": 2, "backoff": {"base": "1ms", "max": "1ms"}, "budget": budget}});
    let (mesh, [_upper, lower]) = three_layers(bottom.address, &retries, forwarded).await;
    calls(&mesh, number).await;
    let left = mesh.metrics().await;
    assert!(left.contains(r#"cause="layers""#), "{left}");
    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
    let load = bottom.requests() as f64 / number as f64;
    assert!(load > 1.0, "the lowest layer retries");
    let fates = lower.mesh.metrics().await;
    assert!(fates.contains(r#"fate="failed""#), "{fates}");
    load
}

#[tokio::test]
async fn three_layers_of_three_tries_are_not_27() {
    for forwarded in [true, false] {
        let load = load_at_the_bottom(json!({"percent": 100, "minPerSecond": 1000}), forwarded, 20).await;
        assert!(load <= 3.0, "{load} tries for each request, traces forwarded: {forwarded}");
    }
}

#[tokio::test]
async fn over_a_dead_callee_layers_hardly_add_load() {
    let budget = json!({"percent": 20, "minPerSecond": 0});
    for forwarded in [true, false] {
        // Budgets alone would make it 1.73.
        let load = load_at_the_bottom(budget.clone(), forwarded, 200).await;
        assert!(load <= 1.3, "{load} tries for each request, traces forwarded: {forwarded}");
    }
}

/// A callee that tells what headers it was sent, and answers with `status`.
async fn telling(status: u16) -> (Callee, mpsc::UnboundedReceiver<HeaderMap>) {
    let (tell, told) = mpsc::unbounded_channel();
    let callee = Callee::start(move |_, request| {
        tell.send(request.headers().clone()).unwrap();
        async move { Response::builder().status(status).body(Body::default()).unwrap() }
    })
    .await;
    (callee, told)
}

fn millis(headers: &HeaderMap) -> Option<u64> {
    headers.get("firebreak-deadline-ms").map(|left| left.to_str().unwrap().parse().unwrap())
}

#[tokio::test]
async fn what_an_application_calls_on_behalf_of_a_retry_is_not_retried() {
    let (callee, mut told) = telling(503).await;
    let retries = json!({"retries": {"maxRetries": 2, "backoff": {"base": "1ms", "max": "1ms"}}});
    let pod = Pod::before(callee.address, retries, forwards).await;
    for (attempt, expected) in [("1/3", ["1/3", "2/3", "3/3"].as_slice()), ("2/3", &["2/2"])] {
        let request =
            Request::get("/").header("host", "a").header("traceparent", TRACE).header("firebreak-attempt", attempt);
        let seen = call(pod.inbound, request.body(Body::default()).unwrap()).await.unwrap();
        assert_eq!((seen.status.as_u16(), &seen.headers["firebreak-retry"]), (503, &"no".parse().unwrap()));
        for expected in expected {
            assert_eq!(told.recv().await.unwrap()["firebreak-attempt"], *expected);
        }
    }
    assert!(told.try_recv().is_err());
}

#[tokio::test]
async fn what_an_application_calls_on_behalf_of_a_retry_has_no_second_try_beside_it() {
    let callee = Callee::start(|_, _| async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Response::new(Body::default())
    })
    .await;
    let pod =
        Pod::before(callee.address, json!({"hedge": {"after": "20ms", "maxExtraLoadPercent": 100}}), forwards).await;
    for (attempt, requests) in [("1/2", 2), ("2/2", 3)] {
        let request =
            Request::get("/").header("host", "a").header("traceparent", TRACE).header("firebreak-attempt", attempt);
        assert_eq!(call(pod.inbound, request.body(Body::default()).unwrap()).await.unwrap().status, 200);
        assert_eq!(callee.requests(), requests, "{attempt}");
    }
    let labels = "direction=\"outbound\",service=\"shop/callee\",port=\"80\",cause=\"layers\"";
    assert!(pod.mesh.metrics().await.contains(&format!("firebreak_hedges_refused_total{{{labels}}} 1")));
}

#[tokio::test]
async fn the_time_that_is_left_travels() {
    let (callee, mut told) = telling(503).await;
    let policy = json!({"timeouts": {"request": "5s"},
        "retries": {"maxRetries": 1, "conditions": ["5xx"], "backoff": {"base": "40ms", "max": "40ms"}}});
    let mesh = Mesh::new(&[callee.address], policy);
    mesh.get("/").await;
    let (first, second) = (millis(&told.recv().await.unwrap()).unwrap(), millis(&told.recv().await.unwrap()).unwrap());
    assert!(first <= 5_000 && first > 4_000 && second <= first, "{first} {second}");
    mesh.send(Request::get("/").header("x-envoy-expected-rq-timeout-ms", "900")).await;
    let headers = told.recv().await.unwrap();
    assert!(millis(&headers).unwrap() <= 900);
    assert_eq!(headers["x-envoy-expected-rq-timeout-ms"], headers["firebreak-deadline-ms"]);
}

#[tokio::test]
async fn a_grpc_callers_deadline_holds_without_a_policy() {
    let callee = Callee::hanging().await;
    let mesh = Mesh::with(&[callee.address], json!({"protocol": "Http"}), &[]);
    let request =
        h2_request("/shop.Cart/Add").header("content-type", "application/grpc").header("grpc-timeout", "100m");
    let seen = call_h2(mesh.address, request).await.unwrap();
    assert_eq!(seen.headers["grpc-status"], "4");
    assert!(seen.has_reason("deadline_exceeded"), "{}", seen.verdict());
    assert!(seen.took >= Duration::from_millis(90), "{:?}", seen.took);
    assert_eq!(mesh.fates(1).await, counts(&[("timed_out", 1)]));
}

#[tokio::test]
async fn work_whose_time_is_up_is_refused_before_it_is_sent() {
    let callee = Callee::answering(&[200]).await;
    let mesh = Mesh::new(&[callee.address], json!({"timeouts": {"request": "5s"}}));
    let seen: Seen = mesh.send(Request::get("/").header("firebreak-deadline-ms", "0")).await;
    assert_eq!(seen.status, 504);
    assert!(seen.has_reason("deadline_spent") && seen.verdict().contains("attempts=0"), "{}", seen.verdict());
    assert_eq!((callee.requests(), mesh.fates(1).await), (0, counts(&[("timed_out", 1)])));
}

#[tokio::test]
async fn a_deadline_holds_for_what_the_application_calls_if_it_forwards_the_trace() {
    let (callee, mut told) = telling(200).await;
    let pod = Pod::before(callee.address, json!({}), forwards).await;
    let request = |trace: Option<&str>| {
        let request = Request::get("/").header("host", "a").header("firebreak-deadline-ms", "3000");
        trace
            .into_iter()
            .fold(request, |request, trace| request.header("traceparent", trace))
            .body(Body::default())
            .unwrap()
    };
    call(pod.inbound, request(Some(TRACE))).await.unwrap();
    let left = millis(&told.recv().await.unwrap()).unwrap();
    assert!(left <= 3_000 && left > 2_000, "{left}");
    call(pod.inbound, request(None)).await.unwrap();
    assert_eq!(millis(&told.recv().await.unwrap()), None);
    assert_eq!(pod.mesh.fates(4).await, counts(&[("succeeded", 4)]));
}

#[tokio::test]
async fn an_application_does_not_say_whether_to_retry() {
    let callee = Callee::start(|_, _| async {
        Response::builder().status(503).header("firebreak-retry", "no").body(Body::default()).unwrap()
    })
    .await;
    let inbound = free_address();
    let settings = Settings { redirected: vec![(inbound, Kind::Before(callee.address))], ..Settings::default() };
    let _mesh = Mesh::set(settings, &[callee.address], json!({"protocol": "Http"}), &[]);
    let request = Request::get("/").header("host", "a").header("traceparent", TRACE).header("firebreak-attempt", "1/3");
    let seen = call(inbound, request.body(Body::default()).unwrap()).await.unwrap();
    assert_eq!((seen.status.as_u16(), seen.headers.get("firebreak-retry")), (503, None));
}

#[tokio::test]
async fn what_looks_like_grpc_on_http1_is_cut_and_not_ended_in_good_order() {
    let callee = Callee::serve(|_, _, _| async {
        let drops = futures::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Some((Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(b"more"))), ()))
        });
        Response::builder().header("content-type", "application/grpc").body(StreamBody::new(Box::pin(drops))).unwrap()
    })
    .await;
    let mesh = Mesh::new(&[callee.address], json!({"timeouts": {"request": "200ms"}}));
    let request = Request::post("/").header("host", "a").header("content-type", "application/grpc");
    let error =
        call(mesh.address, request.body(Body::default()).unwrap()).await.expect_err("the part is not the whole");
    assert!(
        error.is_incomplete_message() || error.is_body_write_aborted() || error.to_string().contains("body"),
        "{error}"
    );
}

#[tokio::test]
async fn a_hang_opens_the_breaker_although_the_callers_deadline_ends_it_first() {
    let callee = Callee::hanging().await;
    let policy = json!({"timeouts": {"request": "200ms"},
        "circuitBreaker": {"tripOn": {"consecutiveFailures": 2}, "openFor": {"initial": "1m", "max": "1m"}}});
    let mesh = Mesh::new(&[callee.address], policy);
    let with = async |left: &str| mesh.send(Request::get("/").header("firebreak-deadline-ms", left)).await;
    for _ in 0..4 {
        assert!(with("20").await.has_reason("deadline_exceeded"), "too short to say anything");
    }
    for _ in 0..2 {
        assert!(with("195").await.has_reason("deadline_exceeded"));
    }
    assert!(with("195").await.has_reason("breaker_open"));
}

#[tokio::test]
async fn a_layer_without_retries_passes_on_what_the_others_say() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let callee = Callee::start(move |_, request| {
        tell.send(request.headers().clone()).unwrap();
        async { Response::builder().status(503).header("firebreak-retry", "no").body(Body::default()).unwrap() }
    })
    .await;
    let pod = Pod::before(callee.address, json!({}), forwards).await;
    let request = Request::get("/").header("host", "a").header("traceparent", TRACE).header("firebreak-attempt", "1/3");
    let seen = call(pod.inbound, request.body(Body::default()).unwrap()).await.unwrap();
    assert_eq!(told.recv().await.unwrap()["firebreak-attempt"], "1/1");
    assert_eq!((seen.status.as_u16(), &seen.headers["firebreak-retry"]), (503, &"no".parse().unwrap()));
}

#[tokio::test]
async fn beside_the_callee_the_caller_has_the_last_word() {
    let hanging = Callee::hanging().await;
    let inbound = free_address();
    let settings = Settings { redirected: vec![(inbound, Kind::Before(hanging.address))], ..Settings::default() };
    let beside = Mesh::set(settings, &[hanging.address], json!({"protocol": "Http"}), &[]);
    let caller = Mesh::new(&[inbound], json!({"timeouts": {"request": "100ms"}}));
    assert!(caller.get("/").await.has_reason("request_timeout"));
    assert_eq!(beside.fates(1).await, counts(&[("cancelled", 1)]));
    let request = Request::get("/").header("host", "a").header("firebreak-deadline-ms", "50");
    let seen = call(inbound, request.body(Body::default()).unwrap()).await.unwrap();
    assert!(seen.has_reason("deadline_exceeded") && seen.took > Duration::from_millis(250), "{}", seen.verdict());
}

#[tokio::test]
async fn an_application_is_told_no_more_time_than_its_caller_has() {
    let tells = Callee::start(|_, request| async move {
        Response::new(Body::from(request.headers()["firebreak-deadline-ms"].as_bytes().to_vec()))
    });
    let (tells, inbound) = (tells.await, free_address());
    let settings = Settings { redirected: vec![(inbound, Kind::Before(tells.address))], ..Settings::default() };
    let _beside = Mesh::set(settings, &[tells.address], json!({"protocol": "Http"}), &[]);
    let request = Request::get("/").header("host", "a").header("firebreak-deadline-ms", "5000");
    let seen = call(inbound, request.body(Body::default()).unwrap()).await.unwrap();
    let left: u64 = std::str::from_utf8(&seen.body).unwrap().parse().unwrap();
    assert!((1..=5_000).contains(&left), "{left}");
}

#[tokio::test]
async fn of_layers_over_a_callee_that_fails_the_deepest_is_to_blame() {
    for (forwarded, domain) in [(true, "callee_dependency"), (false, "callee_app")] {
        let bottom = Callee::answering(&[503]).await;
        let (mesh, [upper, _lower]) = three_layers(bottom.address, &json!({}), forwarded).await;
        mesh.send(Request::get("/").header("traceparent", TRACE)).await;
        let record = &mesh.records("", 1).await[0];
        assert_eq!((&record["reason"], &record["fault_domain"]), (&json!("callee_error"), &json!(domain)));
        let named = if forwarded { json!("shop/callee:80") } else { Value::Null };
        assert_eq!(record["dependency"], named);
        let inbound = upper.mesh.records("", 2).await;
        let inbound = inbound.iter().find(|record| record["direction"] == "inbound").unwrap();
        assert_eq!(inbound["fault_domain"], domain, "its own proxy says it");
    }
}
