//! One JSON line for each request that failed, written where it does not hold up traffic.
//!
//! A worker only fills a record and puts it into a bounded queue; the control thread turns it into text. When the queue is
//! full the line is dropped and counted: a log must not become the outage.

use std::{
    io::Write,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::metrics::Registry;

/// Lines that may wait to be written.
const QUEUE: usize = 1024;

/// Longest path that is logged; the rest is cut.
const PATH: usize = 256;

/// What the line says.
#[derive(Debug, Serialize)]
pub struct Record {
    /// When the request ended.
    pub time: Timestamp,
    /// Which way.
    pub direction: &'static str,
    /// The callee.
    pub service: Box<str>,
    /// Its port.
    pub port: Box<str>,
    /// Method of the request.
    pub method: Box<str>,
    /// Path without the query, which may hold secrets.
    pub path: Box<str>,
    /// `x-request-id`, if the request had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Box<str>>,
    /// `traceparent`, if the request had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<Box<str>>,
    /// Status that the caller saw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// How it ended.
    pub fate: &'static str,
    /// Why.
    pub reason: &'static str,
    /// Whose problem it is.
    pub fault_domain: &'static str,
    /// Tries made.
    pub attempts: u32,
    /// Milliseconds it took.
    pub duration_ms: u64,
    /// The policy in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Box<str>>,
    /// The FaultSpec that hit it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<Box<str>>,
}

/// Where workers put their records.
#[derive(Clone, Debug)]
pub struct Log {
    queue: Sender<Record>,
    registry: Arc<Registry>,
}

/// Where workers put their records, and the end from which they are to be written, unless somebody else takes them.
pub fn new(registry: Arc<Registry>, taker: Option<Sender<Record>>) -> (Log, Option<Receiver<Record>>) {
    let (queue, records) = taker.map_or_else(
        || {
            let (queue, records) = channel(QUEUE);
            (queue, Some(records))
        },
        |queue| (queue, None),
    );
    (Log { queue, registry }, records)
}

impl Log {
    /// Puts a record into the queue, or drops it when the queue is full.
    pub fn put(&self, record: Record) {
        if self.queue.try_send(record).is_err() {
            self.registry.log_dropped.fetch_add(1, Relaxed);
        }
    }
}

/// Writes records to standard output until all workers are gone.
pub async fn write(mut records: Receiver<Record>) {
    let mut batch = Vec::new();
    while records.recv_many(&mut batch, 64).await > 0 {
        let mut text = Vec::with_capacity(batch.len() * 256);
        for record in batch.drain(..) {
            if serde_json::to_writer(&mut text, &record).is_ok() {
                text.push(b'\n');
            }
        }
        // Whoever closed our output does not want the lines.
        let _ = std::io::stdout().write_all(&text);
    }
}

/// The path as it may be logged.
pub fn path(path: &str) -> Box<str> {
    let end = path.char_indices().map(|(at, _)| at).find(|at| *at >= PATH).unwrap_or(path.len());
    path[..end].into()
}

/// Whole milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
