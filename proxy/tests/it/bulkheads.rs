use std::{sync::Arc, time::Duration};

use serde_json::json;

use super::support::{Callee, Mesh, Seen, counts};

#[tokio::test]
async fn the_talks_second_example() {
    let hanging = Callee::hanging().await;
    let policy = json!({"bulkhead": {"maxConnections": 100, "maxPending": 100, "maxPendingTime": "1m"}});
    let mesh = Arc::new(Mesh::new(&[hanging.address], policy));
    let under_way = mesh.get_together(200);
    wait_for(&mesh, "resource=\"pending\"} 100").await;
    let seen: Seen = mesh.get("/").await;
    assert_eq!(seen.status, 503);
    assert!(seen.has_reason("bulkhead_full") && seen.headers.contains_key("retry-after"), "{}", seen.verdict());
    assert!(seen.took < Duration::from_millis(500), "at once: {:?}", seen.took);
    assert_eq!((hanging.requests(), hanging.connections()), (100, 100), "no more than 100 ever got through");
    under_way.iter().for_each(tokio::task::JoinHandle::abort);
    assert_eq!(mesh.fates(201).await, counts(&[("cancelled", 200), ("refused_by_bulkhead", 1)]));
    wait_for(&mesh, "resource=\"requests\"} 0").await;
    wait_for(&mesh, "resource=\"connections\"} 0").await;
}

#[tokio::test]
async fn who_waits_too_long_is_told() {
    let hanging = Callee::hanging().await;
    let mesh =
        Arc::new(Mesh::new(&[hanging.address], json!({"bulkhead": {"maxRequests": 1, "maxPendingTime": "100ms"}})));
    let first = tokio::spawn({
        let mesh = Arc::clone(&mesh);
        async move { mesh.get("/").await }
    });
    wait_for(&mesh, "resource=\"requests\"} 1").await;
    let seen = mesh.get("/").await;
    assert!(seen.has_reason("bulkhead_timeout"), "{}", seen.verdict());
    assert!(seen.took >= Duration::from_millis(100));
    first.abort();
}

#[tokio::test]
async fn waiting_does_not_run_the_attempts_clock() {
    let callee = Callee::slow(Duration::from_millis(150)).await;
    let policy = json!({"bulkhead": {"maxRequests": 1, "maxPendingTime": "5s"}, "timeouts": {"attempt": "250ms"}});
    let mesh = Arc::new(Mesh::new(&[callee.address], policy));
    let all = mesh.get_together(5);
    for answered in all {
        assert_eq!(answered.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn idle_connections_to_one_endpoint_make_room_for_another() {
    let (a, b) = (Callee::answering(&[200]).await, Callee::answering(&[200]).await);
    let mesh = Mesh::new(&[a.address, b.address], json!({"bulkhead": {"maxConnections": 1}}));
    for _ in 0..6 {
        assert_eq!(mesh.get("/").await.status, 200);
    }
    assert_eq!((a.requests(), b.requests()), (3, 3));
    wait_for(&mesh, "resource=\"connections\"} 1").await;
}

/// Connections land on either worker; the limit is one for both together.
#[tokio::test]
async fn limits_are_exact_across_workers_and_an_idle_connection_of_one_makes_room_for_the_other() {
    let callee = Callee::answering(&[200]).await;
    let policy = json!({"bulkhead": {"maxConnections": 1, "maxPending": 100, "maxPendingTime": "30s"}});
    let mesh = Arc::new(Mesh::on(2, &[callee.address], json!({"protocol": "Http"}), &[("TrafficPolicy", policy)]));
    for _ in 0..30 {
        assert_eq!(mesh.get("/").await.status, 200, "one at a time");
    }
    let together = mesh.get_together(30);
    for answered in together {
        assert_eq!(answered.await.unwrap().status, 200, "all at once");
    }
    assert_eq!(mesh.fates(60).await, counts(&[("succeeded", 60)]));
    wait_for(&mesh, "resource=\"connections\"} 1").await;
}

pub(crate) async fn wait_for(mesh: &Mesh, line: &str) {
    let of_bulkhead = "firebreak_bulkhead_in_use{";
    let shown = |found: &str| found.starts_with(of_bulkhead) && found.ends_with(line);
    mesh.until(of_bulkhead, |metrics| metrics.lines().any(shown)).await;
}

#[tokio::test]
async fn waiting_is_not_the_callees_silence() {
    let callee = Callee::slow(Duration::from_millis(300)).await;
    let policy = json!({"bulkhead": {"maxRequests": 1, "maxPendingTime": "5s"}, "timeouts": {"idle": "500ms"}});
    let mesh = Arc::new(Mesh::new(&[callee.address], policy));
    let all = mesh.get_together(4);
    for answered in all {
        assert_eq!(answered.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_full_bulkhead_says_so_where_the_protocol_is_not_declared() {
    let hanging = Callee::hanging().await;
    let policy = json!({"bulkhead": {"maxConnections": 1, "maxPending": 0}});
    let mesh = Arc::new(Mesh::with(&[hanging.address], json!({"protocol": "Detect"}), &[("TrafficPolicy", policy)]));
    let first = tokio::spawn({
        let mesh = Arc::clone(&mesh);
        async move { mesh.get("/").await }
    });
    wait_for(&mesh, "resource=\"requests\"} 1").await;
    while hanging.requests() == 0 {
        tokio::task::yield_now().await;
    }
    let seen = mesh.get("/").await;
    assert!(seen.has_reason("bulkhead_full") && seen.verdict().contains("attempts=0"), "{}", seen.verdict());
    first.abort();
    assert_eq!(mesh.fates(2).await, counts(&[("cancelled", 1), ("refused_by_bulkhead", 1)]));
}

#[tokio::test]
async fn a_callee_that_comes_back_is_counted_as_before() {
    let hanging = Callee::hanging().await;
    let mut mesh = Mesh::new(&[hanging.address], json!({"bulkhead": {"maxRequests": 100}}));
    let address = mesh.address;
    let first = tokio::spawn(async move {
        super::support::call(
            address,
            http::Request::get("/").header("host", "callee").body(super::support::Body::default()).unwrap(),
        )
        .await
    });
    wait_for(&mesh, "resource=\"requests\"} 1").await;
    let mut service = serde_json::Value::Null;
    mesh.change(|config| service = config["entries"].as_array_mut().unwrap().remove(0));
    mesh.change(|config| {
        config["entries"].as_array_mut().unwrap().insert(0, service);
        config["entries"][1]["body"]["bulkhead"] = json!({"maxRequests": 1, "maxPending": 0});
    });
    wait_for(&mesh, "resource=\"requests\"} 1").await;
    assert!(mesh.metrics().await.contains("resource=\"requests\"} 1\n"), "the new limit is shown");
    let seen = mesh.get("/").await;
    assert!(seen.has_reason("bulkhead_full"), "the request from before still counts: {}", seen.verdict());
    first.abort();
    wait_for(&mesh, "resource=\"requests\"} 0").await;
}
