//! The schemas of our kinds, compiled once: the very definitions that the API server is given.
//!
//! The structure is made strict, as kubectl's validation and server-side apply are: a field that the schema does not name is
//! an error and not silently pruned.

use std::{collections::BTreeMap, sync::OnceLock};

use firebreak_crds::resources;
use jsonschema::Validator;
use kube_cel::CompiledSchema;
use serde_json::{Map, Value, json};

/// One kind of ours.
#[derive(Debug)]
pub(crate) struct Kind {
    /// The strict schema, for looking up what a field may be.
    pub(crate) schema: Value,
    /// The strict schema, compiled.
    pub(crate) structure: Validator,
    /// The CEL rules, compiled.
    pub(crate) rules: CompiledSchema,
}

/// Definitions that cannot be used. A test makes sure that ours can.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadDefinition {
    #[error("cannot generate the definitions: {0}")]
    Generate(#[from] serde_json::Error),
    #[error("{kind}: the schema cannot be compiled: {error}")]
    Schema { kind: String, error: String },
}

/// All kinds of ours, by name.
pub(crate) fn kinds() -> Result<&'static BTreeMap<String, Kind>, BadDefinition> {
    static KINDS: OnceLock<BTreeMap<String, Kind>> = OnceLock::new();
    if let Some(kinds) = KINDS.get() {
        return Ok(kinds);
    }
    let kinds = resources::yaml()?.iter().map(|(_, crd)| compiled(crd)).collect::<Result<_, _>>()?;
    Ok(KINDS.get_or_init(|| kinds))
}

fn compiled(crd: &Value) -> Result<(String, Kind), BadDefinition> {
    let name = crd["spec"]["names"]["kind"].as_str().unwrap_or_default().to_owned();
    let original = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut schema = original.clone();
    if let Some(properties) = schema["properties"].as_object_mut() {
        properties.insert("apiVersion".into(), json!({"type": "string"}));
        properties.insert("kind".into(), json!({"type": "string"}));
        properties.insert("metadata".into(), metadata());
    }
    schema["required"] = json!(["apiVersion", "kind", "metadata", "spec"]);
    strict(&mut schema);
    let structure = jsonschema::options()
        .build(&schema)
        .map_err(|error| BadDefinition::Schema { kind: name.clone(), error: error.to_string() })?;
    let rules = kube_cel::compile_schema(original);
    Ok((name, Kind { schema, structure, rules }))
}

/// What the API server demands of every object's metadata, as far as people write it.
fn metadata() -> Value {
    let texts = json!({"type": "object", "additionalProperties": {"type": "string"}});
    let any = json!({});
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 253, "pattern": NAME},
            "generateName": {"type": "string", "maxLength": 248},
            "namespace": {"type": "string", "maxLength": 63, "pattern": LABEL},
            "labels": texts,
            "annotations": texts,
            "finalizers": {"type": "array", "items": {"type": "string"}},
            "ownerReferences": any,
            "managedFields": any,
            "creationTimestamp": any,
            "deletionTimestamp": any,
            "deletionGracePeriodSeconds": any,
            "generation": any,
            "resourceVersion": any,
            "selfLink": any,
            "uid": any,
        },
    })
}

/// A DNS subdomain (RFC 1123), as Kubernetes demands of object names.
pub(crate) const NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// A DNS label (RFC 1123), as Kubernetes demands of namespaces.
pub(crate) const LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

/// Says in JSON Schema's words what Kubernetes says in its own, and closes every object.
fn strict(schema: &mut Value) {
    if let Value::Object(map) = schema {
        if map.contains_key("properties") && !map.contains_key("additionalProperties") {
            map.insert("additionalProperties".into(), json!(false));
        }
        if map.get("x-kubernetes-int-or-string") == Some(&json!(true)) {
            map.insert("type".into(), json!(["integer", "string"]));
        }
        if map.get("x-kubernetes-list-type") == Some(&json!("set")) {
            map.insert("uniqueItems".into(), json!(true));
        }
        children(map).for_each(strict);
    }
}

fn children(map: &mut Map<String, Value>) -> impl Iterator<Item = &mut Value> {
    map.iter_mut().flat_map(|(keyword, value)| match (keyword.as_str(), value) {
        ("properties", Value::Object(properties)) => properties.values_mut().collect::<Vec<_>>(),
        ("items" | "additionalProperties", schema @ Value::Object(_)) => vec![schema],
        _ => Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_compiles() {
        fn broken(schema: &CompiledSchema, found: &mut Vec<String>) {
            found.extend(schema.compilation_errors().iter().map(ToString::to_string));
            let parts = [&schema.items, &schema.additional_properties];
            parts.into_iter().flatten().for_each(|schema| broken(schema, found));
            schema.properties.values().for_each(|schema| broken(schema, found));
        }
        let kinds = kinds().unwrap();
        assert_eq!(kinds.keys().collect::<Vec<_>>(), ["FaultSpec", "TrafficPolicy"]);
        for kind in kinds.values() {
            let mut found = Vec::new();
            broken(&kind.rules, &mut found);
            assert_eq!(found, [""; 0]);
        }
    }
}
