//! Faults that spoil the answer's body.

use std::{convert::Infallible, error::Error, io, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use super::{
    faults::{fault, mesh},
    support::{Body, Callee, Mesh, connect_h1, connect_h2, counts, h2_request},
};

/// What a caller saw of an answer.
struct Part {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
    /// How it broke off.
    broke: Option<String>,
}

impl Part {
    async fn of(response: Response<Incoming>) -> Self {
        let (head, mut body) = response.into_parts();
        let mut part =
            Self { status: head.status, headers: head.headers, body: Vec::new(), trailers: None, broke: None };
        while let Some(frame) = body.frame().await {
            match frame.map(Frame::into_data) {
                Ok(Ok(data)) => part.body.extend(data),
                Ok(Err(frame)) => part.trailers = frame.into_trailers().ok(),
                Err(error) => {
                    part.broke = Some(error.source().map(ToString::to_string).unwrap_or_default());
                    break;
                }
            }
        }
        part
    }

    async fn h1(mesh: &Mesh, path: &str) -> Self {
        let request = Request::get(path).header("host", "callee").body(Body::default()).unwrap();
        Self::of(connect_h1(mesh.address).await.send_request(request).await.unwrap()).await
    }

    async fn h2(mesh: &Mesh, request: http::request::Builder) -> Self {
        let mut sender = connect_h2(mesh.address).await;
        let part = Self::of(sender.send_request(request.body(Body::default()).unwrap()).await.unwrap()).await;
        assert!(sender.is_ready(), "only the stream ends, not the connection");
        part
    }

    async fn either(mesh: &Mesh, path: &str) -> [Self; 2] {
        [Self::h1(mesh, path).await, Self::h2(mesh, h2_request(path)).await]
    }

    fn verdict(&self) -> &str {
        self.headers.get("proxy-status").map_or("", |value| value.to_str().unwrap())
    }

    /// HTTP/1: the message is incomplete; HTTP/2: the stream was reset.
    fn was_cut(&self) -> bool {
        const HOW: [&str; 3] = [
            "end of file before message length reached",
            "unexpected EOF during chunk size line",
            "stream error received: unexpected internal error encountered",
        ];
        self.broke.as_ref().is_some_and(|cause| HOW.contains(&&**cause))
    }
}

/// A callee of gRPC whose answer is one message of ten bytes, and a status.
async fn grpc() -> Callee {
    Callee::serve(|_, _, _| async {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        let frames = [Frame::data(Bytes::from_static(b"\0\0\0\0\x0512345")), Frame::trailers(trailers)];
        let body = StreamBody::new(futures::stream::iter(frames.map(Ok::<_, Infallible>)));
        Response::builder().header("content-type", "application/grpc").body(body).unwrap()
    })
    .await
}

fn call() -> http::request::Builder {
    h2_request("/").method("POST").header("content-type", "application/grpc").header("te", "trailers")
}

#[tokio::test]
async fn an_answer_is_cut_after_so_many_bytes() {
    let sized = Callee::answering(&[200]).await;
    let cut = fault(json!([{"truncate": {"percent": 100, "afterBytes": 3}}]));
    let alone = mesh(&sized, json!({}), cut.clone());
    for part in Part::either(&alone, "/").await {
        assert_eq!((part.status.as_u16(), &*part.body), (200, &b"ans"[..]));
        assert!(part.was_cut(), "{:?}", part.broke);
        assert!(
            part.verdict().contains("firebreak-reason=fault_truncate; firebreak-domain=injected;"),
            "{:?}",
            part.headers
        );
    }
    assert_eq!(alone.fates(2).await, counts(&[("injected", 2)]));
    assert_eq!(alone.reasons(2).await, counts(&[("fault_truncate", 2)]));
    assert!(
        alone.metrics().await.contains("firebreak_fault_injected_total{fault=\"shop/test\",kind=\"truncate\"} 2\n")
    );
    let records = alone.records("?reason=fault_truncate", 2).await;
    assert!(records.iter().all(|record| record["fault"] == "shop/test" && record["tries"][0]["fault"] == "shop/test"));

    // Where no length was said, across the pieces that come, also with a clock beside it.
    let chunked = Callee::dripping(b"ab", Duration::ZERO).await;
    let mesh = mesh(&chunked, json!({"timeouts": {"idle": "10s", "request": "10s"}}), cut);
    for part in Part::either(&mesh, "/?100").await {
        assert_eq!((&*part.body, part.verdict()), (&b"aba"[..], ""), "how long it is was not known at its head");
        assert!(part.was_cut(), "{:?}", part.broke);
    }
}

#[tokio::test]
async fn an_answer_that_is_no_longer_is_left_as_it_is() {
    let (sized, chunked) = (Callee::answering(&[200]).await, Callee::dripping(b"ab", Duration::ZERO).await);
    for (callee, bytes, path) in [(&sized, 8, "/"), (&chunked, 4, "/?2"), (&chunked, 1, "/?0")] {
        let mesh = mesh(callee, json!({}), fault(json!([{"truncate": {"percent": 100, "afterBytes": bytes}}])));
        for part in Part::either(&mesh, path).await {
            assert!(part.broke.is_none() && part.verdict().is_empty(), "{path}: {:?}", part.broke);
        }
        assert_eq!(mesh.fates(2).await, counts(&[("succeeded", 2)]));
        assert!(!mesh.metrics().await.contains("kind=\"truncate\""), "it did not take place");
    }
}

#[tokio::test]
async fn a_grpc_call_that_is_cut_has_no_status() {
    let callee = grpc().await;
    // Within the message, and between it and the trailers.
    for bytes in [4, 10] {
        let mesh = mesh(&callee, json!({}), fault(json!([{"truncate": {"percent": 100, "afterBytes": bytes}}])));
        let part = Part::h2(&mesh, call()).await;
        assert_eq!((part.body.len(), part.trailers.is_some()), (bytes, false));
        assert!(part.was_cut(), "{:?}", part.broke);
        assert_eq!(mesh.reasons(1).await, counts(&[("fault_truncate", 1)]));
    }
    let mesh = mesh(&callee, json!({}), fault(json!([{"abort": {"percent": 100, "resetAfterHeaders": true}}])));
    let part = Part::h2(&mesh, call()).await;
    assert!(
        part.status == 200 && part.body.is_empty() && part.trailers.is_none() && part.was_cut(),
        "{:?}",
        part.broke
    );
    assert!(part.verdict().contains("firebreak-reason=fault_reset;"), "{:?}", part.headers);
}

#[tokio::test]
async fn a_reset_after_headers_comes_between_them_and_the_body() {
    let callee = Callee::answering(&[200]).await;
    let retries = json!({"maxRetries": 2, "conditions": ["reset-before-response", "5xx"]});
    let reset = fault(json!([{"abort": {"percent": 100, "resetAfterHeaders": true}}]));
    let mesh = mesh(&callee, json!({"retries": retries}), reset);
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: callee\r\n\r\n").await.unwrap();
    let mut read = Vec::new();
    let ended = stream.read_to_end(&mut read).await;
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset, "not an orderly end");
    let text = String::from_utf8(read).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\n"), "{text}");
    assert!(text.contains("firebreak-reason=fault_reset; firebreak-domain=injected; firebreak-attempts=1;"), "{text}");

    let part = Part::h2(&mesh, h2_request("/")).await;
    assert!(part.status == 200 && part.body.is_empty() && part.was_cut(), "{:?}", part.broke);
    assert_eq!(mesh.fates(2).await, counts(&[("injected", 2)]));
    assert_eq!(callee.requests(), 2, "the callee has seen each, and none is sent again: its answer had begun");
    assert!(mesh.metrics().await.contains("firebreak_fault_injected_total{fault=\"shop/test\",kind=\"abort\"} 2\n"));
}

#[tokio::test]
async fn a_reset_after_headers_does_not_wait_for_the_body() {
    // The first bytes would come in an hour.
    let callee = Callee::dripping(b"late", Duration::from_hours(1)).await;
    let reset = fault(json!([{"abort": {"percent": 100, "resetAfterHeaders": true}}]));
    let mesh = mesh(&callee, json!({}), reset);
    for part in Part::either(&mesh, "/").await {
        assert!(part.status == 200 && part.body.is_empty() && part.broke.is_some());
    }
    assert_eq!(mesh.reasons(2).await, counts(&[("fault_reset", 2)]));
}

/// Bytes that a slow caller has not taken yet are not lost with the cut.
#[tokio::test]
async fn a_cut_does_not_overtake_what_went_before() {
    const AFTER: usize = 12_000_000;
    static PART: [u8; 64 * 1024] = [b'x'; 64 * 1024];
    let callee = Callee::dripping(&PART, Duration::ZERO).await;
    let mesh = mesh(&callee, json!({}), fault(json!([{"truncate": {"percent": 100, "afterBytes": AFTER}}])));
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: callee\r\n\r\n").await.unwrap();
    let (mut bytes, mut buffer) = (0, vec![0; 64 * 1024]);
    loop {
        let read = stream.read(&mut buffer).await.unwrap();
        if read == 0 {
            break;
        }
        bytes += buffer[..read].split(|byte| *byte == b'x').count() - 1;
        tokio::task::yield_now().await;
    }
    assert!((AFTER..AFTER + 10).contains(&bytes), "{bytes}: all that were let through, and the x of a header or two");
}

/// The same ids are cut again.
#[tokio::test]
async fn the_same_answers_are_cut_in_each_run() {
    let callee = Callee::answering(&[200]).await;
    let mut runs = Vec::new();
    for _ in 0..2 {
        let mesh = mesh(&callee, json!({}), fault(json!([{"truncate": {"percent": 50, "afterBytes": 3}}])));
        let mut run = Vec::new();
        for id in 0..20 {
            let part = Part::h2(&mesh, h2_request("/").header("x-request-id", format!("r-{id}"))).await;
            run.push(part.broke.is_some());
        }
        runs.push(run);
    }
    assert_eq!(runs[0], runs[1]);
    assert!(runs[0].contains(&true) && runs[0].contains(&false));
}

fn throttle(rate: u32) -> serde_json::Value {
    fault(json!([{"throttle": {"percent": 100, "bytesPerSecond": rate}}]))
}

#[tokio::test]
async fn a_throttled_answer_takes_its_time_and_is_whole() {
    let callee = Callee::dripping(&[b'x'; 1000], Duration::ZERO).await;
    let mesh = mesh(&callee, json!({}), throttle(50_000));
    for http2 in [false, true] {
        let started = Instant::now();
        // 20,000 bytes, of which the first hundredth of a second's worth comes at once.
        let part = if http2 { Part::h2(&mesh, h2_request("/?20")).await } else { Part::h1(&mesh, "/?20").await };
        let took = started.elapsed();
        assert!(part.broke.is_none() && part.body == vec![b'x'; 20_000], "{:?}", part.broke);
        assert!(took >= Duration::from_millis(385) && took < Duration::from_secs(2), "{took:?} instead of 0.39 s");
    }
    assert_eq!(mesh.fates(2).await, counts(&[("succeeded", 2)]));
    assert!(mesh.metrics().await.contains("firebreak_fault_injected_total{fault=\"shop/test\",kind=\"throttle\"} 2\n"));
    let records = mesh.records("", 2).await;
    assert!(records.iter().all(|record| record["slowed"] == true && record["fault"] == "shop/test"), "{records:?}");
}

#[tokio::test]
async fn a_throttled_grpc_call_has_its_status() {
    let callee = grpc().await;
    let mesh = mesh(&callee, json!({}), throttle(100));
    let started = Instant::now();
    let part = Part::h2(&mesh, call()).await;
    assert_eq!((part.body.len(), part.trailers.unwrap()["grpc-status"].as_bytes()), (10, &b"0"[..]));
    assert!(started.elapsed() >= Duration::from_millis(90), "byte for byte, ten in a tenth of a second");
}

#[tokio::test]
async fn an_answer_without_a_body_is_not_throttled() {
    let callee = Callee::dripping(b"", Duration::ZERO).await;
    let mesh = mesh(&callee, json!({}), throttle(1));
    assert!(Part::either(&mesh, "/?0").await.iter().all(|part| part.broke.is_none()));
    assert!(!mesh.metrics().await.contains("kind=\"throttle\""));
}

#[tokio::test]
async fn the_clocks_go_on_beside_a_throttle() {
    let quick = Callee::dripping(&[b'x'; 1000], Duration::ZERO).await;
    // Bytes move all the time, so only the request's own clock ends it.
    let policy = json!({"timeouts": {"idle": "100ms", "request": "500ms"}});
    let alone = mesh(&quick, policy, throttle(1_000));
    for part in Part::either(&alone, "/?100").await {
        assert!(part.body.len() > 200 && part.body.len() < 600 && part.broke.is_some(), "{}", part.body.len());
    }
    assert_eq!(alone.reasons(2).await, counts(&[("request_timeout", 2)]));
    let records = alone.records("?reason=request_timeout", 2).await;
    assert!(records.iter().all(|record| record["fault_domain"] == "injected"), "{records:?}");

    // One byte a second, and a callee that falls silent.
    let silent = Callee::dripping(b"x", Duration::from_hours(1)).await;
    for (callee, rate) in [(&quick, 1), (&silent, 1_000_000)] {
        let mesh = mesh(callee, json!({"timeouts": {"idle": "100ms"}}), throttle(rate));
        assert!(Part::either(&mesh, "/?2").await.iter().all(|part| part.broke.is_some() && part.body.len() <= 1));
        assert_eq!(mesh.reasons(2).await, counts(&[("idle_timeout", 2)]));
    }
}

#[tokio::test]
async fn a_throttled_answer_can_break_off_too() {
    let callee = Callee::dripping(&[b'x'; 1000], Duration::ZERO).await;
    let both = json!([
        {"throttle": {"percent": 100, "bytesPerSecond": 1_000_000}},
        {"throttle": {"percent": 100, "bytesPerSecond": 10_000}},
        {"truncate": {"percent": 100, "afterBytes": 1_500}},
    ]);
    let mesh = mesh(&callee, json!({}), fault(both));
    let started = Instant::now();
    let part = Part::h1(&mesh, "/?100").await;
    assert!(part.was_cut() && part.body.len() == 1_500, "{:?} {}", part.broke, part.body.len());
    assert!(started.elapsed() >= Duration::from_millis(140), "by the lower rate: {:?}", started.elapsed());
    assert_eq!(mesh.reasons(1).await, counts(&[("fault_truncate", 1)]));
}
