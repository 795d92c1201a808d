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
    let all = Plan { action: Action::RenewAll, next: now };
    let (Some(ca), Some(leaf)) = (found.ca(), found.leaf()) else { return all };
    let ca_due = two_thirds(&ca);
    if ca_due <= now {
        return all;
    }
    let leaf_due = two_thirds(&leaf);
    if leaf_due <= now || leaf.issuer != ca.subject || leaf.dns_names != [lives.dns_name.clone()] {
        return Plan { action: Action::RenewLeaf, next: now };
    }
    let next = ca_due.min(leaf_due);
    let prune = later(ca.not_before, lives.leaf);
    match found.has_old_authorities() {
        true if prune <= now => Plan { action: Action::Prune, next: now },
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
mod tests {
    use super::{super::issue::make, *};

    const DAY: Duration = Duration::from_hours(24);

    fn lives() -> Lives {
        Lives { dns_name: "firebreak-injector.firebreak-system.svc".into(), leaf: DAY * 90, ca: DAY * 365 }
    }

    fn start() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn fresh() -> Material {
        make(Action::RenewAll, start(), &Material::default(), &lives()).unwrap()
    }

    fn at(days: u32) -> Timestamp {
        later(start(), DAY * days)
    }

    #[test]
    fn what_is_missing_or_broken_is_made() {
        let mut broken = fresh();
        broken.leaf_key = fresh().leaf_key;
        assert_eq!(plan(start(), &broken, &lives()).action, Action::RenewAll, "a key of another certificate");
        assert_eq!(plan(start(), &Material::default(), &lives()).action, Action::RenewAll);
    }

    #[test]
    fn the_leaf_is_renewed_at_two_thirds_by_the_same_authority() {
        let first = fresh();
        let early = plan(at(59), &first, &lives());
        assert_eq!(early.action, Action::Keep);
        assert!(early.next > at(59) && early.next <= at(60), "{early:?}");
        assert_eq!(plan(at(61), &first, &lives()).action, Action::RenewLeaf);
        let second = make(Action::RenewLeaf, at(61), &first, &lives()).unwrap();
        assert_eq!(second.bundle, first.bundle);
        assert_ne!(second.leaf_pem, first.leaf_pem);
        assert_eq!(plan(at(61), &second, &lives()).action, Action::Keep);
    }

    #[test]
    fn the_old_authority_stays_for_one_life_of_a_leaf() {
        let first = make(Action::RenewLeaf, at(240), &fresh(), &lives()).unwrap();
        assert_eq!(plan(at(244), &first, &lives()).action, Action::RenewAll, "two thirds of a year");
        let second = make(Action::RenewAll, at(244), &first, &lives()).unwrap();
        assert!(second.bundle.ends_with(first.bundle.as_str()), "both are trusted, the new one first");
        assert_eq!(plan(at(244 + 50), &second, &lives()).action, Action::Keep);
        let third = make(Action::RenewLeaf, at(244 + 61), &second, &lives()).unwrap();
        assert_eq!(plan(at(244 + 91), &third, &lives()).action, Action::Prune);
        let pruned = make(Action::Prune, at(244 + 91), &third, &lives()).unwrap();
        assert!(third.bundle.starts_with(pruned.bundle.as_str()) && pruned.bundle != third.bundle);
        assert_eq!((&pruned.leaf_pem, &pruned.leaf_key), (&third.leaf_pem, &third.leaf_key));
        assert_eq!(plan(at(244 + 91), &pruned, &lives()).action, Action::Keep);
    }

    #[test]
    fn another_service_name_is_another_leaf() {
        let renamed = Lives { dns_name: "other.firebreak-system.svc".into(), ..lives() };
        assert_eq!(plan(start(), &fresh(), &renamed).action, Action::RenewLeaf);
    }

    #[test]
    fn the_secret_holds_all_that_is_read_back() {
        let secret = k8s_openapi::api::core::v1::Secret { data: Some(fresh().data()), ..Default::default() };
        let read = Material::read(secret);
        assert_eq!(plan(start(), &read, &lives()).action, Action::Keep);
    }
}
