use jiff::ToSpan;

use super::super::ports::Moved;
use super::*;
use crate::manifest::Source;

const SHOP: &str = "
apiVersion: v1
kind: Service
metadata:
  name: service2
spec:
  ports: [{name: http, port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: service2-1, labels: {kubernetes.io/service-name: service2}}
addressType: IPv4
ports: [{name: http, port: 9001}]
endpoints: [{addresses: [127.0.0.1]}]
---
apiVersion: firebreak.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: service2}
spec:
  targetRefs: [{kind: Service, name: service2}]
  timeouts: {request: 3s}
";
const FAULT: &str = "
---
apiVersion: firebreak.dev/v1alpha1
kind: FaultSpec
metadata: {name: slow}
spec:
  targetRefs: [{kind: Service, name: service2}]
  duration: 10m
  faults: [{abort: {percent: 20, httpStatus: 503}}]
";

fn stage() -> Stage {
    Stage::new(Caller { namespace: "shop".into(), labels: Labels::new() })
}

fn manifests(text: &str) -> Manifests {
    Manifests::parse(&[Source { name: "shop.yaml".into(), text: text.into() }])
}

fn now() -> Timestamp {
    "2026-01-01T10:00:00Z".parse().unwrap()
}

fn errors(text: &str) -> Vec<String> {
    match stage().set(&manifests(text), now()) {
        Err(NoScene::Findings(findings)) => findings.iter().map(ToString::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_service_gets_a_listener_with_what_concerns_it() {
    let scene = stage().set(&manifests(&format!("{SHOP}{FAULT}")), now()).unwrap();
    let [listener] = scene.listeners.as_slice() else { panic!("{:?}", scene.listeners) };
    assert_eq!(listener.service, Key::new("shop", "service2"));
    assert_eq!(listener.port.policies, ["shop/service2"]);
    assert_eq!(listener.port.faults, ["shop/slow"], "without a Namespace in the files faults may act");
    assert_eq!(listener.port.endpoints.as_ref().unwrap()[0].address.to_string(), "127.0.0.1:9001");
    assert_eq!(listener.port.listen, [listener.given.address]);
    assert_eq!(listener.given.moved, Some(Moved::Privileged));
    assert_eq!(scene.end_of("shop/slow"), Some("2026-01-01T10:10:00Z".parse().unwrap()));
    assert!(scene.warnings.is_empty(), "{:?}", scene.warnings);
}

#[test]
fn a_fault_keeps_its_end_while_it_stays_the_same() {
    let (mut stage, both) = (stage(), format!("{SHOP}{FAULT}"));
    let first = stage.set(&manifests(&both), now()).unwrap().end_of("shop/slow");
    let later = now() + 5.minutes();
    assert_eq!(stage.set(&manifests(&both), later).unwrap().end_of("shop/slow"), first);
    let suspended = both.replace("  duration", "  suspend: true\n  duration");
    assert_eq!(stage.set(&manifests(&suspended), later).unwrap().end_of("shop/slow"), None);
    assert_eq!(
        stage.set(&manifests(&both), later).unwrap().end_of("shop/slow"),
        first,
        "suspending does not move the end"
    );
    let changed = both.replace("percent: 20", "percent: 30");
    let end = stage.set(&manifests(&changed), later).unwrap().end_of("shop/slow");
    assert_eq!(end, Some(later + 10.minutes()), "another fault");
    assert_eq!(stage.set(&manifests(&changed), later + 11.minutes()).unwrap().end_of("shop/slow"), None, "over");
}

#[test]
fn of_two_faults_on_one_target_one_is_refused() {
    let other = FAULT.replace("slow", "slower");
    let scene = stage().set(&manifests(&format!("{SHOP}{FAULT}{other}")), now()).unwrap();
    assert_eq!(scene.listeners[0].port.faults, ["shop/slow"]);
    assert!(
        scene.warnings.iter().any(|warning| warning.message.contains("shop/slow is active there")),
        "{:?}",
        scene.warnings
    );
}

#[test]
fn a_namespace_without_the_label_keeps_faults_out() {
    let namespace = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
    let scene = stage().set(&manifests(&format!("{SHOP}{FAULT}{namespace}")), now()).unwrap();
    assert_eq!(scene.listeners[0].port.faults, [""; 0]);
    assert!(
        scene.warnings[0].message.contains("needs the label firebreak.dev/faults: enabled"),
        "{:?}",
        scene.warnings
    );
}

#[test]
fn broken_files_say_where() {
    assert_eq!(
        errors(&SHOP.replace("request: 3s", "request: 3")),
        [
            "shop.yaml:21:14: TrafficPolicy service2: spec.timeouts.request: must be text with a unit, not a number: write 3s or \
          3ms, if that is meant"
        ]
    );
    let found = errors(&SHOP.replace("port: 80", "port: eighty"));
    assert!(found[0].starts_with("shop.yaml:7:24: Service service2: spec.ports[0].port: invalid type"), "{found:?}");
    let annotated = SHOP.replace(
        "  name: service2\nspec",
        "  name: service2\n  annotations: {firebreak.dev/local-ports: \"80\"}\nspec",
    );
    let found = errors(&annotated);
    assert!(
        found[0]
            .contains("shop.yaml:6:17: Service service2: metadata.annotations.firebreak.dev/local-ports: `80` is not"),
        "{found:?}"
    );
}

#[test]
fn a_broken_reading_is_as_if_it_had_not_been() {
    let (mut stage, both) = (stage(), format!("{SHOP}{FAULT}"));
    let first = stage.set(&manifests(&both), now()).unwrap();
    assert!(stage.set(&manifests(&both.replace("10m", "10")), now() + 1.minute()).is_err());
    let again = stage.set(&manifests(&both), now() + 2.minutes()).unwrap();
    assert_eq!((again.config, again.listeners), (first.config, first.listeners));
}

#[test]
fn a_policy_for_nobody_is_doubted() {
    let scene = stage()
        .set(&manifests(&SHOP.replace("[{kind: Service, name: service2}]", "[{kind: Service, name: other}]")), now());
    let warnings = scene.unwrap().warnings;
    assert!(warnings[0].message.starts_with("Service shop/other is not in the folder"), "{warnings:?}");
}

#[test]
fn chosen_ports_are_used() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let annotation = format!("  name: service2\n  annotations: {{firebreak.dev/local-ports: \"80={free}\"}}\nspec");
    let scene = stage().set(&manifests(&SHOP.replace("  name: service2\nspec", &annotation)), now()).unwrap();
    assert_eq!((scene.listeners[0].given.address.port(), scene.listeners[0].given.moved), (free, None));
}

#[test]
fn what_acts_beside_the_callee_acts_before_its_endpoints() {
    let beside = SHOP.replace("  timeouts: {request: 3s}", "  inbound: {concurrency: {}}");
    let fault = format!("{FAULT}  at: Inbound\n");
    let (mut stage, both) = (stage(), manifests(&(beside + &fault)));
    let scene = stage.set(&both, now()).unwrap();
    assert!(scene.warnings.is_empty(), "{:?}", scene.warnings);
    let [listener] = scene.listeners.as_slice() else { panic!("{:?}", scene.listeners) };
    let endpoint = listener.port.endpoints.as_ref().unwrap()[0];
    assert_eq!(endpoint.address.to_string(), "127.0.0.1:9001");
    assert!(endpoint.beside.is_some_and(|at| at != listener.given.address && at != endpoint.address), "{endpoint:?}");
    let inbound = listener.inbound.as_ref().unwrap();
    assert_eq!((inbound.policy.as_deref(), inbound.concurrency.is_some()), (Some("shop/service2"), true));
    assert_eq!(listener.faults().collect::<Vec<_>>(), ["shop/slow"]);
    let entry = scene.config.entries.iter().find_map(|entry| match &entry.body {
        Body::Inbound(inbound) => Some(inbound),
        _ => None,
    });
    assert_eq!(entry.unwrap().ports[0].endpoints, [endpoint], "where the proxy listens is where tries go");
    assert_eq!(stage.set(&both, now()).unwrap().listeners, scene.listeners, "nothing moves");
}

#[test]
fn a_fault_beside_the_callee_acts_where_its_own_namespace_allows_it() {
    let elsewhere = |text: &str| text.replace("metadata: {name: s", "metadata: {namespace: back, name: s");
    let both = elsewhere(&format!("{SHOP}{FAULT}  at: Inbound\n"))
        .replace("  name: service2", "  name: service2\n  namespace: back");
    let scene = stage().set(&manifests(&both), now()).unwrap();
    assert_eq!(scene.listeners[0].faults().collect::<Vec<_>>(), ["back/slow"], "{:?}", scene.warnings);
    let closed = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: back}\n";
    let scene = stage().set(&manifests(&format!("{both}{closed}")), now()).unwrap();
    assert_eq!(scene.listeners[0].faults().count(), 0);
    let said = &scene.warnings[0].message;
    assert!(said.contains("Namespace back needs the label firebreak.dev/faults: enabled"), "{said}");
}
