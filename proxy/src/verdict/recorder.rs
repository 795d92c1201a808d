//! The flight recorder: the last requests that failed, were refused or were slowed, in memory, always on.
//!
//! Somebody asks "what happened to request r-17 five minutes ago?" when the log has rotated and nobody was watching. The
//! control thread fills it from the queue that feeds the log, so no request waits for it, and it holds the very text of the
//! log's line: the two cannot differ. It is bounded by bytes, whatever is in a record. What was only slowed has a share of
//! its own, so that a wave of retries that went well cannot push out the failure that somebody looks for.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{REASONS, Reason};
use crate::telemetry::access_log::{ID, Record};

/// The most that all records together may take, in bytes.
pub const LIMIT: usize = 1 << 20;

/// Of each of so many bytes, one is for requests that were only slowed.
const SLOWED_SHARE: usize = 4;

/// Part of an id that is enough to ask for it, in characters.
const PREFIX: usize = 8;

/// The recorder; clones share the records.
#[derive(Clone, Debug)]
pub struct Recorder {
    /// Its own threads' only: the control thread writes and the admin port reads, no request does.
    rings: Arc<Mutex<Rings>>,
    counts: Arc<Counts>,
    proxy: Arc<str>,
}

/// What is counted about the recorder.
#[derive(Debug, Default)]
pub struct Counts {
    /// Records that are held.
    pub records: AtomicU64,
    /// Bytes that they take.
    pub bytes: AtomicU64,
    /// Records that made room for newer ones.
    pub evicted: AtomicU64,
    /// Records that never came, because the control thread could not keep up.
    pub dropped: AtomicU64,
}

/// Which records are wanted: those that meet everything that is set.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// `x-request-id`, `traceparent` or its trace id, or at least the first 8 characters of one of them.
    pub id: Option<String>,
    /// A reason's name.
    pub reason: Option<String>,
    /// `namespace/name` or `namespace/name:port` of the callee.
    pub service: Option<String>,
    /// The most that are wanted; the newest.
    pub limit: Option<usize>,
}

/// Why a filter can have no answer.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadFilter {
    /// No such word.
    #[error("reason: there is no `{0}`; the reasons are {1}")]
    Reason(String, String),
    /// Not the name of a callee.
    #[error("service: `{0}` is no callee; write namespace/name or namespace/name:port, such as shop/service2:80")]
    Service(String),
    /// Nothing to look for.
    #[error("id: must not be empty")]
    Id,
    /// Nothing to give back.
    #[error("limit: must be at least 1")]
    Limit,
}

/// What is found.
#[derive(Debug, Serialize)]
pub struct Found {
    /// Whose recorder it is: the pod, or `firebreak` in local mode.
    pub proxy: Arc<str>,
    /// Every request that failed since then is still here.
    pub since: Timestamp,
    /// Every request that was slowed since then is still here.
    pub slowed_since: Timestamp,
    /// The newest first.
    pub records: Vec<Box<RawValue>>,
}

#[derive(Debug)]
struct Rings {
    failed: Ring,
    slowed: Ring,
    next: u64,
}

/// Records in the order in which they came.
#[derive(Debug)]
struct Ring {
    kept: VecDeque<Entry>,
    bytes: usize,
    limit: usize,
    since: Timestamp,
}

#[derive(Debug)]
struct Entry {
    place: u64,
    time: Timestamp,
    text: Box<str>,
}

/// What a filter looks at.
#[derive(Deserialize)]
struct Key {
    #[serde(default)]
    request_id: Option<String>,
    #[serde(default)]
    traceparent: Option<String>,
    #[serde(default)]
    reason: Option<String>,
    service: String,
    port: String,
}

impl Recorder {
    /// Holds nothing yet, and never more than `limit` bytes. `proxy` is whose it is.
    pub fn new(limit: usize, counts: Arc<Counts>, proxy: &str) -> Self {
        let now = Timestamp::now();
        let ring = |limit| Ring { kept: VecDeque::new(), bytes: 0, limit, since: now };
        let slowed = limit / SLOWED_SHARE;
        let rings = Rings { failed: ring(limit - slowed), slowed: ring(slowed), next: 0 };
        Self { rings: Arc::new(Mutex::new(rings)), counts, proxy: proxy.into() }
    }

    /// Adds a record, of which `text` is the line.
    pub fn put(&self, record: &Record, text: &str) {
        let mut rings = self.rings.lock();
        let entry = Entry { place: rings.next, time: record.time, text: text.into() };
        rings.next += 1;
        let evicted = if record.failed() { rings.failed.push(entry) } else { rings.slowed.push(entry) };
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        self.counts.evicted.fetch_add(evicted, Relaxed);
        self.counts.records.store(count(rings.failed.kept.len() + rings.slowed.kept.len()), Relaxed);
        self.counts.bytes.store(count(rings.failed.bytes + rings.slowed.bytes), Relaxed);
    }

    /// The records that meet the filter.
    ///
    /// # Errors
    /// When the filter asks for what cannot be.
    pub fn find(&self, filter: &Filter) -> Result<Found, BadFilter> {
        filter.check()?;
        let rings = self.rings.lock();
        let mut entries: Vec<_> = rings.failed.kept.iter().chain(&rings.slowed.kept).collect();
        entries.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.place));
        let wanted = entries.into_iter().filter(|entry| filter.is_met_by(&entry.text));
        let records = wanted
            .take(filter.limit.unwrap_or(usize::MAX))
            .filter_map(|entry| RawValue::from_string(entry.text.to_string()).ok())
            .collect();
        let (since, slowed_since) = (rings.failed.since, rings.slowed.since);
        Ok(Found { proxy: Arc::clone(&self.proxy), since, slowed_since, records })
    }
}

impl Ring {
    /// Adds an entry; how many had to go for it.
    fn push(&mut self, entry: Entry) -> u64 {
        let mut evicted = 0;
        self.bytes += entry.weight();
        self.kept.push_back(entry);
        while self.bytes > self.limit
            && let Some(gone) = self.kept.pop_front()
        {
            self.bytes -= gone.weight();
            self.since = self.since.max(gone.time);
            evicted += 1;
        }
        evicted
    }
}

impl Entry {
    fn weight(&self) -> usize {
        self.text.len() + size_of::<Self>()
    }
}

impl Filter {
    fn check(&self) -> Result<(), BadFilter> {
        if let Some(reason) = self.reason.as_ref().filter(|reason| Reason::named(reason).is_none()) {
            let all = REASONS.map(Reason::name).join(", ");
            return Err(BadFilter::Reason(reason.clone(), all));
        }
        if let Some(service) = self.service.as_ref().filter(|service| !service.contains('/') && *service != "unknown") {
            return Err(BadFilter::Service(service.clone()));
        }
        if self.id.as_ref().is_some_and(String::is_empty) {
            return Err(BadFilter::Id);
        }
        if self.limit == Some(0) { Err(BadFilter::Limit) } else { Ok(()) }
    }

    fn is_met_by(&self, text: &str) -> bool {
        if self.id.is_none() && self.reason.is_none() && self.service.is_none() {
            return true;
        }
        let Ok(key) = serde_json::from_str::<Key>(text) else { return false };
        let service = |wanted: &String| {
            let port = wanted.strip_prefix(&key.service);
            port.is_some_and(|rest| rest.is_empty() || rest.strip_prefix(':') == Some(&key.port))
        };
        self.id.as_ref().is_none_or(|id| key.has(id))
            && self.reason.as_ref().is_none_or(|reason| key.reason.as_ref() == Some(reason))
            && self.service.as_ref().is_none_or(service)
    }
}

impl Key {
    fn has(&self, id: &str) -> bool {
        // Longer ids are cut in the record.
        let id = id.char_indices().nth(ID).map_or(id, |(end, _)| &id[..end]);
        let trace = self.traceparent.as_ref().and_then(|parent| parent.get(3..35));
        let mut known = [self.request_id.as_deref(), self.traceparent.as_deref(), trace].into_iter().flatten();
        known.any(|known| known == id || (id.len() >= PREFIX && known.starts_with(id)))
    }
}

#[cfg(test)]
mod tests;
