//! A second try beside a slow first: who wins, who is given up, what it may cost.

use std::{collections::BTreeMap, convert::Infallible, future::poll_fn, net::Ipv4Addr, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderMap, Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
    time::{Instant, sleep, timeout},
};

use super::support::{Body, Callee, Mesh, Seen, call, connect_h1, connect_h2, counts, h2_request, read};

const MS: fn(u64) -> Duration = Duration::from_millis;

/// Longer than any test waits.
const FOREVER: Duration = Duration::from_hours(1);

/// What a callee saw of a request.
#[derive(Debug)]
enum Event {
    Came(HeaderMap, Bytes),
    /// Its caller does not want it any more.
    GivenUp,
}

struct UnderWay(UnboundedSender<Event>, bool);

impl Drop for UnderWay {
    fn drop(&mut self) {
        if !self.1 {
            let _ = self.0.send(Event::GivenUp);
        }
    }
}

/// A callee that reads its requests and answers `status` after this time, and tells what it sees.
async fn taking(time: Duration, status: u16) -> (Callee, UnboundedReceiver<Event>) {
    let (sender, seen) = mpsc::unbounded_channel();
    let callee = Callee::start(move |_, request| {
        let sender = sender.clone();
        async move {
            let (head, body) = request.into_parts();
            let mut under_way = UnderWay(sender.clone(), false);
            let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            let _ = sender.send(Event::Came(head.headers, body));
            sleep(time).await;
            under_way.1 = true;
            Response::builder().status(status).body(Body::from(format!("after {} ms", time.as_millis()))).unwrap()
        }
    });
    (callee.await, seen)
}

async fn next(seen: &mut UnboundedReceiver<Event>) -> Event {
    timeout(Duration::from_secs(5), seen.recv()).await.unwrap().unwrap()
}

async fn came(seen: &mut UnboundedReceiver<Event>) -> (HeaderMap, Bytes) {
    match next(seen).await {
        Event::Came(headers, body) => (headers, body),
        Event::GivenUp => panic!("given up before it came"),
    }
}

async fn given_up(seen: &mut UnboundedReceiver<Event>) {
    let event = next(seen).await;
    assert!(matches!(event, Event::GivenUp), "{event:?}");
}

fn hedging(more: Value) -> Value {
    let mut policy = json!({"hedge": {"after": "50ms", "maxExtraLoadPercent": 100}});
    policy.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    policy
}

async fn put(mesh: &Mesh, body: Vec<u8>) -> Seen {
    let request = Request::put("/").header("host", "callee").body(Body::from(body)).unwrap();
    call(mesh.address, request).await.unwrap()
}

/// Second tries: sent, won, and refused by cause.
async fn hedges(mesh: &Mesh) -> (u64, u64, BTreeMap<String, u64>) {
    let metrics = mesh.metrics().await;
    let lines = |name: &str| {
        let start = format!("firebreak_hedges_{name}_total{{");
        let lines = metrics.lines().filter(move |line| line.starts_with(&start));
        lines.map(|line| (line.to_owned(), line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()))
    };
    let sum = |name| lines(name).map(|(_, count)| count).sum();
    let cause = |line: &str| line.split("cause=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    (sum("sent"), sum("won"), lines("refused").map(|(line, count)| (cause(&line), count)).collect())
}

fn none() -> BTreeMap<String, u64> {
    BTreeMap::new()
}

#[tokio::test]
async fn the_second_try_wins_and_the_first_is_given_up() {
    for http2 in [false, true] {
        let ((slow, mut at_slow), (fast, mut at_fast)) = (taking(FOREVER, 200).await, taking(MS(0), 200).await);
        let mesh = Mesh::new(&[slow.address, fast.address], hedging(json!({})));
        let seen = mesh.get_over(http2, "/").await;
        assert_eq!((seen.status.as_u16(), &seen.body[..]), (200, &b"after 0 ms"[..]));
        assert!(seen.took >= MS(50) && seen.took < Duration::from_secs(2), "{:?}", seen.took);
        assert_eq!(came(&mut at_slow).await.0["firebreak-attempt"], "1/2");
        assert_eq!(came(&mut at_fast).await.0["firebreak-attempt"], "2/2");
        given_up(&mut at_slow).await;
        assert_eq!(mesh.fates(1).await, counts(&[("succeeded_after_retry", 1)]));
        assert_eq!(mesh.attempts(2).await, counts(&[("answered", 1), ("cancelled", 1)]));
        assert_eq!(hedges(&mesh).await, (1, 1, none()));
        let record = &mesh.records("", 1).await[0];
        let tries: Vec<_> = record["tries"].as_array().unwrap().iter().map(|told| told["outcome"].clone()).collect();
        assert_eq!((tries, &record["slowed"]), (vec![json!("cancelled"), json!("answered")], &json!(true)));
        let [first, second] = [0, 1].map(|place| &record["tries"][place]);
        assert_eq!((first.get("hedge"), &second["hedge"]), (None, &json!(true)), "{record}");
        assert_eq!(first["endpoint"], slow.address.to_string());
        let began = second["started_ms"].as_u64().unwrap();
        assert!((50..1_000).contains(&began) && first["duration_ms"].as_u64().unwrap() >= 50, "{record}");
    }
}

#[tokio::test]
async fn the_first_may_still_win_and_then_the_second_is_given_up() {
    for http2 in [false, true] {
        let ((late, _), (slow, mut at_slow)) = (taking(MS(150), 200).await, taking(FOREVER, 200).await);
        let mesh = Mesh::new(&[late.address, slow.address], hedging(json!({})));
        assert_eq!(mesh.get_over(http2, "/").await.body, "after 150 ms");
        came(&mut at_slow).await;
        given_up(&mut at_slow).await;
        assert_eq!(mesh.fates(1).await, counts(&[("succeeded", 1)]));
        assert_eq!(mesh.attempts(2).await, counts(&[("answered", 1), ("cancelled", 1)]));
        assert_eq!(hedges(&mesh).await, (1, 0, none()));
    }
}

#[tokio::test]
async fn what_is_fast_is_sent_once() {
    for status in [200, 503] {
        let (callee, _) = taking(MS(0), status).await;
        let mesh = Mesh::new(&[callee.address], hedging(json!({})));
        for _ in 0..20 {
            assert_eq!(mesh.get("/").await.status, status, "a failure is an answer, and for retries to repeat");
        }
        assert_eq!((callee.requests(), hedges(&mesh).await), (20, (0, 0, none())));
    }
}

#[tokio::test]
async fn with_one_address_the_second_try_takes_another_connection() {
    for http2 in [false, true] {
        let callee = Callee::serve(|_, connection, _| async move {
            if connection == 1 {
                sleep(FOREVER).await;
            }
            Response::new(Body::from(connection.to_string()))
        })
        .await;
        let mesh = Mesh::new(&[callee.address], hedging(json!({})));
        assert_eq!(mesh.get_over(http2, "/").await.body, "2", "http2 {http2}");
        assert_eq!((callee.requests(), callee.connections()), (2, 2));
    }
}

#[tokio::test]
async fn a_stream_that_lost_is_reset_as_cancelled() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let slow = listener.local_addr().unwrap();
    let reset = tokio::spawn(async move {
        let mut connection = h2::server::handshake(listener.accept().await.unwrap().0).await.unwrap();
        let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
        tokio::select! {
            reset = poll_fn(|cx| respond.poll_reset(cx)) => reset.unwrap(),
            other = connection.accept() => panic!("{:?}", other.map(|other| other.map(|_| "a request"))),
        }
    });
    let fast = Callee::answering(&[200]).await;
    let mesh = Mesh::new(&[slow, fast.address], hedging(json!({})));
    assert_eq!(mesh.get_over(true, "/").await.status, 200);
    assert_eq!(timeout(Duration::from_secs(5), reset).await.unwrap().unwrap(), h2::Reason::CANCEL);
}

#[tokio::test]
async fn a_failure_does_not_win() {
    let ((bad, _), (good, _)) = (taking(MS(100), 503).await, taking(MS(200), 200).await);
    for endpoints in [[bad.address, good.address], [good.address, bad.address]] {
        let mesh = Mesh::new(&endpoints, hedging(json!({})));
        assert_eq!(mesh.get("/").await.status, 200);
        assert_eq!(mesh.attempts(2).await, counts(&[("answered", 1), ("error", 1)]));
        let won = u64::from(endpoints[1] == good.address);
        assert_eq!(hedges(&mesh).await, (1, won, none()));
        let fate = if won == 1 { "succeeded_after_retry" } else { "succeeded" };
        assert_eq!(mesh.fates(1).await, counts(&[(fate, 1)]));
    }
}

#[tokio::test]
async fn of_two_failures_an_answer_is_passed_on_and_retries_look_at_it() {
    let timeouts = json!({"attempt": "300ms"});
    for order in [[0, 1], [1, 0]] {
        let ((bad, _), (slow, mut at_slow)) = (taking(MS(100), 503).await, taking(FOREVER, 200).await);
        let endpoints = order.map(|place| [bad.address, slow.address][place]);
        let mesh = Mesh::new(&endpoints, hedging(json!({"timeouts": timeouts})));
        let seen = mesh.get("/").await;
        assert!(seen.status == 503 && seen.has_reason("callee_error"), "{}", seen.verdict());
        assert_eq!(mesh.attempts(2).await, counts(&[("error", 1), ("timed_out", 1)]));
        assert_eq!(mesh.fates(1).await, counts(&[("failed", 1)]));
        came(&mut at_slow).await;
        given_up(&mut at_slow).await;
    }
    let (bad, _) = taking(MS(100), 503).await;
    let retries = json!({"maxRetries": 2, "conditions": ["5xx"], "backoff": {"base": "1ms"}});
    let mesh = Mesh::new(&[bad.address], hedging(json!({"retries": retries})));
    assert_eq!(mesh.get("/").await.status, 503);
    assert_eq!(bad.requests(), 3, "the second was one of the three tries that there are");
    assert_eq!(hedges(&mesh).await, (1, 0, none()));
}

#[tokio::test]
async fn both_slow_end_at_their_clocks_or_with_their_caller() {
    let ((one, mut at_one), (other, mut at_other)) = (taking(FOREVER, 200).await, taking(FOREVER, 200).await);
    let endpoints = [one.address, other.address];
    let mesh = Mesh::new(&endpoints, hedging(json!({"timeouts": {"attempt": "200ms"}})));
    let seen = mesh.get("/").await;
    assert!(seen.status == 504 && seen.has_reason("attempt_timeout"), "{}", seen.verdict());
    assert!(seen.took >= MS(250), "the second has its own time: {:?}", seen.took);
    assert_eq!(mesh.attempts(2).await, counts(&[("timed_out", 2)]));
    assert_eq!(mesh.fates(1).await, counts(&[("timed_out", 1)]));
    for seen in [&mut at_one, &mut at_other] {
        came(seen).await;
        given_up(seen).await;
    }
    let mesh = Mesh::new(&endpoints, hedging(json!({"timeouts": {"request": "200ms"}})));
    assert!(mesh.get("/").await.has_reason("request_timeout"));
    assert_eq!(mesh.fates(1).await, counts(&[("timed_out", 1)]));
    for seen in [&mut at_one, &mut at_other] {
        came(seen).await;
        given_up(seen).await;
    }
    let mesh = Mesh::new(&endpoints, hedging(json!({})));
    let mut sender = connect_h1(mesh.address).await;
    let request = Request::get("/").header("host", "callee").body(Body::default()).unwrap();
    let response = tokio::spawn(async move { sender.send_request(request).await.map(drop) });
    came(&mut at_one).await;
    came(&mut at_other).await;
    response.abort();
    given_up(&mut at_one).await;
    given_up(&mut at_other).await;
    assert_eq!(mesh.fates(1).await, counts(&[("cancelled", 1)]));
}

#[tokio::test]
async fn only_what_may_be_sent_twice_is() {
    let (callee, mut seen) = taking(MS(150), 200).await;
    let upgrade = [("connection", "upgrade"), ("upgrade", "websocket")];
    let key = [("idempotency-key", "1")];
    for (method, headers, tries) in [
        (Method::POST, &[][..], 1),
        (Method::PATCH, &[], 1),
        (Method::POST, &key, 2),
        (Method::DELETE, &[], 2),
        (Method::HEAD, &[], 2),
        (Method::GET, &upgrade, 1),
    ] {
        // Whatever retries may repeat: only a caller's people know that a POST may happen twice at once.
        let mesh = Mesh::new(&[callee.address], hedging(json!({"retries": {"methods": "All"}})));
        let mut request = Request::builder().method(method.clone()).uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let before = callee.requests();
        assert_eq!(mesh.send(request).await.status, 200);
        assert_eq!(callee.requests() - before, tries, "{method} {headers:?}");
        let expected = (tries as u64 - 1, 0, none());
        assert_eq!(hedges(&mesh).await, expected, "{method} {headers:?}");
        while seen.try_recv().is_ok() {}
    }
}

#[tokio::test]
async fn both_tries_carry_the_whole_body() {
    let ((slow, mut at_slow), (fast, mut at_fast)) = (taking(FOREVER, 200).await, taking(MS(0), 200).await);
    let mesh = Mesh::new(&[slow.address, fast.address], hedging(json!({})));
    let body: Vec<u8> = (0..=250u8).cycle().take(64 * 1024).collect();
    assert_eq!(put(&mesh, body.clone()).await.body, "after 0 ms");
    assert_eq!([came(&mut at_slow).await.1, came(&mut at_fast).await.1], [body.clone(), body.clone()]);
    given_up(&mut at_slow).await;
    let frames = body.chunks(10_000).map(|chunk| Ok::<_, Infallible>(Frame::data(Bytes::copy_from_slice(chunk))));
    let chunked = StreamBody::new(stream::iter(frames.collect::<Vec<_>>()));
    let mut sender = connect_h2(mesh.address).await;
    let request = h2_request("/").method("PUT").body(chunked).unwrap();
    assert_eq!(read(sender.send_request(request).await.unwrap(), Instant::now()).await.unwrap().body, "after 0 ms");
    assert_eq!([came(&mut at_slow).await.1, came(&mut at_fast).await.1], [body.clone(), body]);
}

#[tokio::test]
async fn a_body_that_is_not_whole_is_sent_once() {
    let (callee, _seen) = taking(MS(150), 200).await;
    let mesh = Mesh::new(&[callee.address], hedging(json!({})));
    assert_eq!(put(&mesh, vec![7; 64 * 1024 + 1]).await.status, 200);
    assert_eq!((callee.requests(), hedges(&mesh).await), (1, (0, 0, counts(&[("body", 1)]))), "too long to be kept");
    let mesh = Mesh::new(&[callee.address], hedging(json!({})));
    let late = stream::once(async {
        sleep(MS(150)).await;
        Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"late")))
    });
    let mut sender = connect_h2(mesh.address).await;
    let request = h2_request("/").method("PUT").body(StreamBody::new(late.boxed())).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    assert_eq!((callee.requests(), hedges(&mesh).await), (2, (0, 0, counts(&[("body", 1)]))), "still coming");
}

#[tokio::test]
async fn second_tries_are_exactly_the_share_of_the_requests() {
    let (callee, _seen) = taking(MS(15), 200).await;
    let hedge = json!({"after": "5ms", "maxExtraLoadPercent": 5});
    let mesh =
        Mesh::on(2, &[callee.address], json!({"protocol": "Http"}), &[("TrafficPolicy", json!({"hedge": hedge}))]);
    for _ in 0..100 {
        assert_eq!(mesh.get("/").await.status, 200);
    }
    assert_eq!(callee.requests(), 105);
    let (sent, _, refused) = hedges(&mesh).await;
    assert_eq!((sent, refused), (5, counts(&[("extra_load", 95)])));
    let fates = mesh.fates(100).await;
    assert!(fates.keys().all(|fate| fate.starts_with("succeeded")), "{fates:?}");
    assert_eq!(mesh.attempts(105).await.get("answered"), Some(&100));
}

#[tokio::test]
async fn second_tries_are_paid_from_the_retry_budget() {
    let (callee, _seen) = taking(MS(30), 200).await;
    let retries = json!({"maxRetries": 0, "budget": {"percent": 10, "minPerSecond": 0, "window": "1m"}});
    let hedge = json!({"after": "10ms", "maxExtraLoadPercent": 100});
    let mesh = Mesh::new(&[callee.address], json!({"hedge": hedge, "retries": retries}));
    for _ in 0..30 {
        assert_eq!(mesh.get("/").await.status, 200);
    }
    let (sent, _, refused) = hedges(&mesh).await;
    assert_eq!((sent, refused, callee.requests()), (3, counts(&[("budget", 27)]), 33));
}

#[tokio::test]
async fn a_second_try_has_a_place_of_its_own_in_the_bulkhead_and_does_not_wait_for_one() {
    for (http2, bulkhead, sent) in [
        (false, json!({"maxRequests": 1}), 0),
        (true, json!({"maxRequests": 1}), 0),
        (false, json!({"maxConnections": 1}), 0),
        (false, json!({"maxConnections": 2, "maxRequests": 2}), 1),
    ] {
        let (callee, _seen) = taking(MS(150), 200).await;
        let mesh = Mesh::new(&[callee.address], hedging(json!({"bulkhead": bulkhead})));
        assert_eq!(mesh.get_over(http2, "/").await.status, 200);
        let refused = if sent == 0 { counts(&[("bulkhead", 1)]) } else { none() };
        assert_eq!(hedges(&mesh).await, (sent, 0, refused), "{bulkhead}");
        let labels = "direction=\"outbound\",service=\"shop/callee\",port=\"80\",resource=\"requests\"";
        mesh.fates(1).await;
        assert!(
            mesh.metrics().await.contains(&format!("firebreak_bulkhead_in_use{{{labels}}} 0")),
            "all is given back"
        );
    }
}

fn breaking(more: Value) -> Value {
    let breaker = json!({
        "tripOn": {"consecutiveFailures": 1},
        "openFor": {"initial": "100ms", "max": "100ms"},
        "halfOpen": {"probes": 1},
        "recovery": {"startPercent": 100},
    });
    let mut policy = hedging(more);
    policy["circuitBreaker"] = breaker;
    policy
}

#[tokio::test]
async fn a_probe_has_no_second_beside_it_and_gives_its_verdict() {
    let callee = Callee::start(|number, _| async move {
        let status = if number == 1 { 503 } else { 200 };
        if number > 1 {
            sleep(MS(150)).await;
        }
        Response::builder().status(status).body(Body::default()).unwrap()
    })
    .await;
    let mesh = Mesh::new(&[callee.address], breaking(json!({})));
    assert_eq!(mesh.get("/").await.status, 503);
    while mesh.get("/").await.has_reason("breaker_open") {}
    assert_eq!((callee.requests(), hedges(&mesh).await), (2, (0, 0, counts(&[("breaker", 1)]))));
    let metrics = mesh.metrics().await;
    let labels = "direction=\"outbound\",service=\"shop/callee\",port=\"80\",state=\"closed\"";
    assert!(metrics.contains(&format!("firebreak_breaker_state{{{labels}}} 1")), "{metrics}");
    mesh.get("/").await;
    assert_eq!(hedges(&mesh).await.0, 1, "closed again, it may have one");
}

#[tokio::test]
async fn who_lost_is_not_blamed_by_a_breaker() {
    let ((slow, _), (fast, _)) = (taking(FOREVER, 200).await, taking(MS(0), 200).await);
    let mesh = Mesh::new(&[slow.address, fast.address], breaking(json!({})));
    while slow.requests() < 5 {
        assert_eq!(mesh.get("/").await.status, 200);
    }
    let labels = "direction=\"outbound\",service=\"shop/callee\",port=\"80\",state=\"closed\"";
    let metrics = mesh.metrics().await;
    assert!(metrics.contains(&format!("firebreak_endpoints{{{labels}}} 2")), "{metrics}");
}

#[tokio::test]
async fn a_route_hedges_later_or_not_at_all() {
    let (callee, _seen) = taking(MS(150), 200).await;
    let routes = json!([
        {"match": {"path": {"prefix": "/reports"}}, "hedge": {"after": "10s"}},
        {"match": {"path": {"prefix": "/once"}}, "hedge": {"maxExtraLoadPercent": 0}},
        {"match": {"path": {"prefix": "/soon"}}, "hedge": {"after": "20ms"}},
    ]);
    let mesh = Mesh::new(&[callee.address], hedging(json!({"routes": routes})));
    for (path, tries) in [("/reports", 1), ("/once", 1), ("/soon", 2), ("/", 2)] {
        let before = callee.requests();
        assert_eq!(mesh.get(path).await.status, 200);
        assert_eq!(callee.requests() - before, tries, "{path}");
    }
    assert_eq!(hedges(&mesh).await, (2, 0, none()));
}

#[tokio::test]
async fn a_fault_is_drawn_for_each_try() {
    let callee = Callee::answering(&[200]).await;
    let fault = json!({"faults": [{"delay": {"percent": 50, "fixed": "400ms"}}], "seed": 3,
        "expiresAt": (jiff::Timestamp::now() + Duration::from_mins(1)).to_string(), "duration": "1m"});
    let mut mesh = Mesh::new(&[callee.address], hedging(json!({})));
    mesh.change(|config| {
        let entry = json!({"kind": "FaultSpec", "name": "shop/test", "body": fault});
        config["entries"].as_array_mut().unwrap().push(entry);
    });
    let (mut saved, mut late) = (0, 0);
    for id in 0..40 {
        let seen = mesh.send(Request::get("/").header("x-request-id", id)).await;
        assert_eq!(seen.status, 200);
        saved += u32::from((MS(50)..MS(390)).contains(&seen.took));
        late += u32::from(seen.took >= MS(400));
    }
    assert!((4..=16).contains(&saved) && (4..=16).contains(&late), "a quarter each: {saved} saved, {late} late");
    for record in mesh.records("", (saved + late) as usize).await {
        let [first, second] = [0, 1].map(|place| &record["tries"][place]);
        assert_eq!(first["fault"], "shop/test", "{record}");
        let is_late = second.get("fault").is_some();
        assert_eq!(is_late, record["duration_ms"].as_u64().unwrap() >= 400, "{record}");
    }
}

/// A gRPC call that says that it may happen twice, or does not.
async fn grpc(mesh: &Mesh, idempotent: bool) -> Seen {
    let request = h2_request("/shop.Cart/Get").method("POST").header("content-type", "application/grpc");
    let request = if idempotent { request.header("idempotency-key", "1") } else { request };
    let message = Body::from(&b"\0\0\0\0\x02hi"[..]);
    let mut sender = connect_h2(mesh.address).await;
    let started = Instant::now();
    read(sender.send_request(request.body(message).unwrap()).await.unwrap(), started).await.unwrap()
}

#[tokio::test]
async fn grpc_calls_that_say_that_they_may_happen_twice() {
    let callee = Callee::serve(|number, _, request| async move {
        let sent = request.into_body().collect().await.unwrap().to_bytes();
        // Every other call is slow.
        if number % 2 == 1 {
            sleep(MS(400)).await;
        }
        let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
        let frames = [Frame::data(sent), Frame::trailers(trailers)].map(Ok::<_, Infallible>);
        Response::builder()
            .header("content-type", "application/grpc")
            .body(StreamBody::new(stream::iter(frames)))
            .unwrap()
    })
    .await;
    let mesh = Mesh::new(&[callee.address], hedging(json!({})));
    let seen = grpc(&mesh, true).await;
    assert_eq!(
        (&seen.body[..], &seen.trailers.unwrap()["grpc-status"]),
        (&b"\0\0\0\0\x02hi"[..], &"0".parse().unwrap())
    );
    assert!(seen.took < MS(400), "{:?}", seen.took);
    assert_eq!(hedges(&mesh).await, (1, 1, none()));
    assert!(grpc(&mesh, false).await.took >= MS(400));
    assert_eq!((callee.requests(), hedges(&mesh).await.0), (3, 1));
}

/// Where retries look at a gRPC status, a head waits for what follows it: it is there, and not slow.
#[tokio::test]
async fn a_head_that_waits_for_its_status_is_not_slow() {
    let callee = Callee::serve(|_, _, _| async move {
        let frame = stream::once(async {
            sleep(MS(90)).await;
            Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"\0\0\0\0\0")))
        });
        Response::builder().header("content-type", "application/grpc").body(StreamBody::new(frame.boxed())).unwrap()
    })
    .await;
    let retries = json!({"conditions": ["grpc-unavailable"]});
    let mesh = Mesh::new(&[callee.address], hedging(json!({"retries": retries})));
    assert_eq!(grpc(&mesh, true).await.body, &b"\0\0\0\0\0"[..]);
    assert_eq!((callee.requests(), hedges(&mesh).await), (1, (0, 0, none())));
}
