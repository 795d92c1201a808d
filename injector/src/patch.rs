//! What to change, as an RFC 6902 JSON patch: the difference of the raw object before and after.
//!
//! Typed pods would lose what is newer than our client library; a diff of raw JSON names only what we changed.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

/// The patch from `before` to `after` as an `AdmissionReview` carries it, base64 of its JSON; `None` when they are equal.
pub fn encoded(before: &Value, after: &Value) -> Result<Option<String>, serde_json::Error> {
    let patch = json_patch::diff(before, after);
    if patch.0.is_empty() {
        return Ok(None);
    }
    serde_json::to_vec(&patch).map(|bytes| Some(STANDARD.encode(bytes)))
}
