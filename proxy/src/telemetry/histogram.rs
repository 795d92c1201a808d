//! Durations in fixed buckets.

use std::{array, time::Duration};

use super::metrics::Counter;

/// Upper bounds in seconds: those of OpenTelemetry's HTTP conventions, with finer ones below for a neighbour's answer.
pub const BOUNDS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The same bounds in microseconds.
const MICROS: [u64; 16] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000,
];

/// One worker's counts. The last bucket is for what exceeds every bound.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BOUNDS.len() + 1],
    micros: Counter,
}

/// Counts of all workers together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Merged {
    /// Counts for each bucket, not cumulative.
    pub buckets: [u64; BOUNDS.len() + 1],
    /// Sum of all durations.
    pub micros: u64,
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        let micros = micros_of(duration);
        self.buckets[bucket(micros)].increment();
        self.micros.add(micros);
    }
}

/// The place of the bucket that a duration falls into.
pub fn bucket_of(duration: Duration) -> usize {
    bucket(micros_of(duration))
}

fn bucket(micros: u64) -> usize {
    MICROS.iter().position(|bound| micros <= *bound).unwrap_or(BOUNDS.len())
}

/// As exact as durations are counted.
pub fn micros_of(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Merged {
    /// Adds one worker's counts.
    #[must_use]
    pub fn and(self, other: &Histogram) -> Self {
        Self {
            buckets: array::from_fn(|bucket| self.buckets[bucket] + other.buckets[bucket].get()),
            micros: self.micros + other.micros.get(),
        }
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_the_same_in_both_units() {
        let seconds = BOUNDS.map(|bound| u64::try_from(Duration::from_secs_f64(bound).as_micros()).unwrap());
        assert_eq!(seconds, MICROS);
    }

    #[test]
    fn a_duration_falls_into_the_bucket_that_ends_at_it() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(5));
        histogram.observe(Duration::from_micros(5_001));
        histogram.observe(Duration::from_secs(31));
        let merged = Merged::default().and(&histogram);
        assert_eq!((merged.buckets[3], merged.buckets[4], merged.buckets[16]), (1, 1, 1));
        assert_eq!(merged.count(), 3);
    }
}
