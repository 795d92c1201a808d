//! HTTP/1.1 that breaks off, at every place where the rest of one message could be taken for another.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};

use super::{
    http1::{mesh, rest, speaking, until},
    support::{Callee, Mesh, counts, free_address},
};

/// What callees read: the heads that came at each connection.
type Heads = Arc<Mutex<Vec<(usize, String)>>>;

/// A callee that answers what it is asked with 200, on its first connection with `first`, and keeps what it reads.
async fn answering_first(first: &'static str) -> (SocketAddr, &'static Heads) {
    let heads: &'static Heads = Box::leak(Box::default());
    let address = speaking(move |number, mut stream| async move {
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            bytes.extend_from_slice(&buffer[..read]);
            while let Some(end) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&bytes.drain(..end + 4).collect::<Vec<_>>()).into_owned();
                heads.lock().push((number, head));
                let answer = if number == 1 { first } else { "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok" };
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
        heads.lock().push((number, String::from_utf8_lossy(&bytes).into_owned()));
    })
    .await;
    (address, heads)
}

/// A request of somebody else arrives on a connection of its own, at its beginning.
async fn others_are_apart(mesh: &Mesh, heads: &Heads) {
    assert_eq!(mesh.get("/victim").await.status, 200);
    let heads = heads.lock();
    let (number, head) = heads.iter().find(|(_, head)| head.contains("/victim")).unwrap();
    assert!(*number > 1 && head.starts_with("GET /victim HTTP/1.1\r\n"), "{heads:?}");
}

#[tokio::test]
async fn the_connection_of_a_request_that_broke_off_carries_no_other() {
    for (body, rest, closes) in [
        ("content-length: 100\r\n\r\n0123456789", "", true),
        ("transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", "zz", false),
    ] {
        let (address, heads) = answering_first("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        let mesh = mesh(address);
        let mut stream = TcpStream::connect(mesh.address).await.unwrap();
        stream.write_all(format!("POST /a HTTP/1.1\r\nhost: c\r\n{body}").as_bytes()).await.unwrap();
        until(&mut stream, "ok").await;
        stream.write_all(rest.as_bytes()).await.unwrap();
        if closes {
            stream.shutdown().await.unwrap();
        }
        // Closed, and nothing more was said.
        assert_eq!(super::http1::rest(stream).await, "");
        others_are_apart(&mesh, heads).await;
    }
}

#[tokio::test]
async fn nothing_is_read_behind_a_bad_chunk() {
    let (address, heads) = answering_first("").await;
    let mesh = mesh(address);
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    let smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: c\r\n\r\n";
    let request = format!("POST /a HTTP/1.1\r\nhost: c\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n\n{smuggled}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = rest(stream).await;
    assert!(answer.contains("request_incomplete") && answer.contains("connection: close"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    others_are_apart(&mesh, heads).await;
    assert!(heads.lock().iter().all(|(_, head)| !head.contains("smuggled")));
}

#[tokio::test]
async fn a_connection_that_changed_its_protocol_carries_no_request() {
    for (request, answer, status) in [
        ("CONNECT other:443 HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", "200"),
        ("CONNECT other:443 HTTP/1.1\r\nhost: other:443\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", "200"),
        ("GET /a HTTP/1.1\r\nhost: c\r\n\r\n", "HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n", "502"),
    ] {
        let (address, heads) = answering_first(answer).await;
        let mesh = mesh(address);
        let mut stream = TcpStream::connect(mesh.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let told = until(&mut stream, "\r\n\r\n").await;
        assert!(told.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {told}");
        others_are_apart(&mesh, heads).await;
    }
}

#[tokio::test]
async fn who_was_refused_is_not_asked_for_the_body() {
    let mesh = mesh(free_address());
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: c\r\nexpect: 100-continue\r\ncontent-length: 60\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = rest(stream).await;
    assert!(answer.starts_with("HTTP/1.1 502") && answer.contains("connection: close"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
}

#[tokio::test]
async fn a_caller_that_leaves_is_noticed_though_its_body_was_not_read() {
    let callee = Callee::answering(&[200]).await;
    let delay = super::faults::fault(json!([{"delay": {"percent": 100, "fixed": "60s"}}]));
    let mesh = Mesh::with(&[callee.address], json!({"protocol": "Http"}), &[("FaultSpec", delay)]);
    for number in 1..=2 {
        let mut stream = TcpStream::connect(mesh.address).await.unwrap();
        stream.write_all(b"POST / HTTP/1.1\r\nhost: c\r\ncontent-length: 5\r\n\r\nhello").await.unwrap();
        super::bulkheads::wait_for(&mesh, "resource=\"requests\"} 1").await;
        drop(stream);
        super::bulkheads::wait_for(&mesh, "resource=\"requests\"} 0").await;
        assert_eq!(mesh.fates(number).await, counts(&[("cancelled", number)]));
    }
}

/// A callee that answers at once and then waits, and tells when it has read `hint` and when it reads an end.
async fn answering_early(hint: &'static str) -> (SocketAddr, mpsc::UnboundedReceiver<&'static str>) {
    let (told, tell) = mpsc::unbounded_channel();
    let told: &'static _ = Box::leak(Box::new(told));
    let address = speaking(move |_, mut stream| async move {
        until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n").await.unwrap();
        until(&mut stream, hint).await;
        told.send(hint).unwrap();
        while let Ok(1..) = stream.read(&mut [0; 64]).await {}
        told.send("end").unwrap();
    })
    .await;
    (address, tell)
}

#[tokio::test]
async fn a_caller_that_leaves_during_or_after_its_upload_is_noticed_while_the_callee_is_silent() {
    for (body, resets) in [("he", true), ("he", false), ("hello", true), ("hello", false)] {
        let (address, mut told) = answering_early(body).await;
        let mesh = mesh(address);
        let mut stream = TcpStream::connect(mesh.address).await.unwrap();
        stream.write_all(b"POST / HTTP/1.1\r\nhost: c\r\ncontent-length: 5\r\n\r\n").await.unwrap();
        until(&mut stream, "1\r\nx\r\n").await;
        stream.write_all(body.as_bytes()).await.unwrap();
        assert_eq!(told.recv().await, Some(body));
        if resets {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        drop(stream);
        // At once, and not when a connection is looked at the next time.
        let end = timeout(Duration::from_secs(1), told.recv()).await;
        assert_eq!(end.unwrap_or_else(|_| panic!("{body}, reset: {resets}")), Some("end"));
        assert_eq!(mesh.fates(1).await, counts(&[("cancelled", 1)]));
    }
}

#[tokio::test]
async fn what_came_of_an_answer_that_broke_off_arrives() {
    let callee = speaking(|_, mut stream| async move {
        until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello").await.unwrap();
    })
    .await;
    let mesh = mesh(callee);
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nhost: c\r\n\r\n").await.unwrap();
    let answer = rest(stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nhello"), "{answer:?}");
    assert_eq!(mesh.reasons(1).await, counts(&[("response_incomplete", 1)]));
}

#[tokio::test]
async fn empty_lines_between_requests_begin_no_clock() {
    let callee = Callee::answering(&[200]).await;
    let mesh = Mesh::new(&[callee.address], json!({"timeouts": {"request": "500ms"}}));
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nhost: c\r\ncontent-length: 2\r\n\r\nhi\r\n").await.unwrap();
    until(&mut stream, "answer 1").await;
    // Time itself is what is tried here.
    tokio::time::sleep(Duration::from_millis(700)).await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: c\r\n\r\n").await.unwrap();
    until(&mut stream, "answer 2").await;
    assert_eq!(mesh.fates(2).await, counts(&[("succeeded", 2)]));
}

#[tokio::test]
async fn an_agreement_before_the_request_is_whole_is_none() {
    let callee = speaking(|_, mut stream| async move {
        until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n").await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let mesh = mesh(callee);
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: c\r\nconnection: upgrade\r\nupgrade: x\r\ncontent-length: 100\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = until(&mut stream, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 502") && answer.contains("upgrade_failed"), "{answer}");
}

/// Whatever comes, and how the connection ends.
async fn end_of(mut stream: TcpStream) -> (String, std::io::Result<usize>) {
    let mut bytes = Vec::new();
    let end = timeout(Duration::from_secs(5), stream.read_to_end(&mut bytes)).await.unwrap();
    (String::from_utf8(bytes).unwrap(), end)
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_not_look_whole_to_an_old_caller() {
    let callee = speaking(|_, mut stream| async move {
        until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nwor").await.unwrap();
    })
    .await;
    let mesh = mesh(callee);
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\nhost: c\r\n\r\n").await.unwrap();
    let (answer, end) = end_of(stream).await;
    assert!(end.is_err(), "{answer}");
    assert_eq!(mesh.fates(1).await, counts(&[("failed", 1)]));
}

#[tokio::test]
async fn a_tunnel_that_breaks_does_not_end_in_order() {
    let callee = speaking(|_, mut stream| async move {
        until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n").await.unwrap();
        until(&mut stream, "go").await;
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    })
    .await;
    let mesh = mesh(callee);
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: c\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n").await.unwrap();
    until(&mut stream, "\r\n\r\n").await;
    stream.write_all(b"go").await.unwrap();
    let (_, end) = end_of(stream).await;
    assert!(end.is_err(), "{end:?}");
}

#[tokio::test]
async fn nobody_leaves_for_http2_by_an_upgrade() {
    let (address, heads) = answering_first("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let mesh = mesh(address);
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    let upgrade = "connection: upgrade\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA";
    stream.write_all(format!("GET / HTTP/1.1\r\nhost: c\r\n{upgrade}\r\n\r\n").as_bytes()).await.unwrap();
    until(&mut stream, "ok").await;
    let heads = heads.lock();
    assert!(!heads[0].1.contains("h2c") && !heads[0].1.contains("http2-settings"), "{heads:?}");
}

#[tokio::test]
async fn nor_does_one_that_a_clock_ends_while_its_caller_does_not_read() {
    let callee = speaking(|_, mut stream| async move {
        until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
        let chunk = format!("{:x}\r\n{}\r\n", 100_000, "x".repeat(100_000));
        while stream.write_all(chunk.as_bytes()).await.is_ok() {}
    })
    .await;
    let mesh = Mesh::new(&[callee], json!({"timeouts": {"request": "300ms"}}));
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\nhost: c\r\n\r\n").await.unwrap();
    assert_eq!(mesh.fates(1).await, counts(&[("timed_out", 1)]));
    let (answer, end) = end_of(stream).await;
    assert!(end.is_err(), "{} bytes", answer.len());
}

#[tokio::test]
async fn a_request_that_is_sent_anew_says_once_which_try_it_is() {
    let heads: &'static Heads = Box::leak(Box::default());
    let callee = speaking(move |number, mut stream| async move {
        for request in 1.. {
            let head = until(&mut stream, "\r\n\r\n").await;
            heads.lock().push((number, head));
            if (number, request) == (1, 2) {
                // It has read it and leaves: on a connection that carried another before, it is sent again.
                return;
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        }
    })
    .await;
    let mesh = Mesh::new(&[callee], json!({"retries": {}}));
    for _ in 0..2 {
        assert_eq!(mesh.get("/").await.status, 200);
    }
    assert_eq!(mesh.fates(2).await, counts(&[("succeeded", 2)]), "none of them was retried");
    let heads = heads.lock();
    let numbers: Vec<_> = heads.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [1, 1, 2]);
    assert!(heads.iter().all(|(_, head)| head.matches("firebreak-attempt: 1/").count() == 1), "{heads:?}");
}
