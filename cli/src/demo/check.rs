//! Promises, compared with what was seen.
//!
//! Where chance decides, a promise is a range: five standard deviations of the binomial distribution to each side, which an
//! honest run leaves less than once in a million times.

use std::{fmt, ops::RangeInclusive};

use serde::Serialize;

/// One promise of a policy, and what was seen of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// What is counted.
    pub(crate) what: String,
    /// What the policy promises.
    pub(crate) expected: String,
    /// What was seen.
    pub(crate) seen: String,
    /// Whether they agree.
    pub(crate) holds: bool,
}

/// Standard deviations to each side.
const SIGMAS: f64 = 5.0;

impl Check {
    /// Exactly as many.
    pub(crate) fn exactly(what: impl Into<String>, expected: u64, seen: u64) -> Self {
        Self { what: what.into(), expected: expected.to_string(), seen: seen.to_string(), holds: seen == expected }
    }

    /// A share of `of` draws that each hit with `probability`.
    pub(crate) fn share(what: impl Into<String>, probability: f64, seen: u64, of: u64) -> Self {
        let range = bounds(probability, of);
        Self {
            what: what.into(),
            expected: format!("{} ({} to {})", Percent(probability), range.start(), range.end()),
            seen: format!("{seen} ({})", Percent(ratio(seen, of))),
            holds: range.contains(&seen),
        }
    }

    /// A statement that holds or not.
    pub(crate) fn that(
        what: impl Into<String>,
        expected: impl fmt::Display,
        seen: impl fmt::Display,
        holds: bool,
    ) -> Self {
        Self { what: what.into(), expected: expected.to_string(), seen: seen.to_string(), holds }
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts of a demo are small")]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 0..=of"
)]
fn bounds(probability: f64, of: u64) -> RangeInclusive<u64> {
    let whole = of as f64;
    let mean = whole * probability;
    // One more to each side: a discrete count of a rare thing is not as smooth as the bell.
    let width = SIGMAS * (mean * (1.0 - probability)).sqrt() + 1.0;
    (mean - width).max(0.0).ceil() as u64..=(mean + width).min(whole).floor() as u64
}

/// A share, as people write it.
struct Percent(f64);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:.1}", self.0 * 100.0);
        write!(f, "{} %", text.strip_suffix(".0").unwrap_or(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_what_chance_allows_and_no_more() {
        assert_eq!(bounds(0.5, 1000), 420..=580);
        assert_eq!(bounds(0.0, 1000), 0..=1);
        assert_eq!(bounds(1.0, 1000), 999..=1000);
        assert!(Check::share("x", 0.3, 300, 1000).holds);
        assert!(!Check::share("x", 0.3, 400, 1000).holds);
        assert!(!Check::share("x", 0.3, 200, 1000).holds);
    }

    #[test]
    fn shares_are_readable() {
        let check = Check::share("x", 0.0081, 7, 1000);
        assert_eq!((check.expected.as_str(), check.seen.as_str()), ("0.8 % (0 to 23)", "7 (0.7 %)"));
        assert_eq!(Check::share("x", 0.3, 300, 1000).expected.split(' ').next(), Some("30"));
    }
}
