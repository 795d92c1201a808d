//! What a pod's author may set about its proxy: the annotations `config.firebreak.dev/*`.
//!
//! A bad value refuses the pod, and the message names annotation, value and what would be right: a proxy that came up
//! with other settings than those asked for would be found out much later. A key that nobody knows is only warned
//! about, so that a pod written for a newer Firebreak still starts.

use std::{fmt::Display, str::FromStr};

use firebreak_crds::redirect::{Cidr, PortRange};
use serde_json::{Map, Value};

use crate::quantity::Quantity;

/// What all these annotations begin with.
pub const PREFIX: &str = "config.firebreak.dev/";
/// Entries that a list may have: each becomes a rule that every new connection walks past.
const MOST_ENTRIES: usize = 64;
/// Levels of the proxy's log.
const LOG_LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];
/// Worker threads that a proxy may be given.
const MOST_WORKERS: u16 = 64;
/// Every key after [`PREFIX`], for the warning about unknown ones.
const KEYS: [&str; 9] = [
    "proxy-cpu-request",
    "proxy-cpu-limit",
    "proxy-memory-request",
    "proxy-memory-limit",
    "log-level",
    "workers",
    "skip-inbound-ports",
    "skip-outbound-ports",
    "skip-outbound-cidrs",
];

/// How one pod's proxy is set up.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// CPU of the proxy.
    pub cpu: Resource,
    /// Memory of the proxy.
    pub memory: Resource,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub log_level: LogLevel,
    /// Worker threads.
    pub workers: Workers,
    /// Ports whose incoming connections go straight to the application.
    pub skip_inbound_ports: Vec<PortRange>,
    /// Ports whose outgoing connections go straight to their destination.
    pub skip_outbound_ports: Vec<PortRange>,
    /// Networks whose outgoing connections go straight to their destination.
    pub skip_outbound_cidrs: Vec<Cidr>,
}

/// A request and a limit, each optional, as in `resources` of a container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resource {
    /// What the scheduler sets aside.
    pub request: Option<Quantity>,
    /// What the container may use.
    pub limit: Option<Quantity>,
}

/// A level of the proxy's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLevel(String);

/// A number of worker threads, from 1 to 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workers(u16);

/// Why a pod's annotation was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("annotation {PREFIX}{key}: {problem}")]
pub struct AnnotationError {
    key: &'static str,
    problem: String,
}

impl Settings {
    /// These settings with what `annotations` change.
    pub fn overridden(&self, annotations: &Map<String, Value>) -> Result<Self, AnnotationError> {
        let read = Reader(annotations);
        Ok(Self {
            cpu: read.resource(&self.cpu, "proxy-cpu-request", "proxy-cpu-limit")?,
            memory: read.resource(&self.memory, "proxy-memory-request", "proxy-memory-limit")?,
            log_level: read.value("log-level")?.unwrap_or_else(|| self.log_level.clone()),
            workers: read.value("workers")?.unwrap_or(self.workers),
            skip_inbound_ports: read.list("skip-inbound-ports")?.unwrap_or_else(|| self.skip_inbound_ports.clone()),
            skip_outbound_ports: read.list("skip-outbound-ports")?.unwrap_or_else(|| self.skip_outbound_ports.clone()),
            skip_outbound_cidrs: read.list("skip-outbound-cidrs")?.unwrap_or_else(|| self.skip_outbound_cidrs.clone()),
        })
    }
}

/// A warning for each annotation that has our prefix and a key that does not exist.
pub fn warnings(annotations: &Map<String, Value>) -> Vec<String> {
    annotations
        .keys()
        .filter_map(|name| name.strip_prefix(PREFIX))
        .filter(|key| !KEYS.contains(key))
        .map(|key| format!("annotation {PREFIX}{key} is not known and has no effect; known: {}", KEYS.join(", ")))
        .collect()
}

/// Reads typed values out of a pod's annotations.
struct Reader<'a>(&'a Map<String, Value>);

impl Reader<'_> {
    fn text(&self, key: &str) -> Option<&str> {
        self.0.get(&format!("{PREFIX}{key}")).and_then(Value::as_str)
    }

    fn value<T: FromStr<Err: Display>>(&self, key: &'static str) -> Result<Option<T>, AnnotationError> {
        self.text(key).map(|text| parsed(key, text)).transpose()
    }

    /// A list with commas. Empty text is an empty list, which is how a pod takes a default back.
    fn list<T: FromStr<Err: Display>>(&self, key: &'static str) -> Result<Option<Vec<T>>, AnnotationError> {
        let Some(text) = self.text(key) else { return Ok(None) };
        let entries: Vec<T> = text
            .split(',')
            .map(str::trim)
            .filter(|entry| !entry.is_empty())
            .map(|entry| parsed(key, entry))
            .collect::<Result<_, _>>()?;
        if entries.len() > MOST_ENTRIES {
            let problem = format!("{} entries are too many: write at most {MOST_ENTRIES}", entries.len());
            return Err(AnnotationError { key, problem });
        }
        Ok(Some(entries))
    }

    fn resource(
        &self,
        default: &Resource,
        request_key: &'static str,
        limit_key: &'static str,
    ) -> Result<Resource, AnnotationError> {
        let asked = self.value::<Quantity>(request_key)?;
        let limited = self.value::<Quantity>(limit_key)?;
        let key = if asked.is_some() { request_key } else { limit_key };
        let request = asked.or_else(|| default.request.clone());
        let limit = limited.or_else(|| default.limit.clone());
        if let (Some(request), Some(limit)) = (&request, &limit)
            && request.exceeds(limit)
        {
            let problem = format!(
                "the request {request} is above the limit {limit}: set {PREFIX}{request_key} and {PREFIX}{limit_key} \
                 so that the request is not the larger"
            );
            return Err(AnnotationError { key, problem });
        }
        Ok(Resource { request, limit })
    }
}

fn parsed<T: FromStr<Err: Display>>(key: &'static str, text: &str) -> Result<T, AnnotationError> {
    text.trim().parse().map_err(|error: T::Err| AnnotationError { key, problem: error.to_string() })
}

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if LOG_LEVELS.contains(&text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("{text:?} is not a log level: write {}", LOG_LEVELS.join(", ")))
        }
    }
}

impl LogLevel {
    /// The level as the proxy reads it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Workers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse()
            .ok()
            .filter(|workers| (1..=MOST_WORKERS).contains(workers))
            .map(Self)
            .ok_or_else(|| format!("{text:?} is not a number of workers: write 1 to {MOST_WORKERS}"))
    }
}

impl Display for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests;
