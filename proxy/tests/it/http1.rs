//! HTTP/1.1 on the wire: what passes, what is refused, and which connections are used again.

use std::{net::SocketAddr, time::Duration};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{
    bulkheads::wait_for,
    support::{Callee, Mesh, counts},
};

/// A callee that speaks as `talk` says on each of its connections, numbered from 1.
pub(crate) async fn speaking<F: Future<Output = ()> + Send>(
    talk: impl Fn(usize, TcpStream) -> F + Copy + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 1.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move { talk(number, stream).await });
        }
    });
    address
}

pub(crate) fn mesh(callee: SocketAddr) -> Mesh {
    Mesh::with(&[callee], json!({"protocol": "Http"}), &[])
}

/// Reads up to and with `end`.
pub(crate) async fn until(stream: &mut TcpStream, end: &str) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        let byte = timeout(Duration::from_secs(5), stream.read_u8()).await;
        let byte = byte.unwrap_or_else(|_| panic!("no {end:?} after {:?}", String::from_utf8_lossy(&bytes)));
        bytes.push(byte.unwrap_or_else(|error| panic!("{error} after {:?}", String::from_utf8_lossy(&bytes))));
    }
    String::from_utf8(bytes).unwrap()
}

pub(crate) async fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    timeout(Duration::from_secs(5), stream.read_to_end(&mut bytes)).await.unwrap().unwrap();
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn requests_that_come_at_once_are_answered_in_their_order() {
    let callee = Callee::start(|_, request| async move {
        http::Response::new(super::support::Body::from(request.uri().path().to_owned()))
    })
    .await;
    let mesh = mesh(callee.address);
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    let bodies = "POST /a HTTP/1.1\r\nhost: c\r\ncontent-length: 5\r\n\r\nhello";
    let last = "GET /c HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n";
    stream.write_all(format!("{bodies}GET /b HTTP/1.1\r\nhost: c\r\n\r\n{last}").as_bytes()).await.unwrap();
    let answers = rest(stream).await;
    let told: Vec<_> = answers.match_indices("\r\n\r\n/").map(|(at, _)| &answers[at + 4..at + 6]).collect();
    assert_eq!(told, ["/a", "/b", "/c"], "{answers}");
    assert_eq!(mesh.fates(3).await, counts(&[("succeeded", 3)]));
}

#[tokio::test]
async fn what_readers_could_disagree_about_goes_no_further() {
    let callee = Callee::answering(&[200]).await;
    let mesh = mesh(callee.address);
    let smuggled = "0\r\n\r\nGET /admin HTTP/1.1\r\nhost: c\r\n\r\n";
    let heads = [
        "content-length: 4\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding : chunked\r\n",
        "content-length: 3\r\ncontent-length: 4\r\n",
        "content-length: +4\r\n",
        "x: 1\r\n transfer-encoding: chunked\r\n",
        "host: d\r\n",
    ];
    for head in heads {
        let mut stream = TcpStream::connect(mesh.address).await.unwrap();
        let request = format!("POST / HTTP/1.1\r\nhost: c\r\n{head}\r\n{smuggled}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = rest(stream).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("request_malformed"), "{head}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{head}: {answer}");
    }
    assert_eq!(mesh.fates(heads.len() as u64).await, counts(&[("rejected", heads.len() as u64)]));
    assert_eq!(callee.requests(), 0);
}

#[tokio::test]
async fn a_body_that_is_no_chunks_ends_its_request() {
    let callee = Callee::hanging().await;
    let mesh = mesh(callee.address);
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nhost: c\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhix\r\n").await.unwrap();
    let answer = rest(stream).await;
    assert!(answer.contains("request_incomplete"), "{answer}");
}

#[tokio::test]
async fn a_caller_that_waits_to_be_asked_for_the_body_is_asked() {
    let callee = speaking(|_, mut stream| async move {
        for _ in 0..2 {
            until(&mut stream, "\r\n\r\n").await;
            until(&mut stream, "hello").await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        }
    })
    .await;
    let mesh = mesh(callee);
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    for _ in 0..2 {
        stream
            .write_all(b"PUT / HTTP/1.1\r\nhost: c\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n")
            .await
            .unwrap();
        assert_eq!(until(&mut stream, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
        stream.write_all(b"hello").await.unwrap();
        assert!(until(&mut stream, "ok").await.starts_with("HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn a_body_and_its_trailers_go_up_in_chunks() {
    let callee = speaking(|_, mut stream| async move {
        let head = until(&mut stream, "\r\n\r\n").await;
        assert!(head.contains("transfer-encoding: chunked\r\n") && !head.contains("content-length"), "{head}");
        let body = until(&mut stream, "x-sum: 7\r\n\r\n").await;
        let data: String = body.split("\r\n").skip(1).step_by(2).take_while(|data| !data.contains(':')).collect();
        assert_eq!(data, "hello world", "{body}");
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let mesh = mesh(callee);
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    stream
        .write_all(
            b"POST / HTTP/1.1\r\nHost: c\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n5;a=b\r\nhello\r\n",
        )
        .await
        .unwrap();
    stream.write_all(b"6\r\n world\r\n0\r\nX-Sum: 7\r\n\r\n").await.unwrap();
    assert!(until(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 204"));
    assert_eq!(mesh.fates(1).await, counts(&[("succeeded", 1)]));
}

#[tokio::test]
async fn both_sides_may_speak_at_once() {
    let callee = speaking(|_, mut stream| async move {
        for _ in 0..2 {
            until(&mut stream, "\r\n\r\n").await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
            for _ in 0..3 {
                let chunk = until(&mut stream, "\r\n").await + &until(&mut stream, "\r\n").await;
                stream.write_all(chunk.as_bytes()).await.unwrap();
            }
            until(&mut stream, "0\r\n\r\n").await;
            stream.write_all(b"0\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let mesh = mesh(callee);
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    for _ in 0..2 {
        stream.write_all(b"POST / HTTP/1.1\r\nhost: c\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
        assert!(until(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 200"));
        for word in ["one", "two", "six"] {
            let chunk = format!("3\r\n{word}\r\n");
            stream.write_all(chunk.as_bytes()).await.unwrap();
            assert_eq!(until(&mut stream, &format!("{word}\r\n")).await, chunk);
        }
        stream.write_all(b"0\r\n\r\n").await.unwrap();
        assert_eq!(until(&mut stream, "\r\n\r\n").await, "0\r\n\r\n");
    }
    assert_eq!(mesh.fates(2).await, counts(&[("succeeded", 2)]));
}

#[tokio::test]
async fn an_answer_to_an_upload_that_the_callee_cuts_short_arrives() {
    let callee = speaking(|_, mut stream| async move {
        until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 413 Too much\r\ncontent-length: 4\r\nconnection: close\r\n\r\nmuch").await.unwrap();
        // What comes is read, or the answer would be lost by a reset.
        stream.shutdown().await.unwrap();
        while let Ok(1..) = stream.read(&mut [0; 4096]).await {}
    })
    .await;
    let mesh = mesh(callee);
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    let head = format!("PUT / HTTP/1.1\r\nhost: c\r\ncontent-length: {}\r\n\r\n", 100 << 20);
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let upload = tokio::spawn(async move {
        let chunk = vec![0; 1 << 20];
        while writer.write_all(&chunk).await.is_ok() {}
    });
    let mut answer = Vec::new();
    // How the connection ends after that is of no account.
    let _ = timeout(Duration::from_secs(10), reader.read_to_end(&mut answer)).await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 413 Too much\r\n") && answer.ends_with("\r\n\r\nmuch"), "{answer}");
    upload.await.unwrap();
    assert_eq!(mesh.fates(1).await, counts(&[("succeeded", 1)]));
    wait_for(&mesh, "resource=\"connections\"} 0").await;
}

#[tokio::test]
async fn a_connection_that_says_more_than_it_was_asked_is_not_used_again() {
    let callee = speaking(|number, mut stream| async move {
        until(&mut stream, "\r\n\r\n").await;
        let extra = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad";
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{number}{extra}");
        stream.write_all(answer.as_bytes()).await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let mesh = mesh(callee);
    for number in ["1", "2", "3"] {
        assert_eq!(mesh.get("/").await.body, number);
    }
}

#[tokio::test]
async fn what_is_said_before_the_answer_is_not_the_answer() {
    let callee = speaking(|_, mut stream| async move {
        until(&mut stream, "\r\n\r\n").await;
        let early = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n";
        stream.write_all(format!("{early}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").as_bytes()).await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let seen = mesh(callee).get("/").await;
    assert_eq!((seen.status.as_u16(), &seen.body[..]), (200, &b"ok"[..]));
}

#[tokio::test]
async fn a_caller_is_told_what_the_callee_says_before_its_answer() {
    let callee = speaking(|_, mut stream| async move {
        loop {
            until(&mut stream, "\r\n\r\n").await;
            let hints =
                "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\ncontent-length: 9\r\nconnection: x-hop\r\nx-hop: 1\r\n\r\n";
            stream.write_all(format!("HTTP/1.1 102 Processing\r\n\r\n{hints}").as_bytes()).await.unwrap();
            until(&mut stream, "go on").await;
            stream
                .write_all(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .await
                .unwrap();
        }
    })
    .await;
    let mesh = mesh(callee);
    let mut caller = TcpStream::connect(mesh.address).await.unwrap();
    for _ in 0..2 {
        caller.write_all(b"POST / HTTP/1.1\r\nhost: c\r\ncontent-length: 5\r\n\r\n").await.unwrap();
        let processing = "HTTP/1.1 102 Processing\r\nvia: 1.1 firebreak\r\n\r\n";
        assert_eq!(until(&mut caller, "\r\n\r\n").await, processing, "at once, before the answer");
        let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nvia: 1.1 firebreak\r\n\r\n";
        assert_eq!(until(&mut caller, "\r\n\r\n").await, hints);
        caller.write_all(b"go on").await.unwrap();
        assert!(until(&mut caller, "\r\n\r\n").await.starts_with("HTTP/1.1 103 "), "and what comes with it, before it");
        assert!(until(&mut caller, "ok").await.starts_with("HTTP/1.1 200 "));
    }
    let mut old = TcpStream::connect(mesh.address).await.unwrap();
    old.write_all(b"POST / HTTP/1.0\r\ncontent-length: 5\r\n\r\ngo on").await.unwrap();
    assert!(until(&mut old, "ok").await.starts_with("HTTP/1.0 200 "), "it would not understand it (RFC 9110, 15.2)");
    assert_eq!(mesh.fates(3).await, counts(&[("succeeded", 3)]));
}

#[tokio::test]
async fn an_idle_connection_that_the_callee_closes_is_given_up_at_once() {
    let (close, closed) = tokio::sync::watch::channel(false);
    let closed: &'static _ = Box::leak(Box::new(closed));
    let callee = speaking(move |_, mut stream| async move {
        until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        closed.clone().wait_for(|closed| *closed).await.unwrap();
    })
    .await;
    let mesh = mesh(callee);
    assert_eq!(mesh.get("/").await.status, 200);
    wait_for(&mesh, "resource=\"connections\"} 1").await;
    close.send(true).unwrap();
    timeout(firebreak_proxy::upstream::pool::IDLE / 2, wait_for(&mesh, "resource=\"connections\"} 0"))
        .await
        .expect("before it is old enough to be swept");
}

#[tokio::test]
async fn an_old_caller_that_wants_to_go_on_may() {
    let callee = Callee::answering(&[200]).await;
    let mesh = mesh(callee.address);
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    for number in 1..=2 {
        stream.write_all(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").await.unwrap();
        let answer = until(&mut stream, &format!("answer {number}")).await;
        assert!(answer.starts_with("HTTP/1.0 200") && answer.contains("connection: keep-alive\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn large_bodies_arrive_whole_however_they_are_delimited() {
    let callee = speaking(|number, mut stream| async move {
        until(&mut stream, "\r\n\r\n").await;
        let body: Vec<u8> = (0..3_000_000u32).map(|at| b'a' + u8::try_from(at % 23).unwrap()).collect();
        match number {
            1 => {
                stream
                    .write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes())
                    .await
                    .unwrap();
                stream.write_all(&body).await.unwrap();
            }
            2 => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
                for part in body.chunks(70_001) {
                    stream.write_all(format!("{:x}\r\n", part.len()).as_bytes()).await.unwrap();
                    stream.write_all(part).await.unwrap();
                    stream.write_all(b"\r\n").await.unwrap();
                }
                stream.write_all(b"0\r\n\r\n").await.unwrap();
            }
            _ => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                stream.write_all(&body).await.unwrap();
                stream.shutdown().await.unwrap();
            }
        }
    })
    .await;
    let mesh = mesh(callee);
    for _ in 0..3 {
        let seen = mesh.get("/").await;
        assert_eq!(seen.body.len(), 3_000_000);
        assert!(seen.body.iter().enumerate().all(|(at, byte)| *byte == b'a' + u8::try_from(at % 23).unwrap()));
    }
}
