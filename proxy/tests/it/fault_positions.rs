//! Faults above the policy.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    faults::{fault, mesh},
    support::{Callee, call_h2, counts, h2_request},
};

fn above(faults: Value) -> Value {
    let mut fault = fault(faults);
    fault["at"] = json!("Request");
    fault
}

#[tokio::test]
async fn an_abort_of_a_request_is_not_retried_and_no_breaker_hears_of_it() {
    let callee = Callee::answering(&[200]).await;
    let policy = json!({
        "retries": {"maxRetries": 3, "conditions": ["5xx", "connect-failure", "reset-before-response"]},
        "circuitBreaker": {"tripOn": {"consecutiveFailures": 1}},
    });
    for (abort, status, reason) in [
        (json!({"httpStatus": 503}), 503, "fault_abort"),
        (json!({"reset": true}), 502, "fault_reset"),
        (json!({"refuse": true}), 502, "fault_refuse"),
    ] {
        let mut abort = abort;
        abort["percent"] = json!(100);
        let mesh = mesh(&callee, policy.clone(), above(json!([{"abort": abort}])));
        for _ in 0..2 {
            let seen = mesh.get("/").await;
            assert_eq!(seen.status, status);
            let said = format!("firebreak-reason={reason}; firebreak-domain=injected; firebreak-attempts=0;");
            assert!(seen.verdict().contains(&said), "{}", seen.verdict());
        }
        let seen = call_h2(mesh.address, h2_request("/")).await.unwrap();
        assert!(seen.status == status && seen.has_reason(reason), "{}", seen.verdict());
        let seen = call_h2(mesh.address, h2_request("/").header("content-type", "application/grpc")).await.unwrap();
        assert_eq!((seen.status.as_u16(), seen.headers["grpc-status"].as_bytes()), (200, &b"14"[..]));
        assert_eq!(mesh.fates(4).await, counts(&[("injected", 4)]));
        assert!(
            mesh.metrics().await.contains("firebreak_fault_injected_total{fault=\"shop/test\",kind=\"abort\"} 4\n")
        );
    }
    assert_eq!(callee.requests(), 0);
}

#[tokio::test]
async fn a_delay_of_a_request_comes_before_the_policys_clocks() {
    let callee = Callee::answering(&[200]).await;
    let policy = json!({"timeouts": {"attempt": "100ms", "request": "100ms"}});
    let late = || above(json!([{"delay": {"percent": 100, "fixed": "250ms"}}]));
    let alone = mesh(&callee, policy.clone(), late());
    let (one, other) = (alone.get("/").await, call_h2(alone.address, h2_request("/")).await.unwrap());
    for seen in [one, other] {
        assert!(seen.status == 200 && seen.took >= Duration::from_millis(250), "{} {:?}", seen.status, seen.took);
    }
    assert_eq!(alone.fates(2).await, counts(&[("succeeded", 2)]));
    let records = alone.records("", 2).await;
    assert!(records.iter().all(|record| record["slowed"] == true && record["fault"] == "shop/test"), "{records:?}");

    // The clocks run all the same, and are nobody's experiment.
    let hanging = mesh(&Callee::hanging().await, policy, late());
    let seen = hanging.get("/").await;
    assert!(seen.has_reason("request_timeout") && seen.verdict().contains("domain=callee_app"), "{}", seen.verdict());
    assert!(seen.took >= Duration::from_millis(350), "{:?}", seen.took);
}

#[tokio::test]
async fn a_callers_own_deadline_does_not_wait_for_a_delay() {
    let callee = Callee::answering(&[200]).await;
    let mesh = mesh(&callee, json!({}), above(json!([{"delay": {"percent": 100, "fixed": "100ms"}}])));
    let request = h2_request("/").header("content-type", "application/grpc").header("grpc-timeout", "50m");
    let seen = call_h2(mesh.address, request).await.unwrap();
    assert_eq!(seen.headers["grpc-status"].as_bytes(), b"4");
    assert!(seen.has_reason("deadline_spent") && seen.verdict().contains("domain=injected"), "{}", seen.verdict());
    assert_eq!(callee.requests(), 0);
}

#[tokio::test]
async fn what_spoils_a_request_spoils_the_answer_that_its_tries_came_to() {
    let callee = Callee::answering(&[503, 503, 200]).await;
    let policy = json!({
        "retries": {"maxRetries": 2, "conditions": ["5xx"], "backoff": {"base": "1ms"}},
        "circuitBreaker": {"tripOn": {"consecutiveFailures": 3}},
    });
    let mut fault = above(json!([{"abort": {"percent": 100, "resetAfterHeaders": true}}]));
    fault["blastRadius"] = json!({"maxActive": 1});
    let mesh = mesh(&callee, policy, fault);
    for tries in [3, 1, 1, 1] {
        let seen = call_h2(mesh.address, h2_request("/")).await;
        assert!(seen.is_err(), "{seen:?}");
        let reasons = mesh.records("?reason=fault_reset", if tries == 3 { 1 } else { callee.requests() - 2 }).await;
        assert!(reasons.iter().any(|record| record["attempts"] == tries), "{reasons:?}");
    }
    assert_eq!(callee.requests(), 6, "no breaker took the cut for a failure of the callee");
}

#[tokio::test]
async fn a_request_is_drawn_once_and_in_each_run_the_same() {
    let callee = Callee::answering(&[500]).await;
    let policy = json!({"retries": {"maxRetries": 3, "conditions": ["5xx"], "backoff": {"base": "1ms"},
        "budget": {"percent": 100, "minPerSecond": 1000}}});
    let mut runs = Vec::new();
    for _ in 0..2 {
        let mesh = mesh(&callee, policy.clone(), above(json!([{"abort": {"percent": 50, "httpStatus": 418}}])));
        let mut run = Vec::new();
        for id in 0..40 {
            let seen = call_h2(mesh.address, h2_request("/").header("x-request-id", format!("r-{id}"))).await.unwrap();
            // Whoever is not hit before its first try is not hit at another.
            assert!(seen.status == 418 || seen.verdict().contains("firebreak-attempts=4;"), "{}", seen.verdict());
            run.push(seen.status);
        }
        runs.push(run);
    }
    assert_eq!(runs[0], runs[1]);
    assert!(runs[0].iter().any(|status| *status == 418) && runs[0].iter().any(|status| *status == 500));
}
