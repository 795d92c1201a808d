use std::time::Duration;

use super::*;

const ME: &str = "operator-a";

fn lease(version: &str, holder: &str) -> Lease {
    let mut lease = Lease::default();
    lease.metadata.resource_version = Some(version.into());
    lease.spec = Some(LeaseSpec { holder_identity: Some(holder.into()), ..LeaseSpec::default() });
    lease
}

fn claims(step: Step, wanted: Claim) -> Instant {
    match step {
        Step::Claim { claim, at } if claim == wanted => at,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_claimed_before_it_is_known_whether_there_is_one() {
    let now = Instant::now();
    assert!(matches!(Seen::default().step(ME, now), Step::Wait { .. }));
}

#[test]
fn a_lease_that_is_missing_or_given_back_is_claimed_at_once() {
    let (mut seen, now) = (Seen::default(), Instant::now());
    seen.watched(None, ME, now);
    assert_eq!(claims(seen.step(ME, now), Claim::Create), now);
    seen.watched(Some(lease("1", "")), ME, now);
    assert_eq!(claims(seen.step(ME, now), Claim::Take), now);
}

#[test]
fn a_holder_has_its_time_from_each_sign_of_life_by_our_clock() {
    let (mut seen, now) = (Seen::default(), Instant::now());
    seen.watched(Some(lease("1", "operator-b")), ME, now);
    let first = claims(seen.step(ME, now), Claim::Take);
    assert!(first >= now + DURATION && first <= now + DURATION * 11 / 10);
    let later = now + Duration::from_secs(5);
    seen.watched(Some(lease("1", "operator-b")), ME, later);
    assert_eq!(claims(seen.step(ME, later), Claim::Take), first, "the same version is no sign of life");
    seen.watched(Some(lease("2", "operator-b")), ME, later);
    assert_eq!(claims(seen.step(ME, later), Claim::Take), first + Duration::from_secs(5));
}

#[test]
fn the_holder_stops_before_another_may_take_over() {
    let (mut seen, now) = (Seen::default(), Instant::now());
    seen.claimed(lease("1", ME), now);
    assert!(seen.held(now));
    let renewal = claims(seen.step(ME, now), Claim::Renew);
    assert!(renewal >= now + RENEW_EVERY && renewal < now + RENEW_WITHIN);
    let end = now + RENEW_WITHIN;
    seen.failed(end - Duration::from_millis(500));
    assert_eq!(seen.step(ME, end - Duration::from_millis(400)), Step::Wait { at: end }, "it wakes to stop");
    assert!(!seen.held(end));
    assert!(end < now + DURATION);
    assert!(matches!(seen.step(ME, end), Step::Claim { claim: Claim::Renew, .. }), "it goes on trying");
}

#[test]
fn another_holder_ends_ours_at_once() {
    let (mut seen, now) = (Seen::default(), Instant::now());
    seen.claimed(lease("1", ME), now);
    seen.watched(Some(lease("2", ME)), ME, now);
    assert!(seen.held(now), "our own renewal, seen by the watch");
    seen.watched(Some(lease("3", "operator-b")), ME, now);
    assert!(!seen.held(now));
}

#[test]
fn a_claim_builds_on_the_version_that_was_seen() {
    let (mut seen, now) = (Seen::default(), Instant::now());
    seen.watched(Some(lease("7", "")), ME, now);
    let claim = seen.claim(Claim::Take, ME);
    assert_eq!(claim.metadata.resource_version.as_deref(), Some("7"));
    let spec = claim.spec.unwrap();
    assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some(ME), Some(0)));
    assert_eq!(seen.released().spec.unwrap().holder_identity.as_deref(), Some(""));
}
