use firebreak_crds::resources::FaultSpecStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::*;

fn condition(type_: &str, status: &str, reason: &str) -> Condition {
    Condition {
        type_: type_.into(),
        status: status.into(),
        reason: reason.into(),
        message: "why".into(),
        observed_generation: None,
        last_transition_time: Time(jiff::Timestamp::UNIX_EPOCH),
    }
}

fn meta() -> Meta {
    Meta {
        key: Key::new("shop", "p"),
        uid: "u".into(),
        resource_version: "1".into(),
        generation: 1,
        created: jiff::Timestamp::UNIX_EPOCH,
    }
}

fn accepted(status: &str, reason: &str) -> TrafficPolicyStatus {
    let conditions = vec![condition("Accepted", status, reason), condition("Ready", status, reason)];
    TrafficPolicyStatus { conditions, ..TrafficPolicyStatus::default() }
}

#[test]
fn a_policy_is_told_when_it_is_accepted_or_loses() {
    let (none, yes, no) =
        (TrafficPolicyStatus::default(), accepted("True", "Accepted"), accepted("False", "Conflicted"));
    let first = policy(&meta(), &none, &yes).unwrap();
    assert_eq!((first.warning, first.reason.as_str(), first.note.as_str()), (false, "Accepted", "why"));
    assert_eq!(policy(&meta(), &yes, &yes), None, "no transition");
    let lost = policy(&meta(), &yes, &no).unwrap();
    assert_eq!((lost.warning, lost.reason.as_str()), (true, "Conflicted"));
    assert!(policy(&meta(), &no, &accepted("False", "Invalid")).is_some(), "another reason is news too");
}

#[test]
fn a_fault_is_told_at_each_phase_but_the_first() {
    let at = |phase: Phase| FaultSpecStatus {
        phase: Some(phase),
        message: Some("until noon".into()),
        conditions: vec![condition("Accepted", "False", "Conflicted")],
        ..FaultSpecStatus::default()
    };
    let none = FaultSpecStatus::default();
    assert_eq!(fault(&meta(), &none, &at(Phase::Pending)), None);
    let started = fault(&meta(), &at(Phase::Pending), &at(Phase::Running)).unwrap();
    assert_eq!((started.reason.as_str(), started.note.as_str()), ("Started", "until noon"));
    assert_eq!(fault(&meta(), &at(Phase::Running), &at(Phase::Running)), None);
    assert_eq!(fault(&meta(), &at(Phase::Running), &at(Phase::Completed)).unwrap().reason, "Completed");
    let refused = fault(&meta(), &none, &at(Phase::Refused)).unwrap();
    assert_eq!((refused.warning, refused.reason.as_str()), (true, "Conflicted"));
}

fn notice(pod: Value) -> Option<Notice> {
    let pod: LeanPod = serde_json::from_value(pod).unwrap();
    PodNotice::about(&pod, "firebreak-system").map(|notice| notice.notice)
}

#[test]
fn the_owner_is_told_why_its_pods_have_no_proxy() {
    let owner =
        json!([{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "uid": "d", "controller": true}]);
    let told = notice(json!({
        "metadata": {"namespace": "shop", "name": "agent-x", "ownerReferences": owner},
        "spec": {"hostNetwork": true, "containers": []},
    }))
    .unwrap();
    assert_eq!((told.about.kind.as_deref(), told.about.uid.as_deref()), (Some("DaemonSet"), Some("d")));
    assert_eq!((told.warning, told.reason.as_str()), (false, "InjectionSkipped"));
    assert!(told.note.starts_with("pod agent-x: the pod uses the node's network"), "{}", told.note);
    assert!(told.note.ends_with("(host_network)"));
}

#[test]
fn a_pod_without_an_owner_is_told_itself() {
    let bare = json!({"metadata": {"namespace": "shop", "name": "p", "uid": "p"}, "spec": {"containers": []}});
    let told = notice(bare).unwrap();
    assert_eq!((told.about.kind.as_deref(), told.warning, told.reason.as_str()), (Some("Pod"), true, "NotInjected"));
    let injected = json!({"metadata": {"namespace": "shop", "name": "p"},
                          "spec": {"containers": [], "initContainers": [{"name": "firebreak-proxy"}]}});
    assert_eq!(notice(injected).unwrap().reason, "Injected");
    let own = json!({"metadata": {"namespace": "firebreak-system", "name": "p"}, "spec": {"containers": []}});
    assert_eq!(notice(own), None);
}
