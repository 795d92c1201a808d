use serde_json::json;

use super::*;

fn defaults() -> Settings {
    Settings {
        cpu: Resource { request: Some("10m".parse().unwrap()), limit: None },
        memory: Resource { request: Some("20Mi".parse().unwrap()), limit: Some("256Mi".parse().unwrap()) },
        log_level: "info".parse().unwrap(),
        workers: "1".parse().unwrap(),
        skip_inbound_ports: vec![],
        skip_outbound_ports: vec![PortRange::port(25)],
        skip_outbound_cidrs: vec![],
    }
}

fn read(pairs: &[(&str, &str)]) -> Result<Settings, AnnotationError> {
    let annotations = pairs.iter().map(|(key, value)| (format!("{PREFIX}{key}"), json!(value))).collect();
    defaults().overridden(&annotations)
}

#[test]
fn without_annotations_the_defaults_hold() {
    assert_eq!(read(&[]).unwrap(), defaults());
}

#[test]
fn each_annotation_changes_its_setting() {
    let pairs = [
        ("proxy-cpu-request", "50m"),
        ("proxy-cpu-limit", "2"),
        ("proxy-memory-request", "32Mi"),
        ("proxy-memory-limit", "64Mi"),
        ("log-level", "debug"),
        ("workers", "2"),
        ("skip-inbound-ports", "9000-9100, 22"),
        ("skip-outbound-ports", ""),
        ("skip-outbound-cidrs", "10.0.0.0/8,fd00::/8"),
    ];
    assert_eq!(pairs.map(|(key, _)| key), KEYS, "every key is tried here");
    let settings = read(&pairs).unwrap();
    let limits = [&settings.cpu.request, &settings.cpu.limit, &settings.memory.request, &settings.memory.limit];
    assert_eq!(limits.map(|quantity| quantity.as_ref().unwrap().as_str()), ["50m", "2", "32Mi", "64Mi"]);
    assert_eq!((settings.log_level.as_str(), settings.workers), ("debug", Workers(2)));
    assert_eq!(settings.skip_inbound_ports, ["9000-9100".parse().unwrap(), PortRange::port(22)]);
    assert!(settings.skip_outbound_ports.is_empty(), "an empty list takes the default back");
    assert_eq!(settings.skip_outbound_cidrs.len(), 2);
}

#[test]
fn a_bad_value_names_annotation_value_and_what_would_be_right() {
    for (key, value, right) in [
        ("proxy-cpu-request", "lots", "such as 100m"),
        ("proxy-memory-limit", "-1", "64Mi"),
        ("log-level", "loud", "error, warn, info, debug, trace"),
        ("workers", "0", "1 to 64"),
        ("workers", "65", "1 to 64"),
        ("skip-inbound-ports", "80,http", "1 to 65535"),
        ("skip-outbound-ports", "0", "1 to 65535"),
        ("skip-outbound-cidrs", "10.0.0.1/8", "10.0.0.0/8"),
    ] {
        let message = read(&[(key, value)]).unwrap_err().to_string();
        let wrong = value.rsplit(',').next().unwrap();
        for part in [&format!("{PREFIX}{key}"), wrong, right] {
            assert!(message.contains(part), "{part:?} is missing in {message:?}");
        }
    }
}

#[test]
fn a_request_above_the_limit_is_refused_before_the_api_server_does() {
    let message = read(&[("proxy-memory-request", "1Gi")]).unwrap_err().to_string();
    assert!(message.contains("1Gi is above the limit 256Mi"), "{message}");
    assert!(message.contains("config.firebreak.dev/proxy-memory-limit"), "{message}");
    let message = read(&[("proxy-memory-limit", "1Mi")]).unwrap_err().to_string();
    assert!(message.starts_with("annotation config.firebreak.dev/proxy-memory-limit"), "{message}");
}

#[test]
fn lists_are_bounded() {
    let many = vec!["80"; MOST_ENTRIES + 1].join(",");
    assert!(read(&[("skip-inbound-ports", &many)]).unwrap_err().to_string().contains("at most 64"));
}

#[test]
fn unknown_keys_warn_and_other_peoples_annotations_do_not() {
    let annotations = json!({"config.firebreak.dev/worker": "2", "config.firebreak.dev/workers": "2", "team": "a"});
    let warnings = warnings(annotations.as_object().unwrap());
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("config.firebreak.dev/worker is not known"), "{warnings:?}");
}
