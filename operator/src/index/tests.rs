use serde_json::json;

use super::*;
use crate::{
    affected::Touched,
    scenario::{fault, key, namespace, pod, policy, running, service, world},
};

fn shop() -> World {
    world([
        namespace("shop", &[]),
        service("shop/a", 1, &["http:80"]),
        service("shop/b", 2, &["http:80"]),
        policy("shop/a", 1, json!({"targetRefs": [{"kind": "Service", "name": "a"}]})),
        policy("front/b", 1, json!({"targetRefs": [{"kind": "Service", "name": "b", "namespace": "shop"}]})),
    ])
}

#[test]
fn a_service_that_nobody_names_affects_nothing() {
    assert_eq!(shop().apply(service("shop/c", 3, &["http:80"])), Affected::default());
}

#[test]
fn a_service_matters_to_those_who_call_it_under_a_policy() {
    let producers = shop().apply(service("shop/a", 9, &["http:80"]));
    assert_eq!(producers.configs, Touched::All);
    let consumers = shop().apply(service("shop/b", 9, &["http:80"]));
    assert_eq!(consumers.configs, Touched::Some(["front".into()].into()));
}

#[test]
fn news_that_is_no_news_affects_nothing() {
    assert_eq!(shop().apply(service("shop/a", 1, &["http:80"])), Affected::default());
    let mut world = shop();
    let services = world.services.iter().cloned().collect();
    assert_eq!(world.apply(Event::Service(Update::Reset(services))), Affected::default());
}

#[test]
fn a_status_that_was_written_affects_only_itself() {
    let mut world = shop();
    let mut same = world.policies.get(&key("shop/a")).unwrap().clone();
    same.meta.resource_version = "2".into();
    same.status.observed_generation = Some(1);
    let affected = world.apply(Event::Policy(Update::Apply(same)));
    assert_eq!(affected.policies, Touched::Some([key("shop/a")].into()));
    assert!(affected.configs.is_empty());
}

#[test]
fn a_fault_that_starts_affects_configs() {
    let spec = json!({"targetRefs": [{"kind": "Service", "name": "a"}]});
    let mut world = world([fault("shop/f", 1, spec.clone(), &json!({}))]);
    assert_eq!(world.apply(fault("shop/f", 1, spec, &running())).configs, Touched::All);
}

#[test]
fn a_reset_is_the_difference() {
    let mut world = shop();
    let b = world.services.get(&key("shop/b")).unwrap().clone();
    let affected = world.apply(Event::Service(Update::Reset(vec![b])));
    assert_eq!(affected.configs, Touched::All, "a is gone");
    assert_eq!(world.services.len(), 1);
}

#[test]
fn a_namespace_is_enabled_by_its_label_or_by_a_pod_that_carries_the_proxy() {
    let off = [("firebreak.dev/inject", "disabled")];
    let mut world = world([namespace("shop", &[]), namespace("back", &off)]);
    assert!(world.enabled("shop") && !world.enabled("back"));
    assert!(!world.apply(pod("back/p-0", true)).configs.is_empty());
    assert!(world.enabled("back"));
    assert_eq!(world.apply(pod("back/p-1", true)), Affected::default(), "the second changes nothing");
    world.apply(Event::Pod(Update::Delete(key("back/p-0"))));
    assert!(world.enabled("back"));
    assert!(!world.apply(Event::Pod(Update::Reset(vec![]))).configs.is_empty());
    assert!(!world.enabled("back"));
}

#[test]
fn an_object_that_does_not_parse_is_kept_with_its_field_and_reason() {
    let broken = |spec: Value| {
        let object = json!({"metadata": {"namespace": "shop", "name": "a"}, "spec": spec});
        Policy::from_json(object).unwrap().spec.unwrap_err().to_string()
    };
    let target = json!([{"kind": "Service", "name": "a"}]);
    let message = broken(json!({"targetRefs": target, "timeouts": {"attempt": "1.5s"}}));
    assert!(message.starts_with("spec.timeouts.attempt: `1.5s` is not a duration"), "{message}");
    let message = broken(json!({"targetRefs": [{"kind": "Pod", "name": "a"}]}));
    assert!(message.starts_with("spec.targetRefs[0].kind: unknown variant `Pod`"), "{message}");
    let message = broken(json!({"targetRefs": [{"kind": "Namespace", "name": "other"}]}));
    assert!(message.starts_with("spec.targetRefs[0].name: `other` is not the object's own namespace"), "{message}");
    assert!(broken(json!(null)).starts_with("spec: "));
    assert!(Policy::from_json(json!({"metadata": {"namespace": "shop"}})).is_err());
}

#[test]
fn a_fault_without_an_end_within_a_day_does_not_count() {
    for (duration, valid) in [("24h", true), ("24h1ms", false), ("0s", false)] {
        let spec = json!({"targetRefs": [{"kind": "Service", "name": "a"}], "duration": duration,
                          "faults": [{"abort": {"percent": 1, "reset": true}}]});
        let fault = Fault::from_json(json!({"metadata": {"name": "f"}, "spec": spec})).unwrap();
        assert_eq!(fault.spec.is_ok(), valid, "{duration}: {:?}", fault.spec);
    }
}

#[test]
fn a_status_cannot_prolong_a_fault() {
    let spec = json!({"targetRefs": [{"kind": "Service", "name": "a"}], "duration": "10m"});
    let status = json!({"startedAt": "2026-03-01T12:00:00Z", "expiresAt": "2026-03-02T12:00:00Z"});
    let world = world([fault("shop/f", 1, spec, &status)]);
    let end = world.faults.get(&key("shop/f")).unwrap().end().unwrap();
    assert_eq!(end.to_string(), "2026-03-01T12:10:01Z", "the duration, and the second that the start was cut to");
}
