use super::{
    super::issue::{Leaf, make},
    *,
};

const DAY: Duration = Duration::from_hours(24);

fn lives() -> Lives {
    Lives { dns_name: "firebreak-injector.firebreak-system.svc".into(), leaf: DAY * 90, ca: DAY * 365 }
}

fn start() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn renew(action: Action, now: Timestamp, found: &Material) -> Material {
    make(action, now, found, "", &lives()).unwrap()
}

fn fresh() -> Material {
    renew(Action::RenewAll, start(), &Material::default())
}

/// Another authority, of another name, and what it signed.
fn foreign() -> Material {
    renew(Action::RenewAll, later(start(), Duration::from_secs(1)), &Material::default())
}

fn at(days: u32) -> Timestamp {
    later(start(), DAY * days)
}

#[test]
fn what_is_missing_or_broken_is_made() {
    let (good, other) = (fresh(), foreign());
    let with = |authority: &Material, leaf: Leaf| Material { authority: authority.authority.clone(), leaf };
    let planned = |found: &Material| plan(start(), found, &lives()).action;
    assert_eq!(planned(&good), Action::Keep);
    assert_eq!(planned(&with(&good, Leaf::default())), Action::RenewLeaf);
    let mismatched = Leaf { key: other.leaf.key.clone(), ..good.leaf.clone() };
    assert_eq!(planned(&with(&good, mismatched)), Action::RenewLeaf, "a key of another certificate");
    assert_eq!(planned(&with(&other, good.leaf.clone())), Action::RenewLeaf, "a certificate of another authority");
    assert_eq!(planned(&with(&Material::default(), good.leaf.clone())), Action::RenewAll);
    let mut broken = good.clone();
    broken.authority.key = other.authority.key;
    assert_eq!(planned(&broken), Action::RenewAll, "a key of another authority");
}

#[test]
fn the_leaf_is_renewed_at_two_thirds_by_the_same_authority() {
    let first = fresh();
    let early = plan(at(59), &first, &lives());
    assert_eq!(early.action, Action::Keep);
    assert!(early.next > at(59) && early.next <= at(60), "{early:?}");
    assert_eq!(plan(at(61), &first, &lives()).action, Action::RenewLeaf);
    let second = renew(Action::RenewLeaf, at(61), &first);
    assert_eq!(second.authority, first.authority);
    assert_ne!(second.leaf, first.leaf);
    assert_eq!(plan(at(61), &second, &lives()).action, Action::Keep);
}

#[test]
fn the_old_authority_stays_for_one_life_of_a_leaf() {
    let first = renew(Action::RenewLeaf, at(240), &fresh());
    assert_eq!(plan(at(244), &first, &lives()).action, Action::RenewAll, "two thirds of a year");
    let second = renew(Action::RenewAll, at(244), &first);
    assert!(second.authority.bundle.ends_with(first.authority.bundle.as_str()), "both are trusted, the new one first");
    assert_eq!(plan(at(244 + 50), &second, &lives()).action, Action::Keep);
    let third = renew(Action::RenewLeaf, at(244 + 61), &second);
    assert_eq!(plan(at(244 + 91), &third, &lives()).action, Action::Prune);
    let pruned = renew(Action::Prune, at(244 + 91), &third);
    let (few, many) = (&pruned.authority.bundle, &third.authority.bundle);
    assert!(many.starts_with(few.as_str()) && few != many);
    assert_eq!((&pruned.leaf, &pruned.authority.key), (&third.leaf, &third.authority.key));
    assert_eq!(plan(at(244 + 91), &pruned, &lives()).action, Action::Keep);
}

#[test]
fn another_service_name_is_another_leaf() {
    let renamed = Lives { dns_name: "other.firebreak-system.svc".into(), ..lives() };
    assert_eq!(plan(start(), &fresh(), &renamed).action, Action::RenewLeaf);
}

#[test]
fn whoever_signed_what_is_shown_stays_trusted_once() {
    let (lost, other) = (fresh(), foreign());
    let trusted = lost.authority.bundle.clone();
    let found = Material { leaf: lost.leaf.clone(), ..Material::default() };
    let made = make(Action::RenewAll, start(), &found, &trusted, &lives()).unwrap();
    assert!(made.authority.bundle.ends_with(&trusted), "known by the API server only");
    let found = Material { leaf: lost.leaf, authority: other.authority.clone() };
    let made = make(Action::RenewLeaf, start(), &found, trusted.trim(), &lives()).unwrap();
    assert_eq!(made.authority.bundle, format!("{}{trusted}", other.authority.bundle), "without its last newline too");
    let again = Material { authority: made.authority.clone(), ..found };
    let again = make(Action::RenewLeaf, start(), &again, &trusted, &lives()).unwrap();
    assert_eq!(again.authority, made.authority);
    let lost = Material { leaf: Leaf::default(), ..again };
    let made = renew(Action::RenewAll, at(244), &lost);
    assert!(made.authority.bundle.ends_with(&other.authority.bundle), "an injector may still show what is gone");
    assert!(!made.authority.bundle.contains(trusted.trim()));
}
