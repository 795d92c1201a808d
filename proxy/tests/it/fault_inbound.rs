//! Faults beside the callee: its own proxy injects them, and the caller's says what it was told.

use std::time::Duration;

use firebreak_crds::pod::Probe;
use firebreak_proxy::{boot::Settings, net::accept::Kind};
use http::Request;
use serde_json::{Value, json};

use super::{
    faults::fault,
    support::{Body, Callee, Mesh, Seen, call, call_h2, counts, free_address, h2_request},
};

/// A proxy beside an application, which callers reach at `address`.
pub(crate) struct Beside {
    pub mesh: Mesh,
    pub address: std::net::SocketAddr,
}

/// `port` is what the entry `Inbound` says of the application's port.
pub(crate) fn beside(application: &Callee, port: Value, entries: &[(&str, Value)]) -> Beside {
    let address = free_address();
    let redirected = vec![(address, Kind::Before(application.address))];
    let probe = Probe { port: application.address.port(), path: "/healthz".into(), agent: None };
    let settings = Settings { redirected, probes: vec![probe], ..Settings::default() };
    let mut inbound = json!({"port": 80, "targets": [application.address.port()]});
    inbound.as_object_mut().unwrap().extend(port.as_object().unwrap().clone());
    let inbound = json!({"selector": {}, "ports": [inbound]});
    let entries: Vec<_> = entries.iter().cloned().chain([("Inbound", inbound)]).collect();
    // What the pod itself calls is nobody's business here.
    let mesh = Mesh::set(settings, &[], json!({"protocol": "Http", "faults": [], "policies": []}), &entries);
    Beside { mesh, address }
}

fn with_fault(application: &Callee, fault: Value) -> Beside {
    beside(application, json!({"faults": ["shop/test"]}), &[("FaultSpec", fault)])
}

impl Beside {
    /// What whoever calls himself `agent` gets.
    pub(crate) async fn ask_as(&self, agent: &str, path: &str) -> Seen {
        let request = Request::get(path).header("host", "a").header("user-agent", agent);
        call(self.address, request.body(Body::default()).unwrap()).await.unwrap()
    }

    pub(crate) async fn get(&self, headers: &[(&str, &str)]) -> Seen {
        let request =
            headers.iter().fold(Request::get("/").header("host", "a"), |it, (name, value)| it.header(*name, *value));
        call(self.address, request.body(Body::default()).unwrap()).await.unwrap()
    }
}

#[tokio::test]
async fn an_abort_beside_the_callee_is_injected_to_both_proxies() {
    let callee = Callee::answering(&[200]).await;
    for (abort, status, reason, grpc) in [
        (json!({"httpStatus": 503}), 503, "fault_abort", "14"),
        (json!({"httpStatus": 404}), 404, "fault_abort", "12"),
        (json!({"reset": true}), 502, "fault_reset", "14"),
        (json!({"refuse": true}), 502, "fault_refuse", "14"),
    ] {
        let mut abort = abort;
        abort["percent"] = json!(100);
        let beside = with_fault(&callee, fault(json!([{"abort": abort}])));
        let caller = Mesh::new(&[beside.address], json!({}));
        let seen = caller.get("/").await;
        assert_eq!(seen.status, status, "{}", seen.verdict());
        let members: Vec<_> = seen.headers.get_all("proxy-status").iter().map(|it| it.to_str().unwrap()).collect();
        assert_eq!(members.len(), 2, "{members:?}");
        assert!(members[0].contains("firebreak-attempts=0"), "the callee's: {members:?}");
        for member in members {
            let said = format!("firebreak-reason={reason}; firebreak-domain=injected;");
            assert!(member.contains(&said) && member.contains("firebreak-fault=\"shop/test\""), "{member}");
        }
        let record = &caller.records("", 1).await[0];
        assert_eq!((&record["reason"], &record["fault"]), (&json!(reason), &json!("shop/test")), "{record}");
        assert_eq!((&record["fate"], &record["fault_domain"]), (&json!("injected"), &json!("injected")));
        let seen = call_h2(caller.address, h2_request("/").header("content-type", "application/grpc")).await.unwrap();
        assert_eq!(seen.headers["grpc-status"], grpc);
        assert_eq!(caller.fates(2).await, counts(&[("injected", 2)]));
        assert_eq!(beside.mesh.fates(2).await, counts(&[("injected", 2)]));
        let labels = "direction=\"inbound\",service=\"shop/test\",port=\"80\"";
        let metrics = beside.mesh.metrics().await;
        assert!(metrics.contains(labels), "{metrics}");
        assert!(
            metrics.contains("firebreak_fault_injected_total{fault=\"shop/test\",kind=\"abort\"} 2\n"),
            "{metrics}"
        );
    }
    assert_eq!(callee.requests(), 0);
}

#[tokio::test]
async fn every_caller_suffers_a_delay_and_the_kubelet_does_not() {
    let callee = Callee::answering(&[200]).await;
    let beside = with_fault(&callee, fault(json!([{"delay": {"percent": 100, "fixed": "250ms"}}])));
    let seen = beside.get(&[]).await;
    assert!(seen.status == 200 && seen.took >= Duration::from_millis(250), "{:?}", seen.took);
    let probed = beside.ask_as("kube-probe/1.34", "/healthz").await;
    assert!(probed.status == 200 && probed.took < Duration::from_millis(250), "{:?}", probed.took);
    let caller = Mesh::new(&[beside.address], json!({"timeouts": {"attempt": "100ms"}}));
    assert!(caller.get("/").await.has_reason("attempt_timeout"));
    let records = beside.mesh.records("", 2).await;
    assert!(records.iter().all(|record| record["fault"] == "shop/test"), "{records:?}");
    assert!(records.iter().any(|record| record["slowed"] == true), "{records:?}");
}

#[tokio::test]
async fn an_answer_is_cut_or_slowed_beside_the_callee() {
    let callee = Callee::start(|_, _| async { http::Response::new(Body::from(vec![b'x'; 2_000])) }).await;
    for (faults, breaks) in [
        (json!([{"truncate": {"percent": 100, "afterBytes": 1000}}]), true),
        (json!([{"abort": {"percent": 100, "resetAfterHeaders": true}}]), true),
        (json!([{"throttle": {"percent": 100, "bytesPerSecond": 8000}}]), false),
    ] {
        let beside = with_fault(&callee, fault(faults.clone()));
        let request = Request::get("/").header("host", "a").body(Body::default()).unwrap();
        let seen = call(beside.address, request).await;
        assert_eq!(seen.is_err(), breaks, "{faults} {seen:?}");
        if let Ok(seen) = seen {
            assert!(seen.took >= Duration::from_millis(200), "{:?}", seen.took);
        }
    }
}

#[tokio::test]
async fn a_fault_that_is_taken_away_lets_go_and_bounds_hold() {
    let callee = Callee::answering(&[200]).await;
    let mut black = fault(json!([{"abort": {"percent": 100, "blackhole": true}}]));
    black["blastRadius"] = json!({"maxActive": 1});
    let mut beside = with_fault(&callee, black);
    let address = beside.address;
    let held = tokio::spawn(async move {
        let request = Request::get("/").header("host", "a").body(Body::default()).unwrap();
        call(address, request).await.unwrap()
    });
    while !beside.mesh.metrics().await.contains("firebreak_fault_active{fault=\"shop/test\"} 1\n") {
        tokio::task::yield_now().await;
    }
    assert_eq!(beside.get(&[]).await.status, 200, "one is under it already, and the next is spared");
    beside.mesh.change(|config| config["entries"].as_array_mut().unwrap().retain(|entry| entry["kind"] != "FaultSpec"));
    assert!(held.await.unwrap().has_reason("fault_blackhole"));
    assert_eq!(beside.get(&[]).await.status, 200);
}

#[tokio::test]
async fn only_pods_that_the_selector_names_are_hit_and_only_at_that_port() {
    let callee = Callee::answering(&[200]).await;
    let abort = fault(json!([{"abort": {"percent": 100, "httpStatus": 503}}]));
    let mut beside = with_fault(&callee, abort);
    assert_eq!(beside.get(&[]).await.status, 503);
    let inbound = |config: &mut Value, change: &dyn Fn(&mut Value)| {
        let entries = config["entries"].as_array_mut().unwrap();
        change(&mut entries.iter_mut().find(|entry| entry["kind"] == "Inbound").unwrap()["body"]);
    };
    beside.mesh.change(|config| inbound(config, &|body| body["selector"] = json!({"app": "other"})));
    assert_eq!(beside.get(&[]).await.status, 200);
    beside.mesh.change(|config| inbound(config, &|body| body["selector"] = json!({})));
    assert_eq!(beside.get(&[]).await.status, 503);
    beside.mesh.change(|config| inbound(config, &|body| body["ports"][0]["targets"] = json!([1])));
    assert_eq!(beside.get(&[]).await.status, 200);
    beside.mesh.change(|config| {
        inbound(config, &|body| body["ports"][0]["targets"] = json!([callee.address.port()]));
        config["transparent"] = json!(true);
    });
    assert_eq!(beside.get(&[]).await.status, 200, "break-glass");
}
