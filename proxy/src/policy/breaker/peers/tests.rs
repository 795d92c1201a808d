use firebreak_crds::spec::OutlierDetection;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::policy::breaker::{Counts, Limits, Outcome};

/// Endpoints of one callee under `policy`, with a clock of their own.
struct Group {
    peers: Arc<Peers>,
    breakers: Vec<Arc<Breaker>>,
    counts: Arc<Counts>,
    limits: Limits,
    now: Instant,
}

impl Group {
    fn new(endpoints: usize, policy: Value) -> Self {
        let policy: OutlierDetection = serde_json::from_value(policy).unwrap();
        let limits = Limits::of_endpoint(None, Some(&policy)).unwrap();
        let (now, counts) = (Instant::now(), Arc::new(Counts::default()));
        let peers = Peers::new(limits.above_others, now);
        peers.count(endpoints);
        let breaker = |_| Breaker::among(Some(Arc::clone(&peers)), limits, Arc::clone(&counts), now);
        Self { breakers: (0..endpoints).map(breaker).collect(), peers, counts, limits, now }
    }

    /// Sends so many tries to one of them, whatever its state admits.
    fn send(&self, endpoint: usize, outcome: Outcome, times: u32) {
        for _ in 0..times {
            if let Ok(ticket) = self.breakers[endpoint].admit(self.now, None) {
                ticket.ended(outcome, self.now);
            }
        }
    }

    fn states(&self) -> Vec<State> {
        self.breakers.iter().map(|breaker| breaker.state()).collect()
    }

    fn out(&self) -> usize {
        self.states().into_iter().filter(|state| *state != State::Closed).count()
    }
}

#[test]
fn at_least_half_of_them_stay_whatever_fails() {
    for (endpoints, most_out) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (10, 5)] {
        let group = Group::new(endpoints, json!({"consecutiveFailures": 3}));
        (0..endpoints).for_each(|endpoint| group.send(endpoint, Outcome::Failed, 3));
        assert_eq!(group.out(), most_out, "of {endpoints}");
        assert_eq!(group.counts.kept_in(), (endpoints - most_out) as u64, "of {endpoints}");
    }
}

#[test]
fn whoever_was_kept_in_goes_when_another_is_back_and_it_fails_anew() {
    let mut group = Group::new(2, json!({"consecutiveFailures": 3, "ejectFor": {"initial": "1s"}}));
    group.send(0, Outcome::Failed, 3);
    group.send(1, Outcome::Failed, 3);
    assert_eq!(group.states(), [State::Open, State::Closed]);
    group.now += group.limits.open_longest;
    group.send(0, Outcome::Passed, group.limits.probes);
    assert_eq!(group.states(), [State::Recovering, State::Closed]);
    group.send(1, Outcome::Failed, 3);
    assert_eq!(group.states(), [State::Recovering, State::Closed], "one that does not take its whole share is out");
    while group.breakers[0].state() == State::Recovering {
        group.now += group.limits.ramp / 20;
        group.send(0, Outcome::Passed, 20);
    }
    group.send(1, Outcome::Failed, 2);
    assert_eq!(group.out(), 0, "what spoke against it was forgotten");
    group.send(1, Outcome::Failed, 1);
    assert_eq!(group.states(), [State::Closed, State::Open]);
}

#[test]
fn one_that_fails_more_than_the_others_is_ejected_and_none_where_all_fail_alike() {
    let policy = json!({"failureRate": {"aboveOthers": 30, "minRequests": 20}});
    let alike = Group::new(4, policy.clone());
    for _ in 0..50 {
        (0..4).for_each(|endpoint| alike.send(endpoint, Outcome::Failed, 1));
        (0..4).for_each(|endpoint| alike.send(endpoint, Outcome::Passed, 1));
    }
    assert_eq!(alike.out(), 0);

    let one = Group::new(4, policy.clone());
    for _ in 0..50 {
        (1..4).for_each(|endpoint| one.send(endpoint, Outcome::Passed, 1));
        one.send(0, Outcome::Passed, 1);
        one.send(0, Outcome::Failed, 1);
    }
    assert_eq!(one.states(), [State::Open, State::Closed, State::Closed, State::Closed]);

    let slightly = Group::new(4, policy);
    for _ in 0..50 {
        (0..4).for_each(|endpoint| slightly.send(endpoint, Outcome::Passed, 3));
        slightly.send(0, Outcome::Failed, 1);
    }
    assert_eq!(slightly.out(), 0, "a quarter is not thirty of a hundred above none");
}

#[test]
fn a_comparison_needs_tries_of_both_sides() {
    let group = Group::new(2, json!({"failureRate": {"minRequests": 20}}));
    group.send(1, Outcome::Passed, 19);
    group.send(0, Outcome::Failed, 100);
    assert_eq!(group.out(), 0, "there are too few of the others");
    group.send(1, Outcome::Passed, 1);
    group.send(0, Outcome::Failed, 1);
    assert_eq!(group.states(), [State::Open, State::Closed]);
    let alone = Group::new(1, json!({"failureRate": {"minRequests": 1}}));
    alone.send(0, Outcome::Failed, 100);
    assert_eq!(alone.out(), 0);
}

#[test]
fn what_an_ejected_one_did_is_not_held_in_favour_of_the_next() {
    let group = Group::new(4, json!({"failureRate": {"aboveOthers": 60, "minRequests": 20}}));
    (1..4).for_each(|endpoint| group.send(endpoint, Outcome::Passed, 20));
    group.send(0, Outcome::Failed, 200);
    assert_eq!(group.states()[0], State::Open);
    group.send(1, Outcome::Failed, 200);
    assert_eq!(group.states(), [State::Open, State::Open, State::Closed, State::Closed]);
}

#[test]
fn those_who_have_come_furthest_go_free_where_too_many_are_out() {
    let mut group = Group::new(4, json!({"consecutiveFailures": 1}));
    group.send(0, Outcome::Failed, 1);
    group.now += group.limits.open_longest;
    group.send(0, Outcome::Passed, group.limits.probes);
    group.send(3, Outcome::Failed, 1);
    assert_eq!(group.states(), [State::Recovering, State::Closed, State::Closed, State::Open]);
    group.peers.count(2);
    group.peers.settle(group.breakers.iter().map(|breaker| &**breaker), group.now);
    assert_eq!(group.states(), [State::Closed, State::Closed, State::Closed, State::Open]);
}

#[test]
fn one_that_was_replaced_takes_no_seat() {
    let group = Group::new(2, json!({"consecutiveFailures": 1}));
    let late = group.breakers[0].admit(group.now, None).unwrap();
    let next = group.breakers[0].with(Some(Arc::clone(&group.peers)), group.limits, group.now);
    late.ended(Outcome::Failed, group.now);
    assert_eq!((group.breakers[0].state(), next.state()), (State::Closed, State::Closed));
    group.send(1, Outcome::Failed, 1);
    assert_eq!(group.breakers[1].state(), State::Open, "the seat is free");
    let moved = group.breakers[1].with(Some(Arc::clone(&group.peers)), group.limits, group.now);
    assert_eq!(moved.state(), State::Open, "it takes its seat with it");
    let full = next.admit(group.now, None).unwrap();
    full.ended(Outcome::Failed, group.now);
    assert_eq!(next.state(), State::Closed);
    moved.retire(group.now);
    next.admit(group.now, None).unwrap().ended(Outcome::Failed, group.now);
    assert_eq!(next.state(), State::Open, "whoever is gone makes room");
}

proptest! {
    /// Whatever happens to whom, half of them are in, and the seats are as many as are out.
    #[test]
    fn half_of_them_are_always_in(
        endpoints in 1usize..9,
        events in prop::collection::vec((0usize..8, any::<bool>(), 0u64..3_000), 1..300),
    ) {
        let mut group = Group::new(endpoints, json!({"consecutiveFailures": 2, "failureRate": {"minRequests": 5}}));
        for (endpoint, passed, millis) in events {
            let outcome = if passed { Outcome::Passed } else { Outcome::Failed };
            group.now += Duration::from_millis(millis);
            group.send(endpoint % endpoints, outcome, 2);
            prop_assert!(group.out() <= endpoints / 2);
            prop_assert_eq!(out(group.peers.seats.load(SeqCst)), group.out() as u64);
        }
    }
}
