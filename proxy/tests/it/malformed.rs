//! What is not HTTP, or too much of it, is refused with a reason and entered in the books.

use http::{Request, Response};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::Instant,
};

use super::support::{Body, Callee, Mesh, connect_h1, counts, read};

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

/// What the HTTP library answers by itself to a broken head, as somebody's content.
const BARE: &str = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

#[tokio::test]
async fn a_body_that_looks_like_a_refusal_arrives_untouched() {
    let callee = Callee::start(|_, _| async { Response::new(Body::from(BARE)) }).await;
    let mesh = Mesh::with(&[callee.address], json!({"protocol": "Http"}), &[]);
    let mut sender = connect_h1(mesh.address).await;
    for _ in 0..3 {
        let request = Request::get("/").header("host", "callee").body(Body::default()).unwrap();
        let seen = read(sender.send_request(request).await.unwrap(), Instant::now()).await.unwrap();
        assert_eq!((seen.status.as_u16(), &seen.body[..]), (200, BARE.as_bytes()));
    }
    assert_eq!(mesh.fates(3).await, counts(&[("succeeded", 3)]));
}

#[tokio::test]
async fn so_do_such_bytes_on_an_upgraded_connection() {
    let mesh = Mesh::new(&[super::protocols::switching_callee().await], json!({}));
    let mut sender = connect_h1(mesh.address).await;
    let request =
        Request::get("/ws").header("host", "callee").header("connection", "Upgrade").header("upgrade", "websocket");
    let response = sender.send_request(request.body(Body::default()).unwrap()).await.unwrap();
    let mut socket = hyper_util::rt::TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let (head, tail) = BARE.split_at(20);
    for part in [head, tail, BARE] {
        socket.write_all(part.as_bytes()).await.unwrap();
        let mut echo = vec![0; part.len()];
        socket.read_exact(&mut echo).await.unwrap();
        assert_eq!(echo, part.as_bytes());
    }
}
