use std::time::Duration;

use firebreak_proxy::Settings;
use http::{Request, Response};
use http_body_util::BodyExt;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

use super::support::{Body, Callee, Mesh, call, connect_h1, counts, free_address, is_reset};

#[tokio::test]
async fn requests_under_way_end_before_the_proxy_does() {
    let callee = Callee::start(|_, _| async {
        sleep(Duration::from_millis(300)).await;
        Response::new(Body::from("done"))
    })
    .await;
    let mesh = Mesh::new(&[callee.address], json!({}));
    let mut sender = connect_h1(mesh.address).await;
    let request = Request::get("/").header("host", "callee").body(Body::default()).unwrap();
    let under_way = tokio::spawn(async move { sender.send_request(request).await.unwrap().status() });
    while callee.requests() == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    let address = mesh.address;
    let stopped = tokio::task::spawn_blocking(move || mesh.proxy.shutdown().unwrap());
    assert_eq!(under_way.await.unwrap(), 200);
    stopped.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "nothing listens any more");
}

#[tokio::test]
async fn a_caller_that_goes_away_is_in_the_books() {
    let callee = Callee::hanging().await;
    let mesh = Mesh::new(&[callee.address], json!({"bulkhead": {"maxRequests": 1}}));
    let mut sender = connect_h1(mesh.address).await;
    let request = Request::get("/").header("host", "callee").body(Body::default()).unwrap();
    let under_way = tokio::spawn(async move { drop(sender.send_request(request).await) });
    while callee.requests() == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    under_way.abort();
    assert_eq!(mesh.fates(1).await, counts(&[("cancelled", 1)]));
    assert_eq!(mesh.reasons(1).await, counts(&[("caller_cancelled", 1)]));
}

#[tokio::test]
async fn a_service_that_comes_and_goes() {
    let callee = Callee::answering(&[200]).await;
    let mut mesh = Mesh::new(&[callee.address], json!({}));
    let other = free_address();
    let endpoints = json!([{"address": callee.address}]);
    let entry = json!({"kind": "Service", "name": "shop/other", "body": {"ports": [
        {"port": 81, "protocol": "Http", "listen": [other], "endpoints": endpoints}]}});
    mesh.change(|config| config["entries"].as_array_mut().unwrap().push(entry));
    let request = || Request::get("/").header("host", "other").body(Body::default()).unwrap();
    assert_eq!(call(other, request()).await.unwrap().status, 200);
    mesh.change(|config| drop(config["entries"].as_array_mut().unwrap().pop()));
    while TcpStream::connect(other).await.is_ok() {
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(mesh.get("/").await.status, 200, "its neighbour does not notice");
}

#[tokio::test]
async fn without_endpoints_the_reason_is_that() {
    let mesh = Mesh::new(&[], json!({}));
    let seen = mesh.get("/").await;
    assert_eq!(seen.status, 503);
    assert!(seen.has_reason("no_endpoints"), "{}", seen.verdict());
}

#[tokio::test]
async fn a_config_swapped_under_load_costs_no_request() {
    let callee = Callee::answering(&[200]).await;
    let mut mesh = Mesh::new(&[callee.address], json!({"timeouts": {"request": "5s"}}));
    let address = mesh.address;
    let load: Vec<_> = (0..8)
        .map(|_| {
            tokio::spawn(async move {
                let mut sender = connect_h1(address).await;
                for _ in 0..200 {
                    let request = Request::get("/").header("host", "callee").body(Body::default()).unwrap();
                    let response = sender.send_request(request).await.unwrap();
                    assert_eq!(response.status(), 200);
                    drop(http_body_util::BodyExt::collect(response.into_body()).await.unwrap());
                }
            })
        })
        .collect();
    for round in 0..20 {
        mesh.change(|config| {
            config["entries"][1]["body"]["timeouts"]["attempt"] = json!(format!("{}ms", 1_000 + round));
        });
        tokio::task::yield_now().await;
    }
    for caller in load {
        caller.await.unwrap();
    }
    assert_eq!(mesh.fates(1_600).await, counts(&[("succeeded", 1_600)]));
}

#[tokio::test]
async fn connections_with_nothing_under_way_do_not_hold_up_the_end() {
    let callee = Callee::answering(&[200]).await;
    for protocol in ["Http", "Detect"] {
        let mesh = Mesh::with(&[callee.address], json!({"protocol": protocol}), &[]);
        let _silent = TcpStream::connect(mesh.address).await.unwrap();
        let mut kept_alive = connect_h1(mesh.address).await;
        let request = Request::get("/").header("host", "callee").body(Body::default()).unwrap();
        drop(
            http_body_util::BodyExt::collect(kept_alive.send_request(request).await.unwrap().into_body())
                .await
                .unwrap(),
        );
        let started = tokio::time::Instant::now();
        tokio::task::spawn_blocking(move || mesh.proxy.shutdown().unwrap()).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(2), "{protocol}: {:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_connection_too_many_is_reset_and_entered_in_the_books() {
    let callee = Callee::answering(&[200]).await;
    let settings = Settings { max_connections: 2, ..Settings::default() };
    let mesh = Mesh::set(settings, &[callee.address], json!({"protocol": "Http"}), &[]);
    let mut two = [connect_h1(mesh.address).await, connect_h1(mesh.address).await];
    for sender in &mut two {
        let request = Request::get("/").header("host", "callee").body(Body::default()).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    }
    assert!(is_reset(mesh.address).await);
    assert_eq!(mesh.reasons(1).await, counts(&[("too_many_connections", 1)]));
    assert!(mesh.metrics().await.contains("firebreak_connections 2\n"));
    drop(two);
    while mesh.metrics().await.contains("firebreak_connections 2\n") {
        tokio::task::yield_now().await;
    }
    assert_eq!(mesh.get("/").await.status, 200, "there is room again");
}

/// Waits until so many connections are at rest.
async fn at_rest(mesh: &Mesh, count: usize) {
    let wanted = format!("firebreak_connections_at_rest {count}\n");
    while !mesh.metrics().await.contains(&wanted) {
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_connection_at_rest_goes_on_where_it_was_and_ends_with_the_proxy() {
    let callee = Callee::answering(&[200]).await;
    let mesh = Mesh::new(&[callee.address], json!({}));
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    let mut answer = [0; 4096];
    for _ in 0..2 {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: callee\r\n\r\n").await.unwrap();
        let count = stream.read(&mut answer).await.unwrap();
        assert!(answer[..count].starts_with(b"HTTP/1.1 200 "), "{:?}", String::from_utf8_lossy(&answer[..count]));
        at_rest(&mesh, 1).await;
    }
    assert_eq!(mesh.fates(2).await, counts(&[("succeeded", 2)]));
    let stopped = tokio::task::spawn_blocking(move || mesh.proxy.shutdown().unwrap());
    assert_eq!(stream.read(&mut answer).await.unwrap(), 0, "nothing is under way that it would have to wait for");
    stopped.await.unwrap();
}

#[tokio::test]
async fn a_connection_on_which_something_is_under_way_does_not_come_to_rest() {
    let callee = Callee::hanging().await;
    let mesh = Mesh::new(&[callee.address], json!({"timeouts": {"request": "1h"}}));
    let (mut whole, mut part) =
        (TcpStream::connect(mesh.address).await.unwrap(), TcpStream::connect(mesh.address).await.unwrap());
    whole.write_all(b"GET / HTTP/1.1\r\nhost: callee\r\n\r\n").await.unwrap();
    part.write_all(b"GET / HTTP/1.1\r\nhost: cal").await.unwrap();
    // What does come to rest says when the others would have.
    let other = Callee::answering(&[200]).await;
    let other = Mesh::new(&[other.address], json!({}));
    let mut third = TcpStream::connect(other.address).await.unwrap();
    third.write_all(b"GET / HTTP/1.1\r\nhost: callee\r\n\r\n").await.unwrap();
    at_rest(&other, 1).await;
    at_rest(&mesh, 0).await;
    part.write_all(b"lee\r\n\r\n").await.unwrap();
    while callee.requests() < 2 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_rest_of_a_body_is_never_a_request() {
    // It answers before it has the body.
    let callee = Callee::answering(&[200]).await;
    for policy in [json!({}), json!({"retries": {"methods": "All"}})] {
        let before = callee.requests();
        let mesh = Mesh::new(&[callee.address], policy);
        let mut early = TcpStream::connect(mesh.address).await.unwrap();
        let rest = b"GET /smuggled HTTP/1.1\r\nhost: callee\r\n\r\n";
        let head = format!("POST / HTTP/1.1\r\nhost: callee\r\ncontent-length: {}\r\n\r\nbegin", 5 + rest.len());
        early.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let count = early.read(&mut answer).await.unwrap();
        assert!(answer[..count].starts_with(b"HTTP/1.1 200 "));
        // What comes later to rest says when this one would have.
        let mut later = TcpStream::connect(mesh.address).await.unwrap();
        later.write_all(b"GET / HTTP/1.1\r\nhost: callee\r\n\r\n").await.unwrap();
        at_rest(&mesh, 1).await;
        early.write_all(rest).await.unwrap();
        early.shutdown().await.unwrap();
        // To its end, or to a reset.
        let _ = early.read_to_end(&mut answer).await;
        assert_eq!(callee.requests() - before, 2);
        assert_eq!(mesh.fates(2).await, counts(&[("succeeded", 2)]));
    }
}

#[tokio::test]
async fn the_rest_of_a_body_that_was_answered_early_does_not_begin_the_next_request() {
    let callee = Callee::start(|_, request| async move {
        tokio::spawn(request.into_body().collect());
        Response::new(Body::default())
    })
    .await;
    let mesh = Mesh::new(&[callee.address], json!({"timeouts": {"request": "500ms"}}));
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nhost: callee\r\ncontent-length: 10\r\n\r\nbegin").await.unwrap();
    let mut answer = [0; 4096];
    let count = stream.read(&mut answer).await.unwrap();
    assert!(answer[..count].starts_with(b"HTTP/1.1 200 "));
    stream.write_all(b"ended").await.unwrap();
    at_rest(&mesh, 1).await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: callee\r\n\r\n").await.unwrap();
    let count = stream.read(&mut answer).await.unwrap();
    assert!(answer[..count].starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer[..count]));
}

#[tokio::test]
async fn the_rest_of_a_body_that_nobody_read_does_not_begin_the_next_request() {
    let callee = Callee::hanging().await;
    let limits = json!({"maxRequests": 1, "maxPending": 1, "maxPendingTime": "50ms"});
    let mut mesh = Mesh::new(&[callee.address], json!({"bulkhead": limits}));
    let mut holder = TcpStream::connect(mesh.address).await.unwrap();
    holder.write_all(b"GET / HTTP/1.1\r\nhost: callee\r\n\r\n").await.unwrap();
    while callee.requests() == 0 {
        tokio::task::yield_now().await;
    }
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nhost: callee\r\ncontent-length: 5\r\n\r\n").await.unwrap();
    while !mesh.metrics().await.contains("resource=\"pending\"} 1") {
        tokio::task::yield_now().await;
    }
    stream.write_all(b"12345").await.unwrap();
    let mut answer = [0; 4096];
    let count = stream.read(&mut answer).await.unwrap();
    assert!(answer[..count].starts_with(b"HTTP/1.1 503 "));
    let quick = Callee::answering(&[200]).await;
    mesh.change(|config| {
        config["entries"][0]["body"]["ports"][0]["endpoints"] = json!([{"address": quick.address}]);
        config["entries"][1]["body"] = json!({"timeouts": {"request": "500ms"}});
    });
    // Longer than the next request may take.
    sleep(Duration::from_millis(600)).await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: callee\r\n\r\n").await.unwrap();
    let count = stream.read(&mut answer).await.unwrap();
    assert!(answer[..count].starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer[..count]));
}
