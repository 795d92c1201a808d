use base64::{Engine, engine::general_purpose::STANDARD};

use super::*;
use crate::annotations::{Resource, Settings};

pub(crate) fn config() -> Config {
    let defaults = Settings {
        cpu: Resource::default(),
        memory: Resource::default(),
        log_level: "info".parse().unwrap(),
        workers: "1".parse().unwrap(),
        skip_inbound_ports: vec![],
        skip_outbound_ports: vec![],
        skip_outbound_cidrs: vec![],
    };
    let (image, version) = ("firebreak-proxy:1".into(), "1".into());
    let proxy = Proxy { image, pull_policy: "Never".into(), version, defaults, tracing: None };
    Config { own_namespace: "firebreak-system".into(), proxy }
}

pub(crate) fn request(pod: &Value) -> Value {
    json!({
        "apiVersion": API_VERSION,
        "kind": "AdmissionReview",
        "request": {
            "uid": "0-1", "operation": "CREATE", "namespace": "shop",
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "object": pod,
        },
    })
}

fn asked(entry: Entry, pod: &Value) -> Answer {
    review(request(pod).to_string().as_bytes(), entry, &config()).unwrap()
}

pub(crate) fn pod(metadata: &Value) -> Value {
    json!({"metadata": metadata, "spec": {"containers": [{"name": "app"}]}})
}

#[test]
fn an_injected_pod_gets_a_patch_that_adds_the_proxy() {
    let mut pod = pod(&json!({"generateName": "web-"}));
    let answer = asked(Entry::Namespace, &pod);
    assert_eq!((&answer.outcome, answer.pod.as_str()), (&Outcome::Injected, "shop/web-"));
    let response = &answer.review["response"];
    assert_eq!((&response["uid"], &response["allowed"]), (&json!("0-1"), &json!(true)));
    assert_eq!(response["patchType"], "JSONPatch");
    let patch = STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
    let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
    json_patch::patch(&mut pod, &patch).unwrap();
    assert_eq!(pod["spec"]["initContainers"][1]["name"], "firebreak-proxy");
}

#[test]
fn the_entry_says_whether_the_namespace_is_enabled() {
    let plain = pod(&json!({}));
    assert_eq!(asked(Entry::Namespace, &plain).outcome, Outcome::Injected);
    assert_eq!(asked(Entry::Pod, &plain).outcome, Outcome::Skipped(Reason::NamespaceNotEnabled));
    let labelled = pod(&json!({"labels": {"firebreak.dev/inject": "enabled"}}));
    assert_eq!(asked(Entry::Pod, &labelled).outcome, Outcome::Injected);
}

#[test]
fn a_skipped_pod_is_admitted_without_a_patch() {
    let answer = asked(Entry::Namespace, &pod(&json!({"labels": {"firebreak.dev/inject": "disabled"}})));
    assert_eq!(answer.review["response"], json!({"uid": "0-1", "allowed": true}));
    assert_eq!(answer.outcome.labels(), ("skipped", "disabled_by_pod"));
}

#[test]
fn a_bad_annotation_refuses_the_pod_and_says_what_would_be_right() {
    let answer = asked(Entry::Namespace, &pod(&json!({"annotations": {"config.firebreak.dev/workers": "many"}})));
    let response = &answer.review["response"];
    assert_eq!((&response["allowed"], &response["status"]["code"]), (&json!(false), &json!(422)));
    assert_eq!(
        response["status"]["message"],
        "annotation config.firebreak.dev/workers: \"many\" is not a number of workers: write 1 to 64"
    );
    assert_eq!(answer.outcome.labels(), ("refused", "annotation_invalid"));
}

#[test]
fn a_pod_that_would_pass_the_proxy_by_is_refused() {
    let mut pod = pod(&json!({}));
    pod["spec"]["containers"][0]["securityContext"]["runAsUser"] = json!(2119);
    let answer = asked(Entry::Namespace, &pod);
    assert_eq!(answer.outcome.labels(), ("refused", "proxy_user"));
    let message = answer.review["response"]["status"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("runs as user 2119"), "{message}");
}

#[test]
fn an_unknown_key_warns_and_does_no_more() {
    let answer = asked(Entry::Namespace, &pod(&json!({"annotations": {"config.firebreak.dev/wrkers": "2"}})));
    assert_eq!(answer.outcome, Outcome::Injected);
    let warning = answer.review["response"]["warnings"][0].as_str().unwrap().to_owned();
    assert!(warning.contains("config.firebreak.dev/wrkers is not known"), "{warning}");
}

#[test]
fn what_is_not_ours_to_answer_is_an_error_that_says_so() {
    let message = |change: fn(&mut Value)| {
        let mut body = request(&pod(&json!({})));
        change(&mut body);
        review(body.to_string().as_bytes(), Entry::Pod, &config()).unwrap_err().to_string()
    };
    assert!(message(|body| body["apiVersion"] = json!("admission.k8s.io/v2")).contains("admission.k8s.io/v1"));
    assert!(message(|body| body["request"]["operation"] = json!("UPDATE")).contains("UPDATE pods"));
    assert!(message(|body| body["request"]["resource"]["resource"] = json!("jobs")).contains("CREATE jobs"));
    assert!(message(|body| body["request"]["object"] = json!({"metadata": {}})).contains("no spec"));
    assert!(message(|body| body["request"] = json!(1)).contains("not an AdmissionReview"));
}
