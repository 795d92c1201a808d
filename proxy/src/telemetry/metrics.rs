//! Counters that cost next to nothing: each worker writes its own, and a scrape adds them up.
//!
//! Handles are resolved when a snapshot is compiled; on the way of a request there is no look-up, no lock and no shared
//! cache line. A labelled look-up would cost 120 ns a time, and more with two threads.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    exemplar::{Exemplar, Exemplars, Kept},
    histogram::{Histogram, Merged},
};
use crate::{
    config::publish::Report,
    http::replay::Replay,
    net::connections::Connections,
    policy::{
        balance::Endpoint,
        breaker::{Breaker, Counts},
        bulkhead::Gate,
        concurrency::Limit,
        fault::active::Active,
        hedge::REFUSED,
        shadow::{self, Observer},
    },
    upstream::keep_alive::KeepAlive,
    verdict::{ATTEMPT_OUTCOMES, AttemptOutcome, Domain, FATES, Fate, REASONS, Reason, recorder},
};

/// A count that only one thread writes and any may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// Which way traffic goes, seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// From the pod's application to a callee.
    Outbound,
    /// From a caller to the pod's application.
    Inbound,
}

/// Status classes, and a place for requests that got no status.
pub const CODES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Whose problem a failure is: where a reason does not say it itself, whoever is known to be to blame.
pub const BLAMED: [Option<Domain>; 6] = [
    None,
    Some(Domain::Injected),
    Some(Domain::CalleeDependency),
    Some(Domain::CallerPolicy),
    Some(Domain::Network),
    Some(Domain::Caller),
];

/// What is counted about a callee.
#[derive(Debug)]
pub struct CalleeMetrics {
    /// Labels.
    pub direction: Direction,
    /// `namespace/name`, or `unknown`.
    pub service: Box<str>,
    /// The Service's port, or `any`.
    pub port: Box<str>,
    shards: Box<[Shard]>,
    gate: ArcSwapOption<Gate>,
    limits: ArcSwap<Vec<Arc<Limit>>>,
    /// What the callee's breaker did.
    pub breaker: Arc<Counts>,
    /// What the breakers of its endpoints did.
    pub endpoint_breakers: Arc<Counts>,
    breakers: ArcSwap<Breakers>,
    /// What policies that are observed would have done.
    pub observed: Arc<shadow::Counts>,
    /// Health checks of its endpoints that failed, and that passed.
    health_checks: [AtomicU64; 2],
    /// How long it lets connections be idle.
    pub keep_alive: KeepAlive,
}

/// The breakers of a callee and its endpoints, as the newest config has them.
#[derive(Debug, Default)]
pub struct Breakers {
    /// The callee's own.
    pub callee: Option<Arc<Breaker>>,
    /// Its endpoints, where the policy has something to say of them.
    pub endpoints: Vec<Endpoint>,
    /// The policy that is observed, with the breaker that it has.
    pub observed: Option<Arc<Observer>>,
}

/// Failures by reason and by [`BLAMED`].
#[derive(Debug)]
struct Failures([[Counter; BLAMED.len()]; REASONS.len()]);

impl Default for Failures {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Default::default()))
    }
}

/// One worker's counts, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Shard {
    requests: [[Counter; CODES.len()]; FATES.len()],
    attempts: [Counter; ATTEMPT_OUTCOMES.len()],
    /// By reason, and by [`BLAMED`].
    failures: Failures,
    /// Duration of whole requests.
    pub duration: Histogram,
    exemplars: Kept,
    /// Retries that the budget did not allow.
    pub retries_refused: Counter,
    /// Retries that the callee did not want, or not before a time that there was not.
    pub pushed_back: Counter,
    /// Retries that were left to another layer: one above is retrying already, or one below has in vain.
    pub left_to_layers: Counter,
    /// Second tries that were sent beside slow ones.
    pub hedges_sent: Counter,
    /// Those of them that were answered first.
    pub hedges_won: Counter,
    /// Those that were not sent, by cause.
    pub hedges_refused: [Counter; REFUSED.len()],
    /// Dead pooled connections that were replaced for free.
    pub replaced: Counter,
    /// Idle connections that were not used again, because the callee was about to close them.
    pub given_up: Counter,
    /// Opaque connections that were forwarded.
    pub opaque: Counter,
    /// Bytes forwarded on opaque and upgraded connections.
    pub opaque_bytes: Counter,
}

/// What is counted about a FaultSpec. Faults are rare, so workers share the counters.
#[derive(Debug, Default)]
pub struct FaultMetrics {
    /// Tries hit, by kind.
    pub hits: [AtomicU64; FAULT_KINDS.len()],
    /// Requests that are under the fault now, and those that `maxActive` spared.
    pub active: Arc<Active>,
}

/// The kinds of faults, as the fields of a FaultSpec name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A pause before the try.
    Delay,
    /// An end instead of the try.
    Abort,
    /// An answer whose body is cut.
    Truncate,
    /// An answer whose body comes slowly.
    Throttle,
}

/// All kinds, for tables indexed by `FaultKind as usize`.
pub const FAULT_KINDS: [FaultKind; 4] = [FaultKind::Delay, FaultKind::Abort, FaultKind::Truncate, FaultKind::Throttle];

/// What is counted about the config.
#[derive(Debug, Default)]
pub struct ConfigMetrics {
    applied: AtomicU64,
    refused: AtomicU64,
    problems: AtomicU64,
    ignored: AtomicU64,
    applied_at: AtomicI64,
}

/// Direction, Service, and port where one is known.
type CalleeKey = (Direction, Box<str>, Option<u16>);

/// How long counts stay that nobody can add to any more: their callee or fault has left the config, and nothing of it is under way.
/// A scrape every few minutes still sees the last of them, and what comes back within that time goes on counting.
pub const KEPT: Duration = Duration::from_mins(15);

/// Counts, and since when only the registry holds them.
#[derive(Debug)]
struct Counted<T> {
    counts: Arc<T>,
    alone_since: Option<Instant>,
}

impl<T> From<T> for Counted<T> {
    fn from(counts: T) -> Self {
        Self { counts: Arc::new(counts), alone_since: None }
    }
}

impl<T> Counted<T> {
    fn stays(&mut self, now: Instant) -> bool {
        if Arc::strong_count(&self.counts) > 1 {
            self.alone_since = None;
            return true;
        }
        now.saturating_duration_since(*self.alone_since.get_or_insert(now)) < KEPT
    }
}

/// All that is counted.
#[derive(Debug)]
pub struct Registry {
    workers: usize,
    callees: Mutex<BTreeMap<CalleeKey, Counted<CalleeMetrics>>>,
    faults: Mutex<BTreeMap<Box<str>, Counted<FaultMetrics>>>,
    config: Arc<ConfigMetrics>,
    /// The callers' connections.
    pub connections: Connections,
    /// What is kept of requests' bodies for another try.
    pub replay: Replay,
    /// Lines of the log that were dropped, because it could not keep up or nobody reads it.
    pub log_dropped: Arc<AtomicU64>,
    /// Spans that the collector took.
    pub spans_exported: AtomicU64,
    /// Spans that were dropped: there were too many, or the collector did not take them.
    pub spans_dropped: AtomicU64,
    /// The flight recorder.
    pub recorder: Arc<recorder::Counts>,
}

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `by`. Only the owning thread calls this, so a load and a store suffice.
    pub fn add(&self, by: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(by), Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Direction {
    /// The word itself, as it stands in labels and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

impl FaultKind {
    /// The word itself, as it stands in labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Delay => "delay",
            Self::Abort => "abort",
            Self::Truncate => "truncate",
            Self::Throttle => "throttle",
        }
    }
}

impl Shard {
    /// Counts a request that is over. `status` is what the caller saw, if it saw any.
    pub fn request(&self, fate: Fate, status: Option<http::StatusCode>, took: Duration) {
        let class = status.map_or(0, |status| usize::from(status.as_u16() / 100).min(CODES.len() - 1));
        self.requests[fate as usize][class].increment();
        self.duration.observe(took);
    }

    /// Counts a try that is over.
    pub fn attempt(&self, outcome: AttemptOutcome) {
        self.attempts[outcome as usize].increment();
    }

    /// Counts the reason of a request that failed, and whose problem it is.
    pub fn failure(&self, reason: Reason, domain: Domain) {
        self.failures.0[reason as usize][blamed(domain)].increment();
    }

    /// Makes a request that is counted the example of its duration, and of its failure if it failed.
    pub fn exemplify(&self, exemplar: Exemplar, failure: Option<(Reason, Domain)>) {
        self.exemplars.put(exemplar, failure.map(|(reason, domain)| (reason as usize, blamed(domain))));
    }
}

/// The place in [`BLAMED`] of a failure in this domain.
fn blamed(domain: Domain) -> usize {
    BLAMED.iter().position(|blamed| *blamed == Some(domain)).unwrap_or_default()
}

impl CalleeMetrics {
    /// The counts that worker `worker` writes.
    pub fn shard(&self, worker: usize) -> &Shard {
        // Workers are numbered from 0 and there is a shard for each.
        &self.shards[worker.min(self.shards.len() - 1)]
    }

    /// Shows this bulkhead's use beside the counts, or none any more.
    pub fn watch_gate(&self, gate: Option<Arc<Gate>>) {
        self.gate.store(gate);
    }

    /// The bulkhead, where there is one.
    pub fn gate(&self) -> Option<Arc<Gate>> {
        self.gate.load_full()
    }

    /// Shows where these limits on requests at once are: one for each place where its application runs beside this proxy.
    pub fn watch_limits(&self, limits: Vec<Arc<Limit>>) {
        self.limits.store(Arc::new(limits));
    }

    /// The limits on requests at once.
    pub fn limits(&self) -> Arc<Vec<Arc<Limit>>> {
        self.limits.load_full()
    }

    /// Shows where these breakers are.
    pub fn watch_breakers(&self, breakers: Breakers) {
        self.breakers.store(Arc::new(breakers));
    }

    /// The breakers, as the newest config has them.
    pub fn breakers(&self) -> Arc<Breakers> {
        self.breakers.load_full()
    }

    /// Counts a health check of an endpoint.
    pub fn checked(&self, passed: bool) {
        self.health_checks[usize::from(passed)].fetch_add(1, Relaxed);
    }

    /// Health checks that failed, and that passed.
    pub fn health_checks(&self) -> [u64; 2] {
        [0, 1].map(|which: usize| self.health_checks[which].load(Relaxed))
    }

    /// Requests with this fate and status class, of all workers.
    pub fn requests(&self, fate: Fate, class: usize) -> u64 {
        self.sum(|shard| shard.requests[fate as usize][class].get())
    }

    /// Tries with this outcome, of all workers.
    pub fn attempts(&self, outcome: AttemptOutcome) -> u64 {
        self.sum(|shard| shard.attempts[outcome as usize].get())
    }

    /// Requests that failed for this reason, by their place in [`BLAMED`], of all workers.
    pub fn failures(&self, reason: Reason, blamed: usize) -> u64 {
        self.sum(|shard| shard.failures.0[reason as usize][blamed].get())
    }

    /// Durations, of all workers.
    pub fn durations(&self) -> Merged {
        self.shards.iter().fold(Merged::default(), |merged, shard| merged.and(&shard.duration))
    }

    /// The last examples, of all workers.
    pub fn exemplars(&self) -> Exemplars {
        self.shards.iter().fold(Exemplars::default(), |merged, shard| merged.and(&shard.exemplars))
    }

    /// Any sum over the workers.
    pub fn sum(&self, count: impl Fn(&Shard) -> u64) -> u64 {
        self.shards.iter().map(count).sum()
    }
}

impl ConfigMetrics {
    /// Counts a document that was put in force.
    pub fn applied(&self, report: &Report) {
        self.applied.fetch_add(1, Relaxed);
        self.problems.store(report.problems.len() as u64, Relaxed);
        self.ignored.store(report.ignored.len() as u64, Relaxed);
        self.applied_at.store(report.applied_at.unwrap_or_else(Timestamp::now).as_second(), Relaxed);
    }

    /// Counts a document of which nothing could be used.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// Documents put in force, documents refused, broken entries and unknown fields of the newest.
    pub fn counts(&self) -> [u64; 4] {
        [&self.applied, &self.refused, &self.problems, &self.ignored].map(|count| count.load(Relaxed))
    }

    /// Seconds since the newest document was put in force.
    pub fn age(&self) -> Option<i64> {
        let applied_at = self.applied_at.load(Relaxed);
        (applied_at != 0).then(|| Timestamp::now().as_second().saturating_sub(applied_at))
    }
}

impl Registry {
    /// Nothing counted yet, for this many workers and these connections.
    pub fn new(workers: usize, connections: Connections) -> Arc<Self> {
        Self::beside(workers, connections, Replay::default(), Arc::default())
    }

    /// The same beside what bodies are kept in, and an [`Output`](super::output::Output) that counts the lines that it drops in
    /// `log_dropped`.
    pub fn beside(workers: usize, connections: Connections, replay: Replay, log_dropped: Arc<AtomicU64>) -> Arc<Self> {
        Arc::new(Self {
            workers: workers.max(1),
            callees: Mutex::default(),
            faults: Mutex::default(),
            config: Arc::default(),
            connections,
            replay,
            log_dropped,
            spans_exported: AtomicU64::new(0),
            spans_dropped: AtomicU64::new(0),
            recorder: Arc::default(),
        })
    }

    /// The counts of a callee; the same as before if it was known.
    pub fn callee(&self, direction: Direction, service: &str, port: Option<u16>) -> Arc<CalleeMetrics> {
        let mut callees = self.callees.lock();
        let counted = callees.entry((direction, service.into(), port)).or_insert_with(|| {
            Counted::from(CalleeMetrics {
                direction,
                service: service.into(),
                port: port.map_or_else(|| "any".into(), |port| port.to_string().into()),
                shards: (0..self.workers).map(|_| Shard::default()).collect(),
                gate: ArcSwapOption::empty(),
                limits: ArcSwap::default(),
                breaker: Arc::default(),
                endpoint_breakers: Arc::default(),
                breakers: ArcSwap::default(),
                observed: Arc::default(),
                health_checks: Default::default(),
                keep_alive: KeepAlive::default(),
            })
        });
        Arc::clone(&counted.counts)
    }

    /// The counts of a FaultSpec; the same as before if it was known.
    pub fn fault(&self, name: &str) -> Arc<FaultMetrics> {
        let mut faults = self.faults.lock();
        let counted = faults.entry(name.into()).or_insert_with(|| Counted::from(FaultMetrics::default()));
        Arc::clone(&counted.counts)
    }

    /// Forgets the counts that nobody can add to any more, when they have been so for [`KEPT`].
    pub fn expire(&self, now: Instant) {
        self.callees.lock().retain(|_, counted| counted.stays(now));
        self.faults.lock().retain(|_, counted| counted.stays(now));
    }

    /// The counts of the config.
    pub fn config(&self) -> Arc<ConfigMetrics> {
        Arc::clone(&self.config)
    }

    /// Everything about callees, in a fixed order.
    pub fn callees(&self) -> Vec<Arc<CalleeMetrics>> {
        self.callees.lock().values().map(|counted| Arc::clone(&counted.counts)).collect()
    }

    /// Everything about faults, in a fixed order.
    pub fn faults(&self) -> Vec<(Box<str>, Arc<FaultMetrics>)> {
        self.faults.lock().iter().map(|(name, counted)| (name.clone(), Arc::clone(&counted.counts))).collect()
    }
}
