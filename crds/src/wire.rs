//! What travels from the operator to the proxies: one document for each namespace of callers.
//!
//! Proxies live for months, so a proxy must run with an operator two versions newer. Three rules make that hold:
//!
//! * a document is decoded entry by entry, so that one broken entry costs itself and not its neighbours;
//! * a field or a kind of entry that the reader does not know is ignored and reported, never refused;
//! * [`FORMAT`] changes only when the meaning of what is already there changes, and then readers refuse the document.
//!
//! The bytes are deterministic: entries are sorted, maps are ordered, and each entry carries the hash of its body, so an
//! unchanged world renders to the same bytes and nothing needs to be written.

mod decode;
mod entry;

use serde::{Deserialize, Serialize, Serializer, ser::SerializeStruct};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

pub use self::{
    decode::{Decoded, EntryProblem, Unreadable, decode},
    entry::{Body, Endpoint, Fault, Inbound, InboundPort, Policy, Port, Protocol, Service},
};

/// Version of the document's meaning. See the module's rules before changing it.
pub const FORMAT: u32 = 1;

/// Largest document a proxy reads, in bytes: what Kubernetes lets a ConfigMap hold.
pub const MAX_BYTES: usize = 1 << 20;

/// All that the proxies of one namespace need to know.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// The callers' namespace.
    pub namespace: String,
    /// Break-glass: forward everything, protect nothing.
    pub transparent: bool,
    /// Services, policies, faults and what is enforced on the inbound side, sorted by kind and name.
    pub entries: Vec<Entry>,
}

/// One thing with a name and a version.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// `namespace/name` of the object it was rendered from.
    pub name: String,
    /// Generation of that object.
    pub generation: i64,
    /// What it says.
    pub body: Body,
}

/// An entry as it stands in the document: its body is decoded later, and alone.
#[derive(Serialize, Deserialize)]
struct RawEntry {
    kind: String,
    name: String,
    #[serde(default)]
    generation: i64,
    #[serde(default)]
    hash: String,
    body: Box<RawValue>,
}

impl Config {
    /// The document, and its [`revision`].
    pub fn encode(&self) -> Result<(String, String), serde_json::Error> {
        let mut sorted = self.clone();
        sorted.entries.sort_by(|a, b| (a.body.kind(), &a.name).cmp(&(b.body.kind(), &b.name)));
        let document = serde_json::to_string(&sorted)?;
        let revision = revision(document.as_bytes());
        Ok((document, revision))
    }
}

/// Sixteen hex digits that name a document or a part of it by its content.
pub fn revision(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    let (word, _) = digest.split_first_chunk().unwrap_or((&[0; 8], &[]));
    format!("{:016x}", u64::from_be_bytes(*word))
}

impl Serialize for Config {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let entries = self.entries.iter().map(RawEntry::try_from).collect::<Result<Vec<_>, _>>();
        let entries = entries.map_err(serde::ser::Error::custom)?;
        let mut document = serializer.serialize_struct("Config", 4)?;
        document.serialize_field("format", &FORMAT)?;
        document.serialize_field("namespace", &self.namespace)?;
        document.serialize_field("transparent", &self.transparent)?;
        document.serialize_field("entries", &entries)?;
        document.end()
    }
}

impl TryFrom<&Entry> for RawEntry {
    type Error = serde_json::Error;

    fn try_from(entry: &Entry) -> Result<Self, Self::Error> {
        let body = entry.body.to_raw()?;
        Ok(Self {
            kind: entry.body.kind().to_owned(),
            name: entry.name.clone(),
            generation: entry.generation,
            hash: revision(body.get().as_bytes()),
            body,
        })
    }
}

#[cfg(test)]
mod tests;
