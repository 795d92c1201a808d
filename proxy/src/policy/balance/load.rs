//! What is known of one endpoint: how long it lately took to answer, how much it has to do, and whether it is new.
//!
//! The time is a peak-sensitive moving average (peak EWMA, as in Finagle): a time above the average becomes the average at
//! once, one below pulls it down by as much as time has passed, and without an answer it decays, so that an endpoint that
//! was slow is tried again.
//!
//! * **A failure is no fast answer.** An endpoint that refuses within a millisecond would look better than all others and
//!   draw the traffic to itself. A failed try counts as one of at least
//!   [`BALANCE_FAILURE`](defaults::BALANCE_FAILURE), and enters the average without the peak rule: one error in a hundred
//!   moves it a little, nothing but errors all of the way.
//! * **What was given up** before it was answered (its caller left) says that the endpoint took at least so long: it counts
//!   where that is above the average.
//! * **An endpoint of which nothing is known** gets one request, and no second one before that is answered.
//!
//! All workers share it, without a lock: a try costs two counts and an exchange of one word.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use firebreak_crds::spec::defaults;
use tokio::time::Instant;

use crate::{
    policy::breaker::Outcome,
    sync::{AtomicU32, AtomicU64},
};

/// What is known of one endpoint, by all workers.
#[derive(Debug)]
pub struct Load {
    epoch: Instant,
    /// When the average was last changed, in milliseconds after the epoch (the upper half), and the average then, in
    /// seconds. Zero before the first.
    average: AtomicU64,
    outstanding: AtomicU32,
    /// When a slow start began and how long it takes, in milliseconds like the above. Zero: there is none.
    warming: AtomicU64,
}

/// A try that is under way at an endpoint, counted until it is dropped.
#[derive(Debug)]
pub struct Placed {
    load: Arc<Load>,
    began: Instant,
    told: Told,
}

/// What an endpoint's average was told of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    /// Nothing; it took so long to connect, and what came after is not the endpoint's time.
    Connected(Duration),
    /// The time to the head of its response, and not yet how it ended.
    Answered,
    All,
}

/// What one try adds to the average.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sample {
    Passed(Duration),
    Failed(Duration),
    /// It was given up after so long.
    Lasted(Duration),
}

impl Load {
    /// An endpoint of which nothing is known.
    pub fn new(now: Instant) -> Arc<Self> {
        let (average, outstanding, warming) = (AtomicU64::new(0), AtomicU32::new(0), AtomicU64::new(0));
        Arc::new(Self { epoch: now, average, outstanding, warming })
    }

    /// Begins a slow start: until `window` is over the endpoint gets a part of its share, which grows from a tenth.
    pub fn warm_up(&self, window: Duration, now: Instant) {
        let window = u32::try_from(window.as_millis()).unwrap_or(u32::MAX);
        self.warming.store(pack(self.millis(now), window), Relaxed);
    }

    /// Ends a slow start.
    pub fn end_warm_up(&self) {
        self.warming.store(0, Relaxed);
    }

    /// The part of its share that the endpoint is to get, from a tenth to 1.
    pub fn part(&self, now: Instant) -> f64 {
        let word = self.warming.load(Relaxed);
        let (began, window) = unpack(word);
        if window == 0 {
            return 1.0;
        }
        let first = f64::from(defaults::SLOW_START_PERCENT) / 100.0;
        let passed = f64::from(since(began, self.millis(now))) / f64::from(window);
        if passed >= 1.0 {
            // It is over for good: the milliseconds begin anew one day. Whoever has begun another one meanwhile is right.
            let _ = self.warming.compare_exchange(word, 0, Relaxed, Relaxed);
        }
        (first + (1.0 - first) * passed).min(1.0)
    }

    /// Tries under way.
    pub fn outstanding(&self) -> u32 {
        self.outstanding.load(Relaxed)
    }

    /// When an answer to one more try is to be expected, in seconds: the average times the tries there would be.
    pub fn cost(&self, now: Instant) -> f64 {
        let (word, tries) = (self.average.load(Relaxed), self.outstanding());
        match (word, tries) {
            (0, 0) => 0.0,
            (0, _) => f64::INFINITY,
            _ => {
                let (at, average) = unpack(word);
                f64::from(f32::from_bits(average)) * kept(since(at, self.millis(now))) * (f64::from(tries) + 1.0)
            }
        }
    }

    /// Counts a try that begins.
    pub fn place(self: &Arc<Self>, now: Instant) -> Placed {
        self.outstanding.fetch_add(1, Relaxed);
        Placed { load: Arc::clone(self), began: now, told: Told::Nothing }
    }

    fn observe(&self, sample: Sample, now: Instant) {
        let millis = self.millis(now);
        // Declining leaves the word as it is, which is what a sample that says nothing does.
        let _ = self.average.fetch_update(Relaxed, Relaxed, |word| {
            let (at, average) = unpack(word);
            let average = (word != 0).then(|| f64::from(f32::from_bits(average)));
            let next = sample.into_average(average, kept(since(at, millis)))?;
            // Seconds as a 32-bit number are exact enough; zero is the word of an endpoint without a history.
            #[allow(clippy::cast_possible_truncation, reason = "there is no other way to shorten a float")]
            let next = next.max(1e-6) as f32;
            Some(pack(millis, next.to_bits()))
        });
    }

    /// Milliseconds since the epoch. They begin anew after 49 days, which [`since`] bears.
    #[allow(clippy::cast_possible_truncation, reason = "the lower half is what is wanted")]
    fn millis(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.epoch).as_millis() as u32
    }
}

impl Sample {
    /// The average after this sample, of which `kept` stays of what was before; none where nothing changes.
    fn into_average(self, before: Option<f64>, kept: f64) -> Option<f64> {
        let penalty = defaults::BALANCE_FAILURE.as_secs_f64();
        match (self, before.unwrap_or_default()) {
            (Self::Failed(took), _) if before.is_none() => Some(took.as_secs_f64().max(penalty)),
            (Self::Passed(took), _) if before.is_none() => Some(took.as_secs_f64()),
            (Self::Lasted(_), _) if before.is_none() => None,
            (Self::Passed(took) | Self::Lasted(took), average) if took.as_secs_f64() > average => {
                Some(took.as_secs_f64())
            }
            (Self::Passed(took), average) => Some(average * kept + took.as_secs_f64() * (1.0 - kept)),
            (Self::Failed(took), average) => {
                let took = took.as_secs_f64();
                Some(average.max(took) * kept + took.max(penalty) * (1.0 - kept))
            }
            (Self::Lasted(_), _) => None,
        }
    }
}

impl Placed {
    /// A connection is there at `now`; how long the first byte takes from here on is for the caller to say.
    pub fn connected(&mut self, now: Instant) {
        if self.told == Told::Nothing {
            self.told = Told::Connected(now.saturating_duration_since(self.began));
        }
    }

    /// The head of the response has come at `now`, while what became of the try is not known yet.
    pub fn answered(&mut self, now: Instant) {
        if self.told == Told::Nothing {
            self.told = Told::Answered;
            self.load.observe(Sample::Passed(now.saturating_duration_since(self.began)), now);
        }
    }

    /// Says what became of the try. It stays counted until this is dropped, since its response is still under way.
    pub fn ended(&mut self, outcome: Outcome, now: Instant) {
        let took = match std::mem::replace(&mut self.told, Told::All) {
            Told::Nothing => now.saturating_duration_since(self.began),
            Told::Connected(took) => took,
            Told::Answered if outcome == Outcome::Failed => Duration::ZERO,
            Told::Answered | Told::All => return,
        };
        let sample = if outcome == Outcome::Failed { Sample::Failed(took) } else { Sample::Passed(took) };
        self.load.observe(sample, now);
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        self.load.outstanding.fetch_sub(1, Relaxed);
        if self.told == Told::Nothing {
            let now = Instant::now();
            self.load.observe(Sample::Lasted(now.saturating_duration_since(self.began)), now);
        }
    }
}

/// The part of an average that is left after so many milliseconds.
fn kept(millis: u32) -> f64 {
    (-f64::from(millis) / (defaults::BALANCE_DECAY.as_secs_f64() * 1e3)).exp()
}

/// Milliseconds from `then` to `now`. Another thread may have read its clock later and come first: no time has passed.
fn since(then: u32, now: u32) -> u32 {
    let passed = now.wrapping_sub(then);
    if passed > u32::MAX / 2 { 0 } else { passed }
}

fn pack(upper: u32, lower: u32) -> u64 {
    u64::from(upper) << 32 | u64::from(lower)
}

#[allow(clippy::cast_possible_truncation, reason = "two halves of a word")]
fn unpack(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// A try that begins at `start` and ends `took` later.
    fn make(load: &Arc<Load>, start: Instant, took: Duration, outcome: Outcome) {
        load.place(start).ended(outcome, start + took);
    }

    #[test]
    fn a_slow_start_that_is_over_does_not_begin_again_when_the_milliseconds_do() {
        let start = Instant::now();
        let load = Load::new(start);
        load.warm_up(MS(30_000), start);
        assert!(load.part(start) < 0.11);
        for days in [1, 25, 26, 50, 75] {
            assert!(load.part(start + MS(days * 24 * 3_600_000)) >= 1.0, "{days} days later");
        }
    }

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_by_degrees() {
        let start = Instant::now();
        let load = Load::new(start);
        assert!(load.cost(start).abs() < f64::EPSILON, "worth a try");
        make(&load, start, MS(20), Outcome::Passed);
        make(&load, start, MS(200), Outcome::Passed);
        let now = start + MS(200);
        assert!((load.cost(now) - 0.2).abs() < 1e-6);
        make(&load, now, MS(20), Outcome::Passed);
        assert!(load.cost(now) > 0.19, "one fast answer does not make up for it");
        for step in 1..=30 {
            make(&load, now + MS(step * 1_000), MS(20), Outcome::Passed);
        }
        let later = now + MS(30_020);
        assert!((0.02..0.04).contains(&load.cost(later)), "{}", load.cost(later));
        assert!(load.cost(later + MS(10_000)) < 0.4 * load.cost(later), "silence makes it worth a try again");
    }

    #[test]
    fn each_try_under_way_makes_the_next_dearer() {
        let start = Instant::now();
        let load = Load::new(start);
        make(&load, start, MS(10), Outcome::Passed);
        let now = start + MS(10);
        let one = load.cost(now);
        let held = [load.place(now), load.place(now)];
        assert!((load.cost(now) - 3.0 * one).abs() < 1e-9);
        drop(held);
        assert_eq!(load.outstanding(), 0);
    }

    #[test]
    fn an_unknown_endpoint_gets_one_request_until_it_has_answered() {
        let start = Instant::now();
        let load = Load::new(start);
        let mut first = load.place(start);
        assert!(load.cost(start).is_infinite());
        first.answered(start + MS(5));
        assert!((load.cost(start + MS(5)) - 0.010).abs() < 1e-6, "its stream is still open");
    }

    #[test]
    fn a_failure_is_dear_and_one_in_a_hundred_is_bearable() {
        let start = Instant::now();
        let cost = |fails: fn(u64) -> bool| {
            let load = Load::new(start);
            for step in 0..2_000 {
                let outcome = if fails(step) { Outcome::Failed } else { Outcome::Passed };
                let took = if fails(step) { MS(1) } else { MS(20) };
                make(&load, start + MS(100 + step * 10) - took, took, outcome);
            }
            load.cost(start + MS(20_100))
        };
        let (healthy, flawed, broken) = (cost(|_| false), cost(|step| step % 100 == 99), cost(|_| true));
        assert!((0.015..0.021).contains(&healthy), "{healthy}");
        assert!((0.04..0.10).contains(&flawed), "{flawed}");
        assert!(broken > 4.0, "{broken}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_given_up_counts_only_as_long_as_it_lasted() {
        let start = Instant::now();
        let load = Load::new(start);
        drop(load.place(start));
        assert!(load.cost(start).abs() < f64::EPSILON, "nothing is known");
        make(&load, start, MS(20), Outcome::Passed);
        let placed = load.place(start);
        tokio::time::advance(MS(10)).await;
        drop(placed);
        assert!(load.cost(Instant::now()) < 0.021);
        let placed = load.place(Instant::now());
        tokio::time::advance(MS(500)).await;
        drop(placed);
        assert!((load.cost(Instant::now()) - 0.5).abs() < 1e-6);
    }

    #[test]
    fn a_stream_that_fails_after_its_head_and_a_connection_that_waits_for_its_caller() {
        let start = Instant::now();
        let (stream, waiting) = (Load::new(start), Load::new(start));
        let mut placed = stream.place(start);
        placed.answered(start + MS(20));
        placed.ended(Outcome::Failed, start + MS(5_000));
        drop(placed);
        assert!(stream.cost(start + MS(5_000)) > 1.0);
        let mut placed = waiting.place(start);
        placed.connected(start + MS(2));
        placed.ended(Outcome::Passed, start + MS(60_000));
        drop(placed);
        assert!((waiting.cost(start + MS(60_000)) - 0.002).abs() < 1e-6);
    }

    #[test]
    fn a_slow_start_grows_from_a_tenth() {
        let start = Instant::now();
        let load = Load::new(start);
        let part = |seconds: u64| format!("{:.1}", load.part(start + MS(seconds * 1_000)));
        assert_eq!(part(0), "1.0");
        load.warm_up(MS(30_000), start);
        assert_eq!([0, 10, 20, 30, 40].map(part), ["0.1", "0.4", "0.7", "1.0", "1.0"]);
        load.end_warm_up();
        assert_eq!(part(0), "1.0");
    }

    #[test]
    fn a_clock_that_begins_anew_or_lags_does_no_harm() {
        assert_eq!((since(u32::MAX, 4), since(5, 3)), (5, 0));
    }
}
