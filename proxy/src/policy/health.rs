//! What health checks say of one endpoint.
//!
//! The first check decides alone, so that an endpoint which is ill from the start costs nobody more than the requests until then.
//! After it so many in a row must say otherwise: one lost packet is no illness, and one lucky answer no recovery. Until the first
//! has come back an endpoint is used: a proxy that starts would else have none.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use firebreak_crds::spec::HealthCheck;

/// What is known of an endpoint's health. One task writes it, all workers read it.
#[derive(Debug)]
pub struct Health {
    check: HealthCheck,
    /// The verdict in the lowest two bits, and above them how many checks in a row spoke against it.
    word: AtomicU32,
}

const UNKNOWN: u32 = 0;
const WELL: u32 = 1;
const ILL: u32 = 2;

impl Health {
    /// An endpoint that was not checked yet, or of which `before` is known by checks of another kind.
    pub fn new(check: HealthCheck, before: Option<&Self>) -> Self {
        let verdict = before.map_or(UNKNOWN, |before| before.word.load(Relaxed) & 3);
        Self { check, word: AtomicU32::new(verdict) }
    }

    /// How it is checked.
    pub fn check(&self) -> &HealthCheck {
        &self.check
    }

    /// Whether it may be used as far as checks say.
    pub fn is_well(&self) -> bool {
        self.word.load(Relaxed) & 3 != ILL
    }

    /// Takes in the result of a check, and says whether that changed the verdict.
    pub fn checked(&self, passed: bool) -> bool {
        let word = self.word.load(Relaxed);
        let (verdict, against) = (word & 3, word >> 2);
        let said = if passed { WELL } else { ILL };
        let (unhealthy_after, healthy_after) = self.check.thresholds();
        let enough = if passed { healthy_after } else { unhealthy_after };
        let changed = verdict != said && (verdict == UNKNOWN || against + 1 >= enough);
        let next = match (changed, verdict == said) {
            (true, _) => said,
            (false, true) => verdict,
            (false, false) => verdict | (against + 1) << 2,
        };
        self.word.store(next, Relaxed);
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> Health {
        Health::new(HealthCheck { unhealthy_after: Some(3), healthy_after: Some(2), ..HealthCheck::default() }, None)
    }

    fn after(health: &Health, results: &str) -> Vec<bool> {
        results.chars().map(|result| (health.checked(result == '+'), health.is_well()).1).collect()
    }

    #[test]
    fn the_first_check_decides_and_then_so_many_in_a_row() {
        assert!(health().is_well(), "not known yet");
        assert_eq!(after(&health(), "-"), [false]);
        assert_eq!(after(&health(), "+--+--"), [true; 6], "never three in a row");
        assert_eq!(after(&health(), "+---"), [true, true, true, false]);
        assert_eq!(after(&health(), "-+-++"), [false, false, false, false, true]);
    }

    #[test]
    fn a_change_is_told_once() {
        let health = health();
        let told: Vec<_> = "+---+-++".chars().map(|result| health.checked(result == '+')).collect();
        assert_eq!(told, [true, false, false, true, false, false, false, true]);
    }

    #[test]
    fn other_checks_begin_with_what_is_known() {
        let ill = health();
        ill.checked(false);
        assert!(!Health::new(HealthCheck::default(), Some(&ill)).is_well());
    }
}
