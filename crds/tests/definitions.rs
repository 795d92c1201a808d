//! The definitions that are checked in are what the types say today, and are fit for Kubernetes.
#![cfg(feature = "kube")]

use std::{fs, path::Path};

use firebreak_crds::resources;
use serde_json::Value;

#[test]
fn the_yaml_that_is_checked_in_is_what_the_types_say() {
    for (name, definition) in resources::yaml().unwrap() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("yaml/{name}.yaml"));
        let written = fs::read_to_string(&path).unwrap();
        assert_eq!(
            written,
            serde_saphyr::to_string(&definition).unwrap(),
            "run crdgen (see CONTRIBUTING.md): {}",
            path.display()
        );
    }
}

/// What the API server asks of a structural schema with CEL rules: bounds on every list, map and string, so that a rule's
/// cost can be estimated; no key that YAML 1.1 reads as a boolean.
#[test]
fn everything_that_a_user_writes_is_bounded() {
    for (name, definition) in resources::yaml().unwrap() {
        let spec = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let mut problems = Vec::new();
        check(spec, "spec", &mut problems);
        assert!(problems.is_empty(), "{name}: {problems:#?}");
    }
}

fn check(schema: &Value, path: &str, problems: &mut Vec<String>) {
    let has = |key: &str| !schema[key].is_null();
    match schema["type"].as_str() {
        Some("array") if !has("maxItems") => problems.push(format!("{path}: a list without maxItems")),
        Some("object") if has("additionalProperties") && !has("maxProperties") => {
            problems.push(format!("{path}: a map without maxProperties"));
        }
        Some("string") if !has("maxLength") && !has("enum") => {
            problems.push(format!("{path}: a string without maxLength"));
        }
        _ => {}
    }
    for (key, child) in schema["properties"].as_object().into_iter().flatten() {
        if ["on", "off", "yes", "no", "y", "n", "true", "false"].contains(&key.as_str()) {
            problems.push(format!("{path}.{key}: YAML 1.1 reads this key as a boolean"));
        }
        check(child, &format!("{path}.{key}"), problems);
    }
    for key in ["items", "additionalProperties"].into_iter().filter(|key| has(key)) {
        check(&schema[key], &format!("{path}.{key}"), problems);
    }
}
