//! Reading a document: entry by entry, forgiving what is new, reporting all of it.

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::{Body, Config, Entry, FORMAT, MAX_BYTES, RawEntry};

/// What a document held.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decoded {
    /// Everything that could be read.
    pub config: Config,
    /// Entries that could not be read. Whoever has their last good form keeps it.
    pub problems: Vec<EntryProblem>,
    /// Paths of fields, and kinds of entries, that this version does not know.
    pub ignored: Vec<String>,
}

/// An entry that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {name}: {error}")]
pub struct EntryProblem {
    /// Kind of the entry; empty when even that could not be read.
    pub kind: String,
    /// `namespace/name` of the entry; its place in the list when the name could not be read.
    pub name: String,
    /// Which field, what was wrong, what would be right.
    pub error: String,
}

/// A document of which nothing can be used.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// Not JSON, or not of our shape.
    #[error("the config is not a Firebreak document: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Written by an operator whose words mean something else.
    #[error("the config has format {found}; this proxy reads format {FORMAT}: restart the pod to get a newer proxy")]
    Format {
        /// The document's format.
        found: u32,
    },
    /// Longer than a ConfigMap can be.
    #[error("the config has {0} bytes; at most {MAX_BYTES} are read")]
    TooLarge(usize),
}

#[derive(Deserialize)]
struct Document {
    format: u32,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    transparent: bool,
    #[serde(default)]
    entries: Vec<Box<RawValue>>,
}

/// Reads a document.
///
/// # Errors
/// Only when nothing of it can be used; a broken entry is a problem in the result.
pub fn decode(bytes: &[u8]) -> Result<Decoded, Unreadable> {
    if bytes.len() > MAX_BYTES {
        return Err(Unreadable::TooLarge(bytes.len()));
    }
    let mut decoded = Decoded::default();
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let document: Document = serde_ignored::deserialize(&mut json, |path| decoded.ignored.push(path.to_string()))?;
    json.end()?;
    if document.format != FORMAT {
        return Err(Unreadable::Format { found: document.format });
    }
    decoded.config = Config { namespace: document.namespace, transparent: document.transparent, entries: Vec::new() };
    for (place, raw) in document.entries.iter().enumerate() {
        decoded.read_entry(place, raw);
    }
    Ok(decoded)
}

impl Decoded {
    fn read_entry(&mut self, place: usize, raw: &RawValue) {
        let outer: RawEntry = match serde_json::from_str(raw.get()) {
            Ok(outer) => outer,
            Err(error) => {
                let name = format!("entries[{place}]");
                return self.problems.push(EntryProblem { kind: String::new(), name, error: error.to_string() });
            }
        };
        let body = match outer.kind.as_str() {
            "Service" => self.read_body(&outer).map(Body::Service),
            "TrafficPolicy" => self.read_body(&outer).map(Body::Policy),
            "FaultSpec" => self.read_body(&outer).map(Body::Fault),
            "Inbound" => self.read_body(&outer).map(Body::Inbound),
            _ => return self.ignored.push(format!("{} {}", outer.kind, outer.name)),
        };
        match body {
            Ok(body) => {
                self.config.entries.push(Entry { name: outer.name, generation: outer.generation, body });
            }
            Err(error) => self.problems.push(EntryProblem { kind: outer.kind, name: outer.name, error }),
        }
    }

    fn read_body<T: DeserializeOwned>(&mut self, outer: &RawEntry) -> Result<T, String> {
        let mut json = serde_json::Deserializer::from_str(outer.body.get());
        let mut track = serde_path_to_error::Track::new();
        let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
        let mut ignored = Vec::new();
        let body = serde_ignored::deserialize(tracked, |path| {
            ignored.push(format!("{} {}: {path}", outer.kind, outer.name));
        });
        self.ignored.append(&mut ignored);
        body.map_err(|error| format!("{}: {error}", track.path()))
    }
}
