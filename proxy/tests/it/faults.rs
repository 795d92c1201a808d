use std::time::Duration;

use http::Request;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};

use super::support::{Callee, Mesh, call_h2, counts, h2_request};

pub(crate) fn fault(faults: Value) -> Value {
    json!({"faults": faults, "seed": 42, "expiresAt": "2100-01-01T00:00:00Z", "duration": "10m"})
}

pub(crate) fn mesh(callee: &Callee, policy: Value, fault: Value) -> Mesh {
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
async fn what_hangs_by_a_fault_goes_on_when_that_is_taken_away() {
    let callee = Callee::answering(&[200]).await;
    let blackhole = json!([{"abort": {"percent": 100, "blackhole": true}}]);
    let delay = json!([
        {"delay": {"percent": 100, "fixed": "1h"}}, {"abort": {"percent": 100, "httpStatus": 503}},
        {"throttle": {"percent": 100, "bytesPerSecond": 1}}
    ]);
    for (faults, break_glass, status) in [(&blackhole, false, 504), (&delay, false, 200), (&delay, true, 200)] {
        let mut mesh = mesh(&callee, json!({}), fault(faults.clone()));
        let waiting = tokio::spawn(call_h2(mesh.address, h2_request("/")));
        says(&mesh, "firebreak_fault_active", 1).await;
        mesh.change(|config| {
            if break_glass {
                config["transparent"] = json!(true);
            } else {
                config["entries"].as_array_mut().unwrap().pop();
            }
        });
        let seen = tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap().unwrap();
        assert_eq!(seen.status, status, "{faults}");
        says(&mesh, "firebreak_fault_active", 0).await;
        if break_glass {
            mesh.change(|config| config["transparent"] = json!(false));
            let waiting = tokio::spawn(call_h2(mesh.address, h2_request("/")));
            says(&mesh, "firebreak_fault_active", 1).await;
            waiting.abort();
        }
    }
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

#[tokio::test]
async fn a_refusal_is_retried_like_a_connection_that_was_refused() {
    let callee = Callee::answering(&[200]).await;
    let refuse = || fault(json!([{"abort": {"percent": 100, "refuse": true}}]));
    let alone = mesh(&callee, json!({}), refuse());
    let seen = alone.get("/").await;
    assert_eq!((seen.status.as_u16(), callee.requests()), (502, 0));
    assert!(
        seen.has_reason("fault_refuse") && seen.verdict().contains("error=connection_refused"),
        "{}",
        seen.verdict()
    );
    assert!(seen.verdict().contains("domain=injected; firebreak-attempts=1;"));
    for (condition, method, tries) in
        [("connect-failure", "POST", 3), ("reset-before-response", "GET", 1), ("gateway-error", "GET", 3)]
    {
        let retries = json!({"maxRetries": 2, "conditions": [condition], "backoff": {"base": "1ms"}});
        let mesh = mesh(&callee, json!({"retries": retries}), refuse());
        let seen = mesh.send(Request::builder().method(method).uri("/")).await;
        assert!(seen.verdict().contains(&format!("firebreak-attempts={tries};")), "{condition}: {}", seen.verdict());
        assert_eq!(mesh.attempts(tries).await, counts(&[("injected", tries)]));
    }
    assert_eq!(callee.requests(), 0);
}

#[tokio::test]
async fn a_blackhole_hangs_until_a_clock_ends_the_try() {
    let callee = Callee::answering(&[200]).await;
    let hole = || fault(json!([{"abort": {"percent": 100, "blackhole": true}}]));
    for (clock, reason) in [("attempt", "attempt_timeout"), ("request", "request_timeout"), ("idle", "idle_timeout")] {
        let mesh = mesh(&callee, json!({"timeouts": {clock: "50ms"}}), hole());
        let seen = mesh.get("/").await;
        assert!(seen.has_reason(reason) && seen.verdict().contains("domain=injected"), "{}", seen.verdict());
        assert!(seen.took >= Duration::from_millis(50));
        assert!(mesh.metrics().await.contains("firebreak_fault_injected_total{fault=\"shop/test\",kind=\"abort\"} 1"));
    }
    assert_eq!(callee.requests(), 0);
}

#[tokio::test]
async fn a_blackhole_without_a_clock_ends_with_the_fault() {
    let callee = Callee::answering(&[200]).await;
    let mut hole = fault(json!([{"abort": {"percent": 100, "blackhole": true}}]));
    hole["duration"] = json!("300ms");
    let alone = mesh(&callee, json!({}), hole.clone());
    let seen = alone.get("/").await;
    assert_eq!((seen.status.as_u16(), callee.requests()), (504, 0), "it was not sent late");
    assert!(
        seen.has_reason("fault_blackhole") && seen.verdict().contains("error=connection_timeout"),
        "{}",
        seen.verdict()
    );
    assert_eq!(alone.fates(1).await, counts(&[("injected", 1)]));
    let retries = json!({"retries": {"maxRetries": 1, "conditions": ["connect-failure"]}});
    assert_eq!(mesh(&callee, retries, hole).get("/").await.status, 200, "nothing was sent, so another try may be");
}

#[tokio::test]
async fn a_grpc_call_is_told_of_a_refusal_in_its_own_words() {
    let callee = Callee::answering(&[200]).await;
    let mesh = mesh(&callee, json!({}), fault(json!([{"abort": {"percent": 100, "refuse": true}}])));
    let seen = call_h2(mesh.address, h2_request("/").header("content-type", "application/grpc")).await.unwrap();
    assert_eq!((seen.status.as_u16(), &seen.headers["grpc-status"]), (200, &http::HeaderValue::from_static("14")));
    assert!(seen.has_reason("fault_refuse"), "{}", seen.verdict());
}

/// Of two FaultSpecs at one callee the first of the list that is for a request acts, whole; the second has the others.
#[tokio::test]
async fn of_two_faults_one_acts_on_a_request() {
    let callee = Callee::answering(&[200]).await;
    let answer = |status: u16| fault(json!([{"abort": {"percent": 100, "httpStatus": status}}]));
    let mut first = answer(418);
    first["match"] = json!([{"headers": {"x-test-user": {"prefix": "qa-"}}}]);
    first["faults"][0]["abort"]["percent"] = json!(50);
    let port = json!({"protocol": "Http", "faults": ["front/theirs", "shop/test"]});
    let mut mesh = Mesh::with(&[callee.address], port, &[("FaultSpec", answer(503))]);
    mesh.change(|config| {
        config["entries"]
            .as_array_mut()
            .unwrap()
            .push(json!({"kind": "FaultSpec", "name": "front/theirs", "body": first}));
    });
    let mut statuses = counts(&[]);
    for id in 0..40 {
        let request = Request::get("/").header("x-test-user", "qa-7").header("x-request-id", format!("r-{id}"));
        let seen = mesh.send(request).await;
        assert_eq!(seen.status == 418, seen.verdict().contains("firebreak-fault=\"front/theirs\""));
        *statuses.entry(seen.status.as_str().to_owned()).or_default() += 1;
    }
    assert!(statuses.len() == 2 && statuses["418"] > 5 && statuses["200"] > 5, "never the other's: {statuses:?}");
    let seen = mesh.get("/").await;
    assert!(seen.status == 503 && seen.verdict().contains("firebreak-fault=\"shop/test\""), "{}", seen.verdict());
    // When the first ends, the second has its requests too.
    mesh.change(|config| drop(config["entries"].as_array_mut().unwrap().pop()));
    assert_eq!(mesh.send(Request::get("/").header("x-test-user", "qa-7")).await.status, 503);
}

/// Waits until the metrics say so of the FaultSpec.
async fn says(mesh: &Mesh, metric: &str, value: u64) {
    let (deadline, line) =
        (Instant::now() + Duration::from_secs(5), format!("{metric}{{fault=\"shop/test\"}} {value}\n"));
    while !mesh.metrics().await.contains(&line) {
        assert!(Instant::now() < deadline, "{line}: {}", mesh.metrics().await);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn beyond_the_blast_radius_requests_are_spared_whichever_worker_has_them() {
    let callee = Callee::answering(&[200]).await;
    let mut hole = fault(json!([{"abort": {"percent": 100, "blackhole": true}}]));
    hole["blastRadius"] = json!({"maxActive": 3});
    let entries = [("FaultSpec", hole)];
    let mesh = Mesh::on(2, &[callee.address], json!({"protocol": "Http"}), &entries);
    let address = mesh.address;
    let hit = (0..3).map(|_| call_h2(address, h2_request("/"))).collect::<JoinSet<_>>();
    says(&mesh, "firebreak_fault_active", 3).await;
    for _ in 0..4 {
        assert_eq!(mesh.get("/").await.status, 200, "a fourth one is not hit");
        assert_eq!(call_h2(address, h2_request("/")).await.unwrap().status, 200);
    }
    says(&mesh, "firebreak_fault_spared_total", 8).await;
    assert!(mesh.metrics().await.contains("firebreak_fault_injected_total{fault=\"shop/test\",kind=\"abort\"} 3\n"));
    // Whoever leaves makes room.
    drop(hit);
    says(&mesh, "firebreak_fault_active", 0).await;
    let again = tokio::spawn(call_h2(address, h2_request("/")));
    says(&mesh, "firebreak_fault_active", 1).await;
    again.abort();
}

#[tokio::test]
async fn a_request_whose_tries_are_all_hit_takes_one_place() {
    let callee = Callee::answering(&[200]).await;
    let mut abort = fault(json!([{"abort": {"percent": 100, "httpStatus": 503}}]));
    abort["blastRadius"] = json!({"maxActive": 1});
    let retries = json!({"maxRetries": 2, "conditions": ["5xx"], "backoff": {"base": "1ms"}});
    let mesh = mesh(&callee, json!({"retries": retries}), abort);
    let seen = mesh.get("/").await;
    assert!(seen.status == 503 && seen.verdict().contains("firebreak-attempts=3;"), "{}", seen.verdict());
    says(&mesh, "firebreak_fault_active", 0).await;
    assert!(!mesh.metrics().await.contains("firebreak_fault_spared_total{"), "none was spared");
    assert_eq!(callee.requests(), 0);
}
