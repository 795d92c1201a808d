//! Policies on HTTP/2, where requests share connections.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::Instant,
};

use super::support::{Body, Callee, Mesh, call_h2, connect_h2, counts, full_listener, h2_request, read};

#[tokio::test]
async fn each_try_ends_at_its_clock_and_the_last_one_says_so() {
    let callee = Callee::hanging().await;
    let policy = json!({
        "timeouts": {"connect": "1s", "attempt": "150ms", "request": "3s"},
        "retries": {"maxRetries": 3, "conditions": ["5xx"]},
    });
    let mesh = Mesh::new(&[callee.address], policy);
    let seen = call_h2(mesh.address, h2_request("/")).await.unwrap();
    assert_eq!(seen.status, 504);
    assert!(seen.has_reason("attempt_timeout") && seen.verdict().contains("attempts=4"), "{}", seen.verdict());
    assert!(seen.took >= Duration::from_millis(600) && seen.took < Duration::from_secs(2), "{:?}", seen.took);
    assert_eq!(callee.requests(), 4);
    assert_eq!(mesh.fates(1).await, counts(&[("timed_out", 1)]));
}

#[tokio::test]
async fn a_grpc_stream_that_outlives_its_clock_ends_with_a_status() {
    for (timeouts, pause, reason) in [
        (json!({"request": "300ms"}), Duration::from_millis(50), "request_timeout"),
        (json!({"idle": "200ms"}), Duration::from_mins(1), "idle_timeout"),
    ] {
        let callee = Callee::dripping(b"\0\0\0\0\x02hi", pause).await;
        let mesh = Mesh::new(&[callee.address], json!({"timeouts": timeouts}));
        let call = h2_request("/shop.Cart/Watch").header("content-type", "application/grpc");
        let seen = call_h2(mesh.address, call).await.expect("ended, not cut");
        let trailers = seen.trailers.expect("a status in the trailers");
        assert_eq!(trailers["grpc-status"], "4", "{trailers:?}");
        let said = trailers["proxy-status"].to_str().unwrap();
        assert!(said.contains(&format!("firebreak-reason={reason};")), "{said}");
        assert_eq!(mesh.reasons(1).await, counts(&[(reason, 1)]));
    }
}

#[tokio::test]
async fn a_grpc_stream_that_its_callee_breaks_off_ends_with_a_status() {
    let callee = Callee::serve(|_, _, _| async {
        let message = futures::stream::once(async { Ok(Frame::data(Bytes::from_static(b"\0\0\0\0\x02hi"))) });
        let broken = futures::stream::once(async {
            tokio::task::yield_now().await;
            Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset))
        });
        let body = StreamBody::new(Box::pin(message.chain(broken)));
        Response::builder().header("content-type", "application/grpc").body(body).unwrap()
    })
    .await;
    let mesh = Mesh::new(&[callee.address], json!({}));
    let call = h2_request("/shop.Cart/Watch").header("content-type", "application/grpc");
    let seen = call_h2(mesh.address, call).await.expect("ended, not cut");
    let trailers = seen.trailers.expect("a status in the trailers");
    assert_eq!((&seen.body[..], &trailers["grpc-status"]), (&b"\0\0\0\0\x02hi"[..], &HeaderValue::from_static("14")));
    assert!(
        trailers["proxy-status"].to_str().unwrap().contains("firebreak-reason=response_incomplete;"),
        "{trailers:?}"
    );
    assert_eq!(mesh.reasons(1).await, counts(&[("response_incomplete", 1)]));
}

#[tokio::test]
async fn a_grpc_response_that_ends_without_a_status_gets_one() {
    let trailers =
        || Frame::trailers(HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("7"))]));
    let message = || Frame::data(Bytes::from_static(b"\0\0\0\0\x02hi"));
    for frames in [vec![], vec![message()], vec![message(), trailers()]] {
        let count = frames.len();
        let frames = Arc::new(parking_lot::Mutex::new(frames));
        let callee = Callee::serve(move |_, _, _| {
            let frames: Vec<_> = frames.lock().drain(..).map(Ok::<_, Infallible>).collect();
            let response = Response::builder().header("content-type", "application/grpc");
            async move { response.body(StreamBody::new(futures::stream::iter(frames))).unwrap() }
        })
        .await;
        let mesh = Mesh::new(&[callee.address], json!({}));
        let call = h2_request("/shop.Cart/Get").header("content-type", "application/grpc");
        let seen = call_h2(mesh.address, call).await.expect("ended, not cut");
        let trailers = seen.trailers.expect("a status in the trailers");
        assert_eq!((seen.body.len(), &trailers["grpc-status"]), (7 * count.min(1), &HeaderValue::from_static("14")));
        assert_eq!(trailers.get("x-sum").is_some(), count == 2, "what the callee said besides is kept");
        let said = trailers["proxy-status"].to_str().unwrap();
        assert!(said.contains("firebreak-reason=response_incomplete; firebreak-domain=callee_app;"), "{said}");
        assert_eq!(mesh.reasons(1).await, counts(&[("response_incomplete", 1)]));
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused_with_a_reason() {
    let callee = Callee::answering(&[200]).await;
    let mesh = Mesh::new(&[callee.address], json!({}));
    let with = |bytes: usize| h2_request("/").header("x-long", "x".repeat(bytes));
    assert_eq!(call_h2(mesh.address, with(10_000)).await.unwrap().status, 200);
    for bytes in [70_000, 125_000] {
        let seen = call_h2(mesh.address, with(bytes)).await.unwrap();
        assert_eq!(seen.status, 431, "{bytes}");
        assert!(
            seen.has_reason("request_head_too_large") && seen.body.starts_with(b"firebreak: "),
            "{}",
            seen.verdict()
        );
    }
    assert_eq!(mesh.reasons(2).await, counts(&[("request_head_too_large", 2)]));
    assert_eq!(callee.requests(), 1);
}

#[tokio::test]
async fn a_callees_head_that_is_too_large_is_not_called_its_error() {
    let callee = Callee::start(|_, request| async move {
        let bytes = request.uri().query().unwrap().parse().unwrap();
        Response::builder().header("x-long", "x".repeat(bytes)).body(Body::default()).unwrap()
    })
    .await;
    let mesh = Mesh::new(&[callee.address], json!({}));
    assert_eq!(call_h2(mesh.address, h2_request("/?10000")).await.unwrap().status, 200);
    for path in ["/?70000", "/?125000"] {
        let seen = call_h2(mesh.address, h2_request(path)).await.unwrap();
        assert_eq!(seen.status, 502, "{path}");
        assert!(
            seen.has_reason("response_head_too_large") && seen.verdict().contains("domain=mesh"),
            "{}",
            seen.verdict()
        );
    }
    assert_eq!((callee.requests(), callee.connections()), (3, 1), "the other streams' connection lives");
}

#[tokio::test]
async fn streams_count_in_the_bulkhead() {
    let callee = Callee::hanging().await;
    let policy = json!({"bulkhead": {"maxRequests": 10, "maxPending": 5, "maxPendingTime": "1m"}});
    let mesh = Mesh::new(&[callee.address], policy);
    let sender = connect_h2(mesh.address).await;
    let calls: Vec<_> = (0..15)
        .map(|_| {
            let mut sender = sender.clone();
            tokio::spawn(async move { sender.send_request(h2_request("/").body(Body::default()).unwrap()).await })
        })
        .collect();
    super::bulkheads::wait_for(&mesh, "resource=\"pending\"} 5").await;
    let plain = call_h2(mesh.address, h2_request("/")).await.unwrap();
    assert_eq!(plain.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(plain.has_reason("bulkhead_full"), "{}", plain.verdict());
    let grpc = h2_request("/shop.Cart/Get").header("content-type", "application/grpc");
    assert_eq!(call_h2(mesh.address, grpc).await.unwrap().headers["grpc-status"], "8", "no invitation to retry");
    assert_eq!((callee.requests(), callee.connections()), (10, 1), "all on one connection");
    calls.iter().for_each(tokio::task::JoinHandle::abort);
    assert_eq!(mesh.fates(17).await, counts(&[("cancelled", 15), ("refused_by_bulkhead", 2)]));
}

/// Behind a Service's address each connection leads to an endpoint of its own.
#[tokio::test]
async fn a_retry_takes_another_connection() {
    let callee = Callee::serve(|_, connection, _| async move {
        let status = if connection == 1 { 503 } else { 200 };
        Response::builder().status(status).body(Body::from(format!("connection {connection}"))).unwrap()
    })
    .await;
    let policy = json!({"retries": {"maxRetries": 1, "conditions": ["5xx"]}});
    let mesh = Mesh::new(&[callee.address], policy);
    for _ in 0..3 {
        let seen = call_h2(mesh.address, h2_request("/")).await.unwrap();
        assert_eq!((seen.status.as_u16(), seen.body), (200, Bytes::from_static(b"connection 2")));
    }
    assert_eq!(callee.connections(), 2, "and no more than needed");
}

#[tokio::test]
async fn with_one_connection_allowed_a_retry_makes_do_with_it() {
    let callee = Callee::answering(&[503, 200]).await;
    let policy = json!({"retries": {"maxRetries": 1, "conditions": ["5xx"]}, "bulkhead": {"maxConnections": 1}});
    let mesh = Mesh::new(&[callee.address], policy);
    assert_eq!(call_h2(mesh.address, h2_request("/")).await.unwrap().status, 200);
    assert_eq!(callee.connections(), 1);
}

/// A host that is gone without a word: the connection looks open and nothing comes by it any more.
#[tokio::test]
async fn a_connection_that_leads_nowhere_is_left_after_one_try() {
    let good = Callee::answering(&[200]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let _hole = listener.accept().await.unwrap();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut onward = tokio::net::TcpStream::connect(good.address).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut stream, &mut onward).await });
        }
    });
    let policy = json!({"timeouts": {"attempt": "200ms"}, "retries": {"maxRetries": 1, "conditions": ["5xx"]}});
    let mesh = Mesh::new(&[address], policy);
    let mut sender = connect_h2(mesh.address).await;
    for (number, least) in [(1, 200), (2, 0), (3, 0)] {
        let started = Instant::now();
        let response = sender.send_request(h2_request("/").body(Body::default()).unwrap()).await.unwrap();
        let seen = read(response, started).await.unwrap();
        assert_eq!(seen.status, 200, "request {number}: {}", seen.verdict());
        assert!(started.elapsed() >= Duration::from_millis(least), "request {number}");
    }
    assert_eq!(mesh.attempts(4).await, counts(&[("answered", 3), ("timed_out", 1)]));
    assert_eq!(mesh.fates(3).await, counts(&[("succeeded", 2), ("succeeded_after_retry", 1)]));
}

/// A callee that answers the first HTTP/2 stream it sees with GOAWAY, then does as it says there: `last` is the last stream
/// that it looks at. Other connections go to `onward`.
async fn going_away(last: u8, onward: std::net::SocketAddr) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // Preface, SETTINGS, then HEADERS: by then more than 60 bytes have come.
        let (mut buffer, mut count) = ([0; 4096], 0);
        stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        while !buffer[..count].windows(3).any(|bytes| bytes == [1, 4, 0] || bytes == [1, 5, 0]) {
            count += stream.read(&mut buffer[count..]).await.unwrap();
        }
        stream.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, last, 0, 0, 0, 0]).await.unwrap();
        if last > 0 {
            drop(stream);
        } else {
            tokio::spawn(async move { while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {} });
        }
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut onward = tokio::net::TcpStream::connect(onward).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut stream, &mut onward).await });
        }
    });
    address
}

#[tokio::test]
async fn what_a_goaway_says_was_not_looked_at_is_sent_again() {
    let good = Callee::answering(&[200]).await;
    let mesh = Mesh::with(&[going_away(0, good.address).await], json!({"protocol": "Http"}), &[]);
    let seen = call_h2(mesh.address, h2_request("/").method("POST")).await.unwrap();
    assert_eq!((seen.status.as_u16(), good.requests()), (200, 1), "{}", seen.verdict());
    assert!(mesh.metrics().await.contains("firebreak_connections_replaced_total{"));
}

#[tokio::test]
async fn what_may_have_been_looked_at_is_not() {
    let good = Callee::answering(&[200]).await;
    let mesh = Mesh::with(&[going_away(1, good.address).await], json!({"protocol": "Http"}), &[]);
    let seen = call_h2(mesh.address, h2_request("/").method("POST")).await.unwrap();
    assert!(seen.has_reason("connection_reset"), "{} {}", seen.status, seen.verdict());
    assert_eq!(good.requests(), 0);
}

#[tokio::test]
async fn those_who_wait_for_a_connection_that_cannot_be_had_learn_it_together() {
    let (listener, queued) = full_listener().await;
    let mesh = Mesh::new(&[listener.local_addr().unwrap()], json!({"timeouts": {"connect": "300ms"}}));
    let started = tokio::time::Instant::now();
    let sender = connect_h2::<Body>(mesh.address).await;
    let requests = (0..8).map(|_| {
        let mut sender = sender.clone();
        async move {
            let request = h2_request("/").body(Body::default()).unwrap();
            read(sender.send_request(request).await.unwrap(), started).await.unwrap()
        }
    });
    for seen in futures::future::join_all(requests).await {
        assert!(seen.has_reason("connect_timeout"), "{}", seen.verdict());
        assert!(seen.took < Duration::from_millis(900), "not one after the other: {:?}", seen.took);
    }
    for task in queued {
        task.abort();
    }
}

#[tokio::test]
async fn a_grpc_call_that_ends_without_a_status_has_failed() {
    let callee = Callee::start(|_, _| async {
        Response::builder().header("content-type", "application/grpc").body(Body::from("not a status")).unwrap()
    });
    let mesh = Mesh::new(&[callee.await.address], json!({}));
    let request = h2_request("/shop.Cart/Get").method("POST").header("content-type", "application/grpc");
    assert_eq!(call_h2(mesh.address, request).await.unwrap().status, 200);
    assert_eq!(mesh.reasons(1).await, counts(&[("response_incomplete", 1)]));
}
