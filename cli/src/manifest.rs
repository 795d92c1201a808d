//! Kubernetes manifests as people write them: files, documents, and where in them each field stands.
//!
//! A finding without a line number sends its reader searching, so every value keeps its place. Scalars are read as kubectl
//! reads them (YAML 1.1, see [`yaml`]), because what counts is what the API server would receive.

mod files;
mod scalar;
mod yaml;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use serde_json::Value;

pub(crate) use self::files::{Source, read, read_folder};

/// One object of a file, with the places of its fields.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    /// The file, as it was named; `-` for standard input.
    pub(crate) file: Arc<str>,
    /// The object as JSON, nulls included.
    pub(crate) value: Value,
    marks: HashMap<String, Mark>,
}

/// Where something stands, counted from one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// A file, or the rest of one, that is not YAML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) file: Arc<str>,
    pub(crate) place: Place,
    pub(crate) message: String,
}

/// What files held.
#[derive(Debug, Default)]
pub(crate) struct Manifests {
    pub(crate) documents: Vec<Document>,
    pub(crate) broken: Vec<Broken>,
}

/// A field's place and, where YAML 1.1 made something else of a plain word, that word.
#[derive(Clone, Debug, Default)]
struct Mark {
    place: Place,
    key_word: Option<String>,
    value_word: Option<String>,
}

impl Manifests {
    /// Reads the documents of all `sources`.
    pub(crate) fn parse(sources: &[Source]) -> Self {
        let mut all = Self::default();
        for source in sources {
            let (documents, broken) = yaml::parse(&source.name, &source.text);
            all.documents.extend(documents.into_iter().flat_map(Document::unlisted));
            all.broken.extend(broken);
        }
        all
    }
}

impl Document {
    /// The string at a JSON pointer; empty when there is none.
    pub(crate) fn text(&self, pointer: &str) -> &str {
        self.value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// Where `field` stands, or the nearest field around it that is there. `field` is written `spec.routes[0].match`.
    pub(crate) fn place(&self, field: &str) -> Place {
        self.nearest(field).map(|mark| mark.place).unwrap_or_default()
    }

    /// The word that was written as the key of `field`, where YAML 1.1 reads it as something else than text.
    pub(crate) fn key_word(&self, field: &str) -> Option<&str> {
        self.marks.get(field)?.key_word.as_deref()
    }

    /// The word that was written as the value of `field`, where YAML 1.1 reads it as something else than text.
    pub(crate) fn value_word(&self, field: &str) -> Option<&str> {
        self.marks.get(field)?.value_word.as_deref()
    }

    fn nearest(&self, field: &str) -> Option<&Mark> {
        let mut field = field;
        loop {
            if let Some(mark) = self.marks.get(field) {
                return Some(mark);
            }
            field = field.rfind(['.', '[']).map_or("", |end| &field[..end]);
            if field.is_empty() {
                return self.marks.get("");
            }
        }
    }

    /// The items of a `List`, as `kubectl get -o yaml` prints one; any other object is its own only item.
    fn unlisted(self) -> Vec<Self> {
        if self.text("/kind") != "List" || self.text("/apiVersion") != "v1" {
            return vec![self];
        }
        let items = self.value.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        let item = |(index, value)| Self { file: Arc::clone(&self.file), value, marks: self.marks_under(index) };
        items.into_iter().enumerate().map(item).collect()
    }

    fn marks_under(&self, index: usize) -> HashMap<String, Mark> {
        let prefix = format!("items[{index}]");
        let inside = |(field, mark): (&String, &Mark)| {
            let rest = field.strip_prefix(&prefix)?;
            (rest.is_empty() || rest.starts_with(['.', '[']))
                .then(|| (rest.trim_start_matches('.').to_owned(), mark.clone()))
        };
        self.marks.iter().filter_map(inside).collect()
    }
}

/// The name of `key` inside `parent`.
pub(crate) fn field(parent: &str, key: &str) -> String {
    if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") }
}

/// The name of an item inside the list `parent`.
pub(crate) fn item(parent: &str, index: usize) -> String {
    format!("{parent}[{index}]")
}

/// `value` without the nulls in its objects, which the API server drops, and the fields that held them.
pub(crate) fn without_nulls(value: &Value) -> (Value, Vec<String>) {
    let (mut value, mut dropped) = (value.clone(), BTreeSet::new());
    drop_nulls(&mut value, "", &mut dropped);
    (value, dropped.into_iter().collect())
}

fn drop_nulls(value: &mut Value, at: &str, dropped: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            map.retain(|key, value| {
                if value.is_null() {
                    dropped.insert(field(at, key));
                }
                !value.is_null()
            });
            map.iter_mut().for_each(|(key, value)| drop_nulls(value, &field(at, key), dropped));
        }
        Value::Array(items) => {
            items.iter_mut().enumerate().for_each(|(index, value)| drop_nulls(value, &item(at, index), dropped));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
