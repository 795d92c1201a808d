//! `firebreak demo` as its users run it.

#![allow(clippy::unwrap_used, reason = "a helper of tests may fail the test")]

use std::process::Command;

use serde_json::Value;

fn demo(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_firebreak")).arg("demo").args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn every_promise_holds_and_every_request_is_counted() {
    let (code, out, _) = demo(&["--for", "8s", "--json"]);
    let report: Value = serde_json::from_str(&out).unwrap();
    let checks = |part: &Value| part["checks"].as_array().unwrap().clone();
    let parts = report["parts"].as_array().unwrap();
    let broken: Vec<Value> = parts.iter().flat_map(checks).filter(|check| check["holds"] != true).collect();
    assert_eq!((code, broken.as_slice()), (Some(0), [].as_slice()));
    assert_eq!(parts.len(), 4);
    for part in parts {
        let fates: u64 = part["fates"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
        assert_eq!(part["sent"], fates, "{part:#}");
        assert!(fates >= 20, "{part:#}");
    }
    assert_eq!(parts[1]["fates"], serde_json::json!({"timed_out": 20}));
    assert_eq!(parts[2]["fates"], serde_json::json!({"refused_by_bulkhead": 120, "succeeded": 100}));
}

#[test]
fn a_time_that_is_too_short_is_refused() {
    let (code, _, err) = demo(&["--for", "1s"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("must be from 8s to 10m"), "{err}");
    assert!(demo(&["--for", "20"]).2.contains("is not a duration"));
}
