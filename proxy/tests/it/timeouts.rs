use std::time::Duration;

use http::Request;
use serde_json::json;
use tokio::time::sleep;

use super::support::{Body, Callee, Mesh, counts};

const MS: fn(u64) -> Duration = Duration::from_millis;

#[tokio::test]
async fn the_talks_first_example_on_a_callee_that_hangs() {
    let callee = Callee::hanging().await;
    let policy = json!({
        "timeouts": {"connect": "1s", "attempt": "300ms", "request": "3s"},
        "retries": {"maxRetries": 3, "conditions": ["5xx"]},
    });
    let mesh = Mesh::new(&[callee.address], policy);
    let seen = mesh.get("/").await;
    assert_eq!(seen.status, 504);
    assert!(
        seen.has_reason("attempt_timeout") && seen.verdict().contains("firebreak-attempts=4"),
        "{}",
        seen.verdict()
    );
    assert!(seen.took >= MS(1_200) && seen.took < MS(3_000), "{:?}", seen.took);
    assert_eq!(callee.requests(), 4);
    assert_eq!(mesh.fates(1).await, counts(&[("timed_out", 1)]));
    assert_eq!(mesh.attempts(4).await, counts(&[("timed_out", 4)]));
}

#[tokio::test]
async fn the_request_clock_ends_everything() {
    let callee = Callee::hanging().await;
    let policy = json!({"timeouts": {"attempt": "200ms", "request": "500ms"}, "retries": {"maxRetries": 9, "conditions": ["5xx"]}});
    let mesh = Mesh::new(&[callee.address], policy);
    let seen = mesh.get("/").await;
    assert_eq!(seen.status, 504);
    assert!(seen.took >= MS(400) && seen.took < MS(1_000), "{:?}", seen.took);
    assert_eq!(mesh.fates(1).await, counts(&[("timed_out", 1)]));
}

#[tokio::test]
async fn the_request_clock_also_ends_a_response_that_drips() {
    let callee = Callee::dripping(b".", MS(50)).await;
    let mesh = Mesh::new(&[callee.address], json!({"timeouts": {"request": "300ms"}}));
    let request = Request::get("/").header("host", "callee").body(Body::default()).unwrap();
    let cut = super::support::call(mesh.address, request).await;
    assert!(cut.is_err(), "a part must not look like the whole");
    assert_eq!(mesh.reasons(1).await, counts(&[("request_timeout", 1)]));
}

#[tokio::test]
async fn silence_ends_a_stream_and_bytes_keep_it_open() {
    let mesh = Mesh::new(&[Callee::dripping(b".", MS(50)).await.address], json!({"timeouts": {"idle": "200ms"}}));
    let seen = mesh.get("/?20").await;
    assert_eq!(seen.body.len(), 20, "a second of drops, none of them late");
    let silent = Mesh::new(&[Callee::dripping(b".", MS(1_000)).await.address], json!({"timeouts": {"idle": "200ms"}}));
    let request = Request::get("/").header("host", "callee").body(Body::default()).unwrap();
    assert!(super::support::call(silent.address, request).await.is_err());
    assert_eq!(silent.reasons(1).await, counts(&[("idle_timeout", 1)]));
}

#[tokio::test]
async fn silence_before_the_head_counts_too() {
    let callee = Callee::hanging().await;
    let mesh = Mesh::new(&[callee.address], json!({"timeouts": {"idle": "200ms"}}));
    let seen = mesh.get("/").await;
    assert_eq!(seen.status, 504);
    assert!(seen.has_reason("idle_timeout"), "{}", seen.verdict());
}

#[tokio::test]
async fn a_route_has_its_own_clocks() {
    let callee = Callee::start(|_, _| async {
        sleep(MS(300)).await;
        http::Response::new(Body::from("done"))
    })
    .await;
    let policy = json!({
        "timeouts": {"attempt": "100ms"},
        "routes": [{"match": {"path": {"prefix": "/reports"}}, "timeouts": {"attempt": "5s"}}],
    });
    let mesh = Mesh::new(&[callee.address], policy);
    assert_eq!(mesh.get("/reports/q3").await.status, 200);
    assert_eq!(mesh.get("/other").await.status, 504);
}

#[tokio::test]
async fn the_connect_clock_ends_a_connection_that_does_not_open() {
    let (listener, _queued) = super::support::full_listener().await;
    let policy = json!({"timeouts": {"connect": "200ms", "attempt": "2s"}, "retries": {"maxRetries": 1, "conditions": ["connect-failure"]}});
    let mesh = Mesh::new(&[listener.local_addr().unwrap()], policy);
    let seen = mesh.send(Request::post("/")).await;
    assert_eq!(seen.status, 504);
    assert!(seen.has_reason("connect_timeout") && seen.verdict().contains("attempts=2"), "{}", seen.verdict());
    assert!(seen.took >= MS(400) && seen.took < MS(1_500), "{:?}", seen.took);
    assert_eq!(mesh.fates(1).await, counts(&[("unreachable", 1)]));
}
