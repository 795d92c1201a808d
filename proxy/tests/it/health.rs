//! Health checks, seen from outside: what endpoints are asked, and who gets requests for it.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::support::{Callee, Mesh, free_address};

/// A callee whose health is set at the time: a status, or what gRPC says. Zero is silence.
struct Patient {
    callee: Callee,
    health: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

/// One body for all answers.
type Frames = StreamBody<futures::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

fn frames(data: &[u8], status: Option<&'static str>) -> Frames {
    let trailers = status.map(|status| {
        Frame::trailers(HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), status.parse().unwrap())]))
    });
    let data = (!data.is_empty()).then(|| Frame::data(Bytes::copy_from_slice(data)));
    StreamBody::new(futures::stream::iter(data.into_iter().chain(trailers).map(Ok).collect::<Vec<_>>()))
}

impl Patient {
    async fn new(health: usize) -> Self {
        let (health, requests) = (Arc::new(AtomicUsize::new(health)), Arc::new(AtomicUsize::new(0)));
        let (set, counted) = (Arc::clone(&health), Arc::clone(&requests));
        let callee = Callee::serve(move |_, _, request| {
            let (path, health) = (request.uri().path().to_owned(), set.load(SeqCst));
            counted.fetch_add(usize::from(path == "/"), SeqCst);
            async move {
                match (path.as_str(), u16::try_from(health).unwrap()) {
                    ("/healthz" | "/grpc.health.v1.Health/Check", 0) => std::future::pending().await,
                    ("/healthz", status) => {
                        assert_eq!(request.headers()["host"], "patient.example");
                        assert!(
                            request.headers()["user-agent"].to_str().unwrap().starts_with("firebreak-health-check/")
                        );
                        Response::builder().status(status).body(frames(b"", None)).unwrap()
                    }
                    ("/grpc.health.v1.Health/Check", status) => {
                        let asked = request.into_body().collect().await.unwrap().to_bytes();
                        assert_eq!(&asked[..], b"\0\0\0\0\x0b\x0a\x09shop.Cart");
                        let (message, status) = match status {
                            12 => (Vec::new(), "12"),
                            health => (vec![0, 0, 0, 0, 2, 8, u8::try_from(health).unwrap()], "0"),
                        };
                        let body = frames(&message, Some(status));
                        Response::builder().header("content-type", "application/grpc").body(body).unwrap()
                    }
                    _ => Response::new(frames(b"hello", None)),
                }
            }
        });
        Self { callee: callee.await, health, requests }
    }
}

fn policy(check: &Value) -> Value {
    let mut spec = json!({"interval": "100ms", "unhealthyAfter": 2, "healthyAfter": 1});
    spec.as_object_mut().unwrap().extend(check.as_object().unwrap().clone());
    json!({"healthCheck": spec})
}

fn mesh(endpoints: &[SocketAddr], check: &Value) -> Mesh {
    Mesh::new(endpoints, policy(check))
}

/// Waits until so many endpoints are in this state.
async fn until(mesh: &Mesh, state: &str, count: usize) {
    let labels = "direction=\"outbound\",service=\"shop/callee\",port=\"80\"";
    let line = format!("firebreak_endpoints{{{labels},state=\"{state}\"}} {count}");
    let deadline = Instant::now() + Duration::from_secs(10);
    while !mesh.metrics().await.lines().any(|it| it == line) {
        assert!(Instant::now() < deadline, "{line} expected: {}", mesh.metrics().await);
        tokio::task::yield_now().await;
    }
}

/// How many of twenty requests each of them gets.
async fn shares(mesh: &Mesh, patients: [&Patient; 2]) -> [usize; 2] {
    let before = patients.map(|patient| patient.requests.load(SeqCst));
    for _ in 0..20 {
        assert_eq!(mesh.get("/").await.body, "hello");
    }
    [0, 1].map(|which| patients[which].requests.load(SeqCst) - before[which])
}

#[tokio::test]
async fn an_endpoint_that_says_that_it_is_ill_gets_nothing_until_it_is_well() {
    let http = json!({"http": {"path": "/healthz", "host": "patient.example"}});
    let grpc = json!({"grpc": {"service": "shop.Cart"}});
    // What is well and what is ill, over HTTP and in the words of gRPC; a redirect is an answer too.
    for (check, well, ill) in [(&http, 200, 503), (&http, 302, 404), (&grpc, 1, 2), (&grpc, 1, 12)] {
        let (one, other) = (Patient::new(well).await, Patient::new(well).await);
        let mesh = mesh(&[one.callee.address, other.callee.address], check);
        assert_eq!(shares(&mesh, [&one, &other]).await, [10, 10], "{check} {well}");
        one.health.store(ill, SeqCst);
        until(&mesh, "unhealthy", 1).await;
        assert_eq!(shares(&mesh, [&one, &other]).await, [0, 20], "{check} {ill}");
        one.health.store(well, SeqCst);
        until(&mesh, "unhealthy", 0).await;
        assert_eq!(shares(&mesh, [&one, &other]).await, [10, 10], "{check} {well}");
        let metrics = mesh.metrics().await;
        for result in ["passed", "failed"] {
            let counted = |line: &str| line.starts_with("firebreak_health_checks_total{") && line.contains(result);
            assert!(metrics.lines().any(counted), "{result}: {metrics}");
        }
    }
}

#[tokio::test]
async fn silence_is_illness_and_where_all_are_ill_all_are_used() {
    let (one, other) = (Patient::new(200).await, Patient::new(0).await);
    let check = json!({"http": {"path": "/healthz", "host": "patient.example"}, "timeout": "50ms"});
    let mesh = mesh(&[one.callee.address, other.callee.address], &check);
    until(&mesh, "unhealthy", 1).await;
    assert_eq!(shares(&mesh, [&one, &other]).await, [20, 0]);
    one.health.store(500, SeqCst);
    until(&mesh, "unhealthy", 2).await;
    assert_eq!(shares(&mesh, [&one, &other]).await, [10, 10]);
}

#[tokio::test]
async fn a_port_that_nobody_listens_at_is_ill_before_a_request_finds_out() {
    let (one, gone) = (Patient::new(200).await, free_address());
    let mesh = mesh(&[gone, one.callee.address], &json!({"tcp": {}}));
    until(&mesh, "unhealthy", 1).await;
    assert_eq!(shares(&mesh, [&one, &one]).await, [20, 20]);
}

#[tokio::test]
async fn another_port_may_be_asked() {
    let (one, other, manager) = (Patient::new(200).await, Patient::new(200).await, Patient::new(503).await);
    let port = manager.callee.address.port();
    let check = json!({"http": {"path": "/healthz", "host": "patient.example"}, "port": port});
    let mesh = mesh(&[one.callee.address, other.callee.address], &check);
    until(&mesh, "unhealthy", 2).await;
    manager.health.store(200, SeqCst);
    until(&mesh, "unhealthy", 0).await;
}
