//! What is not HTTP, or too much of it, is refused with a reason and entered in the books.

use http::Response;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::support::{Body, Callee, Mesh, counts};

async fn send(mesh: &Mesh, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A refusal may reset what was not read.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

fn is_refusal(answer: &str, status: &str, reason: &str) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {answer:?}"));
    assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    let token = format!("proxy-status: \"caller-pod\"; error=http_request_error; firebreak-reason={reason};");
    assert!(head.contains(&token), "{answer}");
    assert!(head.contains(&format!("content-length: {}", body.len())) && body.contains(reason), "{answer}");
}

#[tokio::test]
async fn bytes_that_are_not_http_are_refused_with_a_reason() {
    let callee = Callee::answering(&[200]).await;
    let mesh = Mesh::with(&[callee.address], json!({"protocol": "Http"}), &[]);
    is_refusal(&send(&mesh, b"GET / HTTP/1.1\r\nbad header\r\n\r\n").await, "400", "request_malformed");
    is_refusal(&send(&mesh, b"nonsense\r\n\r\n").await, "400", "request_malformed");
    assert_eq!(mesh.fates(2).await, counts(&[("rejected", 2)]));
    assert_eq!(mesh.reasons(2).await, counts(&[("request_malformed", 2)]));
    assert_eq!(callee.requests(), 0);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused_with_a_reason() {
    let callee = Callee::answering(&[200]).await;
    let mesh = Mesh::with(&[callee.address], json!({"protocol": "Http"}), &[]);
    let many = format!("GET / HTTP/1.1\r\nhost: callee\r\n{}\r\n", "x-one: 1\r\n".repeat(200));
    is_refusal(&send(&mesh, many.as_bytes()).await, "431", "request_head_too_large");
    let long = format!("GET / HTTP/1.1\r\nhost: callee\r\nx-long: {}\r\n\r\n", "x".repeat(70_000));
    is_refusal(&send(&mesh, long.as_bytes()).await, "431", "request_head_too_large");
    assert_eq!(mesh.reasons(2).await, counts(&[("request_head_too_large", 2)]));
}

#[tokio::test]
async fn the_answer_before_it_arrives_untouched() {
    let callee = Callee::start(|_, _| async { Response::builder().status(400).body(Body::default()).unwrap() }).await;
    let mesh = Mesh::with(&[callee.address], json!({"protocol": "Http"}), &[]);
    let answer = send(&mesh, b"GET / HTTP/1.1\r\nhost: callee\r\n\r\nGET / HTTP/1.1\r\nbad header\r\n\r\n").await;
    let second = answer.rfind("HTTP/1.1").unwrap();
    assert!(answer[..second].starts_with("HTTP/1.1 400") && !answer[..second].contains("proxy-status"), "{answer}");
    is_refusal(&answer[second..], "400", "request_malformed");
    assert_eq!(mesh.fates(2).await, counts(&[("rejected", 1), ("succeeded", 1)]));
}

#[tokio::test]
async fn a_callees_head_that_is_too_large_is_not_called_its_error() {
    let callee = Callee::start(|_, _| async {
        let response =
            (0..120).fold(Response::builder(), |response, number| response.header(format!("x-{number}"), "1"));
        response.body(Body::default()).unwrap()
    })
    .await;
    let mesh = Mesh::with(&[callee.address], json!({"protocol": "Http"}), &[]);
    let seen = mesh.get("/").await;
    assert_eq!(seen.status, 502);
    assert!(seen.has_reason("response_head_too_large") && seen.verdict().contains("domain=mesh"), "{}", seen.verdict());
}

#[tokio::test]
async fn tls_at_a_port_that_is_named_http_goes_through() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut hello = [0; 8];
        stream.read_exact(&mut hello).await.unwrap();
        stream.write_all(&hello).await.unwrap();
    });
    let mesh = Mesh::with(&[address], json!({"protocol": "Http"}), &[]);
    assert_eq!(send(&mesh, b"\x16\x03\x01hello").await.as_bytes(), b"\x16\x03\x01hello");
    assert_eq!(mesh.fates(1).await, counts(&[("succeeded", 1)]));
}
