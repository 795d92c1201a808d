//! The CEL rules, evaluated as the API server does on creation, with the messages that it would print.
//!
//! Rules that compare with an older object (`oldSelf`) do not apply: a file has no past.

use kube_cel::{ErrorKind, ValidationError, Validator};
use serde_json::Value;

use super::{
    finding::{Finding, Severity},
    schema::Kind,
};
use crate::manifest::Document;

/// Everything about `value`, the document without its nulls, that a rule refuses.
///
/// A rule that cannot be evaluated on a value of the wrong shape is not worth a second finding: `shape_is_wrong` says that
/// the first is there.
pub(super) fn check(kind: &Kind, document: &Document, value: &Value, shape_is_wrong: bool) -> Vec<Finding> {
    let Err(errors) = Validator::new().validate_compiled(&kind.rules, value, None) else { return Vec::new() };
    let worth = |error: &ValidationError| error.kind == ErrorKind::ValidationFailure || !shape_is_wrong;
    let finding = |error: ValidationError| Finding::of(document, Severity::Error, &error.field_path, error.message);
    errors.into_iter().filter(worth).map(finding).collect()
}
