use std::time::Duration;

use http::{Request, StatusCode};
use serde_json::{Value, json};

use super::support::{Body, Callee, Mesh, call, counts, free_address};

fn with_id(id: &str) -> http::request::Builder {
    Request::get("/pay?card=4111").header("x-request-id", id).header("authorization", "Bearer hush")
}

#[tokio::test]
async fn each_try_of_a_retried_request_is_told() {
    let callee = Callee::answering(&[503, 200]).await;
    // In turn: tries to the one are refused, of those to the other the first meets an error and the second is answered.
    let nobody = free_address();
    let policy = json!({"retries": {"maxRetries": 3, "conditions": ["5xx", "connect-failure"],
        "backoff": {"base": "10ms", "max": "10ms"}}});
    let mesh = Mesh::new(&[nobody, callee.address], policy);
    assert_eq!(mesh.send(with_id("r-1")).await.status, 200);
    let record = &mesh.records("?id=r-1", 1).await[0];
    assert_eq!((&record["slowed"], &record["fate"]), (&json!(true), &json!("succeeded_after_retry")));
    assert_eq!((&record["reason"], &record["policy"]), (&Value::Null, &json!("shop/test")));
    let tries = record["tries"].as_array().unwrap();
    assert_eq!(record["attempts"], tries.len());
    let expected = [nobody, callee.address, nobody, callee.address];
    let expected = &expected[expected.len() - tries.len()..];
    let mut errors = 0;
    for (number, (told, endpoint)) in (1..).zip(tries.iter().zip(expected.iter().copied())) {
        assert_eq!((&told["number"], &told["endpoint"]), (&json!(number), &json!(endpoint)), "{tries:#?}");
        let words = [&told["outcome"], &told["reason"], &told["status"]];
        if endpoint == nobody {
            assert_eq!(words, [&json!("unreachable"), &json!("connection_refused"), &Value::Null]);
            assert_eq!(told["connection_reused"], Value::Null, "there was none");
        } else if number == u64::try_from(tries.len()).unwrap() {
            assert_eq!(words, [&json!("answered"), &Value::Null, &json!(200)]);
        } else {
            assert_eq!(words, [&json!("error"), &json!("callee_error"), &json!(503)]);
            assert_eq!(told["connection_reused"], false);
            errors += 1;
        }
    }
    assert_eq!(errors, 1, "{tries:#?}");
    let starts: Vec<_> = tries.iter().map(|told| told["started_ms"].as_u64().unwrap()).collect();
    assert!(starts.is_sorted() && starts.last() < record["duration_ms"].as_u64().as_ref().map(|ms| ms + 1).as_ref());
}

#[tokio::test]
async fn a_request_that_a_fault_delayed_is_told_as_slowed() {
    let callee = Callee::answering(&[200]).await;
    let fault = json!({"faults": [{"delay": {"percent": 100, "fixed": "60ms"}}], "seed": 1,
        "expiresAt": "2100-01-01T00:00:00Z", "duration": "10m"});
    let mesh = Mesh::with(&[callee.address], json!({"protocol": "Http"}), &[("FaultSpec", fault)]);
    assert_eq!(mesh.send(with_id("late")).await.status, 200);
    let record = &mesh.records("", 1).await[0];
    assert_eq!((&record["slowed"], &record["fate"]), (&json!(true), &json!("succeeded")));
    assert_eq!((&record["fault"], &record["reason"]), (&json!("shop/test"), &Value::Null));
    let told = &record["tries"][0];
    assert_eq!(
        (&told["fault"], &told["delay_ms"], &told["outcome"]),
        (&json!("shop/test"), &json!(60), &json!("answered"))
    );
    assert!(told["duration_ms"].as_u64().unwrap() >= 60, "{told}");
    assert_eq!(mesh.proxy.registry().log_dropped.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[tokio::test]
async fn what_simply_succeeds_leaves_none() {
    let callee = Callee::answering(&[200, 200, 404, 503]).await;
    let mesh = Mesh::new(&[callee.address], json!({"retries": {"maxRetries": 3, "conditions": ["connect-failure"]}}));
    for status in [200, 200, 404, 503] {
        assert_eq!(mesh.get("/").await.status, status);
    }
    // The failure came last: whatever the others left would be there by now.
    let record = &mesh.records("", 1).await[0];
    assert_eq!((&record["reason"], &record["status"]), (&json!("callee_error"), &json!(503)));
    assert_eq!(record["tries"][0]["connection_reused"], true, "it had carried the three before");
    let metrics = mesh.metrics().await;
    assert!(metrics.contains("firebreak_recorder_records 1\n"), "{metrics}");
    assert!(metrics.contains("firebreak_recorder_evicted_total 0\n"), "{metrics}");
}

#[tokio::test]
async fn a_caller_that_left_and_a_clock_that_ran_out_are_told() {
    let callee = Callee::hanging().await;
    let mesh = Mesh::new(&[callee.address], json!({"timeouts": {"attempt": "300ms"}}));
    let request = with_id("gone").header("host", "callee").body(Body::default()).unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(100), call(mesh.address, request)).await.is_err());
    let gone = &mesh.records("?reason=caller_cancelled", 1).await[0];
    let told = &gone["tries"][0];
    assert_eq!((&told["outcome"], &told["endpoint"]), (&Value::Null, &json!(callee.address)), "it was under way");
    assert_eq!(mesh.send(with_id("slow-one")).await.status, 504);
    let slow = &mesh.records("?id=slow-one&service=shop/callee:80&limit=5", 1).await[0];
    assert_eq!(
        (&slow["tries"][0]["outcome"], &slow["tries"][0]["reason"]),
        (&json!("timed_out"), &json!("attempt_timeout"))
    );
    assert_eq!(mesh.records("", 2).await[0]["request_id"], "slow-one", "the newest first");
}

#[tokio::test]
async fn a_request_that_was_refused_has_no_try() {
    let callee = Callee::answering(&[503, 503]).await;
    let breaker = json!({"circuitBreaker": {"tripOn": {"consecutiveFailures": 1}}});
    let mesh = Mesh::new(&[callee.address], breaker);
    mesh.get("/").await;
    let refused = mesh.get("/").await;
    assert!(refused.has_reason("breaker_open"), "{}", refused.verdict());
    let record = &mesh.records("?reason=breaker_open", 1).await[0];
    assert_eq!((&record["attempts"], &record["tries"]), (&json!(0), &Value::Null));
    assert_eq!(mesh.reasons(2).await, counts(&[("breaker_open", 1), ("callee_error", 1)]));
}

#[tokio::test]
async fn what_may_be_secret_stays_out() {
    let callee = Callee::answering(&[503]).await;
    let mesh = Mesh::new(&[callee.address], json!({}));
    let long = "i".repeat(5000);
    mesh.send(with_id(&long).uri(format!("/{}?card=4111", "p".repeat(2000)))).await;
    mesh.records("", 1).await;
    let text = String::from_utf8(mesh.recorder("").await.body.into()).unwrap();
    for secret in ["4111", "card", "hush", "authorization", "answer 1"] {
        assert!(!text.contains(secret), "{secret} is in {text}");
    }
    assert!(text.len() < 1500, "{} bytes", text.len());
    assert_eq!(mesh.records(&format!("?id={long}"), 1).await.len(), 1);
}

#[tokio::test]
async fn a_question_that_makes_no_sense_is_refused_with_what_would() {
    let mesh = Mesh::new(&[free_address()], json!({}));
    for (query, words) in [
        ("?reason=slow", "reason: there is no `slow`; the reasons are connect_timeout,"),
        ("?service=callee", "service: `callee` is no callee; write namespace/name"),
        ("?limit=0", "limit: must be at least 1"),
        ("?limit=many", "limit"),
        ("?since=1h", "unknown field `since`, expected one of `id`, `reason`, `service`, `limit`"),
    ] {
        let seen = mesh.recorder(query).await;
        let text = String::from_utf8(seen.body.into()).unwrap();
        assert!(seen.status == StatusCode::BAD_REQUEST && text.contains(words), "{query}: {} {text}", seen.status);
    }
}
