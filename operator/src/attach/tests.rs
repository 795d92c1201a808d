use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    World,
    index::Policy,
    scenario::{key, namespace, policy, service, world},
};

/// The names of the policies that apply to `port` of `shop/a` for callers in `caller`, the strongest first.
fn order(world: &World, caller: &str, port: &str) -> Vec<String> {
    let attached = Attached::to(world.namespace(caller).unwrap(), world.policies.iter());
    let service = world.services.get(&key("shop/a")).unwrap();
    let found = attached.at(&service.key, service.port_named(port).unwrap());
    found.iter().map(|policy| policy.meta.key.to_string()).collect()
}

fn shop(policies: impl IntoIterator<Item = (&'static str, i64, Value)>) -> World {
    let fixed = [namespace("shop", &[]), namespace("front", &[]), service("shop/a", 1, &["http:80", "admin:81"])];
    world(fixed.into_iter().chain(policies.into_iter().map(|(name, second, spec)| policy(name, second, spec))))
}

fn port(name: &str) -> Value {
    json!({"targetRefs": [{"kind": "Service", "name": "a", "namespace": "shop", "sectionName": name}]})
}

fn service_a() -> Value {
    json!({"targetRefs": [{"kind": "Service", "name": "a", "namespace": "shop"}]})
}

fn whole_shop() -> Value {
    json!({"targetRefs": [{"kind": "Namespace", "name": "shop"}]})
}

fn from(mut spec: Value, from: Value) -> Value {
    spec["from"] = from;
    spec
}

#[test]
fn the_most_specific_target_comes_first() {
    let world =
        shop([("shop/namespace", 1, whole_shop()), ("shop/service", 2, service_a()), ("shop/port", 3, port("http"))]);
    assert_eq!(order(&world, "front", "http"), ["shop/port", "shop/service", "shop/namespace"]);
    assert_eq!(order(&world, "front", "admin"), ["shop/service", "shop/namespace"]);
}

#[test]
fn a_consumers_policy_wins_for_its_own_callers_and_is_unknown_to_others() {
    let world = shop([("shop/port", 1, port("http")), ("front/service", 2, service_a())]);
    assert_eq!(order(&world, "front", "http"), ["front/service", "shop/port"]);
    assert_eq!(order(&world, "shop", "http"), ["shop/port"]);
}

#[test]
fn with_from_comes_before_without_at_the_same_level() {
    let web = json!({"podSelector": {"matchLabels": {"app": "web"}}});
    let world = shop([("shop/all", 1, service_a()), ("shop/web", 2, from(service_a(), web))]);
    assert_eq!(order(&world, "front", "http"), ["shop/web", "shop/all"]);
}

#[test]
fn a_namespace_selector_is_decided_here() {
    let front = json!({"namespaceSelector": {"matchLabels": {"team": "front"}}});
    let world = shop([("shop/front", 1, from(service_a(), front))]);
    assert_eq!(order(&world, "front", "http"), ["shop/front"]);
    assert_eq!(order(&world, "shop", "http"), [] as [&str; 0]);
}

#[test]
fn of_an_identical_claim_the_older_has_it_and_the_younger_is_told() {
    let world = shop([("shop/young", 2, service_a()), ("shop/old", 1, service_a()), ("shop/port", 3, port("http"))]);
    assert_eq!(order(&world, "front", "http"), ["shop/port", "shop/old"]);
    let lost = conflicts(world.policies.iter());
    let conflict = Conflict { target: "Service shop/a".into(), winner: key("shop/old"), older: true };
    assert_eq!(lost, [(key("shop/young"), vec![conflict])].into());
}

#[test]
fn among_equals_in_age_the_smaller_name_wins() {
    let world = shop([("shop/b", 1, service_a()), ("shop/a", 1, service_a())]);
    assert_eq!(order(&world, "front", "http"), ["shop/a"]);
    let conflict = Conflict { target: "Service shop/a".into(), winner: key("shop/a"), older: false };
    assert_eq!(conflicts(world.policies.iter()), [(key("shop/b"), vec![conflict])].into());
}

#[test]
fn different_callers_are_different_claims_and_an_empty_selector_is_none() {
    let everyone = json!({"podSelector": {}, "namespaceSelector": {}});
    let web =
        json!({"podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "api"]}]}});
    let same =
        json!({"podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["api", "web"]}]}});
    let world = shop([
        ("shop/all", 1, service_a()),
        ("shop/web", 2, from(service_a(), web)),
        ("shop/everyone", 3, from(service_a(), everyone)),
        ("shop/same", 4, from(service_a(), same)),
    ]);
    let lost: Vec<_> = conflicts(world.policies.iter()).into_keys().map(|key| key.name).collect();
    assert_eq!(lost, ["everyone", "same"]);
}

#[test]
fn a_producer_and_a_consumer_claim_different_things() {
    let world = shop([("shop/a", 1, service_a()), ("front/a", 2, service_a())]);
    assert!(conflicts(world.policies.iter()).is_empty());
}

#[test]
fn a_target_that_is_named_twice_is_claimed_once() {
    let twice = json!({"targetRefs": [{"kind": "Service", "name": "a"}, {"kind": "Service", "name": "a", "namespace": "shop"}]});
    let world = shop([("shop/twice", 1, twice)]);
    assert_eq!(order(&world, "front", "http"), ["shop/twice"]);
    assert!(conflicts(world.policies.iter()).is_empty());
}

#[test]
fn what_does_not_parse_claims_nothing() {
    let mut world = shop([("shop/good", 2, service_a())]);
    let broken = json!({"metadata": {"namespace": "shop", "name": "broken", "creationTimestamp": "1970-01-01T00:00:00Z"},
                        "spec": {"targetRefs": [{"kind": "Service", "name": "a"}], "timeouts": {"idle": 5}}});
    world.apply(crate::Event::Policy(crate::Update::Apply(Policy::from_json(broken).unwrap())));
    assert_eq!(order(&world, "front", "http"), ["shop/good"]);
    assert!(conflicts(world.policies.iter()).is_empty());
}

fn any_policy() -> impl Strategy<Value = (&'static str, i64, Value)> {
    let name = prop::sample::select(vec!["shop/a", "shop/b", "shop/c", "front/a", "front/b"]);
    let target = prop::sample::select(vec![port("http"), port("admin"), service_a()]);
    let callers = prop::sample::select(vec![
        None,
        Some(json!({"podSelector": {"matchLabels": {"app": "web"}}})),
        Some(json!({"namespaceSelector": {"matchLabels": {"team": "front"}}})),
    ]);
    (name, 0i64..3, target, callers).prop_map(|(name, second, target, callers)| {
        let spec = callers.map_or(target.clone(), |callers| from(target, callers));
        (name, second, spec)
    })
}

proptest! {
    /// Each port's list is in order of precedence, holds no claim twice, and leaves out only what lost its claim.
    #[test]
    fn the_list_is_the_order_of_precedence(policies in prop::collection::vec(any_policy(), 0..8)) {
        let world = shop(policies);
        let lost = conflicts(world.policies.iter());
        for caller in ["shop", "front"] {
            let listed = order(&world, caller, "http");
            let strength = |name: &String| {
                let policy = world.policies.get(&key(name)).unwrap();
                let spec = policy.spec.as_ref().unwrap();
                let section = spec.target_refs[0].section_name.is_none();
                (policy.meta.key.namespace == "shop", section, spec.from.is_none(), policy.meta.created, name.clone())
            };
            prop_assert!(listed.is_sorted_by_key(strength), "{listed:?}");
            for policy in world.policies.iter() {
                let target = policy.targets().next().unwrap();
                let applies = policy.reaches(&target, world.namespace(caller).unwrap()) && target.port != Some("admin");
                let expected = applies && !lost.contains_key(&policy.meta.key);
                prop_assert_eq!(listed.contains(&policy.meta.key.to_string()), expected, "{}", &policy.meta.key);
            }
        }
    }
}
