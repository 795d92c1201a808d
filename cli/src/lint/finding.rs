//! What lint has to say about one place.

use std::fmt;

use serde::Serialize;

use crate::manifest::{Broken, Document, Place};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// The API server or the operator refuses the object.
    Error,
    /// The object is accepted, and does not do what its author thinks.
    Warning,
    /// The object does what it says, and not everywhere.
    Note,
}

/// One thing that is wrong: where, in which object and field, what, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    pub(crate) file: String,
    pub(crate) line: usize,
    pub(crate) column: usize,
    /// Absent when the text could not be read as an object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) object: Option<ObjectId>,
    /// Empty for the object as a whole.
    pub(crate) field: String,
    pub(crate) message: String,
}

/// An object, as a reader of the files knows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct ObjectId {
    pub(crate) kind: String,
    /// Empty where the file leaves it to kubectl.
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Finding {
    /// A finding about `field` of `document`.
    pub(crate) fn of(document: &Document, severity: Severity, field: &str, message: impl Into<String>) -> Self {
        Self::at(document, severity, field, document.place(field), message)
    }

    /// A finding about `field` of `document`, standing elsewhere than the field.
    pub(crate) fn at(
        document: &Document,
        severity: Severity,
        field: &str,
        place: Place,
        message: impl Into<String>,
    ) -> Self {
        Self {
            severity,
            file: document.file.to_string(),
            line: place.line,
            column: place.column,
            object: Some(ObjectId::of(document)),
            field: field.to_owned(),
            message: message.into(),
        }
    }
}

impl From<Broken> for Finding {
    fn from(broken: Broken) -> Self {
        Self {
            severity: Severity::Error,
            file: broken.file.to_string(),
            line: broken.place.line,
            column: broken.place.column,
            object: None,
            field: String::new(),
            message: broken.message,
        }
    }
}

impl ObjectId {
    pub(crate) fn of(document: &Document) -> Self {
        let name = match (document.text("/metadata/name"), document.text("/metadata/generateName")) {
            ("", prefix) => prefix,
            (name, _) => name,
        };
        Self {
            kind: document.text("/kind").to_owned(),
            namespace: document.text("/metadata/namespace").to_owned(),
            name: name.to_owned(),
        }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.name.is_empty() { "(without a name)" } else { &self.name };
        match self.namespace.as_str() {
            "" => write!(f, "{} {name}", self.kind),
            namespace => write!(f, "{} {namespace}/{name}", self.kind),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}
