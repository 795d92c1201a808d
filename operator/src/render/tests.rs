use firebreak_crds::wire::Body;
use jiff::ToSpan;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    Event, Update, World,
    index::{Listens, Pod, Slice},
    scenario::{fault, namespace, noon, options, pod, policy, running, service, service_with, world},
};

const FAULTS: [(&str, &str); 1] = [("firebreak.dev/faults", "enabled")];

fn on_a() -> serde_json::Value {
    json!({"targetRefs": [{"kind": "Service", "name": "a"}]})
}

/// The talk's shop: a policy with every part, a fault, and things that must not show.
fn shop() -> Vec<Event> {
    let full = json!({
        "targetRefs": [{"kind": "Service", "name": "a", "sectionName": "http"}],
        "from": {"podSelector": {"matchLabels": {"app": "web"}}},
        "timeouts": {"connect": "1s", "attempt": "300ms", "request": "3s"},
        "retries": {"maxRetries": 3, "conditions": ["5xx"], "methods": "All"},
        "bulkhead": {"maxConnections": 100, "maxPending": 100},
        "routes": [{"match": {"path": {"prefix": "/reports"}}, "timeouts": {"attempt": "3s"}}],
    });
    let late = json!({"targetRefs": [{"kind": "Service", "name": "a"}], "seed": 42,
                      "faults": [{"delay": {"percent": 50, "fixed": "20s"}}]});
    vec![
        namespace("shop", &FAULTS),
        namespace("other", &[]),
        service("shop/a", 1, &["http:80", "redis-main:6379"]),
        service("shop/untouched", 2, &["http:80"]),
        policy("shop/a-http", 1, full),
        fault("shop/late", 1, late, &running()),
    ]
}

fn names(config: &Config) -> Vec<String> {
    config.entries.iter().map(|entry| format!("{} {}", entry.body.kind(), entry.name)).collect()
}

#[test]
fn a_rendered_config() {
    let config = render(&world(shop()), "shop", &options(noon()));
    let (document, _) = config.encode().unwrap();
    insta::assert_json_snapshot!(serde_json::from_str::<serde_json::Value>(&document).unwrap());
}

#[test]
fn without_the_namespaces_label_there_are_no_faults() {
    assert_eq!(
        names(&render(&world(shop()), "other", &options(noon()))),
        ["Service shop/a", "TrafficPolicy shop/a-http"]
    );
}

#[test]
fn faults_never_act_where_the_cluster_or_firebreak_would_be_hit() {
    for spared in ["kube-system", "firebreak-system"] {
        let mut events = shop();
        events.push(namespace(spared, &FAULTS));
        let config = render(&world(events), spared, &options(noon()));
        assert!(!names(&config).contains(&"FaultSpec shop/late".into()), "{spared}");
    }
}

#[test]
fn a_fault_shows_between_its_start_and_its_end_only() {
    let shows = |status: serde_json::Value, suspend: bool, minute: i64| {
        let mut spec = on_a();
        spec["suspend"] = json!(suspend);
        let events =
            [namespace("shop", &FAULTS), service("shop/a", 1, &["http:80"]), fault("shop/f", 1, spec, &status)];
        let config = render(&world(events), "shop", &options(noon() + minute.minutes()));
        names(&config).contains(&"FaultSpec shop/f".into())
    };
    assert!(!shows(json!({}), false, 0), "not started");
    assert!(shows(running(), false, 0));
    assert!(shows(running(), false, 8));
    assert!(!shows(running(), false, 9), "over");
    assert!(!shows(running(), true, 0), "suspended");
    let mut refused = running();
    refused["phase"] = json!("Refused");
    assert!(!shows(refused, false, 0));
}

#[test]
fn where_two_faults_meet_the_consumers_comes_first_whatever_their_names_and_ages() {
    let consumers = json!({"targetRefs": [{"kind": "Service", "name": "a", "namespace": "shop"}]});
    let world = world([
        namespace("shop", &FAULTS),
        namespace("xfront", &FAULTS),
        service("shop/a", 1, &["http:80"]),
        fault(
            "shop/ours",
            1,
            json!({"targetRefs": [{"kind": "Service", "name": "a", "sectionName": "http"}]}),
            &running(),
        ),
        fault("xfront/theirs", 2, consumers, &running()),
    ]);
    let faults = |caller: &str| {
        let config = render(&world, caller, &options(noon()));
        let Body::Service(a) = &config.entries[0].body else { panic!("{config:?}") };
        a.ports[0].faults.clone()
    };
    assert_eq!(faults("xfront"), ["xfront/theirs", "shop/ours"]);
    assert_eq!(faults("shop"), ["shop/ours"], "a consumer speaks for its own callers");
}

#[test]
fn break_glass_is_told() {
    let mut world = world(shop());
    assert!(!render(&world, "shop", &options(noon())).transparent);
    let mut shop = world.namespace("shop").unwrap().clone();
    shop.transparent = true;
    world.apply(Event::Namespace(Update::Apply(shop)));
    assert!(render(&world, "shop", &options(noon())).transparent);
}

#[test]
fn a_headless_service_has_no_place_without_endpoints() {
    let events = [
        namespace("shop", &[]),
        service_with("shop/a", &json!({"clusterIP": "None", "ports": [{"port": 80}]})),
        policy("shop/a", 1, on_a()),
    ];
    let world = world(events);
    assert!(render(&world, "shop", &options(noon())).entries.is_empty());
    assert_eq!(names(&render(&world, "shop", &Options::local(noon()))), ["Service shop/a", "TrafficPolicy shop/a"]);
}

#[test]
fn local_mode_has_every_service_with_its_ready_endpoints() {
    let mut world = world(shop());
    let slice = json!({
        "metadata": {"namespace": "shop", "name": "a-1", "labels": {"kubernetes.io/service-name": "a"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}, {"name": "other", "port": 1}],
        "endpoints": [{"addresses": ["127.0.0.2"]}, {"addresses": ["127.0.0.1"], "conditions": {"ready": true}},
                      {"addresses": ["127.0.0.3"], "conditions": {"ready": false}}],
    });
    let slice: k8s_openapi::api::discovery::v1::EndpointSlice = serde_json::from_value(slice).unwrap();
    world.apply(Event::Slice(Update::Apply(Slice::from(slice))));
    let config = render(&world, "shop", &Options::local(noon()));
    assert!(names(&config).contains(&"Service shop/untouched".into()));
    let Body::Service(a) = &config.entries[0].body else { panic!("{config:?}") };
    let addresses = |port: usize| -> Vec<_> {
        a.ports[port].endpoints.as_ref().unwrap().iter().map(|it| it.address.to_string()).collect()
    };
    assert_eq!(addresses(0), ["127.0.0.1:8080", "127.0.0.2:8080"]);
    assert_eq!(addresses(1), [] as [String; 0], "no endpoint serves it");
}

/// A handful of events about the same few objects, so that orders differ in what matters.
fn any_event() -> impl Strategy<Value = Event> {
    let policies = (0..4i64, prop::sample::select(vec!["a", "b"])).prop_map(|(number, target)| {
        let name = ["shop/p", "shop/q", "other/p", "other/q"][usize::try_from(number).unwrap()];
        policy(name, number, json!({"targetRefs": [{"kind": "Service", "name": target, "namespace": "shop"}]}))
    });
    let services = (0..3u8, 1..4u8)
        .prop_map(|(name, number)| service(["shop/a", "shop/b", "shop/c"][usize::from(name)], number, &["http:80"]));
    let faults = any::<bool>().prop_map(|on| {
        let status = if on { running() } else { json!({}) };
        fault("shop/f", 1, on_a(), &status)
    });
    let pods = any::<bool>().prop_map(|injected| pod("other/p", injected));
    prop_oneof![policies, services, faults, pods]
}

fn document(world: &World, namespace: &str) -> String {
    render(world, namespace, &options(noon())).encode().unwrap().0
}

proptest! {
    /// However the news of the last state came, in whatever order, with repetitions, or as a list: the bytes are the same.
    #[test]
    fn the_same_world_is_the_same_bytes(events in prop::collection::vec(any_event(), 0..24), seed in any::<u64>()) {
        let fixed = || [namespace("shop", &FAULTS), namespace("other", &[])];
        let before = world(fixed().into_iter().chain(events.clone()));
        let mut shuffled = World::default();
        let mut last: Vec<Event> = Vec::new();
        for event in fixed().into_iter().chain(events) {
            last.retain(|old| identity(old) != identity(&event));
            last.push(event);
        }
        let turn = usize::try_from(seed % 1_000).unwrap() % last.len().max(1);
        last.rotate_left(turn);
        if seed % 2 == 0 { last.reverse(); }
        for event in last { shuffled.apply(event); }
        for namespace in ["shop", "other"] {
            prop_assert_eq!(document(&before, namespace), document(&shuffled, namespace));
        }
    }

    /// What `apply` says is not affected renders to the bytes it had.
    #[test]
    fn what_is_not_affected_does_not_change(events in prop::collection::vec(any_event(), 1..24)) {
        let mut world = world([namespace("shop", &FAULTS), namespace("other", &[])]);
        for event in events {
            let before = ["shop", "other"].map(|namespace| document(&world, namespace));
            let touched = world.apply(event).configs.resolve(["shop".to_owned(), "other".to_owned()]);
            for (namespace, before) in ["shop", "other"].into_iter().zip(before) {
                prop_assert!(touched.contains(namespace) || document(&world, namespace) == before, "{namespace}");
            }
        }
    }
}

fn identity(event: &Event) -> (u8, Key) {
    match event {
        Event::Namespace(Update::Apply(it)) => (0, it.key.clone()),
        Event::Service(Update::Apply(it)) => (1, it.key.clone()),
        Event::Pod(Update::Apply(it)) => (2, it.key.clone()),
        Event::Policy(Update::Apply(it)) => (3, it.meta.key.clone()),
        Event::Fault(Update::Apply(it)) => (4, it.meta.key.clone()),
        other => panic!("{other:?}"),
    }
}

fn wire_policy<'c>(config: &'c Config, name: &str) -> &'c firebreak_crds::wire::Policy {
    let found = config.entries.iter().find_map(|entry| match &entry.body {
        Body::Policy(policy) if entry.name == name => Some(policy),
        _ => None,
    });
    found.unwrap()
}

fn first_port(config: &Config) -> &firebreak_crds::wire::Port {
    let found = config.entries.iter().find_map(|entry| match &entry.body {
        Body::Service(service) => service.ports.first(),
        _ => None,
    });
    found.unwrap()
}

#[test]
fn what_is_observed_stands_apart_from_what_is_enforced() {
    let with = |mut spec: serde_json::Value| {
        spec["targetRefs"] = json!([{"kind": "Service", "name": "a"}]);
        spec
    };
    let enforced = with(json!({"bulkhead": {"mode": "Observe", "maxRequests": 3}, "retries": {}}));
    let observed = with(json!({"mode": "Observe", "circuitBreaker": {}}));
    let world = world([
        namespace("shop", &[]),
        service("shop/a", 1, &["http:80"]),
        policy("shop/enforced", 2, enforced),
        policy("shop/observed", 1, observed),
        policy("shop/observed-too", 3, with(json!({"mode": "Observe"}))),
    ]);
    let config = render(&world, "shop", &options(noon()));
    let port = first_port(&config);
    assert_eq!(port.policies, ["shop/enforced"], "though younger: an observed policy claims nothing of it");
    assert_eq!(port.observe, ["shop/observed"], "of two the older, as among those that are enforced");
    let enforced = wire_policy(&config, "shop/enforced");
    assert!(enforced.bulkhead.is_none(), "a proxy that does not know modes would enforce it");
    let bulkhead = enforced.observe.as_ref().and_then(|observe| observe.bulkhead.clone()).unwrap();
    assert_eq!((bulkhead.max_requests, bulkhead.mode), (Some(3), None));
    assert!(enforced.retries.is_some() && enforced.observe.as_ref().unwrap().retries.is_none());
    assert!(wire_policy(&config, "shop/observed").circuit_breaker.is_some());
}

/// A Service whose pods have the label `app: a` and listen at 8080.
fn behind_a(target: &serde_json::Value) -> Event {
    let ports = json!([{"name": "http", "port": 80, "targetPort": target}]);
    service_with("shop/a", &json!({"clusterIPs": ["10.96.0.1"], "selector": {"app": "a"}, "ports": ports}))
}

fn inbound_of(config: &Config) -> Option<serde_json::Value> {
    let found = config.entries.iter().find(|entry| matches!(entry.body, Body::Inbound(_)))?;
    let Body::Inbound(body) = &found.body else { return None };
    Some(serde_json::to_value(body).unwrap())
}

#[test]
fn what_acts_beside_the_callee_is_in_the_config_of_its_namespace_only() {
    let mut beside = on_a();
    beside["at"] = json!("Inbound");
    let mut limit = on_a();
    limit["inbound"] = json!({"concurrency": {"max": 50}});
    let world = world([
        namespace("shop", &FAULTS),
        namespace("other", &FAULTS),
        behind_a(&json!(8080)),
        fault("shop/beside", 1, beside, &running()),
        policy("shop/limit", 1, limit),
    ]);
    let config = render(&world, "shop", &options(noon()));
    assert_eq!(
        inbound_of(&config).unwrap(),
        json!({"selector": {"app": "a"}, "ports": [{"port": 80, "targets": [8080], "policy": "shop/limit",
            "concurrency": {"max": 50}, "faults": ["shop/beside"]}]})
    );
    let Body::Service(a) = &config.entries[0].body else { panic!("{config:?}") };
    assert!(a.ports[0].faults.is_empty(), "it is no fault of callers");
    assert!(!config.encode().unwrap().0.contains("\"at\""), "who does not know the word is to find it nowhere");
    let others = render(&world, "other", &options(noon()));
    assert_eq!(names(&others), ["Service shop/a", "TrafficPolicy shop/limit"]);
}

#[test]
fn in_local_mode_what_acts_beside_callees_acts_before_their_endpoints_whatever_their_namespace() {
    let mut beside = on_a();
    beside["at"] = json!("Inbound");
    let mut limit = on_a();
    limit["inbound"] = json!({"concurrency": {"max": 50}});
    let slice = |address: &str| {
        Event::Slice(Update::Apply(Slice {
            key: Key::new("shop", "a-1"),
            service: "a".into(),
            ports: vec![(Some("http".into()), 9001)],
            addresses: vec![address.parse().unwrap()],
        }))
    };
    let world = world([
        namespace("shop", &FAULTS),
        namespace("web", &[]),
        // Nobody selects pods here.
        service("shop/a", 1, &["http:80"]),
        service("shop/b", 2, &["http:80"]),
        slice("127.0.0.2"),
        fault("shop/beside", 1, beside, &running()),
        policy("shop/limit", 1, limit),
    ]);
    let config = render(&world, "web", &Options::local(noon()));
    assert_eq!(
        inbound_of(&config).unwrap(),
        json!({"selector": {}, "ports": [{"port": 80, "endpoints": [{"address": "127.0.0.2:9001"}], "policy": "shop/limit",
            "concurrency": {"max": 50}, "faults": ["shop/beside"]}]})
    );
    assert_eq!(
        names(&config),
        ["Service shop/a", "Service shop/b", "TrafficPolicy shop/limit", "FaultSpec shop/beside", "Inbound shop/a"]
    );
    assert_eq!(first_port(&config).faults, [""; 0], "it is no fault of callers");
}

#[test]
fn beside_the_callee_the_strongest_policy_for_everyone_holds_whole() {
    let limit = |mut spec: serde_json::Value| {
        spec["inbound"] = json!({"concurrency": {}});
        spec
    };
    let whole = json!({"targetRefs": [{"kind": "Namespace", "name": "shop"}]});
    let some = json!({"targetRefs": [{"kind": "Service", "name": "a"}], "from": {"podSelector": {"matchLabels": {"app": "web"}}}});
    let base = [namespace("shop", &[]), behind_a(&json!(8080)), policy("shop/whole", 1, limit(whole))];
    let of = |more: Vec<Event>| {
        let world = world(base.clone().into_iter().chain(more));
        inbound_of(&render(&world, "shop", &options(noon()))).map(|it| it["ports"][0]["policy"].clone())
    };
    assert_eq!(of(vec![]), Some(json!("shop/whole")));
    assert_eq!(of(vec![policy("shop/some", 2, some)]), Some(json!("shop/whole")), "whom it is for is not known here");
    assert_eq!(of(vec![policy("shop/own", 2, limit(on_a()))]), Some(json!("shop/own")));
    assert_eq!(of(vec![policy("shop/own", 2, on_a())]), None, "nothing is merged");
    // What is observed limits nothing, and takes nothing from what is in force.
    let mut observed = limit(on_a());
    observed["mode"] = json!("Observe");
    let alone = world([namespace("shop", &[]), behind_a(&json!(8080)), policy("shop/seen", 1, observed.clone())]);
    assert_eq!(inbound_of(&render(&alone, "shop", &options(noon()))), None);
    assert_eq!(of(vec![policy("shop/seen", 0, observed)]), Some(json!("shop/whole")));
}

#[test]
fn a_port_with_a_name_is_where_pods_with_the_proxy_have_it() {
    let mut beside = on_a();
    beside["at"] = json!("Inbound");
    let mut world =
        world([namespace("shop", &FAULTS), behind_a(&json!("web")), fault("shop/beside", 1, beside, &running())]);
    let targets = |world: &World| {
        let inbound = inbound_of(&render(world, "shop", &options(noon()))).unwrap();
        assert_eq!(inbound["ports"][0]["targetName"], "web", "each proxy knows its own pod's");
        inbound["ports"][0].get("targets").cloned()
    };
    assert_eq!(targets(&world), None, "nobody runs yet");
    let pod = |name: &str, app: &str, port: u16| {
        let listens =
            Listens { labels: [("app".to_owned(), app.to_owned())].into(), ports: vec![("web".into(), port)] };
        let key = Key::new("shop", name);
        Event::Pod(Update::Apply(Pod {
            key,
            injected: true,
            running: true,
            listens: Some(Box::new(listens)),
            ..Pod::default()
        }))
    };
    assert!(!world.apply(pod("one", "a", 8080)).is_empty());
    assert!(world.apply(pod("two", "a", 8080)).is_empty(), "another like it is no news");
    assert!(!world.apply(pod("three", "a", 9090)).is_empty());
    world.apply(pod("four", "b", 7070));
    assert_eq!(targets(&world), Some(json!([8080, 9090])));
    assert!(world.apply(Event::Pod(Update::Delete(Key::new("shop", "two")))).is_empty());
    assert!(!world.apply(Event::Pod(Update::Delete(Key::new("shop", "one")))).is_empty());
    assert_eq!(targets(&world), Some(json!([9090])));
}
