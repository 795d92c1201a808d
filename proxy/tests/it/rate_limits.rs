//! What one caller may send over time.

use std::time::Duration;

use serde_json::json;
use tokio::net::TcpStream;

use super::support::{Callee, Mesh, Seen, call_h2, counts, h2_request, is_reset};

/// One that lets three in, and hardly another while a test runs: it is sent requests until it refuses one.
fn policy() -> serde_json::Value {
    json!({"rateLimit": {"requestsPerSecond": 1, "burst": 3}, "retries": {"maxRetries": 2, "backoff": {"base": "0s", "max": "0s"}}})
}

/// The first request that is refused, and how many were let in before.
async fn until_refused(mesh: &Mesh) -> (Seen, usize) {
    for before in 0..100 {
        let seen = mesh.get("/").await;
        if seen.has_reason("rate_limited") {
            return (seen, before);
        }
    }
    panic!("nothing is limited");
}

#[tokio::test]
async fn who_sends_too_much_is_told_when_to_come_back() {
    let callee = Callee::answering(&[503, 503, 503, 200]).await;
    let mesh = Mesh::new(&[callee.address], policy());
    let (refused, before) = until_refused(&mesh).await;
    let sent = callee.requests();
    assert!(before >= 3 && sent > before, "tries do not count: {before} requests, {sent} tries");
    assert_eq!((refused.status.as_u16(), &refused.headers["retry-after"]), (429, &"1".parse().unwrap()));
    let said = refused.verdict();
    assert!(
        said.contains("firebreak-reason=rate_limited; firebreak-domain=caller_policy; firebreak-attempts=0;"),
        "{said}"
    );
    assert!(refused.took < Duration::from_secs(1));
    assert_eq!(callee.requests(), sent, "the callee saw nothing");
    assert_eq!(mesh.fates(before as u64 + 1).await["refused_by_rate_limit"], 1);
    let grpc =
        call_h2(mesh.address, h2_request("/shop.Cart/Add").header("content-type", "application/grpc")).await.unwrap();
    assert_eq!(grpc.headers["grpc-status"], "8");
}

#[tokio::test]
async fn a_bucket_outlives_changes_that_do_not_concern_it() {
    let callee = Callee::answering(&[200]).await;
    let mut mesh = Mesh::new(&[callee.address], policy());
    until_refused(&mesh).await;
    mesh.change(|config| config["entries"][1]["body"]["timeouts"] = json!({"request": "9s"}));
    assert!(until_refused(&mesh).await.1 < 3, "it is not full again");
    mesh.change(|config| config["entries"][1]["body"]["rateLimit"]["burst"] = json!(4));
    assert!(until_refused(&mesh).await.1 >= 4);
    mesh.change(|config| drop(config["entries"][1]["body"].as_object_mut().unwrap().remove("rateLimit")));
    for _ in 0..10 {
        assert_eq!(mesh.get("/").await.status, 200);
    }
}

#[tokio::test]
async fn a_connection_that_is_not_http_counts_as_one() {
    let callee = Callee::answering(&[200]).await;
    let mesh = Mesh::with(&[callee.address], json!({"protocol": "Tcp"}), &[("TrafficPolicy", policy())]);
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(TcpStream::connect(mesh.address).await.unwrap());
    }
    assert!(is_reset(mesh.address).await);
    assert_eq!(mesh.fates(1).await, counts(&[("refused_by_rate_limit", 1)]));
}
