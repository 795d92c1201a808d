//! A policy that is observed: what callers get is the same, and the counters say what would have been.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use serde_json::{Value, json};

use super::support::{Body, Callee, Mesh, counts};

/// A proxy that enforces `enforced` and observes `observed`.
fn mesh(callee: &Callee, enforced: Value, observed: Value) -> Mesh {
    let mut policy = enforced;
    policy["observe"] = observed;
    Mesh::new(&[callee.address], policy)
}

async fn observed(mesh: &Mesh, protection: &str, would: &str) -> u64 {
    let labels = [format!("protection=\"{protection}\""), format!("would=\"{would}\"")];
    mesh.sum("firebreak_observed_total", &labels.each_ref().map(String::as_str)).await
}

/// Waits until this would have been done as often as expected.
async fn would(mesh: &Mesh, protection: &str, would: &str, times: u64) {
    let line = format!("protection=\"{protection}\",would=\"{would}\"}} {times}\n");
    mesh.until("firebreak_observed", |metrics| metrics.contains(&line)).await;
}

#[tokio::test]
async fn the_harshest_policy_changes_nothing_while_it_is_observed() {
    let callee = Callee::slow(Duration::from_millis(20)).await;
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
    let under_way = mesh.get_together(20);
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
    let callee = Callee::slow(Duration::from_millis(60)).await;
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
    let callee = Callee::slow(Duration::from_millis(60)).await;
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
    let under_way = mesh.get_together(10);
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

#[tokio::test]
async fn what_would_have_been_done_is_counted_when_it_is_due_without_another_request() {
    let hanging = Callee::hanging().await;
    let limits = json!({"timeouts": {"attempt": "50ms"}, "circuitBreaker": {"tripOn": {"consecutiveFailures": 3}}});
    let mesh = Arc::new(mesh(&hanging, json!({}), limits));
    let under_way = mesh.get_together(3);
    would(&mesh, "timeout", "time_out", 3).await;
    would(&mesh, "breaker", "open", 1).await;
    assert!(under_way.iter().all(|request| !request.is_finished()), "nothing has really happened since");
    under_way.iter().for_each(tokio::task::JoinHandle::abort);
}

/// A callee that answers `/STATUS/MILLISECONDS` so and after so long, whatever became of other requests.
async fn scripted() -> Callee {
    Callee::start(|_, request| async move {
        let mut words = request.uri().path().split('/').skip(1).map(|word| word.parse().unwrap());
        let (status, millis) = (words.next().unwrap(), words.next().unwrap());
        tokio::time::sleep(Duration::from_millis(millis)).await;
        http::Response::builder().status(u16::try_from(status).unwrap()).body(Body::default()).unwrap()
    })
    .await
}

/// What a policy has done in force: refused by its breaker, opened it, ended tries and requests, tried again, hedged.
async fn done(mesh: &Mesh, requests: u64) -> [u64; 5] {
    let fates = mesh.fates(requests).await;
    let fate = |fate: &str| fates.get(fate).copied().unwrap_or_default();
    let refused = fate("refused_by_breaker");
    let opened = mesh.sum("firebreak_breaker_transitions_total", &["level=\"service\"", "state=\"open\""]).await;
    let hedged = mesh.sum("firebreak_hedges_sent_total", &[]).await;
    let tries = mesh.sum("firebreak_attempts_total", &[]).await;
    let timed_out = mesh.sum("firebreak_attempts_total", &["outcome=\"timed_out\""]).await;
    [refused, opened, timed_out, tries + refused - requests - hedged, hedged]
}

/// The same of a policy that is observed, in the same order.
async fn would_have_done(mesh: &Mesh, requests: u64) -> [u64; 5] {
    mesh.fates(requests).await;
    let mut all = [0; 5];
    let names =
        [("breaker", "refuse"), ("breaker", "open"), ("timeout", "time_out"), ("retry", "retry"), ("hedge", "hedge")];
    for (times, (protection, would)) in all.iter_mut().zip(names) {
        *times = observed(mesh, protection, would).await;
    }
    all
}

/// Times are far apart, so that a busy machine does not come between them.
#[tokio::test]
async fn the_same_outcomes_come_to_the_same_in_force_and_observed() {
    let breaker = json!({"tripOn": {"consecutiveFailures": 3}, "openFor": {"initial": "10m"}});
    let budget = json!({"percent": 50, "minPerSecond": 0, "window": "1m"});
    let retries = json!({"maxRetries": 1, "conditions": ["gateway-error", "codes"], "codes": [409], "budget": budget,
        "backoff": {"base": "1ms", "max": "1ms"}});
    let slow = "/200/1000";
    let series: [(Value, &[&str], [u64; 5]); 4] = [
        (
            json!({"circuitBreaker": breaker, "timeouts": {"attempt": "500ms"}}),
            &["/200/0", "/500/0", slow, "/404/0", "/503/0", "/500/0", slow, "/200/0", "/200/0"],
            [2, 1, 2, 0, 0],
        ),
        (
            json!({"retries": retries}),
            &["/200/0", "/503/0", "/409/0", "/500/0", "/504/0", "/503/0", "/503/0", "/200/0", "/502/0"],
            [0, 0, 0, 4, 0],
        ),
        (json!({"timeouts": {"request": "500ms"}}), &["/200/0", slow, "/500/0", slow], [0, 0, 2, 0, 0]),
        (json!({"hedge": {"after": "200ms", "maxExtraLoadPercent": 50}}), &[slow, slow, slow, slow], [0, 0, 0, 0, 2]),
    ];
    let callee = scripted().await;
    let replay = async |http2, (policy, paths, expected): &(Value, &[&str], [u64; 5])| {
        let (in_force, beside) =
            (Mesh::new(&[callee.address], policy.clone()), mesh(&callee, json!({}), policy.clone()));
        for path in *paths {
            tokio::join!(in_force.get_over(http2, path), beside.get_over(http2, path));
        }
        let requests = paths.len() as u64;
        assert_eq!(done(&in_force, requests).await, *expected, "{policy}, HTTP/2: {http2}");
        assert_eq!(would_have_done(&beside, requests).await, *expected, "{policy}, HTTP/2: {http2}");
        assert_eq!(beside.sum("firebreak_attempts_total", &[]).await, requests, "what is observed changes nothing");
    };
    join_all(
        [false, true]
            .into_iter()
            .flat_map(|http2| series.iter().map(move |one| (http2, one)))
            .map(|(http2, one)| replay(http2, one)),
    )
    .await;
}

#[tokio::test]
async fn the_same_endpoint_is_ejected_in_force_and_observed() {
    let outliers = json!({"outlierDetection": {"consecutiveFailures": 2, "ejectFor": {"initial": "10m"}}});
    for http2 in [false, true] {
        let (ill, well) = (Callee::answering(&[500]).await, Callee::answering(&[200]).await);
        let endpoints = [ill.address, well.address];
        let in_force = Mesh::new(&endpoints, outliers.clone());
        let beside = Mesh::new(&endpoints, json!({"observe": outliers}));
        for _ in 0..10 {
            in_force.get_over(http2, "/").await;
            beside.get_over(http2, "/").await;
        }
        in_force.fates(10).await;
        beside.fates(10).await;
        let ejected = ["level=\"endpoint\"", "state=\"open\""];
        assert_eq!(in_force.sum("firebreak_breaker_transitions_total", &ejected).await, 1);
        assert_eq!(observed(&beside, "outlier", "eject").await, 1);
    }
}
