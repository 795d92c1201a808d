//! What to do about the Lease next, as a pure function of what was seen and when.

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use tokio::time::Instant;

use super::{DURATION, RENEW_EVERY, RENEW_WITHIN, RETRY};

/// What is known of the Lease.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Whether anything was seen yet.
    known: bool,
    /// The Lease as last seen, if there is one.
    lease: Option<Lease>,
    /// When that was first seen.
    at: Option<Instant>,
    /// When the renewal was sent that made us, or keeps us, the holder.
    renewed: Option<Instant>,
    /// When a claim failed since.
    failed: Option<Instant>,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Claim the Lease at that time.
    Claim { claim: Claim, at: Instant },
    /// Look again at that time.
    Wait { at: Instant },
}

/// How to claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// There is none.
    Create,
    /// Its holder is silent or has left.
    Take,
    /// It is ours.
    Renew,
}

impl Step {
    pub(super) fn at(self) -> Instant {
        match self {
            Self::Claim { at, .. } | Self::Wait { at } => at,
        }
    }
}

impl Seen {
    /// The watch says how the Lease is; `None` when there is none.
    pub(super) fn watched(&mut self, lease: Option<Lease>, me: &str, now: Instant) {
        let version = |lease: &Option<Lease>| lease.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
        if self.known && version(&self.lease) == version(&lease) {
            return;
        }
        if holder(lease.as_ref()) != Some(me) {
            self.renewed = None;
        }
        (self.known, self.lease, self.at, self.failed) = (true, lease, Some(now), None);
    }

    /// A claim that was sent at `sent` made it ours.
    pub(super) fn claimed(&mut self, lease: Lease, sent: Instant) {
        *self = Self { known: true, lease: Some(lease), at: Some(sent), renewed: Some(sent), failed: None };
    }

    /// A claim that was sent at `sent` failed.
    pub(super) fn failed(&mut self, sent: Instant) {
        self.failed = Some(sent);
    }

    /// When we cease to be the holder, if no renewal comes in between; nothing if we are not.
    pub(super) fn end(&self) -> Option<Instant> {
        self.renewed.map(|renewed| renewed + RENEW_WITHIN)
    }

    /// Whether we may write at `now`.
    pub(super) fn held(&self, now: Instant) -> bool {
        self.end().is_some_and(|end| now < end)
    }

    pub(super) fn step(&self, me: &str, now: Instant) -> Step {
        if !self.known {
            return Step::Wait { at: now + RETRY };
        }
        let seen = self.at.unwrap_or(now);
        let (claim, at) = match (&self.lease, self.renewed) {
            (None, _) => (Claim::Create, now),
            (Some(_), Some(renewed)) => (Claim::Renew, renewed + spread(RENEW_EVERY, me)),
            // Our own name from an earlier life of ours, or nobody's: it is free. Else the holder has its time, of our clock.
            (Some(lease), None) => match holder(Some(lease)) {
                None => (Claim::Take, now),
                Some(name) if name == me => (Claim::Take, now),
                Some(_) => (Claim::Take, seen + spread(DURATION, me)),
            },
        };
        let at = self.failed.map_or(at, |failed| at.max(failed + spread(RETRY, me)));
        // A holder that cannot renew must notice the moment at which it no longer is one.
        match self.end().filter(|end| now < *end && *end < at) {
            Some(end) => Step::Wait { at: end },
            None => Step::Claim { claim, at },
        }
    }

    /// The Lease with our claim on it.
    pub(super) fn claim(&self, claim: Claim, me: &str) -> Lease {
        let mut lease = self.lease.clone().unwrap_or_default();
        let now = Some(MicroTime(Timestamp::now()));
        let spec = lease.spec.get_or_insert_default();
        if claim != Claim::Renew {
            spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |count| count.saturating_add(1)));
            spec.acquire_time.clone_from(&now);
        }
        spec.holder_identity = Some(me.to_owned());
        spec.lease_duration_seconds = i32::try_from(DURATION.as_secs()).ok();
        spec.renew_time = now;
        lease
    }

    /// The Lease without a holder, for whoever comes next.
    pub(super) fn released(&self) -> Lease {
        let mut lease = self.lease.clone().unwrap_or_default();
        let spec: &mut LeaseSpec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        lease
    }
}

fn holder(lease: Option<&Lease>) -> Option<&str> {
    lease?.spec.as_ref()?.holder_identity.as_deref().filter(|name| !name.is_empty())
}

/// `time` and up to a tenth more, different for each replica, so that replicas do not claim in step.
fn spread(time: std::time::Duration, me: &str) -> std::time::Duration {
    let share = me.bytes().fold(7u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())) % 100;
    time + time * share / 1_000
}

#[cfg(test)]
mod tests;
