//! Callers that do not read: nobody asks their responses for more, and the clocks run all the same.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::support::{Body, Callee, Mesh, connect_h2, counts, h2_request};

const CHUNK: &[u8] = &[b'x'; 64 * 1024];

/// A callee with more to say than any buffer holds, and one place for it.
async fn mesh(timeouts: Value) -> Mesh {
    let callee = Callee::dripping(CHUNK, Duration::ZERO).await;
    Mesh::new(&[callee.address], json!({"timeouts": timeouts, "bulkhead": {"maxRequests": 1, "maxPendingTime": "1ms"}}))
}

async fn ask(mesh: &Mesh) -> TcpStream {
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: callee\r\n\r\n").await.unwrap();
    stream
}

#[tokio::test]
async fn the_request_clock_ends_a_response_that_nobody_reads() {
    let mesh = mesh(json!({"request": "300ms"})).await;
    let mut caller = ask(&mesh).await;
    assert_eq!(mesh.reasons(1).await, counts(&[("request_timeout", 1)]));
    assert_eq!(mesh.get("/?1").await.status, 200, "its place is free");
    // What was on its way still comes, then the connection ends.
    let rest = timeout(Duration::from_secs(5), caller.read_to_end(&mut Vec::new())).await;
    rest.expect("the caller's connection was cut").ok();
}

#[tokio::test]
async fn the_idle_clock_ends_a_response_that_nobody_reads() {
    let mesh = mesh(json!({"idle": "200ms"})).await;
    let _caller = ask(&mesh).await;
    assert_eq!(mesh.reasons(1).await, counts(&[("idle_timeout", 1)]));
    assert_eq!(mesh.get("/?1").await.status, 200, "its place is free");
}

#[tokio::test]
async fn a_caller_that_reads_slowly_is_not_silent() {
    let mesh = mesh(json!({"idle": "500ms"})).await;
    let mut caller = ask(&mesh).await;
    let (started, mut buffer) = (Instant::now(), vec![0; 2 << 20]);
    while started.elapsed() < Duration::from_secs(2) {
        caller.read_exact(&mut buffer).await.expect("not cut");
        sleep(Duration::from_millis(100)).await;
    }
    drop(caller);
    assert_eq!(mesh.reasons(1).await, counts(&[("caller_cancelled", 1)]));
}

#[tokio::test]
async fn on_http2_the_clocks_end_a_stream_that_nobody_reads() {
    for (timeouts, reason) in
        [(json!({"request": "300ms"}), "request_timeout"), (json!({"idle": "200ms"}), "idle_timeout")]
    {
        let mesh = mesh(timeouts).await;
        let mut sender = connect_h2(mesh.address).await;
        let unread = sender.send_request(h2_request("/").body(Body::default()).unwrap()).await.unwrap();
        assert_eq!(mesh.reasons(1).await, counts(&[(reason, 1)]));
        // Its place is free, and the connection carries other streams.
        let other = sender.send_request(h2_request("/?1").body(Body::default()).unwrap()).await.unwrap();
        assert_eq!(other.status(), 200);
        drop(unread);
    }
}
