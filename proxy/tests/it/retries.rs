use bytes::Bytes;
use http::{Method, Request};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::{Body, Callee, Mesh, call, counts, free_address};

#[tokio::test]
async fn a_failed_try_is_repeated_and_counted() {
    let callee = Callee::answering(&[503, 503, 200]).await;
    let mesh = Mesh::new(&[callee.address], json!({"retries": {"maxRetries": 3, "conditions": ["5xx"]}}));
    let seen = mesh.get("/").await;
    assert_eq!((seen.status.as_u16(), &seen.body[..]), (200, &b"answer 3"[..]));
    assert_eq!(mesh.fates(1).await, counts(&[("succeeded_after_retry", 1)]));
    assert_eq!(mesh.attempts(3).await, counts(&[("answered", 1), ("error", 2)]));
}

#[tokio::test]
async fn when_no_try_is_left_the_last_answer_is_passed_on_with_its_history() {
    let callee = Callee::answering(&[503]).await;
    let mesh = Mesh::new(&[callee.address], json!({"retries": {"maxRetries": 2, "conditions": ["5xx"]}}));
    let seen = mesh.get("/").await;
    assert_eq!((seen.status.as_u16(), callee.requests()), (503, 3));
    assert!(seen.has_reason("callee_error"), "{}", seen.verdict());
    assert!(seen.verdict().contains("received-status=503") && seen.verdict().contains("firebreak-attempts=3"));
    assert_eq!(mesh.fates(1).await, counts(&[("failed", 1)]));
}

#[tokio::test]
async fn the_budget_bounds_what_retries_add() {
    let callee = Callee::answering(&[503]).await;
    let budget = json!({"percent": 20, "minPerSecond": 0, "window": "10s"});
    let policy = json!({"retries": {"maxRetries": 3, "conditions": ["5xx"], "budget": budget}});
    let mesh = Mesh::new(&[callee.address], policy);
    for _ in 0..100 {
        assert_eq!(mesh.get("/").await.status, 503, "the callee's own answer, not an error of the proxy's");
    }
    assert_eq!(callee.requests(), 120);
    assert_eq!(mesh.fates(100).await, counts(&[("failed", 100)]));
    assert!(mesh.metrics().await.contains("firebreak_retries_refused_total{"));
}

#[tokio::test]
async fn a_post_is_sent_once_unless_the_policy_says_otherwise() {
    for (methods, expected) in [("Safe", 1), ("All", 2)] {
        let callee = Callee::answering(&[503, 200]).await;
        let policy = json!({"retries": {"conditions": ["5xx"], "methods": methods}});
        let mesh = Mesh::new(&[callee.address], policy);
        mesh.send(Request::post("/")).await;
        assert_eq!(callee.requests(), expected, "{methods}");
    }
}

/// A callee that echoes the body at the second try.
async fn second_try_echoes() -> Callee {
    Callee::start(|number, request| async move {
        let body = http_body_util::BodyExt::collect(request.into_body()).await.unwrap().to_bytes();
        let status = if number == 1 { 503 } else { 200 };
        http::Response::builder().status(status).body(Body::from(body)).unwrap()
    })
    .await
}

#[tokio::test]
async fn a_body_up_to_64_kib_is_sent_again_and_a_larger_one_is_not() {
    for (size, status, tries) in [(0, 200, 2), (64 * 1024, 200, 2), (64 * 1024 + 1, 503, 1)] {
        let callee = second_try_echoes().await;
        let mesh = Mesh::new(&[callee.address], json!({"retries": {"conditions": ["5xx"], "methods": "All"}}));
        let body = Bytes::from((0..=250u8).cycle().take(size).collect::<Vec<u8>>());
        let request = Request::put("/").header("host", "callee").body(Body::from(body.clone())).unwrap();
        let seen = call(mesh.address, request).await.unwrap();
        assert_eq!((seen.status.as_u16(), callee.requests()), (status, tries), "{size} bytes");
        assert_eq!(seen.body, body, "{size} bytes arrive whole");
    }
}

#[tokio::test]
async fn a_retry_goes_to_another_endpoint() {
    let (bad, good) = (Callee::answering(&[503]).await, Callee::answering(&[200]).await);
    let mesh = Mesh::new(&[bad.address, good.address], json!({"retries": {"maxRetries": 1, "conditions": ["5xx"]}}));
    for _ in 0..10 {
        assert_eq!(mesh.get("/").await.status, 200);
    }
}

#[tokio::test]
async fn a_refused_connection_is_named_and_retried_for_any_method() {
    let (nobody, good) = (free_address(), Callee::answering(&[200]).await);
    let mesh = Mesh::new(&[nobody, good.address], json!({"retries": {"conditions": ["connect-failure"]}}));
    for _ in 0..4 {
        assert_eq!(mesh.send(Request::post("/")).await.status, 200);
    }
    let alone = Mesh::new(&[nobody], json!({"timeouts": {"connect": "1s"}}));
    let seen = alone.get("/").await;
    assert_eq!(seen.status, 502);
    assert!(seen.has_reason("connection_refused"), "{}", seen.verdict());
    assert!(seen.verdict().starts_with("\"caller-pod\"; error=connection_refused;"));
    assert_eq!(alone.fates(1).await, counts(&[("unreachable", 1)]));
}

/// A callee that answers one request on each connection and closes it when the next has arrived: what a keep-alive race
/// looks like. With `read_first`, it has read the second request by then.
async fn closes_under_the_second_request() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                let _ = stream.read(&mut buffer).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn a_dead_pooled_connection_is_replaced_for_free() {
    let address = closes_under_the_second_request().await;
    let mesh = Mesh::new(&[address], json!({"timeouts": {"connect": "1s"}}));
    for _ in 0..5 {
        assert_eq!(mesh.get("/").await.status, 200);
    }
    assert_eq!(mesh.fates(5).await, counts(&[("succeeded", 5)]), "a replacement is not a retry");
    assert_eq!(mesh.attempts(5).await, counts(&[("answered", 5)]));
}

/// The callee closes idle connections at once; nothing of the next request is ever written to a dead one.
#[tokio::test]
async fn what_was_not_written_is_sent_again_whatever_it_is() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    });
    let mesh = Mesh::with(&[address], json!({"protocol": "Http"}), &[]);
    for _ in 0..5 {
        let request = Request::post("/").header("host", "callee").body(Body::from("pay")).unwrap();
        assert_eq!(call(mesh.address, request).await.unwrap().status, 200);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(mesh.fates(5).await, counts(&[("succeeded", 5)]));
}

#[tokio::test]
async fn a_post_on_a_connection_that_dies_is_not_sent_twice() {
    let address = closes_under_the_second_request().await;
    let mesh = Mesh::new(&[address], json!({"timeouts": {"connect": "1s"}}));
    assert_eq!(mesh.get("/").await.status, 200);
    let request =
        Request::builder().method(Method::POST).uri("/").header("host", "callee").body(Body::from("pay")).unwrap();
    let seen = call(mesh.address, request).await.unwrap();
    assert_eq!(seen.status, 502);
    assert!(seen.has_reason("connection_reset"), "{}", seen.verdict());
}

/// A callee that speaks HTTP/2 and resets every stream but the first; it counts them.
async fn resets_streams() -> (std::net::SocketAddr, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let streams = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&streams);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let count = std::sync::Arc::clone(&count);
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    if count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 {
                        respond.send_response(http::Response::new(()), true).unwrap();
                    } else {
                        respond.send_reset(h2::Reason::INTERNAL_ERROR);
                    }
                }
            });
        }
    });
    (address, streams)
}

#[tokio::test]
async fn a_stream_that_the_callee_resets_is_one_try() {
    let (address, streams) = resets_streams().await;
    let mesh = Mesh::new(&[address], json!({"timeouts": {"request": "5s"}}));
    let mut sender = super::support::connect_h2(mesh.address).await;
    for (expected, number) in [(200, 1), (502, 2)] {
        let request = Request::get("http://callee/").version(http::Version::HTTP_2).body(Body::default()).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), expected);
        assert_eq!(streams.load(std::sync::atomic::Ordering::SeqCst), number);
    }
    assert_eq!(mesh.attempts(2).await, counts(&[("answered", 1), ("unreachable", 1)]));
}

#[tokio::test]
async fn a_retry_within_a_full_bulkhead_does_not_wait_for_its_own_connection() {
    // The head comes at once, the body of the error a moment later: the connection is neither busy nor idle meanwhile.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut answers = 0;
        while let Ok((mut stream, _)) = listener.accept().await {
            answers += 1;
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                let mut first = answers == 1;
                while let Ok(1..) = stream.read(&mut buffer).await {
                    let status = if first { "503 Busy" } else { "200 OK" };
                    first = false;
                    stream
                        .write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n").as_bytes())
                        .await
                        .unwrap();
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    stream.write_all(b"ok").await.unwrap();
                }
            });
        }
    });
    let policy = json!({"retries": {"conditions": ["5xx"]}, "bulkhead": {"maxConnections": 1}});
    let mesh = Mesh::new(&[address], policy);
    let seen = mesh.get("/").await;
    assert_eq!(seen.status, 200);
    assert!(seen.took < std::time::Duration::from_secs(2), "{:?}", seen.took);
}

/// Where the protocol is not declared, the connection is dialled before the request comes: it is in the pool, but has carried
/// nothing.
#[tokio::test]
async fn a_connection_that_carried_nothing_yet_is_not_taken_for_an_old_one() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (requests, mut seen) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            if stream.read(&mut [0; 1024]).await.is_ok_and(|count| count > 0) {
                requests.send(()).unwrap();
            }
        }
    });
    let mesh = Mesh::with(&[address], json!({"protocol": "Detect"}), &[]);
    let answer = mesh.send(Request::put("/pay")).await;
    assert!(answer.has_reason("connection_reset"), "{}", answer.verdict());
    seen.recv().await.unwrap();
    assert!(seen.try_recv().is_err(), "a second sending of what may have been done");
}

/// The callee's own proxy could not reach its application: nothing was processed, whatever the method.
#[tokio::test]
async fn what_the_callees_proxy_could_not_deliver_counts_as_not_sent() {
    let callee = Callee::start(|number, _| async move {
        let response = http::Response::builder().status(if number == 1 { 502 } else { 200 });
        let response = if number == 1 {
            response.header("proxy-status", "\"service2.shop\"; error=connection_refused; firebreak-reason=connection_refused; firebreak-domain=callee_platform")
        } else {
            response
        };
        response.body(Body::from("answer")).unwrap()
    })
    .await;
    let retrying = json!({"retries": {"maxRetries": 1, "conditions": ["connect-failure"]}});
    let mesh = Mesh::new(&[callee.address], retrying);
    assert_eq!(mesh.send(Request::post("/pay")).await.status, 200);
    assert_eq!(mesh.attempts(2).await, counts(&[("answered", 1), ("unreachable", 1)]));
}

#[tokio::test]
async fn what_the_callees_proxy_says_is_the_reason() {
    let callee = Callee::start(|_, _| async {
        let said = "\"service2.shop\"; error=connection_refused; firebreak-reason=connection_refused; firebreak-domain=callee_platform";
        http::Response::builder().status(502).header("proxy-status", said).body(Body::default()).unwrap()
    })
    .await;
    let mesh = Mesh::with(&[callee.address], json!({"protocol": "Http"}), &[]);
    let seen = mesh.get("/").await;
    assert_eq!(seen.headers.get_all("proxy-status").iter().count(), 2, "appended, not replaced");
    assert!(
        seen.has_reason("connection_refused") && seen.verdict().contains("received-status=502"),
        "{}",
        seen.verdict()
    );
    assert_eq!(mesh.fates(1).await, counts(&[("unreachable", 1)]));
}

/// A callee that answers its first request with this status and header, and the others with 200.
async fn once(status: u16, name: &'static str, value: &'static str) -> Callee {
    Callee::start(move |number, _| async move {
        let response = http::Response::builder();
        let response = if number == 1 { response.status(status).header(name, value) } else { response };
        response.body(Body::from("answer")).unwrap()
    })
    .await
}

#[tokio::test]
async fn a_callee_says_when_to_try_again_or_never() {
    let retrying = || json!({"retries": {"maxRetries": 1, "conditions": ["5xx"]}});
    let callee = once(503, "retry-after", "1").await;
    let mesh = Mesh::new(&[callee.address], retrying());
    let seen = mesh.get("/").await;
    assert_eq!(seen.status, 200);
    assert!(seen.took >= std::time::Duration::from_secs(1), "{:?}", seen.took);

    let callee = once(503, "retry-after", "3600").await;
    let mesh = Mesh::new(&[callee.address], retrying());
    let seen = mesh.get("/").await;
    assert_eq!((seen.status.as_u16(), callee.requests()), (503, 1), "nobody is held for an hour");
    assert!(mesh.metrics().await.contains("cause=\"pushback\"} 1"));

    for late in ["2", "18446744073709551615", "Thu, 31 Dec 2099 23:59:59 GMT"] {
        let callee = once(503, "retry-after", late).await;
        let mut bounded = retrying();
        bounded["timeouts"] = json!({"request": "1s"});
        let mesh = Mesh::new(&[callee.address], bounded);
        assert_eq!((mesh.get("/").await.status.as_u16(), callee.requests()), (503, 1), "{late} would be too late");
    }
}

#[tokio::test]
async fn a_grpc_callee_pushes_back() {
    let call = || super::support::h2_request("/shop.Cart/Get").header("content-type", "application/grpc");
    for (pushback, requests, least) in [("-1", 1, 0), ("300", 2, 300)] {
        let callee = Callee::start(move |number, _| async move {
            let response = http::Response::builder().header("content-type", "application/grpc");
            let response = if number == 1 {
                response.header("grpc-status", "14").header("grpc-retry-pushback-ms", pushback)
            } else {
                response.header("grpc-status", "0")
            };
            response.body(Body::default()).unwrap()
        })
        .await;
        let mesh = Mesh::new(&[callee.address], json!({"retries": {"conditions": ["grpc-unavailable"]}}));
        let seen = super::support::call_h2(mesh.address, call()).await.unwrap();
        assert_eq!(callee.requests(), requests, "{pushback}");
        assert_eq!(seen.headers["grpc-status"], if requests == 1 { "14" } else { "0" });
        assert!(seen.took >= std::time::Duration::from_millis(least), "{:?}", seen.took);
    }
}

/// An application that passes on what a callee of its own said: that one was not reached, the application was.
#[tokio::test]
async fn what_an_application_has_copied_is_not_taken_for_its_proxys_word() {
    let callee = Callee::start(|_, _| async {
        let own = "\"payments.shop\"; error=connection_refused; firebreak-reason=connection_refused; firebreak-domain=callee_platform";
        let passed_on = "\"service2.shop\"; received-status=502; firebreak-reason=connection_refused; firebreak-domain=callee_platform";
        let response = http::Response::builder().status(502).header("proxy-status", own).header("proxy-status", passed_on);
        response.body(Body::default()).unwrap()
    })
    .await;
    let mesh = Mesh::new(&[callee.address], json!({"retries": {"maxRetries": 3}}));
    let seen = mesh.send(Request::post("/pay")).await;
    assert!(seen.has_reason("callee_error"), "{}", seen.verdict());
    assert_eq!(callee.requests(), 1, "a POST that was processed is not sent again");
}
