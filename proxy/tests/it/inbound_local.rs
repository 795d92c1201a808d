//! Local mode: what would be enforced beside each endpoint is, by the same proxy.

use firebreak_proxy::Settings;
use http::{Request, Response};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{
    faults::fault,
    inbound_limit::{on_command, semaphore, shows},
    support::{Body, Callee, Mesh, call, counts, free_address},
};

const LABELS: &str = "direction=\"inbound\",service=\"shop/test\",port=\"80\"";

/// A proxy in front of these endpoints, and beside them as `inbound` says.
fn local(endpoints: &[&Callee], inbound: &Value, entries: &[(&str, Value)]) -> Mesh {
    let list = endpoints.iter().map(|endpoint| json!({"address": endpoint.address, "beside": free_address()}));
    let list: Vec<_> = list.collect();
    let mut port = json!({"port": 80, "endpoints": list});
    port.as_object_mut().unwrap().extend(inbound.as_object().unwrap().clone());
    let entries: Vec<_> =
        entries.iter().cloned().chain([("Inbound", json!({"selector": {}, "ports": [port]}))]).collect();
    let service = json!({"protocol": "Http", "endpoints": list, "faults": []});
    Mesh::set(Settings::default(), &[], service, &entries)
}

fn limited(endpoints: &[&Callee], policy: Value) -> Mesh {
    let limit = json!({"policy": "shop/test", "concurrency": {"max": 1, "maxPending": 0}});
    local(endpoints, &limit, &[("TrafficPolicy", policy)])
}

fn send(mesh: &Mesh, tasks: &mut JoinSet<u16>) {
    let (address, request) = (mesh.address, Request::get("/").header("host", "a").body(Body::default()).unwrap());
    tasks.spawn(async move { call(address, request).await.unwrap().status.as_u16() });
}

#[tokio::test]
async fn each_endpoint_has_a_limit_of_its_own_and_refuses_as_in_a_cluster() {
    let allowed = semaphore();
    let (one, two) = (on_command(allowed).await, on_command(allowed).await);
    let mesh = limited(&[&one, &two], json!({"loadBalancing": {"algorithm": "RoundRobin"}}));
    let mut held = JoinSet::new();
    send(&mesh, &mut held);
    send(&mesh, &mut held);
    shows(&mesh, &format!("firebreak_concurrency_in_flight{{{LABELS}}} 2\n")).await;
    let seen = mesh.get("/").await;
    assert_eq!((seen.status.as_u16(), seen.headers["retry-after"].as_bytes()), (503, &b"1"[..]));
    let members: Vec<_> = seen.headers.get_all("proxy-status").iter().map(|it| it.to_str().unwrap()).collect();
    let said = "firebreak-reason=overload; firebreak-domain=callee_app;";
    assert!(members.len() == 2 && members.iter().all(|member| member.contains(said)), "{members:?}");
    assert_eq!((one.requests(), two.requests()), (1, 1), "neither has seen it");
    shows(&mesh, &format!("firebreak_concurrency_limit{{{LABELS}}} 2\n")).await;
    shows(&mesh, &format!("firebreak_concurrency_refused_total{{{LABELS},cause=\"full\"}} 1\n")).await;
    allowed.add_permits(2);
    assert_eq!(held.join_all().await, [200, 200]);
    assert_eq!(
        mesh.fates(6).await,
        counts(&[("refused_by_concurrency", 2), ("succeeded", 4)]),
        "each is in both books"
    );
    let records = mesh.records("", 2).await;
    let of = |direction| records.iter().find(|record| record["direction"] == direction).unwrap();
    let endpoint = of("outbound")["tries"][0]["endpoint"].as_str().unwrap();
    assert!([one, two].iter().any(|it| it.address.to_string() == endpoint), "by its own address: {endpoint}");
    assert_eq!(of("inbound")["service"], "shop/test");
}

#[tokio::test]
async fn a_fault_beside_endpoints_is_injected_to_whoever_calls() {
    let callee = Callee::answering(&[200]).await;
    let teapot = fault(json!([{"abort": {"percent": 100, "httpStatus": 418}}]));
    let mesh =
        local(&[&callee], &json!({"faults": ["shop/test"]}), &[("FaultSpec", teapot), ("TrafficPolicy", json!({}))]);
    let seen = mesh.get("/").await;
    assert_eq!((seen.status.as_u16(), seen.has_reason("fault_abort")), (418, true), "{}", seen.verdict());
    assert_eq!((mesh.fates(2).await, callee.requests()), (counts(&[("injected", 2)]), 0));
}

#[tokio::test]
async fn a_limit_that_comes_holds_for_connections_that_were_there_before() {
    let allowed = semaphore();
    let callee = on_command(allowed).await;
    let mut mesh = limited(&[&callee], json!({}));
    let beside = |mesh: &mut Mesh, at: Option<std::net::SocketAddr>| {
        mesh.change(|config| {
            for entry in config["entries"].as_array_mut().unwrap() {
                if entry["kind"] != "TrafficPolicy" {
                    entry["body"]["ports"][0]["endpoints"][0]["beside"] = json!(at);
                }
            }
        });
    };
    beside(&mut mesh, None);
    allowed.add_permits(1);
    assert_eq!(mesh.get("/").await.status, 200);
    assert_eq!(mesh.fates(1).await, counts(&[("succeeded", 1)]), "there is nobody beside it");
    beside(&mut mesh, Some(free_address()));
    let mut held = JoinSet::new();
    send(&mesh, &mut held);
    shows(&mesh, &format!("firebreak_concurrency_in_flight{{{LABELS}}} 1\n")).await;
    assert!(mesh.get("/").await.has_reason("overload"));
    beside(&mut mesh, None);
    send(&mesh, &mut held);
    allowed.add_permits(2);
    assert_eq!(held.join_all().await, [200, 200], "what was under way goes on");
}

#[tokio::test]
async fn nobody_inherits_from_a_request_that_came_to_an_endpoint() {
    let allowed = semaphore();
    let callee = Callee::start(move |_, request| async move {
        let deadline = request.headers().get("firebreak-deadline-ms").is_some();
        if deadline {
            allowed.acquire().await.unwrap().forget();
        }
        Response::builder().header("had-deadline", deadline.to_string()).body(Body::default()).unwrap()
    })
    .await;
    let limit = json!({"policy": "shop/test", "concurrency": {"max": 9}});
    let mesh = local(&[&callee], &limit, &[("TrafficPolicy", json!({}))]);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let first =
        Request::get("/").header("host", "a").header("traceparent", trace).header("firebreak-deadline-ms", "60000");
    let held = tokio::spawn(call(mesh.address, first.body(Body::default()).unwrap()));
    shows(&mesh, &format!("firebreak_concurrency_in_flight{{{LABELS}}} 1\n")).await;
    let other = mesh.send(Request::get("/").header("traceparent", trace)).await;
    assert_eq!(other.headers["had-deadline"], "false", "it may be another application's call");
    allowed.add_permits(1);
    assert_eq!(held.await.unwrap().unwrap().headers["had-deadline"], "true");
}
