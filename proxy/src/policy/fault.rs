//! Faults: what goes wrong on purpose, at one try.
//!
//! Whether a try is hit is a hash of the FaultSpec's seed, the fault's place in its list, the request's id and the try's
//! number. Nothing else enters, no counter and no clock, so a rerun with the same ids hits the same tries, and two proxies
//! that see the same request agree. Each fault in a list is drawn independently. How long a delay is that has no fixed length
//! comes from the same hash, mixed once more, so the rerun is also late by the same time.
//!
//! A fault is over at its absolute end by the wall clock, and also `duration` after this proxy first saw it by the
//! monotonic clock: neither a wrong wall clock nor a missing operator can prolong it.

pub mod active;

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst},
    },
    time::Duration,
};

use firebreak_crds::{
    spec::{self, Position},
    wire,
};
use http::StatusCode;
use http_body::Body;
use jiff::Timestamp;
use tokio::{
    sync::{Notify, futures::Notified},
    time::Instant,
};

use self::active::Place;
use crate::{
    route::matcher::Matcher,
    telemetry::metrics::{FaultKind, FaultMetrics},
    verdict::Reason,
};

/// A compiled FaultSpec, as far as it concerns one callee.
#[derive(Debug)]
pub struct FaultSet {
    /// `namespace/name` of the FaultSpec.
    pub name: Box<str>,
    /// Where it acts.
    pub at: Position,
    matchers: Box<[Matcher]>,
    delays: Box<[Drawn<Length>]>,
    ends: Box<[Drawn<End>]>,
    throttles: Box<[Drawn<NonZeroU32>]>,
    seed: u64,
    max_active: u32,
    expires_at: Timestamp,
    gone_at: Instant,
    /// It was taken away before its time.
    ended: AtomicBool,
    end: Notify,
    metrics: Arc<FaultMetrics>,
}

/// A fault with its odds and its place in the list.
#[derive(Debug)]
struct Drawn<T> {
    place: u64,
    parts_per_million: u32,
    what: T,
}

/// How long a delay is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Length {
    Fixed(Duration),
    /// Anything between the two, all of it equally likely.
    Between(Duration, Duration),
    /// Log-normal with this median and 99th percentile.
    Spread {
        p50: Duration,
        p99: Duration,
    },
}

/// The 99th percentile of the standard normal distribution: so many standard deviations above its median.
const Z99: f64 = 2.326_347_874_040_841;

/// A spread delay is at most so many times its 99th percentile: the tail of a log-normal has no end of its own.
const LONGEST: u32 = 10;

/// How a try ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Unsent(Abort),
    Cut(Cut),
}

/// Where an answer is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Before its body.
    AfterHeaders,
    /// After so many bytes of its body.
    AfterBytes(u64),
}

/// What happens to an answer's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spoil {
    /// It ends early.
    pub cut: Option<Cut>,
    /// It comes no faster than so many bytes a second.
    pub rate: Option<NonZeroU32>,
}

/// How a try ends that is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// By an answer in the callee's place.
    Answer(Injected),
    /// At once, without an answer.
    Failure(Reason),
    /// Not, until a clock or the fault's own end.
    Blackhole,
}

/// The answer of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Injected {
    /// This status.
    Http(StatusCode),
    /// This gRPC status.
    Grpc(u8),
}

/// What hits one try.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hit {
    /// It waits this long first.
    pub delay: Option<Duration>,
    /// Then it is not sent but ends like this.
    pub abort: Option<Abort>,
    /// Or its answer is cut.
    pub cut: Option<Cut>,
    /// Its answer comes no faster than so many bytes a second.
    pub rate: Option<NonZeroU32>,
}

impl FaultSet {
    /// Compiles an entry that this proxy first saw at `seen`.
    pub fn new(name: &str, fault: &wire::Fault, metrics: Arc<FaultMetrics>, seen: Instant) -> Self {
        let list = || fault.faults.iter().zip(0u64..);
        let delays = list().filter_map(|(fault, place)| {
            let delay = fault.delay.as_ref()?;
            Some(Drawn { place, parts_per_million: delay.percent.parts_per_million(), what: Length::of(delay)? })
        });
        let ends = list().filter_map(|(fault, place)| {
            let (percent, what) = End::of(fault)?;
            Some(Drawn { place, parts_per_million: percent.parts_per_million(), what })
        });
        let throttles = list().filter_map(|(fault, place)| {
            let throttle = fault.throttle?;
            let (parts_per_million, what) = (throttle.percent.parts_per_million(), throttle.bytes_per_second);
            Some(Drawn { place, parts_per_million, what: NonZeroU32::new(what)? })
        });
        Self {
            name: name.into(),
            at: fault.at,
            matchers: fault.matches.iter().map(Matcher::from).collect(),
            delays: delays.collect(),
            ends: ends.collect(),
            throttles: throttles.collect(),
            seed: fault.seed,
            max_active: fault.blast_radius.map_or(u32::MAX, |radius| radius.max_active),
            expires_at: fault.expires_at,
            gone_at: seen + fault.duration.get(),
            ended: AtomicBool::new(false),
            end: Notify::new(),
            metrics,
        }
    }

    /// The same fault, acting there.
    #[must_use]
    pub fn acting_at(self, at: Position) -> Self {
        Self { at, ..self }
    }

    /// Counts a fault that takes place: a try that was cut during its delay never came to its abort.
    pub fn count(&self, kind: FaultKind) {
        self.metrics.hits[kind as usize].fetch_add(1, Relaxed);
    }

    /// Takes one of the places of `maxActive` for a request that was hit, or spares it. The places belong to the FaultSpec's
    /// name: one that was suspended and goes on shares them with the requests that it hit before.
    pub fn hold(&self) -> Option<Place> {
        self.metrics.active.take(self.max_active)
    }

    /// Ends it before its time: it was deleted or suspended, or is not for this proxy any more.
    pub fn end(&self) {
        self.ended.store(true, SeqCst);
        self.end.notify_waiters();
    }

    /// Whether it was ended before its time.
    pub fn is_ended(&self) -> bool {
        self.ended.load(SeqCst)
    }

    /// Tells when it is ended before its time, if it is not yet when this is asked for.
    pub fn ended(&self) -> Notified<'_> {
        self.end.notified()
    }

    /// Whether it still acts.
    pub fn active(&self, now: Instant) -> bool {
        now < self.gone_at && !self.is_ended() && Timestamp::now() < self.expires_at
    }

    /// How long it goes on acting.
    pub fn remains(&self, now: Instant) -> Duration {
        let wall = self.expires_at.duration_since(Timestamp::now()).unsigned_abs();
        let is_over = self.is_ended() || Timestamp::now() >= self.expires_at;
        let wall = if is_over { Duration::ZERO } else { wall };
        wall.min(self.gone_at.saturating_duration_since(now))
    }

    /// Whether it is about this request.
    pub fn concerns(&self, request: &http::request::Parts) -> bool {
        self.matchers.is_empty() || self.matchers.iter().any(|matcher| matcher.matches(request))
    }

    /// What hits try number `attempt` (from 1) of the request with this id, or all of the request (0).
    pub fn draw(&self, id: u64, attempt: u32) -> Hit {
        let word = |place| word(self.seed, place, id, attempt);
        let delays = self.delays.iter().filter_map(|fault| Some(fault.hit(word)?.what.drawn(word(fault.place))));
        let (abort, cut) = match first(&self.ends, word) {
            Some(End::Unsent(abort)) => (Some(abort), None),
            Some(End::Cut(cut)) => (None, Some(cut)),
            None => (None, None),
        };
        // As on the way through several lines, the slowest decides.
        let rate = self.throttles.iter().filter_map(|fault| Some(fault.hit(word)?.what)).min();
        Hit { delay: delays.reduce(Duration::saturating_add), abort, cut, rate }
    }
}

impl<T> Drawn<T> {
    /// This fault, if the hash of its place hits.
    fn hit(&self, word: impl Fn(u64) -> u64) -> Option<&Self> {
        (chance(word(self.place)) < self.parts_per_million).then_some(self)
    }
}

/// What the first fault of a list does that hits.
fn first<T: Copy>(list: &[Drawn<T>], word: impl Fn(u64) -> u64) -> Option<T> {
    list.iter().find_map(|fault| Some(fault.hit(&word)?.what))
}

impl Length {
    /// `None` for words of a newer version.
    fn of(delay: &spec::Delay) -> Option<Self> {
        let pair = |one: Option<spec::Duration>, other: Option<spec::Duration>| Some((one?.get(), other?.get()));
        let fixed = delay.fixed.map(|fixed| Self::Fixed(fixed.get()));
        let between = || pair(delay.min, delay.max).map(|(min, max)| Self::Between(min, max));
        let spread = || pair(delay.p50, delay.p99).map(|(p50, p99)| Self::Spread { p50, p99 });
        fixed.or_else(between).or_else(spread)
    }

    /// The length that belongs to `word`, which also decided that there is a delay.
    fn drawn(self, word: u64) -> Duration {
        let (one, other) = uniform(mix(word));
        match self {
            Self::Fixed(length) => length,
            Self::Between(min, max) => min + max.saturating_sub(min).mul_f64(one),
            Self::Spread { p50, p99 } => {
                // Box and Muller's normal variate, then p50 * exp(sigma * normal) with sigma = ln(p99 / p50) / Z99.
                let normal = (-2.0 * one.ln()).sqrt() * (std::f64::consts::TAU * other).cos();
                let ratio = p99.as_secs_f64() / p50.as_secs_f64();
                let drawn = Duration::try_from_secs_f64(p50.as_secs_f64() * ratio.powf(normal / Z99));
                drawn.unwrap_or(Duration::MAX).min(p99.saturating_mul(LONGEST))
            }
        }
    }
}

impl Cut {
    /// What the failure is called that it brings about.
    pub fn reason(self) -> Reason {
        match self {
            Self::AfterHeaders => Reason::FaultReset,
            Self::AfterBytes(_) => Reason::FaultTruncate,
        }
    }
}

impl Spoil {
    /// Why `body` will end early, if that is certain before a byte of it has come.
    pub fn foretold(&self, body: &impl Body) -> Option<Reason> {
        let is_certain = match self.cut? {
            Cut::AfterHeaders => !body.is_end_stream(),
            Cut::AfterBytes(bytes) => body.size_hint().lower() > bytes,
        };
        is_certain.then_some(self.cut?.reason())
    }
}

impl Hit {
    /// What it does to the answer's body, if it does something.
    pub fn spoil(self) -> Option<Spoil> {
        let spoil = Spoil { cut: self.cut, rate: self.rate };
        (spoil.cut.is_some() || spoil.rate.is_some()).then_some(spoil)
    }
}

impl End {
    /// The end that an entry stands for, with its odds; `None` for a delay, and for words of a newer version.
    fn of(fault: &spec::Fault) -> Option<(spec::Percent, Self)> {
        let truncate = || fault.truncate.map(|it| (it.percent, Self::Cut(Cut::AfterBytes(it.after_bytes))));
        let abort = |abort: &spec::Abort| {
            let after_headers = abort.reset_after_headers.then_some(Self::Cut(Cut::AfterHeaders));
            Some((abort.percent, Abort::of(abort).map(Self::Unsent).or(after_headers)?))
        };
        fault.abort.as_ref().map_or_else(truncate, abort)
    }
}

impl Abort {
    /// `None` for a cut of the answer, and for words of a newer version.
    fn of(abort: &spec::Abort) -> Option<Self> {
        let http = abort.http_status.and_then(|status| StatusCode::from_u16(status).ok()).map(Injected::Http);
        let answer = http.or(abort.grpc_status.map(Injected::Grpc)).map(Self::Answer);
        let silent = [
            (abort.reset, Self::Failure(Reason::FaultReset)),
            (abort.refuse, Self::Failure(Reason::FaultRefuse)),
            (abort.blackhole, Self::Blackhole),
        ];
        answer.or_else(|| silent.into_iter().find_map(|(wanted, end)| wanted.then_some(end)))
    }
}

/// An id as a number: FNV-1a, which is the same in every version and on every machine.
pub fn id_hash(id: &[u8]) -> u64 {
    id.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A number that looks random and depends on nothing but its inputs (SplitMix64's finalizer, once for each).
fn word(seed: u64, place: u64, id: u64, attempt: u32) -> u64 {
    [place, id, u64::from(attempt)].into_iter().fold(mix(seed), |word, part| mix(word.wrapping_add(GOLDEN) ^ part))
}

/// SplitMix64's increment.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A number from 0 to 999,999.
fn chance(word: u64) -> u32 {
    // The product of a 32-bit number and a million, shifted back: below a million without a bias worth the name.
    u32::try_from(((word >> 32) * 1_000_000) >> 32).unwrap_or_default()
}

/// Two numbers between 0 and 1, neither of which is either.
fn uniform(word: u64) -> (f64, f64) {
    let between = |half: u64| (f64::from(u32::try_from(half).unwrap_or_default()) + 0.5) / (f64::from(u32::MAX) + 1.0);
    (between(word >> 32), between(word & u64::from(u32::MAX)))
}

#[cfg(test)]
mod tests;
