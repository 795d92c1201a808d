//! Balancing, seen from outside: which callee gets how much, over real connections.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use http::{Request, Response};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::support::{Body, Callee, Mesh};

fn balancing(balancing: Value) -> Value {
    json!({"loadBalancing": balancing})
}

/// A callee that answers with its own name, so that a caller sees where it was.
async fn named(name: &'static str) -> Callee {
    Callee::start(move |_, _| async move { Response::new(Body::from(name)) }).await
}

/// A callee that takes so long and answers with this status.
async fn taking(milliseconds: u64, status: u16) -> Callee {
    Callee::start(move |_, _| async move {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        Response::builder().status(status).body(Body::default()).unwrap()
    })
    .await
}

/// `count` requests, at most `together` at a time.
async fn load(mesh: &Mesh, count: usize, together: usize) {
    let places = Semaphore::new(together);
    join_all((0..count).map(|_| async {
        let _place = places.acquire().await.unwrap();
        mesh.get("/").await
    }))
    .await;
}

#[tokio::test]
async fn an_endpoint_that_fails_in_no_time_gets_next_to_nothing() {
    let (bad, one, other) = (taking(0, 503).await, taking(20, 200).await, taking(20, 200).await);
    let mesh = Mesh::new(&[bad.address, one.address, other.address], balancing(json!({})));
    load(&mesh, 300, 6).await;
    assert!(bad.requests() <= 10, "{} of 300", bad.requests());
    assert!(one.requests() > 100 && other.requests() > 100, "{} {}", one.requests(), other.requests());
}

#[tokio::test]
async fn the_faster_endpoint_gets_more() {
    let (slow, fast) = (taking(60, 200).await, taking(5, 200).await);
    let mesh = Mesh::new(&[slow.address, fast.address], balancing(json!({"algorithm": "PeakEwma"})));
    load(&mesh, 200, 4).await;
    assert!(slow.requests() * 4 < 200, "{} of 200", slow.requests());
}

#[tokio::test]
async fn an_endpoint_that_is_busy_is_passed_over_until_its_last_byte() {
    let (busy, idle) = (Callee::dripping(b"x", Duration::from_millis(10)).await, named("idle").await);
    let mesh = Mesh::new(&[busy.address, idle.address], balancing(json!({"algorithm": "LeastRequest"})));
    // One response without end: its head has come, and it is still under way.
    let mut streams = Vec::new();
    while busy.requests() == 0 {
        let mut sender = super::support::connect_h1(mesh.address).await;
        let request = Request::get("/").header("host", "callee").body(Body::default()).unwrap();
        streams.push(sender.send_request(request).await.unwrap());
    }
    for _ in 0..50 {
        assert_eq!(mesh.get("/").await.body, "idle");
    }
    assert_eq!(busy.requests(), 1);
    drop(streams);
    let mut sent = 0;
    while busy.requests() == 1 {
        let mut sender = super::support::connect_h1(mesh.address).await;
        let request = Request::get("/").header("host", "callee").body(Body::default()).unwrap();
        sender.send_request(request).await.unwrap();
        sent += 1;
        assert!(sent < 10_000, "it is free again when its caller has gone");
    }
}

#[tokio::test]
async fn a_header_or_a_cookie_names_the_endpoint() {
    let callees = [named("a").await, named("b").await, named("c").await];
    let addresses: Vec<_> = callees.iter().map(|callee| callee.address).collect();
    for (key, header, before) in
        [(json!({"header": "X-User"}), "x-user", ""), (json!({"cookie": "session"}), "cookie", "theme=dark; session=")]
    {
        let mesh = Mesh::new(&addresses, balancing(json!({"algorithm": "Hash", "hash": key})));
        let get = |user: usize| mesh.send(Request::get("/").header(header, format!("{before}user-{user}")));
        let mut names = Vec::new();
        for user in 0..30 {
            let first = get(user).await.body;
            assert_eq!([get(user).await.body, get(user).await.body], [first.clone(), first.clone()]);
            names.push(first);
        }
        names.sort();
        names.dedup();
        assert_eq!(names, ["a", "b", "c"], "all are used");
        let mut keyless = Vec::new();
        for _ in 0..60 {
            keyless.push(mesh.get("/").await.body);
        }
        keyless.sort();
        keyless.dedup();
        assert!(keyless.len() > 1, "a request without the key may go anywhere");
    }
}

#[tokio::test]
async fn a_retry_of_a_hashed_request_goes_to_the_next_on_the_ring() {
    let (bad, good) = (Callee::answering(&[503]).await, named("good").await);
    let mut policy = balancing(json!({"algorithm": "Hash", "hash": {"header": "x-user"}}));
    policy["retries"] =
        json!({"maxRetries": 1, "backoff": {"base": "1ms"}, "budget": {"percent": 100, "minPerSecond": 100}});
    let mesh = Mesh::new(&[bad.address, good.address], policy);
    for user in 0..20 {
        let seen = mesh.send(Request::get("/").header("x-user", user)).await;
        assert_eq!((seen.status.as_u16(), &seen.body[..]), (200, &b"good"[..]));
    }
    assert!(bad.requests() > 0 && good.requests() == 20);
}

#[tokio::test]
async fn endpoints_that_come_later_begin_slowly_and_the_first_ones_do_not() {
    let (old, new) = (named("old").await, named("new").await);
    let policy = balancing(json!({"algorithm": "RoundRobin", "slowStart": "1h"}));
    let mut mesh = Mesh::new(&[old.address], policy);
    let state = |metrics: &str, state: &str, count: u8| {
        let labels = format!("direction=\"outbound\",service=\"shop/callee\",port=\"80\",state=\"{state}\"");
        metrics.contains(&format!("firebreak_endpoints{{{labels}}} {count}"))
    };
    let metrics = mesh.metrics().await;
    assert!(state(&metrics, "closed", 1) && state(&metrics, "warming", 0), "{metrics}");
    let endpoints = json!([{"address": old.address}, {"address": new.address}]);
    mesh.change(|config| config["entries"][0]["body"]["ports"][0]["endpoints"] = endpoints);
    let metrics = mesh.metrics().await;
    assert!(state(&metrics, "closed", 1) && state(&metrics, "warming", 1), "{metrics}");
    for _ in 0..200 {
        mesh.get("/").await;
    }
    // An eleventh of 200 is 18.
    assert!((3..50).contains(&new.requests()), "{}", new.requests());
    mesh.change(|config| config["entries"][1]["body"]["loadBalancing"] = json!({"algorithm": "RoundRobin"}));
    let before = new.requests();
    for _ in 0..20 {
        mesh.get("/").await;
    }
    assert_eq!(new.requests() - before, 10, "without slowStart it has its full part at once");
}

#[tokio::test]
async fn what_is_known_of_endpoints_survives_a_config_that_does_not_concern_it() {
    let (bad, good) = (Callee::answering(&[503]).await, named("good").await);
    let mut mesh = Mesh::new(&[bad.address, good.address], balancing(json!({})));
    while bad.requests() == 0 || good.requests() == 0 {
        mesh.get("/").await;
    }
    mesh.change(|config| config["entries"][1]["body"]["timeouts"] = json!({"attempt": "5s"}));
    for _ in 0..50 {
        assert_eq!(mesh.get("/").await.status, 200);
    }
    assert_eq!(bad.requests(), 1);
}

#[tokio::test]
async fn connections_that_are_not_http_are_spread_by_how_many_there_are() {
    let callees = [named("a").await, named("b").await];
    let addresses = callees.each_ref().map(|callee| callee.address);
    let policy = balancing(json!({"algorithm": "LeastRequest"}));
    let mesh = Arc::new(Mesh::with(&addresses, json!({"protocol": "Tcp"}), &[("TrafficPolicy", policy)]));
    let mut open = Vec::new();
    for _ in 0..10 {
        let mut sender = super::support::connect_h1(mesh.address).await;
        let request = Request::get("/").header("host", "callee").body(Body::default()).unwrap();
        super::support::read(sender.send_request(request).await.unwrap(), tokio::time::Instant::now()).await.unwrap();
        open.push(sender);
    }
    assert_eq!(callees.each_ref().map(Callee::connections), [5, 5], "as long as they are open");
}
