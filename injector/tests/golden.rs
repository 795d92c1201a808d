//! Pods in, pods out: the whole way from `AdmissionReview` to a patched pod, against files that a reader can compare.
//!
//! Each `golden/NAME.yaml` is a pod as the API server sends it. The snapshot is what stands in the pod afterwards and
//! did not before, at the place where it stands.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail the test")]

use std::{fs, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use firebreak_injector::{
    annotations::{Resource, Settings},
    review::{Config, Entry, review},
    sidecar::Proxy,
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn config() -> Config {
    let resource = |request: &str, limit: Option<&str>| Resource {
        request: Some(request.parse().unwrap()),
        limit: limit.map(|limit| limit.parse().unwrap()),
    };
    let defaults = Settings {
        cpu: resource("10m", None),
        memory: resource("20Mi", Some("256Mi")),
        log_level: "info".parse().unwrap(),
        workers: "1".parse().unwrap(),
        skip_inbound_ports: vec![],
        skip_outbound_ports: vec![],
        skip_outbound_cidrs: vec![],
    };
    let proxy = Proxy {
        image: "firebreak-proxy:1.2.3".into(),
        pull_policy: "IfNotPresent".into(),
        version: "1.2.3".into(),
        defaults,
        tracing: None,
    };
    Config { own_namespace: "firebreak-system".into(), proxy }
}

/// The JSON patch that the API server would apply, empty when there is none.
fn patch_of(pod: &Value) -> json_patch::Patch {
    patch_by(pod, &config())
}

fn patch_by(pod: &Value, config: &Config) -> json_patch::Patch {
    let body = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "1", "operation": "CREATE", "namespace": "shop", "object": pod,
            "resource": {"group": "", "version": "v1", "resource": "pods"},
        },
    });
    let answer = review(body.to_string().as_bytes(), Entry::Namespace, config).unwrap();
    assert_eq!(answer.review["response"]["allowed"], true, "{}", answer.review);
    match answer.review["response"]["patch"].as_str() {
        Some(patch) => serde_json::from_slice(&STANDARD.decode(patch).unwrap()).unwrap(),
        None => json_patch::Patch(vec![]),
    }
}

fn patched(pod: &Value) -> Value {
    let mut after = pod.clone();
    json_patch::patch(&mut after, &patch_of(pod)).unwrap();
    after
}

/// What the proxy in `pod` is told under that name.
fn told(pod: &Value, name: &str) -> Value {
    let proxy = pod["spec"]["initContainers"].as_array().unwrap().iter().find(|it| it["name"] == "firebreak-proxy");
    let env = proxy.unwrap()["env"].as_array().unwrap();
    env.iter().find(|entry| entry["name"] == name).cloned().unwrap_or_default()
}

#[test]
fn probes_that_come_later_are_told_to_the_proxy_that_is_there() {
    let container = |probe: Value| json!({"name": "app", "livenessProbe": probe});
    let mut pod = patched(&json!({"metadata": {}, "spec": {"containers": [container(json!({"exec": {}}))]}}));
    assert_eq!(told(&pod, "FIREBREAK_PROBE_PORTS"), Value::Null, "nobody asks: none");
    pod["spec"]["containers"][0] = container(json!({"tcpSocket": {"port": 5432}}));
    let mut pod = patched(&pod);
    assert_eq!(told(&pod, "FIREBREAK_PROBE_PORTS")["value"], "5432");
    pod["spec"]["containers"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "b", "startupProbe": {"tcpSocket": {"port": 80}}}));
    let mut pod = patched(&pod);
    assert_eq!(told(&pod, "FIREBREAK_PROBE_PORTS")["value"], "80,5432");
    pod["spec"]["containers"] = json!([{"name": "app"}]);
    assert_eq!(told(&patched(&pod), "FIREBREAK_PROBE_PORTS"), Value::Null);
}

#[test]
fn what_probes_look_like_and_what_ports_are_called_is_told_to_the_proxy() {
    let container = json!({"name": "app", "ports": [{"name": "web", "containerPort": 8080}],
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": "web"}}});
    let mut pod = patched(&json!({"metadata": {}, "spec": {"containers": [container]}}));
    let value = |pod: &Value, name| told(pod, name)["value"].as_str().map(str::to_owned);
    assert_eq!(value(&pod, "FIREBREAK_PROBES").as_deref(), Some(r#"[{"path":"/healthz","port":8080}]"#));
    assert_eq!(value(&pod, "FIREBREAK_PORTS").as_deref(), Some(r#"{"web":8080}"#));
    pod["spec"]["containers"] = json!([{"name": "app"}]);
    let pod = patched(&pod);
    assert_eq!(value(&pod, "FIREBREAK_PROBES"), None);
    assert_eq!(value(&pod, "FIREBREAK_PORTS").as_deref(), Some("{}"), "none, which is something to know");
}

#[test]
fn only_a_limit_that_is_set_is_told_to_the_proxy() {
    let pod = json!({"metadata": {}, "spec": {"containers": [{"name": "app"}]}});
    let limit = told(&patched(&pod), "FIREBREAK_MEMORY_LIMIT");
    let of_proxy = json!({"containerName": "firebreak-proxy", "resource": "limits.memory", "divisor": "1"});
    assert_eq!(limit["valueFrom"]["resourceFieldRef"], of_proxy, "in bytes");
    let mut unlimited = config();
    unlimited.proxy.defaults.memory.limit = None;
    let mut after = pod.clone();
    json_patch::patch(&mut after, &patch_by(&pod, &unlimited)).unwrap();
    assert_eq!(told(&after, "FIREBREAK_MEMORY_LIMIT"), Value::Null);
}

#[test]
fn pods_come_out_as_the_golden_files_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    assert!(names.len() >= 3, "{names:?}");
    for path in names {
        let pod: Value = serde_saphyr::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap();
        insta::with_settings!({snapshot_path => "golden", prepend_module_to_snapshot => false}, {
            insta::assert_yaml_snapshot!(name, patched(&pod));
        });
    }
}

/// A container with any probes, and a field of the user's own that must survive.
fn container(name: &'static str) -> impl Strategy<Value = Value> {
    let port = prop_oneof![(1..=65535_u16).prop_map(Value::from), Just(json!("http")), Just(json!("undeclared")),];
    let probe = prop_oneof![
        port.clone().prop_map(|port| json!({"tcpSocket": {"port": port}, "periodSeconds": 7})),
        port.prop_map(|port| json!({"httpGet": {"port": port, "path": "/"}})),
        Just(json!({"exec": {"command": ["true"]}})),
    ];
    let probes = proptest::collection::btree_map(
        prop_oneof![Just("livenessProbe"), Just("readinessProbe"), Just("startupProbe")],
        probe,
        0..3,
    );
    (probes, 0..100_u32).prop_map(move |(probes, mark)| {
        let mut container = json!({
            "name": format!("{name}{mark}"), "mark": mark, "ports": [{"name": "http", "containerPort": 8080}],
        });
        for (kind, probe) in probes {
            container[kind] = probe;
        }
        container
    })
}

fn any_pod() -> impl Strategy<Value = Value> {
    let containers = |name, least| proptest::collection::vec(container(name), least..4);
    let annotations = proptest::collection::btree_map("[a-z]{1,8}", "[a-z]{0,8}", 0..4);
    (containers("app", 1), containers("init", 0), annotations, any::<Option<bool>>()).prop_map(
        |(containers, init, annotations, volumes)| {
            let mut pod = json!({"metadata": {"generateName": "any-"}, "spec": {"containers": containers}});
            if !annotations.is_empty() {
                pod["metadata"]["annotations"] = json!(annotations);
            }
            if !init.is_empty() {
                pod["spec"]["initContainers"] = json!(init);
            }
            if let Some(some) = volumes {
                pod["spec"]["volumes"] = if some { json!([{"name": "data", "emptyDir": {}}]) } else { json!([]) };
            }
            pod
        },
    )
}

/// Takes our own additions out of an injected pod again, and translated probes back to null.
fn stripped(mut pod: Value) -> Value {
    let ours = |entry: &Value| entry["name"].as_str().is_some_and(|name| name.starts_with("firebreak-"));
    for list in ["initContainers", "volumes"] {
        if let Some(entries) = pod["spec"][list].as_array_mut() {
            entries.retain(|entry| !ours(entry));
        }
    }
    let annotations = pod["metadata"]["annotations"].as_object_mut().unwrap();
    annotations.remove("firebreak.dev/injected");
    annotations.remove("kubectl.kubernetes.io/default-container");
    pod
}

/// Forgets what injection may change: tcpSocket probes with a known port, and empty against missing lists.
fn comparable(mut pod: Value) -> Value {
    for list in ["initContainers", "containers"] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
                let probe = &mut container[kind];
                let translated = probe["httpGet"]["path"].as_str().is_some_and(|path| path.starts_with("/probe/tcp/"));
                if probe["tcpSocket"].is_object() && probe["tcpSocket"]["port"] != "undeclared" || translated {
                    probe["tcpSocket"] = json!("any");
                    probe["httpGet"] = json!("any");
                }
            }
        }
    }
    for (parent, key) in [("spec", "initContainers"), ("spec", "volumes"), ("metadata", "annotations")] {
        let empty = match &pod[parent][key] {
            Value::Array(entries) => entries.is_empty(),
            Value::Object(entries) => entries.is_empty(),
            other => other.is_null(),
        };
        if empty {
            pod[parent].as_object_mut().unwrap().remove(key);
        }
    }
    pod
}

proptest! {
    #[test]
    fn a_pod_that_went_through_once_is_not_changed_again(pod in any_pod()) {
        let once = patched(&pod);
        prop_assert_eq!(patch_of(&once).0.len(), 0);
    }

    #[test]
    fn what_the_user_set_survives(pod in any_pod()) {
        prop_assert_eq!(comparable(stripped(patched(&pod))), comparable(pod));
    }
}

#[test]
fn a_proxy_that_is_to_trace_is_told_where_spans_go() {
    let pod =
        serde_json::json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "app", "image": "app"}]}});
    let mut config = config();
    let told = |config: &Config| {
        let pod = firebreak_injector::sidecar::injected(&pod, &config.proxy.defaults, &config.proxy);
        let environment = pod["spec"]["initContainers"][1]["env"].as_array().unwrap().clone();
        let known = ["FIREBREAK_OTLP_ENDPOINT", "FIREBREAK_TRACE_PERCENT"];
        known.map(|name| {
            environment.iter().find(|it| it["name"] == name).map(|it| it["value"].as_str().unwrap().to_owned())
        })
    };
    assert_eq!(told(&config), [None, None]);
    let endpoint = "http://collector:4318".to_owned();
    config.proxy.tracing = Some(firebreak_injector::sidecar::Tracing { endpoint: endpoint.clone(), percent: 2.5 });
    assert_eq!(told(&config), [Some(endpoint), Some("2.5".to_owned())]);
}
