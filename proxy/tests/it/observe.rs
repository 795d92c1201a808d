//! A policy that is observed: what callers get is the same, and the counters say what would have been.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::support::{Body, Callee, Mesh, counts};

/// A proxy that enforces `enforced` and observes `observed`.
fn mesh(callee: &Callee, enforced: Value, observed: Value) -> Mesh {
    let mut policy = enforced;
    policy["observe"] = observed;
    Mesh::new(&[callee.address], policy)
}

async fn observed(mesh: &Mesh, protection: &str, would: &str) -> u64 {
    let labels = format!("protection=\"{protection}\",would=\"{would}\"}}");
    let metrics = mesh.metrics().await;
    let line = metrics.lines().find(|line| line.starts_with("firebreak_observed_total{") && line.contains(&labels));
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

/// What would have been done by now, once it is as often as expected.
async fn would(mesh: &Mesh, protection: &str, would: &str, times: u64) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while observed(mesh, protection, would).await != times {
        let seen = mesh.metrics().await;
        let seen: Vec<_> = seen.lines().filter(|line| line.starts_with("firebreak_observed")).collect();
        assert!(Instant::now() < deadline, "{times} times {protection} {would} expected: {seen:#?}");
        tokio::task::yield_now().await;
    }
}

async fn slow(pause: Duration) -> Callee {
    Callee::start(move |_, _| async move {
        tokio::time::sleep(pause).await;
        http::Response::new(Body::from("ok"))
    })
    .await
}

#[tokio::test]
async fn the_harshest_policy_changes_nothing_while_it_is_observed() {
    let callee = slow(Duration::from_millis(20)).await;
    let harsh = json!({
        "rateLimit": {"requestsPerSecond": 1, "burst": 2},
        "bulkhead": {"maxRequests": 1, "maxPending": 0},
        "circuitBreaker": {"force": "Open"},
        "timeouts": {"attempt": "1ms", "request": "1ms"},
        "retries": {"maxRetries": 3, "conditions": ["5xx"]},
        "hedge": {"after": "1ms", "maxExtraLoadPercent": 100},
        "outlierDetection": {"consecutiveFailures": 1},
    });
    let mesh = Arc::new(mesh(&callee, json!({}), harsh));
    let under_way: Vec<_> = (0..20)
        .map(|_| {
            let mesh = Arc::clone(&mesh);
            tokio::spawn(async move { mesh.get("/").await })
        })
        .collect();
    for seen in under_way {
        let seen = seen.await.unwrap();
        assert_eq!((seen.status.as_u16(), &seen.body[..], seen.verdict()), (200, &b"ok"[..], ""));
    }
    assert_eq!(mesh.fates(20).await, counts(&[("succeeded", 20)]));
    assert_eq!(callee.requests(), 20, "nothing was sent twice");
    assert!(
        mesh.metrics().await.contains(
            "firebreak_observed_requests_total{direction=\"outbound\",service=\"shop/callee\",port=\"80\"} 20"
        )
    );
    assert!(observed(&mesh, "rate_limit", "refuse").await >= 16);
}

#[tokio::test]
async fn a_rate_limit_that_is_observed_counts_what_it_would_have_refused() {
    let callee = Callee::answering(&[200]).await;
    for (burst, expected) in [(1_000_000, 0), (1, 1)] {
        let mesh = mesh(&callee, json!({}), json!({"rateLimit": {"requestsPerSecond": 1, "burst": burst}}));
        for _ in 0..5 {
            assert_eq!(mesh.get("/").await.status, 200);
        }
        let refused = observed(&mesh, "rate_limit", "refuse").await;
        assert!(refused.min(1) == expected, "{refused} of 5, with a burst of {burst}");
    }
}

#[tokio::test]
async fn a_breaker_that_is_observed_opens_and_refuses_in_the_books_only() {
    let callee = Callee::answering(&[500]).await;
    let breaker = json!({"circuitBreaker": {"tripOn": {"consecutiveFailures": 3}, "openFor": {"initial": "1m"}}});
    let mesh = mesh(&callee, json!({}), breaker);
    for _ in 0..10 {
        assert_eq!(mesh.get("/").await.status, 500);
    }
    would(&mesh, "breaker", "open", 1).await;
    would(&mesh, "breaker", "refuse", 7).await;
    let metrics = mesh.metrics().await;
    let labels = "direction=\"outbound\",service=\"shop/callee\",port=\"80\",state=\"open\"";
    assert!(metrics.contains(&format!("firebreak_observed_breaker_state{{{labels}}} 1")), "{metrics}");
    assert!(!metrics.contains("firebreak_breaker_state{"), "that is of what is enforced");
    assert_eq!(callee.requests(), 10);
}

#[tokio::test]
async fn clocks_that_are_observed_end_tries_in_the_books_only() {
    let callee = slow(Duration::from_millis(60)).await;
    let mesh = mesh(&callee, json!({}), json!({"timeouts": {"attempt": "10ms"}}));
    for _ in 0..3 {
        assert_eq!(mesh.get("/").await.status, 200);
    }
    would(&mesh, "timeout", "time_out", 3).await;
}

#[tokio::test]
async fn retries_that_are_observed_are_counted_and_not_made() {
    let callee = Callee::answering(&[503]).await;
    let budget = json!({"percent": 0, "minPerSecond": 1, "window": "2s"});
    let mesh = mesh(&callee, json!({}), json!({"retries": {"budget": budget}}));
    for _ in 0..6 {
        assert_eq!(mesh.get("/").await.status, 503);
    }
    mesh.fates(6).await;
    would(&mesh, "retry", "retry", 2).await;
    assert_eq!(callee.requests(), 6);
}

#[tokio::test]
async fn enforced_retries_are_the_tries_that_an_observed_policy_sees() {
    let callee = Callee::answering(&[503, 503, 200]).await;
    let enforced = json!({"retries": {"maxRetries": 3, "backoff": {"base": "1ms", "max": "1ms"}}});
    let mesh = mesh(&callee, enforced, json!({"retries": {"maxRetries": 1}}));
    assert_eq!(mesh.get("/").await.status, 200);
    mesh.fates(1).await;
    would(&mesh, "retry", "retry", 1).await;
    assert_eq!(callee.requests(), 3);
}

#[tokio::test]
async fn hedging_that_is_observed_is_counted_and_not_done() {
    let callee = slow(Duration::from_millis(60)).await;
    let mesh = mesh(&callee, json!({}), json!({"hedge": {"after": "10ms", "maxExtraLoadPercent": 50}}));
    for _ in 0..4 {
        assert_eq!(mesh.get("/").await.status, 200);
    }
    mesh.fates(4).await;
    would(&mesh, "hedge", "hedge", 2).await;
    assert_eq!(callee.requests(), 4);
}

#[tokio::test]
async fn a_bulkhead_that_is_observed_queues_and_refuses_in_the_books_only() {
    let hanging = Callee::hanging().await;
    let limits = json!({"bulkhead": {"maxRequests": 2, "maxPending": 3, "maxPendingTime": "1m"}});
    let mesh = Arc::new(mesh(&hanging, json!({}), limits));
    let under_way: Vec<_> = (0..10)
        .map(|_| {
            let mesh = Arc::clone(&mesh);
            tokio::spawn(async move { mesh.get("/").await })
        })
        .collect();
    would(&mesh, "bulkhead", "queue", 3).await;
    would(&mesh, "bulkhead", "refuse", 5).await;
    while hanging.requests() < 10 {
        tokio::task::yield_now().await;
    }
    under_way.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn outliers_that_are_observed_are_ejected_in_the_books_only() {
    let (ill, well) = (Callee::answering(&[500]).await, Callee::answering(&[200]).await);
    let policy = json!({"observe": {"outlierDetection": {"consecutiveFailures": 2, "ejectFor": {"initial": "1m"}}}});
    let mesh = Mesh::new(&[ill.address, well.address], policy);
    for _ in 0..10 {
        mesh.get("/").await;
    }
    mesh.fates(10).await;
    assert_eq!((ill.requests(), well.requests()), (5, 5), "in turn, as without");
    would(&mesh, "outlier", "eject", 1).await;
    would(&mesh, "outlier", "divert", 3).await;
}

#[tokio::test]
async fn what_is_observed_goes_on_where_it_was_when_something_else_changes() {
    let callee = Callee::answering(&[500]).await;
    let breaker = json!({"circuitBreaker": {"tripOn": {"consecutiveFailures": 3}, "openFor": {"initial": "1m"}}});
    let mut mesh = mesh(&callee, json!({}), breaker);
    for _ in 0..3 {
        mesh.get("/").await;
    }
    mesh.fates(3).await;
    mesh.change(|config| config["entries"][1]["body"]["timeouts"] = json!({"request": "9s"}));
    mesh.get("/").await;
    would(&mesh, "breaker", "refuse", 1).await;
    mesh.change(|config| drop(config["entries"][1]["body"].as_object_mut().unwrap().remove("observe")));
    mesh.get("/").await;
    mesh.fates(5).await;
    assert_eq!(observed(&mesh, "breaker", "refuse").await, 1);
    assert!(!mesh.metrics().await.contains("firebreak_observed_breaker_state{"));
}

#[tokio::test]
async fn a_policy_that_is_observed_as_a_whole_comes_before_what_the_one_in_force_observes() {
    let callee = Callee::answering(&[500]).await;
    let policy = json!({"circuitBreaker": {"force": "Open"}, "observe": {"retries": {}}});
    let port = json!({"protocol": "Http", "policies": [], "observe": ["shop/test"]});
    let mesh = Mesh::with(&[callee.address], port, &[("TrafficPolicy", policy)]);
    assert_eq!(mesh.get("/").await.status, 500, "it is not enforced");
    would(&mesh, "breaker", "refuse", 1).await;
}
