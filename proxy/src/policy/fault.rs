//! Faults: what goes wrong on purpose, at one try.
//!
//! Whether a try is hit is a hash of the FaultSpec's seed, the fault's place in its list, the request's id and the try's
//! number. Nothing else enters, no counter and no clock, so a rerun with the same ids hits the same tries, and two proxies
//! that see the same request agree. Each fault in a list is drawn independently.
//!
//! A fault is over at its absolute end by the wall clock, and also `duration` after this proxy first saw it by the
//! monotonic clock: neither a wrong wall clock nor a missing operator can prolong it.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use firebreak_crds::{spec, wire};
use http::StatusCode;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::{route::matcher::Matcher, telemetry::metrics::FaultMetrics};

/// A compiled FaultSpec, as far as it concerns one callee.
#[derive(Debug)]
pub struct FaultSet {
    /// `namespace/name` of the FaultSpec.
    pub name: Box<str>,
    matchers: Box<[Matcher]>,
    delays: Box<[Drawn<Duration>]>,
    aborts: Box<[Drawn<Abort>]>,
    seed: u64,
    expires_at: Timestamp,
    gone_at: Instant,
    metrics: Arc<FaultMetrics>,
}

/// A fault with its odds and its place in the list.
#[derive(Debug)]
struct Drawn<T> {
    place: u64,
    parts_per_million: u32,
    what: T,
}

/// How a try ends that is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// Answered with this status.
    Http(StatusCode),
    /// Answered with this gRPC status.
    Grpc(u8),
    /// Cut, as by a reset.
    Reset,
}

/// What hits one try.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hit {
    /// It waits this long first.
    pub delay: Option<Duration>,
    /// Then it is not sent but ends like this.
    pub abort: Option<Abort>,
}

impl FaultSet {
    /// Compiles an entry that this proxy first saw at `seen`.
    pub fn new(name: &str, fault: &wire::Fault, metrics: Arc<FaultMetrics>, seen: Instant) -> Self {
        let list = || fault.faults.iter().zip(0u64..);
        let delays = list().filter_map(|(fault, place)| {
            let delay = fault.delay.as_ref()?;
            Some(Drawn { place, parts_per_million: delay.percent.parts_per_million(), what: delay.fixed.get() })
        });
        let aborts = list().filter_map(|(fault, place)| {
            let abort = fault.abort.as_ref()?;
            Some(Drawn {
                place,
                parts_per_million: abort.percent.parts_per_million(),
                what: Abort::try_from(abort).ok()?,
            })
        });
        Self {
            name: name.into(),
            matchers: fault.matches.iter().map(Matcher::from).collect(),
            delays: delays.collect(),
            aborts: aborts.collect(),
            seed: fault.seed,
            expires_at: fault.expires_at,
            gone_at: seen + fault.duration.get(),
            metrics,
        }
    }

    /// Counts a delay that begins.
    pub fn count_delay(&self) {
        self.metrics.delays.fetch_add(1, Relaxed);
    }

    /// Counts an abort that takes place; a try that was cut during its delay never came to it.
    pub fn count_abort(&self) {
        self.metrics.aborts.fetch_add(1, Relaxed);
    }

    /// Whether it still acts.
    pub fn active(&self, now: Instant) -> bool {
        now < self.gone_at && Timestamp::now() < self.expires_at
    }

    /// How long it goes on acting.
    pub fn remains(&self, now: Instant) -> Duration {
        let wall = self.expires_at.duration_since(Timestamp::now()).unsigned_abs();
        let wall = if Timestamp::now() < self.expires_at { wall } else { Duration::ZERO };
        wall.min(self.gone_at.saturating_duration_since(now))
    }

    /// Whether it is about this request.
    pub fn concerns(&self, request: &http::request::Parts) -> bool {
        self.matchers.is_empty() || self.matchers.iter().any(|matcher| matcher.matches(request))
    }

    /// What hits try number `attempt` (from 1) of the request with this id.
    pub fn draw(&self, id: u64, attempt: u32) -> Hit {
        let hit = |place, odds| chance(self.seed, place, id, attempt) < odds;
        let delay =
            self.delays.iter().filter(|fault| hit(fault.place, fault.parts_per_million)).map(|fault| fault.what);
        let abort = self.aborts.iter().find(|fault| hit(fault.place, fault.parts_per_million));
        Hit { delay: delay.reduce(|total, delay| total + delay), abort: abort.map(|fault| fault.what) }
    }
}

impl TryFrom<&spec::Abort> for Abort {
    type Error = http::status::InvalidStatusCode;

    fn try_from(abort: &spec::Abort) -> Result<Self, Self::Error> {
        match (abort.http_status, abort.grpc_status) {
            (Some(status), _) => StatusCode::from_u16(status).map(Self::Http),
            (None, Some(status)) => Ok(Self::Grpc(status)),
            (None, None) => Ok(Self::Reset),
        }
    }
}

/// An id as a number: FNV-1a, which is the same in every version and on every machine.
pub fn id_hash(id: &[u8]) -> u64 {
    id.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A number from 0 to 999,999 that looks random and depends on nothing but its inputs (SplitMix64's finalizer).
fn chance(seed: u64, place: u64, id: u64, attempt: u32) -> u32 {
    let mix = |value: u64| {
        let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    };
    let word = [place, id, u64::from(attempt)]
        .into_iter()
        .fold(mix(seed), |word, part| mix(word.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ part));
    // The product of a 32-bit number and a million, shifted back: below a million without a bias worth the name.
    u32::try_from(((word >> 32) * 1_000_000) >> 32).unwrap_or_default()
}

#[cfg(test)]
mod tests;
