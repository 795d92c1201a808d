//! The kinds as Kubernetes sees them: status, conditions, printer columns and the generated definitions.

mod definitions;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

pub use self::definitions::{definitions, yaml};
pub use crate::spec::{TrafficPolicy, fault::FaultSpec};

/// Condition types, as GEP-713 names them where it does.
pub mod condition {
    /// The object is valid and no other object claims the same.
    pub const ACCEPTED: &str = "Accepted";
    /// Every target exists.
    pub const RESOLVED_REFS: &str = "ResolvedRefs";
    /// The rendered config that the proxies read holds the object as it is now.
    pub const PUBLISHED: &str = "Published";
    /// Every selected proxy has acknowledged the object as it is now. `Unknown` while nothing acknowledges.
    pub const PROGRAMMED: &str = "Programmed";
    /// Summary for tools that wait (kstatus).
    pub const READY: &str = "Ready";
}

/// What became of a TrafficPolicy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicyStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The targets in short, for the table that kubectl prints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The protections that the policy sets, for the same table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protections: Option<String>,
    /// Accepted, ResolvedRefs, Published, Programmed and Ready.
    #[serde(default)]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}

/// What became of a FaultSpec.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FaultSpecStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where in its life the fault is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// The targets in short, for the table that kubectl prints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// When the operator started it, before the first proxy could see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "time")]
    pub started_at: Option<Time>,
    /// When it ends, whether or not the operator is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "time")]
    pub expires_at: Option<Time>,
    /// One sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Accepted, ResolvedRefs, Published, Programmed and Ready.
    #[serde(default)]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}

/// Where in its life a fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Not started yet.
    Pending,
    /// In the proxies' config, until `expiresAt`.
    Running,
    /// Past its end.
    Completed,
    /// Stopped by `suspend`.
    Suspended,
    /// Not accepted: invalid, or another fault of its namespace is active on the same target.
    Refused,
}

fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time"})
}

fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": {"type": "string", "maxLength": 316},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                "reason": {"type": "string", "minLength": 1, "maxLength": 1024},
                "message": {"type": "string", "maxLength": 32768},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
                "lastTransitionTime": {"type": "string", "format": "date-time"},
            },
        },
    })
}
