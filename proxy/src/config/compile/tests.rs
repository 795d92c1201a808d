use std::borrow::Cow;

use firebreak_crds::wire::decode;

use super::*;
use crate::{
    config::endpoints::FromConfig,
    net::connections::Connections,
    policy::{
        bulkhead::Need,
        shadow::{Asked, Step},
    },
};

fn config(entries: &str) -> Config {
    let decoded = decode(format!(r#"{{"format":1,"namespace":"shop","entries":[{entries}]}}"#).as_bytes()).unwrap();
    assert_eq!(decoded.problems, []);
    assert_eq!(decoded.ignored, [] as [String; 0]);
    decoded.config
}

fn service(policies: &str, faults: &str) -> String {
    format!(
        r#"{{"kind":"Service","name":"shop/a","body":{{"addresses":["10.96.0.1"],"ports":[
            {{"port":80,"protocol":"Http","policies":[{policies}],"faults":[{faults}]}}]}}}}"#
    )
}

fn policy(name: &str, body: &str) -> String {
    format!(r#"{{"kind":"TrafficPolicy","name":"{name}","body":{body}}}"#)
}

fn carried() -> Carried {
    Carried::new(Registry::new(1, Connections::default()), Box::new(FromConfig))
}

fn callee(snapshot: &Snapshot) -> Arc<Callee> {
    Arc::clone(snapshot.callee(&"10.96.0.1:80".parse().unwrap()))
}

fn plan_for(callee: &Callee, path: &str) -> Plan {
    callee.plan(&http::Request::get(path).body(()).unwrap().into_parts().0).clone()
}

#[tokio::test]
async fn the_first_policy_whose_callers_include_us_is_in_force() {
    let entries = [
        service(r#""shop/web","shop/all""#, ""),
        policy("shop/web", r#"{"from":{"matchLabels":{"app":"web"}},"timeouts":{"attempt":"1s"}}"#),
        policy("shop/all", r#"{"timeouts":{"attempt":"2s"}}"#),
    ];
    let config = config(&entries.join(","));
    for (app, expected) in [("web", 1), ("api", 2)] {
        let labels = Labels::from([("app".to_owned(), app.to_owned())]);
        let snapshot = carried().compile(&config, "r", &labels, Instant::now());
        assert_eq!(callee(&snapshot).clocks().attempt.unwrap().as_secs(), expected, "{app}");
    }
}

#[tokio::test]
async fn a_route_overrides_field_by_field() {
    let body = r#"{"timeouts":{"attempt":"300ms","request":"3s"},"retries":{"maxRetries":3},
        "routes":[{"match":{"path":{"prefix":"/reports"}},"timeouts":{"attempt":"2s"}},
                  {"match":{"path":{"prefix":"/once"}},"retries":{"maxRetries":0}}]}"#;
    let config = config(&[service(r#""shop/p""#, ""), policy("shop/p", body)].join(","));
    let callee = callee(&carried().compile(&config, "r", &Labels::new(), Instant::now()));
    let reports = plan_for(&callee, "/reports/1");
    assert_eq!((reports.clocks.attempt.unwrap().as_secs(), reports.clocks.request.unwrap().as_secs()), (2, 3));
    assert_eq!(reports.retries.unwrap().max, 3);
    assert_eq!(plan_for(&callee, "/once").retries, None);
    assert_eq!(plan_for(&callee, "/").clocks.attempt.unwrap().as_millis(), 300);
}

#[tokio::test]
async fn state_survives_changes_that_do_not_concern_it() {
    let mut carried = carried();
    let now = Instant::now();
    let with = |body: &str| config(&[service(r#""shop/p""#, ""), policy("shop/p", body)].join(","));
    let before =
        callee(&carried.compile(&with(r#"{"retries":{},"bulkhead":{"maxRequests":1}}"#), "1", &Labels::new(), now));
    let held = before.gate.try_acquire(Need::Stream).unwrap();
    let after = callee(&carried.compile(
        &with(r#"{"retries":{"maxRetries":5},"bulkhead":{"maxRequests":2},"timeouts":{"idle":"1s"}}"#),
        "2",
        &Labels::new(),
        now,
    ));
    assert_eq!(after.gate.usage().requests, 1, "who is inside stays counted");
    assert!(after.gate.try_acquire(Need::Stream).is_some(), "the new limit is in force");
    assert_eq!(before.id, after.id, "and so are the connections");
    let budget = |callee: &Callee| Arc::as_ptr(callee.policy.as_ref().unwrap().extra.budget.as_ref().unwrap());
    assert_eq!(budget(&before), budget(&after));
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_fault_keeps_its_clock_through_config_changes() {
    let mut carried = carried();
    let start = Instant::now();
    let fault = r#"{"kind":"FaultSpec","name":"shop/f","body":{"faults":[{"abort":{"percent":100,"httpStatus":503}}],
        "expiresAt":"2100-01-01T00:00:00Z","duration":"10s"}}"#;
    let config = config(&[service("", r#""shop/f""#), fault.to_owned()].join(","));
    let first = callee(&carried.compile(&config, "1", &Labels::new(), start));
    assert!(first.faults[0].active(start + std::time::Duration::from_secs(9)));
    let later = start + std::time::Duration::from_secs(9);
    let second = callee(&carried.compile(&config, "2", &Labels::new(), later));
    assert!(!second.faults[0].active(start + std::time::Duration::from_secs(11)), "seen again is not begun again");
}

#[tokio::test]
async fn when_endpoints_leave_no_more_than_half_of_the_rest_are_out() {
    let mut carried = carried();
    let now = Instant::now();
    let mut with = |ports: &[u16], policy_body: &str| {
        let endpoints: Vec<_> = ports.iter().map(|port| format!(r#"{{"address":"10.0.0.1:{port}"}}"#)).collect();
        let service = format!(
            r#"{{"kind":"Service","name":"shop/a","body":{{"addresses":["10.96.0.1"],"ports":[
                {{"port":80,"protocol":"Http","policies":["shop/p"],"endpoints":[{}]}}]}}}}"#,
            endpoints.join(",")
        );
        callee(&carried.compile(&config(&[service, policy("shop/p", policy_body)].join(",")), "r", &Labels::new(), now))
    };
    let breakers = |callee: &Callee| -> Vec<_> {
        let endpoints = callee.metrics.breakers().endpoints.clone();
        let mut breakers: Vec<_> = endpoints.into_iter().map(|it| (it.address.port(), it.breaker.unwrap())).collect();
        breakers.sort_by_key(|(port, _)| *port);
        breakers.into_iter().map(|(_, breaker)| breaker).collect()
    };
    let states = |callee: &Callee| breakers(callee).iter().map(|breaker| breaker.state()).collect::<Vec<_>>();
    let fail = |breaker: &Arc<Breaker>| breaker.admit(now, None).unwrap().ended(breaker::Outcome::Failed, now);
    let (open, closed) = (breaker::State::Open, breaker::State::Closed);
    let body = r#"{"outlierDetection":{"consecutiveFailures":1}}"#;

    let four = with(&[1, 2, 3, 4], body);
    breakers(&four)[..2].iter().for_each(fail);
    assert_eq!(states(&four), [open, open, closed, closed]);
    let other_numbers = r#"{"outlierDetection":{"consecutiveFailures":1,"ejectFor":{"initial":"9s"}}}"#;
    assert_eq!(states(&with(&[1, 2, 3, 4], other_numbers)), [open, open, closed, closed]);
    let without_one = with(&[1, 3, 4], other_numbers);
    assert_eq!(states(&without_one), [open, closed, closed], "whoever is gone takes none of the others along");
    assert_eq!(states(&with(&[1], other_numbers)), [closed], "the last one is in");
    let two = with(&[1, 2], other_numbers);
    breakers(&two).iter().for_each(fail);
    assert_eq!(states(&two), [open, closed], "and the places of those who are gone are free");
}

/// A source beside the config, as a stream to the proxy would be.
#[derive(Debug)]
struct Elsewhere;

impl EndpointSource for Elsewhere {
    fn endpoints<'a>(&'a self, service: &str, port: &'a wire::Port) -> Option<Cow<'a, [wire::Endpoint]>> {
        let address = ([10, 0, 0, 7], 8080).into();
        ((service, port.port) == ("shop/a", 80)).then(|| vec![wire::Endpoint::at(address)].into())
    }
}

#[tokio::test]
async fn endpoints_are_those_that_the_source_knows() {
    let mut carried = Carried::new(Registry::new(1, Connections::default()), Box::new(Elsewhere));
    let now = Instant::now();
    let checks = policy("shop/p", r#"{"healthCheck":{"tcp":{},"port":99}}"#);
    let config = config(&[service(r#""shop/p""#, ""), checks].join(","));
    let callee = callee(&carried.compile(&config, "r", &Labels::new(), now));
    let chosen = callee.admit(None, None, now, None).unwrap();
    assert_eq!(chosen.way, Some(([10, 0, 0, 7], 8080).into()));
    let checked = carried.checked();
    assert_eq!(checked.iter().map(|it| it.address).collect::<Vec<_>>(), [([10, 0, 0, 7], 8080).into()]);
    carried.compile(&config, "again", &Labels::new(), now);
    assert!(Arc::ptr_eq(&checked[0].health, &carried.checked()[0].health), "what is known of it stays");
    carried.compile(&Config::default(), "nothing", &Labels::new(), now);
    assert!(carried.checked().is_empty());
}

#[tokio::test]
async fn break_glass_leaves_no_policy_and_no_fault() {
    let mut config =
        config(&[service(r#""shop/p""#, ""), policy("shop/p", r#"{"bulkhead":{"maxRequests":1}}"#)].join(","));
    config.transparent = true;
    let snapshot = carried().compile(&config, "r", &Labels::new(), Instant::now());
    assert!(snapshot.transparent);
    assert!(callee(&snapshot).policy.is_none());
    assert_eq!(callee(&snapshot).gate.limits().max_requests, u32::MAX);
}

#[tokio::test]
async fn an_address_that_nobody_names_is_unknown() {
    let snapshot = carried().compile(&config(&service("", "")), "r", &Labels::new(), Instant::now());
    assert_eq!(&*snapshot.callee(&"10.96.0.1:81".parse().unwrap()).metrics.service, "unknown");
    assert_eq!(&*callee(&snapshot).metrics.service, "shop/a");
}

fn observing(body: &str) -> String {
    format!(
        r#"{{"kind":"Service","name":"shop/a","body":{{"addresses":["10.96.0.1"],"ports":[
            {{"port":80,"protocol":"Http","policies":["shop/p"],"observe":["shop/web","shop/all"]}}]}}}},{body}"#
    )
}

#[tokio::test]
async fn the_first_observed_policy_whose_callers_include_us_is_observed_with_its_routes() {
    let entries = [
        policy("shop/p", r#"{"timeouts":{"attempt":"9s"},"observe":{"timeouts":{"request":"3s"}}}"#),
        policy("shop/web", r#"{"from":{"matchLabels":{"app":"web"}},"timeouts":{"attempt":"1s"}}"#),
        policy(
            "shop/all",
            r#"{"timeouts":{"attempt":"2s"},
            "routes":[{"match":{"path":{"prefix":"/reports"}},"timeouts":{"attempt":"5s"}}]}"#,
        ),
    ];
    let attempt = |entries: &[String], app: &str, path: &str| {
        let labels = Labels::from([("app".to_owned(), app.to_owned())]);
        let snapshot = carried().compile(&config(&observing(&entries.join(","))), "r", &labels, Instant::now());
        let policy = callee(&snapshot).observer.clone().unwrap().shadow.policy.clone();
        let head = http::Request::get(path).body(()).unwrap().into_parts().0;
        let clocks = policy.plan_of(policy.route(&head)).clocks;
        (clocks.attempt.or(clocks.request)).unwrap().as_secs()
    };
    assert_eq!(attempt(&entries, "web", "/reports"), 1);
    assert_eq!((attempt(&entries, "api", "/"), attempt(&entries, "api", "/reports/1")), (2, 5));
    assert_eq!(attempt(&entries[..2], "api", "/"), 3, "where none is for it: what the one in force observes");
}

#[tokio::test]
async fn nothing_is_left_of_a_policy_that_is_observed_no_more_although_requests_of_it_would_still_wait() {
    let observed = r#"{"observe":{"bulkhead":{"maxRequests":1,"maxPendingTime":"1h"},"timeouts":{"attempt":"1h"},
        "circuitBreaker":{},"retries":{},"hedge":{"after":"1h"}}}"#;
    let (mut carried, now) = (carried(), Instant::now());
    let mut with =
        |body: &str| callee(&carried.compile(&config(&observing(&policy("shop/p", body))), "r", &Labels::new(), now));
    let before = with(observed);
    let observer = before.observer.clone().unwrap();
    let (shadow, line) = (Arc::downgrade(&observer.shadow), Arc::downgrade(&observer.line));
    let breaker = Arc::downgrade(observer.shadow.breaker.as_ref().unwrap());
    let head = http::Request::get("/").body(()).unwrap().into_parts().0;
    let asked = Asked { started: now, grpc: false, switching: false, layers: 0 };
    let mut requests = [(); 3].map(|()| observer.follow(&head, asked));
    drop(observer);
    let began = Step::Began { number: 1, endpoint: "10.0.0.1:80".parse().unwrap() };
    let (late, in_time) = requests.split_last_mut().unwrap();
    for one in in_time {
        one.enters(Need::Exchange, now);
        one.tell(began, now);
    }
    assert!(with("{}").observer.is_none());
    drop(before);
    late.enters(Need::Exchange, now);
    late.tell(began, now);
    assert_eq!(line.upgrade().unwrap().lock().len(), 3, "a request keeps the policy that it began with");
    // Of the last two that are over none is in the simulation: they would still wait for the first.
    let [first, second, late] = requests;
    for one in [&second, &late] {
        one.tell(Step::Over(None), now);
    }
    drop((second, late));
    assert!(line.upgrade().is_some());
    drop(first);
    assert!(shadow.upgrade().is_none() && line.upgrade().is_none() && breaker.upgrade().is_none());
}

#[tokio::test]
async fn a_port_with_a_name_is_the_pods_own_where_the_names_are_known() {
    let body = r#"{"selector":{},"ports":[{"port":80,"targetName":"web","targets":[8080,9090],"policy":"shop/p","concurrency":{}}]}"#;
    let inbound = format!(r#"{{"kind":"Inbound","name":"shop/a","body":{body}}}"#);
    let config = config(&[policy("shop/p", "{}"), inbound].join(","));
    let ports = |names: Option<&[(&str, u16)]>| {
        let names = names.map(|names| Ports(names.iter().map(|(name, port)| ((*name).to_owned(), *port)).collect()));
        let mut carried = Carried { ports: names, ..carried() };
        let mut ports: Vec<_> =
            carried.compile(&config, "r", &Labels::new(), Instant::now()).inbound_ports.into_keys().collect();
        ports.sort_unstable();
        ports
    };
    assert_eq!(ports(None), [8080, 9090], "wherever one of the pods has it");
    assert_eq!(ports(Some(&[("web", 7070), ("other", 1)])), [7070]);
    assert_eq!(ports(Some(&[])), [0; 0]);
}
