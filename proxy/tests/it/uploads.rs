//! Uploads that a callee answers before it has read them, and goes on reading.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    time::Duration,
};

use bytes::Bytes;
use futures::{SinkExt, channel::mpsc};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use super::{
    http1::{rest, speaking, until},
    support::{Body, Callee, Mesh, connect_h2, counts, read},
};

/// Parts of an upload: two are kept for another try, and three are too many.
const PART: usize = 30_000;

fn chunk() -> String {
    format!("{PART:x}\r\n{}\r\n", "x".repeat(PART))
}

/// What a callee has seen: requests, and bytes of their bodies as they stand on the wire.
#[derive(Default)]
struct Taken {
    requests: AtomicUsize,
    bytes: AtomicUsize,
}

impl Taken {
    async fn until(&self, bytes: usize) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.bytes.load(SeqCst) < bytes {
            assert!(Instant::now() < deadline, "{} of {bytes}", self.bytes.load(SeqCst));
            tokio::task::yield_now().await;
        }
    }

    fn all(&self) -> (usize, usize) {
        (self.requests.load(SeqCst), self.bytes.load(SeqCst))
    }
}

/// A callee that says at once that it is overloaded, and reads on.
async fn overloaded() -> (SocketAddr, &'static Taken) {
    let taken: &'static Taken = Box::leak(Box::default());
    let address = speaking(move |_, mut stream| async move {
        until(&mut stream, "\r\n\r\n").await;
        taken.requests.fetch_add(1, SeqCst);
        stream.write_all(b"HTTP/1.1 503 Busy\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            taken.bytes.fetch_add(read, SeqCst);
        }
    })
    .await;
    (address, taken)
}

/// The same over HTTP/2.
async fn overloaded_h2() -> (SocketAddr, &'static Taken) {
    let taken: &'static Taken = Box::leak(Box::default());
    let callee = Callee::start(move |_, request: Request<Incoming>| async move {
        taken.requests.fetch_add(1, SeqCst);
        tokio::spawn(async move {
            let mut body = request.into_body();
            while let Some(Ok(frame)) = body.frame().await {
                taken.bytes.fetch_add(frame.data_ref().map_or(0, Bytes::len), SeqCst);
            }
        });
        Response::builder().status(503).header("retry-after", "1").body(Body::default()).unwrap()
    })
    .await;
    (callee.address, taken)
}

fn retrying(callee: SocketAddr) -> Mesh {
    Mesh::new(&[callee], json!({"retries": {"conditions": ["5xx"], "methods": "Idempotent", "maxRetries": 1}}))
}

#[tokio::test]
async fn what_is_not_kept_any_more_when_a_retry_is_due_is_not_sent_again_in_part() {
    let (callee, taken) = overloaded().await;
    let mesh = retrying(callee);
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    stream.write_all(b"PUT / HTTP/1.1\r\nhost: c\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
    let part = chunk();
    for number in 1..=3 {
        // In parts, so that the first try has read each of them before the retry is due.
        stream.write_all(part.as_bytes()).await.unwrap();
        taken.until(number * part.len()).await;
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let answer = until(&mut stream, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    // Chunks may be of other sizes on the way.
    taken.until(3 * PART).await;
    assert_eq!(taken.requests.load(SeqCst), 1);
}

#[tokio::test]
async fn nor_over_http2() {
    let (callee, taken) = overloaded_h2().await;
    let mesh = retrying(callee);
    let mut sender = connect_h2(mesh.address).await;
    let (mut parts, body) = mpsc::channel::<Result<Frame<Bytes>, std::convert::Infallible>>(1);
    let request = Request::put("http://callee/").body(StreamBody::new(body)).unwrap();
    let answer = tokio::spawn(sender.send_request(request));
    for number in 1..=3 {
        parts.send(Ok(Frame::data(Bytes::from(vec![b'x'; PART])))).await.unwrap();
        taken.until(number * PART).await;
    }
    drop(parts);
    let answer = read(answer.await.unwrap().unwrap(), Instant::now()).await.unwrap();
    assert_eq!((answer.status.as_u16(), taken.all()), (503, (1, 3 * PART)));
}

#[tokio::test]
async fn one_that_fits_is_sent_again_whole() {
    let (callee, taken) = overloaded().await;
    let mesh = retrying(callee);
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    let length = 2 * PART;
    stream
        .write_all(format!("PUT / HTTP/1.1\r\nhost: c\r\ncontent-length: {length}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    stream.write_all(&vec![b'x'; PART]).await.unwrap();
    taken.until(PART).await;
    stream.write_all(&vec![b'x'; PART]).await.unwrap();
    let answer = until(&mut stream, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    taken.until(2 * length).await;
    assert_eq!(taken.all(), (2, 2 * length));
}

#[tokio::test]
async fn an_upload_goes_on_after_a_retry_was_waited_for_in_vain() {
    let callee = speaking(|_, mut stream| async move {
        until(&mut stream, "\r\n\r\n").await;
        let head = b"HTTP/1.1 503 Busy\r\nretry-after: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n";
        stream.write_all(head).await.unwrap();
        until(&mut stream, "0\r\n\r\n").await;
        stream.write_all(b"4\r\nlast\r\n0\r\n\r\n").await.unwrap();
    })
    .await;
    let mesh = Mesh::new(&[callee], json!({"retries": {"conditions": ["5xx"], "methods": "Idempotent"}}));
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    stream.write_all(b"PUT / HTTP/1.1\r\nhost: c\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
    // More than is kept, so that there is no other try; and the wait for it is so long that the connection is looked at meanwhile.
    let part = chunk().repeat(3);
    stream.write_all(part.as_bytes()).await.unwrap();
    until(&mut stream, "first\r\n").await;
    stream.write_all(part.as_bytes()).await.unwrap();
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    until(&mut stream, "last\r\n0\r\n\r\n").await;
    assert_eq!(mesh.fates(1).await, counts(&[("failed", 1)]));
}

#[tokio::test]
async fn a_caller_that_leaves_while_a_retry_waits_is_noticed() {
    let (callee, taken) = overloaded().await;
    let mesh = Mesh::new(
        &[callee],
        json!({"retries": {"conditions": ["5xx"], "methods": "Idempotent", "backoff": {"base": "30s", "max": "60s"}}}),
    );
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    stream.write_all(b"PUT / HTTP/1.1\r\nhost: c\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
    stream.write_all(chunk().as_bytes()).await.unwrap();
    taken.until(PART).await;
    drop(stream);
    assert_eq!(mesh.fates(1).await, counts(&[("cancelled", 1)]));
}

#[tokio::test]
async fn what_was_asked_for_and_had_come_already_costs_no_connection() {
    let callee = Callee::start(|_, request: Request<Incoming>| async move {
        Response::new(Body::from(request.into_body().collect().await.unwrap().to_bytes()))
    })
    .await;
    let mesh = super::http1::mesh(callee.address);
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    for (length, body) in [(5, "hello"), (0, "")] {
        let head =
            format!("POST / HTTP/1.1\r\nhost: c\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = until(&mut stream, "\r\n\r\n").await;
        if answer.starts_with("HTTP/1.1 100") {
            answer = until(&mut stream, "\r\n\r\n").await;
        }
        assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("connection: close"), "{answer}");
        let mut echoed = vec![0; length];
        timeout(Duration::from_secs(5), stream.read_exact(&mut echoed)).await.unwrap().unwrap();
        assert_eq!(echoed, body.as_bytes());
    }
    stream.write_all(b"GET / HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n").await.unwrap();
    assert!(rest(stream).await.starts_with("HTTP/1.1 200"));
}
