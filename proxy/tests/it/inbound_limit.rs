//! The limit on requests at once, in the proxy beside the application.

use std::time::Duration;

use http::{Request, Response};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, sync::Semaphore, task::JoinSet};

use super::{
    fault_inbound::{Beside, beside},
    support::{Body, Callee, Mesh, Seen, call, call_h2, counts, h2_request},
};

/// An application that answers as many requests as it is told to.
pub(crate) async fn on_command(allowed: &'static Semaphore) -> Callee {
    Callee::start(move |_, _| async {
        allowed.acquire().await.unwrap().forget();
        Response::new(Body::from("done"))
    })
    .await
}

fn limited(application: &Callee, concurrency: Value) -> Beside {
    beside(
        application,
        json!({"policy": "shop/test", "concurrency": concurrency}),
        &[("TrafficPolicy", json!({"timeouts": {"request": "1m"}}))],
    )
}

pub(crate) fn semaphore() -> &'static Semaphore {
    Box::leak(Box::new(Semaphore::new(0)))
}

/// A request that is under way.
fn send(to: &Beside, tasks: &mut JoinSet<Seen>, headers: &[(&'static str, &'static str)]) {
    let (address, request) = (to.address, Request::get("/").header("host", "a"));
    let request = headers.iter().fold(request, |it, (name, value)| it.header(*name, *value));
    tasks.spawn(async move { call(address, request.body(Body::default()).unwrap()).await.unwrap() });
}

/// Waits until that line is among the metrics.
pub(crate) async fn shows(mesh: &Mesh, line: &str) {
    mesh.until("firebreak_", |metrics| metrics.contains(line)).await;
}

/// Waits until this is how many the application works on, or how many wait.
async fn counts_show(to: &Beside, what: &str, count: u32) {
    shows(&to.mesh, &format!("firebreak_concurrency_{what}{{{LABELS}}} {count}\n")).await;
}

/// An application that answers as many requests as it is told to, behind a limit of one, and the request that has the place.
async fn occupied(concurrency: Value) -> (&'static Semaphore, Callee, Beside, JoinSet<Seen>) {
    let allowed = semaphore();
    let application = on_command(allowed).await;
    let beside = limited(&application, concurrency);
    let mut held = JoinSet::new();
    occupy(&beside, &mut held).await;
    (allowed, application, beside, held)
}

/// A request that has the only place.
async fn occupy(to: &Beside, held: &mut JoinSet<Seen>) {
    send(to, held, &[]);
    counts_show(to, "in_flight", 1).await;
}

const LABELS: &str = "direction=\"inbound\",service=\"shop/test\",port=\"80\"";

#[tokio::test]
async fn what_is_too_much_is_refused_and_says_so_to_both_proxies() {
    let (allowed, application, beside, mut held) = occupied(json!({"max": 1, "maxPending": 0})).await;
    let caller = Mesh::new(&[beside.address], json!({"circuitBreaker": {"tripOn": {"consecutiveFailures": 1}}}));
    for _ in 0..2 {
        let seen = caller.get("/").await;
        assert_eq!((seen.status.as_u16(), &seen.headers["retry-after"]), (503, &"1".parse().unwrap()));
        let members: Vec<_> = seen.headers.get_all("proxy-status").iter().map(|it| it.to_str().unwrap()).collect();
        assert!(members.len() == 2 && members[0].contains("firebreak-policy=\"shop/test\""), "{members:?}");
        let said = "firebreak-reason=overload; firebreak-domain=callee_app;";
        assert!(members.iter().all(|member| member.contains(said)), "{members:?}");
    }
    let seen = call_h2(caller.address, h2_request("/").header("content-type", "application/grpc")).await.unwrap();
    assert_eq!((seen.headers["grpc-status"].as_bytes(), seen.has_reason("overload")), (&b"8"[..], true));
    // The breaker of the caller, which one failure opens, has not opened.
    assert_eq!(caller.fates(3).await, counts(&[("refused_by_concurrency", 3)]));
    assert_eq!(application.requests(), 1, "the others were never seen");
    allowed.add_permits(2);
    assert_eq!(held.join_next().await.unwrap().unwrap().status, 200);
    assert_eq!(caller.get("/").await.status, 200);
    assert_eq!(beside.mesh.fates(5).await, counts(&[("refused_by_concurrency", 3), ("succeeded", 2)]));
    let metrics = beside.mesh.metrics().await;
    for line in
        ["limit{LABELS} 1", "in_flight{LABELS} 0", "pending{LABELS} 0", "refused_total{LABELS,cause=\"full\"} 3"]
    {
        let line = format!("firebreak_concurrency_{}\n", line.replace("LABELS", LABELS));
        assert!(metrics.contains(&line), "{line}{metrics}");
    }
}

#[tokio::test]
async fn answers_that_take_long_hold_no_place() {
    let application = Callee::dripping(b"drop", Duration::from_mins(1)).await;
    let beside = limited(&application, json!({"max": 1, "maxPending": 0}));
    let mut open = Vec::new();
    for _ in 0..5 {
        let mut sender = super::support::connect_h1(beside.address).await;
        let request = Request::get("/").header("host", "a").body(Body::default()).unwrap();
        open.push((sender.send_request(request).await.unwrap(), sender));
    }
    assert!(open.iter().all(|(answer, _)| answer.status() == 200), "each has its head, and none its body");
    counts_show(&beside, "in_flight", 0).await;
}

#[tokio::test]
async fn a_refusal_is_retried_elsewhere_as_what_was_never_sent() {
    let (allowed, _application, beside, mut held) = occupied(json!({"max": 1, "maxPending": 0})).await;
    let other = Callee::answering(&[200]).await;
    let policy = json!({"retries": {"maxRetries": 1, "conditions": ["connect-failure"], "backoff": {"base": "1ms"}}});
    let caller = Mesh::new(&[beside.address, other.address], policy);
    for _ in 0..2 {
        let post = Request::post("/").header("host", "callee").body(Body::default()).unwrap();
        assert_eq!(call(caller.address, post).await.unwrap().status, 200, "whatever the method");
    }
    allowed.add_permits(1);
    held.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn who_waits_is_let_in_by_the_nearest_deadline_and_not_for_longer_than_allowed() {
    let (allowed, application, beside, mut tasks) =
        occupied(json!({"max": 1, "maxPending": 5, "maxPendingTime": "10s"})).await;
    let mut first = JoinSet::new();
    send(&beside, &mut tasks, &[]);
    counts_show(&beside, "pending", 1).await;
    send(&beside, &mut first, &[("firebreak-deadline-ms", "9000")]);
    counts_show(&beside, "pending", 2).await;
    send(&beside, &mut tasks, &[("firebreak-deadline-ms", "200")]);
    let spent = loop {
        let seen = tasks.join_next().await.unwrap().unwrap();
        if seen.status == 504 {
            break seen;
        }
    };
    assert!(spent.has_reason("deadline_spent") && spent.took < Duration::from_secs(2), "{}", spent.verdict());
    allowed.add_permits(2);
    assert_eq!(
        first.join_next().await.unwrap().unwrap().status,
        200,
        "before the one that came earlier without a deadline"
    );
    allowed.add_permits(1);
    while let Some(seen) = tasks.join_next().await {
        assert_eq!(seen.unwrap().status, 200);
    }
    let short = limited(&application, json!({"max": 1, "maxPendingTime": "50ms"}));
    let mut held = JoinSet::new();
    occupy(&short, &mut held).await;
    let seen = short.get(&[]).await;
    assert!(
        seen.has_reason("overload") && seen.took >= Duration::from_millis(50),
        "{} {:?}",
        seen.verdict(),
        seen.took
    );
    shows(&short.mesh, &format!("firebreak_concurrency_refused_total{{{LABELS},cause=\"timed_out\"}} 1\n")).await;
    allowed.add_permits(1);
    held.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn the_kubelets_probes_and_what_is_not_http_go_around_it_and_nobody_who_says_so() {
    let (allowed, _application, beside, mut held) = occupied(json!({"max": 1, "maxPending": 0})).await;
    for (agent, path) in [("kube-probe/1.34", "/"), ("kube-probe/1.34", "/healthz?all"), ("me", "/healthz")] {
        assert!(beside.ask_as(agent, path).await.has_reason("overload"), "{agent} {path}");
    }
    // Whoever of the two is answered first, the other is next.
    allowed.add_permits(2);
    assert_eq!(beside.ask_as("kube-probe/1.34", "/healthz").await.status, 200);
    assert_eq!(held.join_next().await.unwrap().unwrap().status, 200);
    occupy(&beside, &mut held).await;
    let mut opaque = tokio::net::TcpStream::connect(beside.address).await.unwrap();
    opaque.write_all(b"EHLO me\r\n").await.unwrap();
    opaque.shutdown().await.unwrap();
    shows(&beside.mesh, &format!("firebreak_opaque_connections_total{{{LABELS}}} 1\n")).await;
    counts_show(&beside, "in_flight", 1).await;
    allowed.add_permits(1);
    held.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_caller_that_leaves_gives_its_place_back_and_so_does_a_changed_protocol() {
    let application = Callee::start(|_, request| async move {
        if request.headers().contains_key("upgrade") {
            let answer = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "echo");
            tokio::spawn(async move {
                if let Ok(upgraded) = hyper::upgrade::on(request).await {
                    let _held = upgraded;
                    std::future::pending::<()>().await;
                }
            });
            return answer.body(Body::default()).unwrap();
        }
        std::future::pending().await
    })
    .await;
    let beside = limited(&application, json!({"max": 1, "maxPending": 0}));
    let mut left = JoinSet::new();
    occupy(&beside, &mut left).await;
    left.shutdown().await;
    counts_show(&beside, "in_flight", 0).await;
    let mut sender = super::support::connect_h1(beside.address).await;
    let upgrade = Request::get("/").header("host", "a").header("connection", "upgrade").header("upgrade", "echo");
    let answer = sender.send_request(upgrade.body(Body::default()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 101);
    let _open = hyper::upgrade::on(answer).await.unwrap();
    counts_show(&beside, "in_flight", 0).await;
}

#[tokio::test]
async fn a_changed_limit_holds_at_once_with_what_is_under_way_and_a_removed_one_not_any_more() {
    let (allowed, _application, mut beside, mut held) = occupied(json!({"max": 1, "maxPending": 0})).await;
    let change = |config: &mut Value, concurrency: Value| {
        let entries = config["entries"].as_array_mut().unwrap();
        let inbound = entries.iter_mut().find(|entry| entry["kind"] == "Inbound").unwrap();
        inbound["body"]["ports"][0]["concurrency"] = concurrency;
    };
    beside.mesh.change(|config| change(config, json!({"max": 1, "maxPending": 0, "tolerancePercent": 60})));
    assert!(beside.get(&[]).await.has_reason("overload"), "an edit makes no room");
    beside.mesh.change(|config| change(config, json!({"min": 7, "max": 7})));
    counts_show(&beside, "limit", 7).await;
    counts_show(&beside, "in_flight", 1).await;
    beside.mesh.change(|config| change(config, Value::Null));
    assert!(!beside.mesh.metrics().await.contains("firebreak_concurrency_limit{"));
    allowed.add_permits(2);
    assert_eq!(beside.get(&[]).await.status, 200);
    assert_eq!(held.join_next().await.unwrap().unwrap().status, 200);
}
