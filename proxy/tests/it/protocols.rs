use http::{HeaderMap, HeaderValue, Request, Response, Version};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::Instant,
};

use super::support::{Body, Callee, Mesh, connect_h1, connect_h2, counts, h2_request, read};

#[tokio::test]
async fn http2_stays_http2_and_streams_share_a_connection() {
    let callee = Callee::start(|_, request| async move {
        Response::new(Body::from(format!("{:?} {}", request.version(), request.uri().authority().unwrap())))
    })
    .await;
    let mesh = Mesh::new(&[callee.address], json!({"timeouts": {"request": "5s"}}));
    let sender = connect_h2(mesh.address).await;
    let calls = (0..50).map(|_| {
        let mut sender = sender.clone();
        async move {
            let response = sender.send_request(h2_request("/").body(Body::default()).unwrap()).await.unwrap();
            read(response, Instant::now()).await.unwrap().body
        }
    });
    for body in futures::future::join_all(calls).await {
        assert_eq!(&body[..], b"HTTP/2.0 callee");
    }
    assert_eq!(callee.connections(), 1);
    assert_eq!(mesh.fates(50).await, counts(&[("succeeded", 50)]));
}

/// A gRPC callee: one message, then the status that the path says, in trailers.
async fn grpc_callee() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async move {
                let status = HeaderValue::from_str(&request.uri().path()[1..]).unwrap();
                let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), status)]);
                let frames = [Frame::data(bytes::Bytes::from_static(b"\0\0\0\0\x02hi")), Frame::trailers(trailers)];
                let body = StreamBody::new(futures::stream::iter(frames.map(Ok::<_, std::convert::Infallible>)));
                Ok::<_, std::convert::Infallible>(
                    Response::builder().header("content-type", "application/grpc").body(body).unwrap(),
                )
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            let builder = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
            tokio::spawn(builder.serve_connection(io, service));
        }
    });
    address
}

async fn grpc_call(mesh: &Mesh, path: &str) -> super::support::Seen {
    let mut sender = connect_h2(mesh.address).await;
    let request = h2_request(path).method("POST").header("content-type", "application/grpc").header("te", "trailers");
    let response = sender.send_request(request.body(Body::from("\0\0\0\0\0")).unwrap()).await.unwrap();
    read(response, Instant::now()).await.unwrap()
}

#[tokio::test]
async fn grpc_trailers_go_through_and_are_read() {
    let mesh = Mesh::new(&[grpc_callee().await], json!({"timeouts": {"request": "5s"}}));
    let seen = grpc_call(&mesh, "/0").await;
    assert_eq!(seen.trailers.unwrap()["grpc-status"], "0");
    let seen = grpc_call(&mesh, "/14").await;
    let trailers = seen.trailers.unwrap();
    assert_eq!((seen.status.as_u16(), &trailers["grpc-status"]), (200, &HeaderValue::from_static("14")));
    assert!(trailers["proxy-status"].to_str().unwrap().contains("firebreak-reason=callee_error;"), "{trailers:?}");
    assert_eq!(mesh.fates(2).await, counts(&[("failed", 1), ("succeeded", 1)]));
}

#[tokio::test]
async fn grpc_is_answered_in_grpc() {
    let hanging = Callee::hanging().await;
    let mesh = Mesh::new(&[hanging.address], json!({"timeouts": {"attempt": "100ms"}}));
    let seen = grpc_call(&mesh, "/shop.Cart/Get").await;
    assert_eq!(seen.status, 200);
    assert_eq!(seen.headers["grpc-status"], "4", "a deadline, which clients do not take for an invitation to retry");
    assert_eq!(seen.headers["content-type"], "application/grpc");
    assert!(seen.has_reason("attempt_timeout"), "{}", seen.verdict());
}

#[tokio::test]
async fn an_injected_grpc_status_is_a_grpc_status() {
    let hanging = Callee::hanging().await;
    let fault = json!({"faults": [{"abort": {"percent": 100, "grpcStatus": 8}}], "expiresAt": "2100-01-01T00:00:00Z", "duration": "1h"});
    let mesh = Mesh::with(&[hanging.address], json!({"protocol": "Http"}), &[("FaultSpec", fault)]);
    assert_eq!(grpc_call(&mesh, "/a").await.headers["grpc-status"], "8");
    assert_eq!(mesh.get("/").await.status, 429, "the same in HTTP's words");
}

/// A callee that switches to a protocol which echoes.
pub(crate) async fn switching_callee() -> std::net::SocketAddr {
    let callee = Callee::start(|_, request| async move {
        assert_eq!(request.headers()["upgrade"], "websocket");
        tokio::spawn(async move {
            let mut upgraded = hyper_util::rt::TokioIo::new(hyper::upgrade::on(request).await.unwrap());
            let mut buffer = [0; 256];
            while let Ok(count @ 1..) = upgraded.read(&mut buffer).await {
                upgraded.write_all(&buffer[..count]).await.unwrap();
            }
        });
        let response = Response::builder().status(101).header("upgrade", "websocket").header("connection", "upgrade");
        response.body(Body::default()).unwrap()
    })
    .await;
    callee.address
}

#[tokio::test]
async fn an_upgraded_connection_lives_through_a_config_change() {
    let mut mesh = Mesh::new(&[switching_callee().await], json!({"timeouts": {"request": "200ms"}}));
    let mut sender = connect_h1(mesh.address).await;
    let request =
        Request::get("/ws").header("host", "callee").header("connection", "Upgrade").header("upgrade", "websocket");
    let response = sender.send_request(request.body(Body::default()).unwrap()).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["upgrade"]),
        (101, &HeaderValue::from_static("websocket"))
    );
    let mut socket = hyper_util::rt::TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    for round in 0..3 {
        socket.write_all(b"ping").await.unwrap();
        let mut echo = [0; 4];
        socket.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"ping");
        mesh.change(|config| {
            config["entries"][1]["body"]["timeouts"]["connect"] = Value::from(format!("{}s", round + 1));
        });
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    }
    super::bulkheads::wait_for(&mesh, "resource=\"connections\"} 1").await;
    drop(socket);
    assert_eq!(mesh.fates(1).await, counts(&[("succeeded", 1)]), "after the switch only idle counts");
    super::bulkheads::wait_for(&mesh, "resource=\"connections\"} 0").await;
}

#[tokio::test]
async fn a_server_that_speaks_first_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(b"220 mail ready\r\n").await.unwrap();
            let mut line = [0; 6];
            stream.read_exact(&mut line).await.unwrap();
            stream.write_all(b"250 ok\r\n").await.unwrap();
        }
    });
    let mesh = Mesh::with(&[address], json!({"protocol": "Detect"}), &[]);
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    let mut greeting = [0; 16];
    stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"220 mail ready\r\n");
    stream.write_all(b"HELO\r\n").await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"250 ok\r\n");
    drop(stream);
    assert_eq!(mesh.fates(1).await, counts(&[("succeeded", 1)]));
}

#[tokio::test]
async fn http_is_recognised_and_uses_the_connection_that_was_dialled() {
    let callee = Callee::answering(&[200]).await;
    let mesh = Mesh::with(&[callee.address], json!({"protocol": "Detect"}), &[]);
    assert_eq!(mesh.get("/").await.status, 200);
    let mut sender = connect_h2(mesh.address).await;
    let response = sender.send_request(h2_request("/").body(Body::default()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!((callee.requests(), callee.connections()), (2, 2), "one for each protocol, none for looking");
}

#[tokio::test]
async fn a_client_that_speaks_something_else_first_is_forwarded() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut command = [0; 14];
        stream.read_exact(&mut command).await.unwrap();
        assert_eq!(&command, b"*1\r\n$4\r\nPING\r\n");
        stream.write_all(b"+PONG\r\n").await.unwrap();
    });
    let mesh = Mesh::with(&[address], json!({"protocol": "Detect"}), &[]);
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    stream.write_all(b"*1\r\n$4\r\nPING\r\n").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"+PONG\r\n");
}

#[tokio::test]
async fn a_dead_callee_is_explained_to_http_and_reset_for_others() {
    let mesh = Mesh::with(&[super::support::free_address()], json!({"protocol": "Detect"}), &[]);
    let seen = mesh.get("/").await;
    assert_eq!(seen.status, 502);
    assert!(seen.has_reason("connection_refused"), "{}", seen.verdict());
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    stream.write_all(b"\x16\x03\x01hello").await.unwrap();
    let error = stream.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn header_case_trailers_and_chunks_survive_http1() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sent, received) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = vec![0; 4096];
        let count = stream.read(&mut head).await.unwrap();
        sent.send(String::from_utf8(head[..count].to_vec()).unwrap()).unwrap();
        let answer = "HTTP/1.1 200 OK\r\nX-CamelCase: 1\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        std::future::pending::<()>().await;
    });
    let mesh = Mesh::with(&[address], json!({"protocol": "Http"}), &[]);
    let mut stream = TcpStream::connect(mesh.address).await.unwrap();
    stream
        .write_all(b"GET /a?b=c HTTP/1.1\r\nHoSt: callee\r\nX-MyHeader: 1\r\nTE: trailers\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let (asked, answer) = (received.await.unwrap(), String::from_utf8(answer).unwrap());
    assert!(asked.starts_with("GET /a?b=c HTTP/1.1\r\n") && asked.contains("HoSt: callee\r\n"), "{asked}");
    assert!(asked.contains("X-MyHeader: 1\r\n") && !asked.contains("onnection"), "{asked}");
    assert!(answer.contains("X-CamelCase: 1\r\n"), "{answer}");
    // The HTTP library writes the names of trailers in lower case.
    assert!(answer.contains("2\r\nhi\r\n0\r\nx-sum: 7\r\n"), "{answer}");
}

#[tokio::test]
async fn a_head_request_has_no_body_and_keeps_its_length() {
    let callee = Callee::start(|_, _| async {
        Response::builder().header("content-length", "12345").body(Body::default()).unwrap()
    })
    .await;
    let mesh = Mesh::with(&[callee.address], json!({"protocol": "Http"}), &[]);
    let mut sender = connect_h1(mesh.address).await;
    for _ in 0..2 {
        let request = Request::head("/").header("host", "callee").body(Body::default()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.headers()["content-length"], "12345");
        assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
        sender.ready().await.unwrap();
    }
}

#[tokio::test]
async fn old_versions_on_one_side_do_not_reach_the_other() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 1024];
            let count = stream.read(&mut head).await.unwrap();
            assert!(String::from_utf8_lossy(&head[..count]).starts_with("GET / HTTP/1.1\r\n"));
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nuntil the end").await.unwrap();
        }
    });
    let mesh = Mesh::with(&[address], json!({"protocol": "Http"}), &[]);
    let mut sender = connect_h1(mesh.address).await;
    for _ in 0..2 {
        let request = Request::get("/").header("host", "callee").body(Body::default()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.version(), Version::HTTP_11);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "until the end");
        sender.ready().await.unwrap();
    }
    let mut old = TcpStream::connect(mesh.address).await.unwrap();
    old.write_all(b"GET / HTTP/1.0\r\nHost: callee\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    old.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("\r\n\r\nuntil the end"), "{answer}");
}

#[tokio::test]
async fn the_clocks_hold_where_the_protocol_is_not_declared() {
    // A listener whose queue is full takes no connection: connecting hangs.
    let (listener, _queued) = super::support::full_listener().await;
    let policy = json!({"timeouts": {"request": "300ms"}});
    let address = listener.local_addr().unwrap();
    let mesh = Mesh::with(&[address], json!({"protocol": "Detect"}), &[("TrafficPolicy", policy)]);
    let seen = mesh.get("/").await;
    assert_eq!(seen.status, 504);
    assert!(seen.has_reason("request_timeout"), "{}", seen.verdict());
    assert!(seen.took < std::time::Duration::from_secs(1), "{:?}", seen.took);
    assert_eq!(mesh.fates(1).await, counts(&[("timed_out", 1)]));
}

#[tokio::test]
async fn a_grpc_call_that_was_not_answered_is_retried_as_unavailable() {
    let good = grpc_callee().await;
    let policy = json!({"retries": {"conditions": ["grpc-unavailable"]}});
    let mesh = Mesh::new(&[super::support::free_address(), good], policy);
    for _ in 0..4 {
        assert_eq!(grpc_call(&mesh, "/0").await.trailers.unwrap()["grpc-status"], "0");
    }
}

#[tokio::test]
async fn on_http2_a_request_begins_with_its_head() {
    let callee = Callee::start(|_, _| async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        Response::new(Body::from("ok"))
    })
    .await;
    let mesh = Mesh::new(&[callee.address], json!({"timeouts": {"request": "500ms"}}));
    let mut sender = connect_h2(mesh.address).await;
    for _ in 0..3 {
        let response = sender.send_request(h2_request("/").body(Body::default()).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200, "what came on the connection before does not count");
        drop(response.into_body().collect().await.unwrap());
        // The window update and the settings' acknowledgement that follow are bytes, but of no request.
        tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    }
}

#[tokio::test]
async fn an_answer_before_the_upload_is_over_leaves_no_half_used_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(1..) = stream.read(&mut buffer).await {
                    if stream.write_all(b"HTTP/1.1 401 No\r\ncontent-length: 2\r\n\r\nno").await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let mesh = Mesh::with(&[address], json!({"protocol": "Http"}), &[]);
    let mut uploader = TcpStream::connect(mesh.address).await.unwrap();
    uploader.write_all(b"POST / HTTP/1.1\r\nHost: callee\r\nContent-Length: 1000000\r\n\r\nbegin").await.unwrap();
    let mut head = [0; 12];
    uploader.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 401");
    let other = tokio::time::timeout(std::time::Duration::from_secs(2), mesh.get("/")).await;
    assert_eq!(other.expect("another request does not wait for somebody else's upload").status, 401);
}

#[tokio::test]
async fn a_request_without_a_host_gets_one() {
    let callee = Callee::start(|_, request| async move {
        Response::new(Body::from(request.headers()["host"].to_str().unwrap().to_owned()))
    })
    .await;
    let mesh = Mesh::with(&[callee.address], json!({"protocol": "Http"}), &[]);
    let mut old = TcpStream::connect(mesh.address).await.unwrap();
    old.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    old.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with(&format!("\r\n\r\n{}", mesh.address)), "{answer}");
}
