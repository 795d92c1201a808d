//! When a certificate is to be renewed, as a pure function of what there is and the time.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::issue::{Certificate, Material};

/// What certificates are made like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lives {
    /// The name that the API server calls.
    pub(crate) dns_name: String,
    /// Life of a certificate.
    pub(crate) leaf: Duration,
    /// Life of an authority.
    pub(crate) ca: Duration,
}

/// What is to be done now, and when to look again if it is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) action: Action,
    pub(crate) next: Timestamp,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing.
    Keep,
    /// Drop authorities whose certificates have ended.
    Prune,
    /// A new certificate by the same authority.
    RenewLeaf,
    /// A new authority and a new certificate; the old authority stays trusted for a while.
    RenewAll,
}

/// What to do at `now` about `found`.
pub(crate) fn plan(now: Timestamp, found: &Material, lives: &Lives) -> Plan {
    let due = |action| Plan { action, next: now };
    let Some(ca) = found.ca() else { return due(Action::RenewAll) };
    let ca_due = two_thirds(&ca);
    if ca_due <= now {
        return due(Action::RenewAll);
    }
    let Some(leaf) = found.leaf() else { return due(Action::RenewLeaf) };
    let leaf_due = two_thirds(&leaf);
    if leaf_due <= now || leaf.issuer != ca.subject || leaf.dns_names != [lives.dns_name.clone()] {
        return due(Action::RenewLeaf);
    }
    let next = ca_due.min(leaf_due);
    let prune = later(ca.not_before, lives.leaf);
    match found.has_old_authorities() {
        true if prune <= now => due(Action::Prune),
        true => Plan { action: Action::Keep, next: next.min(prune) },
        false => Plan { action: Action::Keep, next },
    }
}

fn two_thirds(certificate: &Certificate) -> Timestamp {
    let life = certificate.not_after.as_second().saturating_sub(certificate.not_before.as_second());
    later(certificate.not_before, Duration::from_secs(u64::try_from(life).unwrap_or(0) * 2 / 3))
}

/// `time` and `more`, as far as time goes.
pub(super) fn later(time: Timestamp, more: Duration) -> Timestamp {
    let more = SignedDuration::try_from(more).unwrap_or(SignedDuration::MAX);
    time.saturating_add(more).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
