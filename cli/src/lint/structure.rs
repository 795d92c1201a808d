//! What the schema says about shapes: types, names of fields, bounds and patterns, each explained.

use firebreak_crds::spec::{Duration, duration};
use jsonschema::{
    ValidationError,
    error::{TypeKind, ValidationErrorKind as Wrong},
};
use serde_json::Value;

use super::{
    finding::{Finding, Severity},
    schema::{self, Kind},
};
use crate::manifest::{Document, field, item};

/// Everything about `value`, the document without its nulls, that the schema refuses.
pub(super) fn check(kind: &Kind, document: &Document, value: &Value) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        kind.structure.iter_errors(value).flat_map(|error| explain(kind, document, &error)).collect();
    if value.pointer("/metadata").is_some_and(|meta| meta.get("name").or(meta.get("generateName")).is_none()) {
        findings.push(Finding::of(document, Severity::Error, "metadata.name", "is missing: every object needs a name"));
    }
    findings
}

fn explain(kind: &Kind, document: &Document, error: &ValidationError<'_>) -> Vec<Finding> {
    let at = path(error);
    let finding = |field: &str, message: String| Finding::of(document, Severity::Error, field, message);
    let around = parent_schema(kind, error);
    match error.kind() {
        Wrong::AdditionalProperties { unexpected } => unexpected
            .iter()
            .map(|name| {
                let field = field(&at, name);
                let message = unknown(name, document.key_word(&field), &known(around));
                finding(&field, message)
            })
            .collect(),
        Wrong::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            let purpose = around["properties"][name]["description"].as_str().map(first_sentence);
            let message = purpose.map_or("is missing".to_owned(), |purpose| format!("is missing: {purpose}"));
            vec![finding(&field(&at, name), message)]
        }
        other => vec![finding(&at, wrong(other, error, around, document.value_word(&at)))],
    }
}

/// What is wrong with one value, and what would be right.
fn wrong(kind: &Wrong, error: &ValidationError<'_>, schema: &Value, word: Option<&str>) -> String {
    let value: &Value = error.instance();
    match kind {
        Wrong::Type { .. } if value.is_number() && schema["pattern"] == duration::PATTERN => {
            format!("must be text with a unit, not a number: write {value}s or {value}ms, if that is meant")
        }
        Wrong::Type { kind } => wrong_type(kind, value, word),
        Wrong::Enum { options } => one_of(value, options),
        Wrong::Pattern { pattern } => wrong_text(value, pattern),
        Wrong::Minimum { limit } => format!("must be at least {}, not {value}", plain_number(limit)),
        Wrong::Maximum { limit } => format!("must be at most {}, not {value}", plain_number(limit)),
        Wrong::MinItems { limit } => format!("needs at least {}", counted(*limit, "entry", "entries")),
        Wrong::MaxItems { limit } => {
            let count = value.as_array().map_or(0, Vec::len);
            format!("has {count} entries; at most {limit} are allowed")
        }
        Wrong::MaxProperties { limit } => {
            let count = value.as_object().map_or(0, serde_json::Map::len);
            format!("has {count} entries; at most {limit} are allowed")
        }
        Wrong::MinLength { limit: 1 } => "must not be empty".to_owned(),
        Wrong::MinLength { limit } => format!("must have at least {limit} characters"),
        Wrong::MaxLength { limit } => {
            let count = value.as_str().map_or(0, |text| text.chars().count());
            format!("has {count} characters; at most {limit} are allowed")
        }
        Wrong::UniqueItems => "has the same entry twice: remove one of the two".to_owned(),
        _ => error.to_string(),
    }
}

fn unknown(name: &str, word: Option<&str>, known: &[&str]) -> String {
    if let Some(word) = word {
        return format!(
            "unknown field: YAML 1.1, and so kubectl, reads the key `{word}` as {name}; quote it if it is meant"
        );
    }
    match super::similar(name, known) {
        Some(meant) => format!("unknown field; did you mean `{meant}`?"),
        None if known.is_empty() => "unknown field".to_owned(),
        None => format!("unknown field; known here: {}", known.join(", ")),
    }
}

fn wrong_type(kind: &TypeKind, value: &Value, word: Option<&str>) -> String {
    let types: Vec<&str> = match kind {
        TypeKind::Single(one) => vec![type_name(one.as_str())],
        TypeKind::Multiple(set) => set.iter().map(|one| type_name(one.as_str())).collect(),
    };
    let wanted = types.join(" or ");
    let quoted = format!("\"{}\"", word.map_or(value.to_string(), str::to_owned));
    match (value, word) {
        (Value::Bool(_), Some(word)) if types.contains(&"text") => {
            format!("must be {wanted}: YAML 1.1, and so kubectl, reads `{word}` as {value}; write {quoted} in quotes")
        }
        (Value::Number(_), _) if wanted == "text" => format!("must be text, not a number: write {quoted} in quotes"),
        (Value::Number(_), _) if types.contains(&"text") => {
            format!("must be {wanted}: write {quoted} in quotes, since YAML floats do not survive every tool")
        }
        (Value::Null, _) => format!("must be {wanted}, and is empty"),
        _ => format!("must be {wanted}, not {}", shown(value)),
    }
}

fn type_name(name: &str) -> &str {
    match name {
        "string" => "text",
        "integer" => "an integer",
        "number" => "a number",
        "boolean" => "true or false",
        "array" => "a list",
        "object" => "a map",
        other => other,
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a map".to_owned(),
        Value::String(text) => format!("the text \"{}\"", clipped(text)),
        Value::Bool(_) | Value::Number(_) | Value::Null => value.to_string(),
    }
}

fn one_of(value: &Value, options: &Value) -> String {
    let options: Vec<&str> = options.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let written = value.as_str().unwrap_or_default();
    let meant = super::similar(written, &options).map(|meant| format!("; did you mean {meant}?")).unwrap_or_default();
    match options.as_slice() {
        [only] => format!("must be {only}, not `{}`", clipped(written)),
        _ => format!("must be one of {}, not `{}`{meant}", options.join(", "), clipped(written)),
    }
}

fn wrong_text(value: &Value, pattern: &str) -> String {
    let text = value.as_str().unwrap_or_default();
    match pattern {
        duration::PATTERN => match text.parse::<Duration>() {
            Err(error) => error.to_string(),
            Ok(_) => format!("`{}` must match {pattern}", clipped(text)),
        },
        schema::NAME | schema::LABEL => format!(
            "`{}` is not a name: use lower-case letters, digits and `-`, beginning and ending with a letter or digit",
            clipped(text)
        ),
        _ if text.chars().any(char::is_lowercase) && !pattern.contains("a-z") => {
            format!("`{}` must match {pattern}; did you mean `{}`?", clipped(text), clipped(&text.to_uppercase()))
        }
        _ => format!("`{}` must match {pattern}", clipped(text)),
    }
}

fn clipped(text: &str) -> String {
    const LONGEST: usize = 64;
    if text.chars().count() > LONGEST {
        text.chars().take(LONGEST).chain("…".chars()).collect()
    } else {
        text.to_owned()
    }
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Schema bounds are floats (`10.0`); people write integers.
fn plain_number(limit: &Value) -> String {
    let text = limit.to_string();
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

fn first_sentence(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.split_once(". ").map_or(text.trim_end_matches('.').to_owned(), |(first, _)| first.to_owned())
}

fn known(schema: &Value) -> Vec<&str> {
    schema["properties"].as_object().into_iter().flat_map(|properties| properties.keys().map(String::as_str)).collect()
}

/// The schema that holds the keyword that failed.
fn parent_schema<'a>(kind: &'a Kind, error: &ValidationError<'_>) -> &'a Value {
    let keyword = error.schema_path().as_str();
    let parent = keyword.rfind('/').map_or("", |end| &keyword[..end]);
    kind.schema.pointer(parent).unwrap_or(&Value::Null)
}

fn path(error: &ValidationError<'_>) -> String {
    use jsonschema::paths::LocationSegment::{Index, Property};
    error.instance_path().segments().fold(String::new(), |at, segment| match segment {
        Property(name) => field(&at, &name),
        Index(index) => item(&at, index),
    })
}
