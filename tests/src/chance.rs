//! What chance allows: how far a count may be from what is expected before a test says that something is wrong.

use std::ops::RangeInclusive;

/// Standard deviations that a count may be off: exceeded by chance in one of 150,000 tests.
const SIGMAS: f64 = 4.5;

/// The counts that may be seen when each of `trials` independent trials succeeds with probability `p`.
///
/// The normal approximation of the binomial distribution, which is close where both outcomes are expected ten times or more.
#[must_use]
pub fn expected(trials: usize, p: f64) -> RangeInclusive<usize> {
    let trials = f64::from(u32::try_from(trials).unwrap_or(u32::MAX));
    let mean = trials * p;
    let deviation = (trials * p * (1.0 - p)).sqrt() * SIGMAS;
    floor(mean - deviation)..=floor((mean + deviation).ceil())
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts are small, and below zero means zero"
)]
fn floor(count: f64) -> usize {
    count.max(0.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_hold_the_mean_and_little_else() {
        assert_eq!(expected(10_000, 0.5), 4775..=5225);
        assert_eq!(expected(2000, 0.0081), 0..=35);
        assert_eq!(expected(100, 0.0), 0..=0);
        assert_eq!(expected(100, 1.0), 100..=100);
    }
}
