use std::{net::SocketAddr, time::Duration};

use firebreak_proxy::Settings;
use http::Request;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::sleep,
};

use super::support::{Body, Callee, Mesh, call, free_address};

/// Reads a request without a body.
async fn head(stream: &mut TcpStream) {
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut seen).await.unwrap() == 0 {
            return;
        }
    }
}

/// A callee that answers the first request of each connection and then does what `then` says.
async fn after_one<F: Future<Output = ()> + Send>(then: impl Fn(TcpStream) -> F + Copy + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                head(&mut stream).await;
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                then(stream).await;
            });
        }
    });
    address
}

async fn post(mesh: &Mesh, id: &str) -> String {
    let request = Request::post("/pay").header("host", "callee").header("x-request-id", id);
    call(mesh.address, request.body(Body::default()).unwrap()).await.unwrap().verdict().to_owned()
}

#[tokio::test]
async fn a_kept_connection_that_the_callee_closed_is_named_with_its_evidence() {
    // It closes just when the second request comes, as a server does whose idle time is over.
    let callee = after_one(|mut stream| async move { head(&mut stream).await }).await;
    let mesh = Mesh::new(&[callee], json!({}));
    mesh.get("/").await;
    // Idle time is what the name depends on.
    sleep(Duration::from_millis(600)).await;
    let verdict = post(&mesh, "stale-one").await;
    assert!(verdict.contains("firebreak-reason=stale_connection; firebreak-domain=network"), "{verdict}");
    let record = &mesh.records("?reason=stale_connection", 1).await[0];
    let told = &record["tries"][0];
    let number = |name: &str| told[name].as_u64().unwrap();
    assert!(
        number("connection_idle_ms") >= 600 && number("connection_age_ms") >= number("connection_idle_ms"),
        "{told}"
    );
    assert!(number("bytes_sent") > 40 && number("bytes_received") == 0, "{told}");
    assert_eq!(told["connection_reused"], true);
}

#[tokio::test]
async fn a_connection_that_was_not_idle_for_long_is_not_called_stale() {
    let callee = after_one(|mut stream| async move { head(&mut stream).await }).await;
    let mesh = Mesh::new(&[callee], json!({}));
    mesh.get("/").await;
    let verdict = post(&mesh, "crash").await;
    assert!(verdict.contains("firebreak-reason=connection_reset;"), "{verdict}");
}

#[tokio::test]
async fn how_long_a_callee_lets_connections_be_idle_is_learned() {
    let callee = after_one(|stream| async move {
        sleep(Duration::from_millis(700)).await;
        drop(stream);
    })
    .await;
    let mesh = Mesh::new(&[callee], json!({}));
    let learned = async || {
        mesh.metrics().await.lines().find_map(|line| {
            line.strip_prefix("firebreak_callee_idle_timeout_seconds{")?.split(' ').nth(1)?.parse::<f64>().ok()
        })
    };
    for _ in 0..3 {
        assert_eq!(learned().await, None);
        mesh.get("/").await;
        sleep(Duration::from_millis(1100)).await;
    }
    let seconds = learned().await.unwrap();
    assert!((0.63..0.8).contains(&seconds), "{seconds}");
    mesh.get("/").await;
    // Four fifths of it are over.
    sleep(Duration::from_millis(650)).await;
    mesh.get("/").await;
    let metrics = mesh.metrics().await;
    assert!(
        metrics.lines().any(|line| line.starts_with("firebreak_connections_given_up_total{") && line.ends_with(" 1"))
    );
    assert!(!metrics.contains("firebreak_connections_replaced_total{"), "{metrics}");
}

#[tokio::test]
async fn the_error_of_the_system_and_the_policys_generation_are_told() {
    let mut mesh = Mesh::new(&[free_address()], json!({"timeouts": {"connect": "5s"}}));
    mesh.change(|config| config["entries"][1]["generation"] = json!(7));
    mesh.get("/").await;
    let record = &mesh.records("", 1).await[0];
    assert_eq!((&record["policy"], &record["policy_generation"]), (&json!("shop/test"), &json!(7)));
    let told = &record["tries"][0];
    assert_eq!((&told["errno"], &told["bytes_sent"]), (&json!("ECONNREFUSED"), &Value::Null), "no connection");
}

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test]
async fn a_callee_whose_own_callee_failed_says_so() {
    // As the callee's own proxy says it: proxy/src/http/lineage/tests.rs shows when it does.
    let said = "\"callee-pod\"; received-status=500; firebreak-reason=callee_error; firebreak-domain=callee_dependency; \
                firebreak-attempts=1; firebreak-dependency=\"shop/db:5432\"; details=\"\"";
    let callee = Callee::start(move |_, request| async move {
        let status = if request.uri().path() == "/own" { None } else { Some(said) };
        let mut response = http::Response::builder().status(500);
        if let Some(said) = status {
            response = response.header("proxy-status", said);
        }
        response.body(Body::default()).unwrap()
    })
    .await;
    let mesh =
        Mesh::set(Settings::default(), &[callee.address], json!({"protocol": "Http"}), &[("TrafficPolicy", json!({}))]);
    let own = mesh.send(Request::get("/own").header("traceparent", TRACE)).await;
    assert!(own.verdict().contains("firebreak-domain=callee_app;"), "{}", own.verdict());
    let deeper = mesh.send(Request::get("/deeper").header("traceparent", TRACE)).await;
    let verdict = deeper.verdict();
    assert!(verdict.contains("firebreak-reason=callee_error; firebreak-domain=callee_dependency;"), "{verdict}");
    assert!(verdict.contains("firebreak-dependency=\"shop/db:5432\""), "{verdict}");
    let record = &mesh.records("", 2).await[0];
    assert_eq!((&record["dependency"], &record["fault_domain"]), (&json!("shop/db:5432"), &json!("callee_dependency")));
    assert!(mesh.metrics().await.contains("reason=\"callee_error\",fault_domain=\"callee_dependency\"} 1"));
}
