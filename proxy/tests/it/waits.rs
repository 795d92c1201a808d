//! Callers that keep their connections waiting: for the rest of a head, or for a request that never comes.

use std::{net::SocketAddr, time::Duration};

use firebreak_proxy::{Settings, net::connections::Waits};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{
    http1::{rest, speaking, until},
    support::{Body, Callee, Mesh, connect_h2, counts, h2_request},
};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: callee\r\n\r\n";
const HOUR: Duration = Duration::from_hours(1);

fn mesh(callee: SocketAddr, protocol: &str, head: Duration, idle: Duration) -> Mesh {
    let settings = Settings { waits: Waits { head, idle }, ..Settings::default() };
    Mesh::set(settings, &[callee], json!({"protocol": protocol}), &[])
}

/// Sends a byte each few milliseconds, until the other side has something to say. What that is.
async fn drip(mut stream: TcpStream, beginning: &[u8]) -> String {
    stream.write_all(beginning).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let drip = async {
        loop {
            sleep(Duration::from_millis(10)).await;
            writer.write_all(b"a").await.unwrap();
        }
    };
    let mut byte = [0];
    tokio::select! {
        () = drip => unreachable!(),
        said = timeout(Duration::from_secs(5), reader.peek(&mut byte)) => assert_eq!(said.unwrap().unwrap(), 1),
    }
    rest(stream).await
}

async fn idle_closed(mesh: &Mesh, count: u64) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while mesh.proxy.registry().connections.idle_closed() < count {
        assert!(Instant::now() < deadline, "{}", mesh.proxy.registry().connections.idle_closed());
        tokio::task::yield_now().await;
    }
    let line = format!("firebreak_connections_idle_closed_total {count}\n");
    assert!(mesh.metrics().await.contains(&line));
}

#[tokio::test]
async fn a_head_that_comes_too_slowly_is_answered_408_and_the_connection_ends() {
    let callee = Callee::answering(&[200]).await;
    let mesh = mesh(callee.address, "Http", Duration::from_millis(200), HOUR);
    // The second of its connection, a first that may still become HTTP/2, and a usual one.
    let mut used = TcpStream::connect(mesh.address).await.unwrap();
    used.write_all(REQUEST).await.unwrap();
    until(&mut used, "answer 1").await;
    let mut others = Vec::new();
    for beginning in [&b"PRI * HTT"[..], b"GET / HTTP/1.1\r\nhost: callee\r\nx: "] {
        others.push((TcpStream::connect(mesh.address).await.unwrap(), beginning));
    }
    others.push((used, b"GET / HTTP/1.1\r\nx: "));
    for (stream, beginning) in others {
        let answer = if beginning.starts_with(b"PRI") {
            let mut stream = stream;
            stream.write_all(beginning).await.unwrap();
            rest(stream).await
        } else {
            drip(stream, beginning).await
        };
        assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n"), "{answer}");
        assert!(answer.contains("firebreak-reason=request_head_timeout; firebreak-domain=caller"), "{answer}");
    }
    assert_eq!(mesh.fates(4).await, counts(&[("succeeded", 1), ("rejected", 3)]));
    assert_eq!(mesh.reasons(3).await, counts(&[("request_head_timeout", 3)]));
    assert_eq!(callee.requests(), 1);
}

#[tokio::test]
async fn a_head_in_pieces_and_a_slow_body_are_not_too_slow() {
    let callee = Callee::answering(&[200]).await;
    let head = Duration::from_millis(500);
    let mesh = mesh(callee.address, "Http", head, HOUR);
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    // Before the first byte no head is under way, however long that takes.
    sleep(head + head / 2).await;
    for piece in ["POST / HT", "TP/1.1\r\nhost: callee\r\ncontent-", "length: 30\r\n\r\n"] {
        stream.write_all(piece.as_bytes()).await.unwrap();
        sleep(head / 25).await;
    }
    for _ in 0..30 {
        stream.write_all(b"b").await.unwrap();
        sleep(head / 10).await;
    }
    until(&mut stream, "answer 1").await;
    assert_eq!(mesh.fates(1).await, counts(&[("succeeded", 1)]));
}

#[tokio::test]
async fn too_few_bytes_for_too_long_are_no_http_where_nobody_said_so() {
    let callee = speaking(|_, mut stream| async move {
        assert_eq!(until(&mut stream, "PO").await, "PO");
        stream.write_all(b"go on\n").await.unwrap();
    })
    .await;
    let mesh = mesh(callee, "Detect", Duration::from_millis(200), HOUR);
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    stream.write_all(b"PO").await.unwrap();
    assert_eq!(until(&mut stream, "\n").await, "go on\n");
}

#[tokio::test]
async fn a_connection_that_carries_no_request_is_closed() {
    let callee = Callee::answering(&[200]).await;
    let mesh = mesh(callee.address, "Http", Duration::from_millis(100), Duration::from_millis(300));
    let new = TcpStream::connect(mesh.address).await.unwrap();
    let mut used = TcpStream::connect(mesh.address).await.unwrap();
    for number in 1..=3 {
        used.write_all(REQUEST).await.unwrap();
        until(&mut used, &format!("answer {number}")).await;
        // Each request begins the time anew.
        sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(rest(new).await, "", "in good order, without a word");
    assert_eq!(rest(used).await, "");
    idle_closed(&mesh, 2).await;
    assert_eq!(mesh.fates(3).await, counts(&[("succeeded", 3)]), "and it is in no books");
}

#[tokio::test]
async fn a_connection_with_a_request_under_way_is_not_idle() {
    let idle = Duration::from_millis(100);
    let callee = Callee::start(move |_, _| async move {
        sleep(idle * 5).await;
        http::Response::new(Body::from("late"))
    })
    .await;
    let mesh = mesh(callee.address, "Http", idle, idle);
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    stream.write_all(REQUEST).await.unwrap();
    until(&mut stream, "late").await;
    let mut sender = connect_h2(mesh.address).await;
    let answer = sender.send_request(h2_request("/").body(Body::default()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(mesh.fates(2).await, counts(&[("succeeded", 2)]));
}

#[tokio::test]
async fn on_http2_a_connection_that_carries_no_request_is_closed_by_goaway() {
    let callee = Callee::answering(&[200]).await;
    let mesh = mesh(callee.address, "Http", HOUR, Duration::from_millis(200));
    let stream = TcpStream::connect(mesh.address).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = h2_request("/").body(()).unwrap();
    let (answer, _) = sender.send_request(request, true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
    // GOAWAY without an error is an end in good order.
    let ended = timeout(Duration::from_secs(5), connection).await.expect("it is closed").unwrap();
    assert!(ended.is_ok(), "{ended:?}");
    idle_closed(&mesh, 1).await;
}

#[tokio::test]
async fn on_http2_a_caller_that_does_not_go_is_left_after_a_while() {
    let callee = Callee::answering(&[200]).await;
    let mesh = mesh(callee.address, "Http", HOUR, Duration::from_millis(200));
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    // The preface and empty SETTINGS (RFC 9113, 3.4), and not a word more: no answer to the PING before the last GOAWAY.
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut said = Vec::new();
    timeout(Duration::from_secs(15), stream.read_to_end(&mut said)).await.expect("it is closed").unwrap();
    assert!(said.windows(5).any(|frame| frame == [0, 0, 8, 7, 0]), "GOAWAY: {said:?}");
}
