use std::time::Duration;

use http::Request;
use serde_json::{Value, json};

use super::support::{Callee, Mesh, counts};

fn fault(faults: Value) -> Value {
    json!({"faults": faults, "seed": 42, "expiresAt": "2100-01-01T00:00:00Z", "duration": "10m"})
}

fn mesh(callee: &Callee, policy: Value, fault: Value) -> Mesh {
    Mesh::with(&[callee.address], json!({"protocol": "Http"}), &[("TrafficPolicy", policy), ("FaultSpec", fault)])
}

#[tokio::test]
async fn an_injected_answer_says_so() {
    let callee = Callee::answering(&[200]).await;
    let mesh = mesh(&callee, json!({}), fault(json!([{"abort": {"percent": 100, "httpStatus": 503}}])));
    let seen = mesh.get("/").await;
    assert_eq!((seen.status.as_u16(), callee.requests()), (503, 0));
    assert!(seen.has_reason("fault_abort"), "{}", seen.verdict());
    assert!(
        seen.verdict().contains("firebreak-fault=\"shop/test\"")
            && seen.verdict().contains("firebreak-domain=injected")
    );
    assert_eq!(mesh.fates(1).await, counts(&[("injected", 1)]));
    assert!(mesh.metrics().await.contains("firebreak_fault_injected_total{fault=\"shop/test\",kind=\"abort\"} 1"));
}

#[tokio::test]
async fn the_fault_is_under_the_policy() {
    let callee = Callee::answering(&[200]).await;
    let policy = json!({
        "timeouts": {"attempt": "100ms"},
        "retries": {"maxRetries": 10, "conditions": ["5xx"], "budget": {"percent": 100, "minPerSecond": 1000}},
    });
    let faults = json!([{"delay": {"percent": 50, "fixed": "20s"}}, {"abort": {"percent": 20, "httpStatus": 503}}]);
    let mesh = mesh(&callee, policy, fault(faults));
    // Ids of which each has a try that is not hit: one in 280 has none among eleven.
    for id in 1..=20 {
        let seen = mesh.send(Request::get("/").header("x-request-id", format!("r-{id}"))).await;
        assert_eq!(seen.status, 200, "retries and the attempt's clock deal with late and aborted tries");
        assert!(seen.took < Duration::from_secs(3));
    }
    let fates = mesh.fates(20).await;
    assert!(fates["succeeded_after_retry"] > 5, "{fates:?}");
    assert_eq!(callee.requests(), 20, "a try that was hit never reached the callee");
}

#[tokio::test]
async fn the_same_ids_are_hit_again() {
    let callee = Callee::answering(&[200]).await;
    let mesh = mesh(&callee, json!({}), fault(json!([{"abort": {"percent": 50, "httpStatus": 503}}])));
    let mut runs = Vec::new();
    for _ in 0..2 {
        let mut run = Vec::new();
        for id in 0..40 {
            run.push(mesh.send(Request::get("/").header("x-request-id", format!("r-{id}"))).await.status);
        }
        runs.push(run);
    }
    assert_eq!(runs[0], runs[1]);
    assert!(runs[0].iter().any(|status| *status == 200) && runs[0].iter().any(|status| *status == 503));
}

#[tokio::test]
async fn only_requests_that_match_are_hit() {
    let callee = Callee::answering(&[200]).await;
    let mut fault = fault(json!([{"abort": {"percent": 100, "reset": true}}]));
    fault["match"] = json!([{"headers": {"x-test-user": {"prefix": "qa-"}}}, {"path": {"exact": "/pay"}}]);
    let mesh = mesh(&callee, json!({}), fault);
    assert_eq!(mesh.get("/").await.status, 200);
    let seen = mesh.send(Request::get("/").header("x-test-user", "qa-7")).await;
    assert_eq!(seen.status, 502);
    assert!(seen.has_reason("fault_reset"), "{}", seen.verdict());
    assert_eq!(mesh.get("/pay").await.status, 502);
}

#[tokio::test]
async fn a_fault_ends_on_its_own() {
    let callee = Callee::answering(&[200]).await;
    let mut fault = fault(json!([{"abort": {"percent": 100, "httpStatus": 503}}]));
    fault["duration"] = json!("300ms");
    let mesh = mesh(&callee, json!({}), fault);
    assert_eq!(mesh.get("/").await.status, 503);
    tokio::time::sleep(Duration::from_millis(320)).await;
    assert_eq!(mesh.get("/").await.status, 200, "nobody had to end it");
}

#[tokio::test]
async fn taking_the_fault_away_ends_it_at_once() {
    let callee = Callee::answering(&[200]).await;
    let mut mesh = mesh(&callee, json!({}), fault(json!([{"abort": {"percent": 100, "httpStatus": 503}}])));
    assert_eq!(mesh.get("/").await.status, 503);
    mesh.change(|config| drop(config["entries"].as_array_mut().unwrap().pop()));
    assert_eq!(mesh.get("/").await.status, 200);
}

#[tokio::test]
async fn an_abort_that_a_clock_forestalled_is_not_counted() {
    let callee = Callee::answering(&[200]).await;
    let faults = json!([{"delay": {"percent": 100, "fixed": "20s"}}, {"abort": {"percent": 100, "httpStatus": 503}}]);
    let mesh = mesh(&callee, json!({"timeouts": {"attempt": "50ms"}}), fault(faults));
    let seen = mesh.get("/").await;
    assert!(seen.has_reason("attempt_timeout") && seen.verdict().contains("domain=injected"), "{}", seen.verdict());
    let metrics = mesh.metrics().await;
    assert!(metrics.contains("fault=\"shop/test\",kind=\"delay\"} 1"), "{metrics}");
    assert!(!metrics.contains("kind=\"abort\""), "{metrics}");
}

#[tokio::test]
async fn a_callees_own_error_is_its_own_even_after_a_delay() {
    let callee = Callee::answering(&[500]).await;
    let mesh = mesh(&callee, json!({}), fault(json!([{"delay": {"percent": 100, "fixed": "1ms"}}])));
    let seen = mesh.get("/").await;
    assert!(
        seen.verdict().contains("domain=callee_app") && seen.verdict().contains("fault=\"shop/test\""),
        "{}",
        seen.verdict()
    );
}

#[tokio::test]
async fn delays_that_vary_are_the_same_in_every_run() {
    let callee = Callee::answering(&[200]).await;
    for form in [json!({"percent": 100, "min": "1ms", "max": "10s"}), json!({"percent": 100, "p50": "1s", "p99": "1m"})]
    {
        let mut runs = Vec::new();
        for _ in 0..2 {
            let policy = json!({"timeouts": {"attempt": "1ms"}});
            let mesh = mesh(&callee, policy, fault(json!([{"delay": form}])));
            let mut run = Vec::new();
            for id in ["r-1", "r-2", "r-3"] {
                mesh.send(Request::get("/").header("x-request-id", id)).await;
                let record = mesh.records(&format!("?id={id}"), 1).await.remove(0);
                run.push(record["tries"][0]["delay_ms"].as_u64().unwrap());
            }
            runs.push(run);
        }
        assert_eq!(runs[0], runs[1]);
        assert!(runs[0][0] != runs[0][1] && runs[0][1] != runs[0][2], "{:?}", runs[0]);
    }
}
