//! Which request of a caller a call of the application belongs to: the caller's deadline holds for it, and the layers of retries
//! do not multiply.
//!
//! An application that forwards `traceparent` (W3C Trace Context) tells by it. Without that, only one thing is known: whether
//! retries of this pod have failed while a request was under way.
//!
//! The rules, which make of three layers of three tries over a dead callee hardly more load than one try each:
//! 1. A try says which one it is (`firebreak-attempt: 2/3`), and so that whoever sent it may send it again.
//! 2. Calls on behalf of a caller's second or later try are not retried: one layer is retrying already.
//! 3. Where calls on behalf of a request were retried in vain, or might not be, its answer says so if it is a failure
//!    (`firebreak-retry: no`), and the layer above does not retry either.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use hashbrown::HashMap;
use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::headers::TRACEPARENT;

/// Which try this is, and of how many at most: `2/3`.
pub const FIREBREAK_ATTEMPT: HeaderName = HeaderName::from_static("firebreak-attempt");
/// `no`: another try would not help, since a layer below has retried.
pub const FIREBREAK_RETRY: HeaderName = HeaderName::from_static("firebreak-retry");
const NO: HeaderValue = HeaderValue::from_static("no");

/// So many locks that workers hardly ever meet at one.
const SHARDS: usize = 64;

type Trace = [u8; 16];

type Shard = HashMap<Trace, Vec<Arc<Origin>>>;

/// The requests of callers that are under way and about which calls of the application need to know something.
#[derive(Debug)]
pub struct Lineage {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    began: Instant,
    /// When retries that belong to no known request last failed: nanoseconds since `began`, and one more.
    failed: AtomicU64,
}

/// A caller's request.
#[derive(Debug)]
struct Origin {
    trace: Option<Trace>,
    arrived: Instant,
    deadline: Option<Instant>,
    /// The caller's try, from 1; 0 where it did not say.
    attempt: u32,
    /// A call has come that belongs to it.
    forwarded: AtomicBool,
    /// Retries of such a call have failed.
    failed: AtomicBool,
    /// The callee that failed a call of it, the first one.
    dependency: OnceLock<Box<str>>,
}

/// Keeps a caller's request known while it is under way.
#[derive(Debug)]
pub struct Entered {
    lineage: Arc<Lineage>,
    origin: Arc<Origin>,
}

/// What a call of the application has from the request that it belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inherited {
    /// When that must be over.
    pub deadline: Option<Instant>,
    /// Which try of its caller that is; 0 where nothing is known.
    pub attempt: u32,
}

impl Default for Lineage {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            began: Instant::now(),
            failed: AtomicU64::new(0),
        }
    }
}

impl Lineage {
    /// A caller's request begins, of the trace `traceparent`, which may begin here. `None` if nothing of it can concern other calls. One that has only a trace is entered too, so that
    /// its calls do not inherit from another of the same trace.
    pub fn enter(
        self: &Arc<Self>,
        headers: &HeaderMap,
        arrived: Instant,
        deadline: Option<Instant>,
        traceparent: Option<&HeaderValue>,
    ) -> Option<Entered> {
        let (attempt, trace) = (headers.get(FIREBREAK_ATTEMPT), traceparent.and_then(trace_of));
        if attempt.is_none() && deadline.is_none() && trace.is_none() {
            return None;
        }
        let attempt = attempt.map_or(0, attempt_number);
        let (forwarded, failed) = (AtomicBool::new(false), AtomicBool::new(false));
        let origin =
            Arc::new(Origin { trace, arrived, deadline, attempt, forwarded, failed, dependency: OnceLock::new() });
        if let Some(trace) = origin.trace {
            self.shard(&trace).lock().entry(trace).or_default().push(Arc::clone(&origin));
        }
        Some(Entered { lineage: Arc::clone(self), origin })
    }

    /// What a call with these headers inherits. Where several requests of one trace are under way it may be any of theirs: the
    /// latest deadline, and the first of the tries.
    pub fn of(&self, headers: &HeaderMap) -> Inherited {
        let Some(trace) = trace(headers) else { return Inherited::default() };
        let shard = self.shard(&trace).lock();
        let Some(origins) = shard.get(&trace) else { return Inherited::default() };
        for origin in origins {
            origin.forwarded.store(true, Relaxed);
        }
        Inherited {
            deadline: origins.iter().map(|origin| origin.deadline).reduce(|a, b| Some(a?.max(b?))).flatten(),
            attempt: origins.iter().map(|origin| origin.attempt).min().unwrap_or(0),
        }
    }

    /// A call with these headers has failed, and trying again has not helped or is not to be tried.
    pub fn failed(&self, headers: &HeaderMap) {
        if let Some(trace) = trace(headers)
            && let Some(origins) = self.shard(&trace).lock().get(&trace)
        {
            for origin in origins {
                origin.failed.store(true, Relaxed);
            }
            return;
        }
        self.failed.store(self.mark(Instant::now()), Relaxed);
    }

    /// A call of this trace was failed by `callee`: whatever it belongs to may fail for that.
    pub fn depends(&self, traceparent: &HeaderValue, callee: impl Fn() -> Box<str>) {
        let Some(trace) = trace_of(traceparent) else { return };
        for origin in self.shard(&trace).lock().get(&trace).into_iter().flatten() {
            origin.dependency.get_or_init(&callee);
        }
    }

    fn shard(&self, trace: &Trace) -> &Mutex<Shard> {
        #[allow(clippy::cast_possible_truncation, reason = "any bits will do")]
        let hash = self.hasher.hash_one(trace) as usize;
        &self.shards[hash % SHARDS]
    }

    fn mark(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.began).as_nanos()).unwrap_or(u64::MAX - 1) + 1
    }
}

impl Entered {
    /// Whether retries on its behalf have failed: its own, if the application forwards traces, or else any of this pod since it
    /// arrived.
    pub fn has_failed_below(&self) -> bool {
        if self.origin.forwarded.load(Relaxed) {
            return self.origin.failed.load(Relaxed);
        }
        self.lineage.failed.load(Relaxed) >= self.lineage.mark(self.origin.arrived)
    }

    /// The callee that failed a call on its behalf, the first one: `namespace/name:port`.
    pub fn dependency(&self) -> Option<&str> {
        self.origin.dependency.get().map(|callee| &**callee)
    }

    /// Says in a failed answer to this request that another try will not help.
    pub fn tell(&self, headers: &mut HeaderMap) {
        if self.origin.attempt > 0 && self.has_failed_below() {
            headers.insert(FIREBREAK_RETRY, NO);
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let Some(trace) = self.origin.trace else { return };
        let mut shard = self.lineage.shard(&trace).lock();
        let Some(origins) = shard.get_mut(&trace) else { return };
        origins.retain(|origin| !Arc::ptr_eq(origin, &self.origin));
        if origins.is_empty() {
            shard.remove(&trace);
        }
    }
}

/// What a try says that belongs to a caller's try number `attempt` and is not repeated here. It asks those below to leave
/// retries to the layers above, or to tell how theirs ended.
pub fn unrepeated(attempt: u32) -> Option<HeaderValue> {
    match attempt {
        0 => None,
        1 => Some(HeaderValue::from_static("1/1")),
        _ => Some(HeaderValue::from_static("2/2")),
    }
}

/// What the tries of a call say, the first one's first.
pub fn attempts(tries: u32) -> Vec<HeaderValue> {
    (1..=tries).filter_map(|number| HeaderValue::try_from(format!("{number}/{tries}")).ok()).collect()
}

/// Whether an answer says that another try will not help.
pub fn is_final(headers: &HeaderMap) -> bool {
    headers.get(FIREBREAK_RETRY) == Some(&NO)
}

fn attempt_number(value: &HeaderValue) -> u32 {
    value.to_str().ok().and_then(|value| value.split('/').next()?.parse().ok()).unwrap_or(0)
}

/// The trace's id. All zeros is none.
fn trace(headers: &HeaderMap) -> Option<Trace> {
    trace_of(headers.get(TRACEPARENT)?)
}

fn trace_of(traceparent: &HeaderValue) -> Option<Trace> {
    let hex = traceparent.as_bytes().get(3..35)?;
    let mut trace = [0; 16];
    for (byte, pair) in trace.iter_mut().zip(hex.chunks_exact(2)) {
        let digit = |hex: u8| char::from(hex).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    (trace != [0; 16]).then_some(trace)
}

#[cfg(test)]
mod tests;
