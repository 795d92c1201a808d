//! The CustomResourceDefinitions, as they are checked in and installed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use super::{FaultSpec, TrafficPolicy};

/// Both definitions, ready to be applied.
pub fn definitions() -> Result<Vec<CustomResourceDefinition>, serde_json::Error> {
    [TrafficPolicy::crd(), FaultSpec::crd()].into_iter().map(tidied).collect()
}

/// The definitions as JSON values whose key order does not change from run to run, named by their plural.
pub fn yaml() -> Result<Vec<(String, Value)>, serde_json::Error> {
    definitions()?.into_iter().map(|crd| Ok((crd.spec.names.plural.clone(), serde_json::to_value(crd)?))).collect()
}

/// What the generator writes and Kubernetes has no use for: `nullable` on optional fields (a null would be kept instead of
/// dropped) and the `uint` formats, of which the API server warns.
fn tidied(crd: CustomResourceDefinition) -> Result<CustomResourceDefinition, serde_json::Error> {
    let mut value = serde_json::to_value(crd)?;
    tidy(&mut value);
    serde_json::from_value(value)
}

fn tidy(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("nullable");
            if map.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
                map.remove("format");
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}
