//! Outlier detection, seen from outside: who gets requests when endpoints fail, over real connections.

use std::{
    sync::Arc,
    sync::atomic::{AtomicU16, Ordering::SeqCst},
};

use http::Response;
use serde_json::{Value, json};

use super::support::{Body, Callee, Mesh};

/// A callee that answers with the status that is set at the time.
async fn settable() -> (Callee, Arc<AtomicU16>) {
    let status = Arc::new(AtomicU16::new(200));
    let answered = Arc::clone(&status);
    let callee = Callee::start(move |_, _| {
        let status = answered.load(SeqCst);
        async move { Response::builder().status(status).body(Body::default()).unwrap() }
    });
    (callee.await, status)
}

fn policy(outliers: Value) -> Value {
    json!({"outlierDetection": outliers})
}

async fn statuses(mesh: &Mesh, count: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..count {
        statuses.push(mesh.get("/").await.status.as_u16());
    }
    statuses
}

#[tokio::test]
async fn an_endpoint_that_fails_gets_nothing_until_it_is_probed_and_then_its_share_again() {
    let [(bad, status), (one, _), (other, _)] = [settable().await, settable().await, settable().await];
    let outliers = json!({"consecutiveFailures": 2, "ejectFor": {"initial": "200ms", "max": "200ms"}});
    let mut spec = policy(outliers);
    spec["circuitBreaker"] = json!({"halfOpen": {"probes": 1}, "recovery": {"startPercent": 100}});
    let mesh = Mesh::new(&[bad.address, one.address, other.address], spec);
    status.store(503, SeqCst);
    let first = statuses(&mesh, 9).await;
    assert_eq!(first.iter().filter(|status| **status == 503).count(), 2, "{first:?}");
    assert_eq!(bad.requests(), 2);
    let labels = "direction=\"outbound\",service=\"shop/callee\",port=\"80\"";
    assert!(mesh.metrics().await.contains(&format!("firebreak_endpoints{{{labels},state=\"open\"}} 1")));
    status.store(200, SeqCst);
    let mut sent = 0;
    while bad.requests() < 20 {
        assert_eq!(mesh.get("/").await.status, 200, "nobody sees anything of it");
        sent += 1;
        assert!(sent < 100_000, "it comes back");
    }
    assert!(mesh.metrics().await.contains(&format!("firebreak_endpoints{{{labels},state=\"closed\"}} 3")));
}

#[tokio::test]
async fn half_of_them_stay_in_though_all_fail() {
    for (endpoints, ejected) in [(1, 0), (2, 1), (3, 1), (4, 2)] {
        let mut callees = Vec::new();
        for _ in 0..endpoints {
            callees.push(Callee::answering(&[503]).await);
        }
        let addresses: Vec<_> = callees.iter().map(|callee| callee.address).collect();
        let mesh = Mesh::new(&addresses, policy(json!({"consecutiveFailures": 1})));
        assert_eq!(statuses(&mesh, 40).await, [503; 40], "{endpoints}: each request reaches somebody");
        let once = callees.iter().filter(|callee| callee.requests() == 1).count();
        assert_eq!(once, ejected, "of {endpoints}: the ejected got one request each");
        let refused = mesh.metrics().await.lines().any(|line| {
            line.starts_with("firebreak_ejections_refused_total{")
                && line.contains("shop/callee")
                && !line.ends_with(" 0")
        });
        assert!(refused, "of {endpoints}");
    }
}

#[tokio::test]
async fn where_all_fail_alike_none_is_ejected_and_one_that_fails_more_is() {
    let outliers = json!({"failureRate": {"aboveOthers": 40, "minRequests": 10}});
    let [(bad, status), (one, second), (other, third)] = [settable().await, settable().await, settable().await];
    let mesh = Mesh::new(&[bad.address, one.address, other.address], policy(outliers));
    for status in [&status, &second, &third] {
        status.store(500, SeqCst);
    }
    statuses(&mesh, 90).await;
    assert_eq!([bad.requests(), one.requests(), other.requests()], [30; 3], "the callee is ill, not one of them");
    second.store(200, SeqCst);
    third.store(200, SeqCst);
    let before = bad.requests();
    statuses(&mesh, 900).await;
    assert!(bad.requests() - before < 150, "{} more", bad.requests() - before);
    assert!(one.requests() > 400 && other.requests() > 400);
}
