use std::{collections::BTreeMap, time::Duration};

use firebreak_crds::spec::{CircuitBreaker, HashKey, HealthCheck};

use super::*;
use crate::policy::breaker::{self, Outcome};

const MS: fn(u64) -> Duration = Duration::from_millis;

fn list(count: u16, now: Instant) -> Box<[Endpoint]> {
    (1..=count).map(|port| endpoint(port, None, now)).collect()
}

fn endpoint(port: u16, health: Option<Arc<Health>>, now: Instant) -> Endpoint {
    let address = ([127, 0, 0, 1], port).into();
    Endpoint { address, way: address, breaker: None, load: Load::new(now), health }
}

fn balanced(list: Box<[Endpoint]>, algorithm: Algorithm) -> Endpoints {
    let hash = (algorithm == Algorithm::Hash).then(|| HashKey { header: Some("x-user".into()), cookie: None });
    Endpoints::new(list, Some(&LoadBalancing { algorithm: Some(algorithm), hash, slow_start: None }))
}

/// The port of the endpoint that is chosen.
fn next(endpoints: &Endpoints, key: Option<u64>, last: Option<u16>, now: Instant) -> Result<u16, NoEndpoint> {
    let last = last.map(|port| ([127, 0, 0, 1], port).into());
    endpoints.next(key, last, now, None).map(|chosen| chosen.endpoint.address.port())
}

/// How many of a thousand choices each endpoint gets.
fn shares(endpoints: &Endpoints, now: Instant) -> BTreeMap<u16, u32> {
    fastrand::seed(7);
    let mut shares = BTreeMap::new();
    (0..1_000).for_each(|_| *shares.entry(next(endpoints, None, None, now).unwrap()).or_default() += 1);
    shares
}

const ALL: [Algorithm; 5] =
    [Algorithm::PeakEwma, Algorithm::LeastRequest, Algorithm::RoundRobin, Algorithm::Random, Algorithm::Hash];

#[test]
fn without_a_policy_endpoints_take_turns() {
    let now = Instant::now();
    let three = Endpoints::new(list(3, now), None);
    let turns: Vec<_> = (0..6).map(|_| next(&three, None, None, now).unwrap()).collect();
    assert_eq!(turns, [1, 2, 3, 1, 2, 3]);
}

#[test]
fn a_retry_goes_elsewhere_if_there_is_an_elsewhere() {
    let now = Instant::now();
    for algorithm in ALL {
        for (count, key) in [(2, None), (3, None), (3, Some(99))] {
            let endpoints = balanced(list(count, now), algorithm);
            assert!((0..100).all(|_| next(&endpoints, key, Some(2), now) != Ok(2)), "{algorithm:?} {count}");
        }
        let one = balanced(list(1, now), algorithm);
        assert_eq!([None, Some(5)].map(|key| next(&one, key, Some(1), now)), [Ok(1); 2], "{algorithm:?}");
        let gone = balanced(list(2, now), algorithm);
        assert!(next(&gone, None, Some(9), now).is_ok(), "the one before may be there no longer");
        let none = balanced(Box::default(), algorithm);
        assert_eq!(next(&none, Some(5), Some(1), now), Err(NoEndpoint::Empty));
    }
}

#[test]
fn equals_get_equal_shares() {
    let now = Instant::now();
    for algorithm in ALL {
        let shares = shares(&balanced(list(4, now), algorithm), now);
        assert!(shares.values().all(|share| (200..300).contains(share)), "{algorithm:?} {shares:?}");
    }
}

#[test]
fn the_busier_of_two_is_passed_over() {
    let now = Instant::now();
    for algorithm in [Algorithm::PeakEwma, Algorithm::LeastRequest] {
        let endpoints = balanced(list(3, now), algorithm);
        for endpoint in &endpoints.list {
            endpoint.load.place(now).ended(Outcome::Passed, now + MS(10));
        }
        let held = [endpoints.list[0].load.place(now), endpoints.list[0].load.place(now)];
        assert_eq!(shares(&endpoints, now).get(&1), None, "{algorithm:?}");
        drop(held);
        assert!(shares(&endpoints, now)[&1] > 250, "{algorithm:?}");
    }
}

#[test]
fn only_peak_ewma_looks_at_time() {
    let now = Instant::now();
    for (algorithm, looks) in [(Algorithm::PeakEwma, true), (Algorithm::LeastRequest, false)] {
        let endpoints = balanced(list(2, now), algorithm);
        for (endpoint, took) in endpoints.list.iter().zip([100, 10]) {
            endpoint.load.place(now).ended(Outcome::Passed, now + MS(took));
        }
        assert_eq!(!shares(&endpoints, now + MS(100)).contains_key(&1), looks, "{algorithm:?}");
    }
}

/// Requests evenly over `seconds`, 300 a second, to endpoints that take so long and answer so; what each got. Time is
/// the simulation's own.
fn simulate(
    algorithm: Algorithm,
    seconds: u64,
    behaves: impl Fn(u16, u64) -> (Duration, Outcome),
) -> BTreeMap<u16, u32> {
    fastrand::seed(42);
    let start = Instant::now();
    let endpoints = balanced(list(3, start), algorithm);
    let (mut got, mut under_way) = (BTreeMap::new(), Vec::new());
    for number in 0..seconds * 300 {
        let now = start + Duration::from_micros(number * 3_333);
        let over: Vec<_> = under_way.extract_if(.., |(ends, _, _)| *ends <= now).collect();
        for (ends, mut placed, outcome) in over {
            Placed::ended(&mut placed, outcome, ends);
        }
        let port = next(&endpoints, None, None, now).unwrap();
        *got.entry(port).or_default() += 1;
        let (took, outcome) = behaves(port, number / 300);
        under_way.push((now + took, endpoints.list[usize::from(port) - 1].load.place(now), outcome));
    }
    for (ends, mut placed, outcome) in under_way {
        placed.ended(outcome, ends);
    }
    got
}

/// The proof of the rule about failures: one of three answers 503 after a millisecond, the others take twenty.
#[test]
fn an_endpoint_that_fails_fast_does_not_draw_the_traffic_to_itself() {
    let from_second = |ill| {
        move |port, second| match (port, second >= ill) {
            (1, true) => (MS(1), Outcome::Failed),
            _ => (MS(20), Outcome::Passed),
        }
    };
    let from_the_start = simulate(Algorithm::PeakEwma, 60, from_second(0));
    assert!(from_the_start[&1] * 1_000 < 18_000, "less than one in a thousand, a third is fair: {from_the_start:?}");
    let later = simulate(Algorithm::PeakEwma, 60, from_second(30));
    let healthy = simulate(Algorithm::PeakEwma, 30, from_second(30));
    let while_ill = later[&1] - healthy[&1];
    assert!(while_ill * 20 < 9_000, "less than one in twenty of what came while it was ill: {while_ill}");
    let deceived = simulate(Algorithm::LeastRequest, 60, from_second(0));
    assert!(deceived[&1] * 2 > 18_000, "who counts requests only is deceived, as the handbook says: {deceived:?}");
}

#[test]
fn a_slow_endpoint_gets_less_and_a_well_one_comes_back() {
    let slow = simulate(Algorithm::PeakEwma, 30, |port, _| (MS(if port == 1 { 100 } else { 20 }), Outcome::Passed));
    assert!(slow[&1] * 8 < 9_000, "{slow:?}");
    let healed = |port, second| match (port, second < 10) {
        (1, true) => (MS(1), Outcome::Failed),
        _ => (MS(20), Outcome::Passed),
    };
    let got = |seconds| simulate(Algorithm::PeakEwma, seconds, healed)[&1];
    let back = got(120) - got(90);
    assert!(back * 4 > 9_000, "a minute and a half after it began to fail it has its share again: {back}");
}

#[test]
fn a_new_endpoint_gets_a_part_of_its_share() {
    let start = Instant::now();
    for algorithm in ALL {
        let endpoints = balanced(list(4, start), algorithm);
        let later = start + MS(15_000);
        // What is known of all is alike, so only the slow start makes a difference.
        for endpoint in &endpoints.list {
            endpoint.load.place(start).ended(Outcome::Passed, start + MS(10));
        }
        endpoints.list[0].load.warm_up(MS(30_000), start);
        let (first, half, whole) =
            (shares(&endpoints, start), shares(&endpoints, later), shares(&endpoints, start + MS(31_000)));
        // A tenth of a share beside three whole ones is 32 of a thousand, 55 hundredths are 155.
        assert!((15..70).contains(&first[&1]), "{algorithm:?} {first:?}");
        assert!((110..210).contains(&half[&1]), "{algorithm:?} {half:?}");
        assert!((200..300).contains(&whole[&1]), "{algorithm:?} {whole:?}");
        endpoints.list.iter().for_each(|endpoint| endpoint.load.warm_up(MS(30_000), start));
        let all = shares(&endpoints, start);
        assert!(all.values().all(|share| (200..300).contains(share)), "all are new: {algorithm:?} {all:?}");
    }
}

#[test]
fn a_key_keeps_its_endpoint_and_each_retry_goes_one_further() {
    let now = Instant::now();
    let endpoints = balanced(list(5, now), Algorithm::Hash);
    let mut owned = BTreeMap::<u16, u32>::new();
    for key in (0..1_000).map(scatter) {
        let first = next(&endpoints, Some(key), None, now).unwrap();
        assert_eq!(next(&endpoints, Some(key), None, now), Ok(first));
        let mut tried = vec![first];
        for _ in 1..5 {
            tried.push(next(&endpoints, Some(key), tried.last().copied(), now).unwrap());
        }
        assert_eq!(next(&endpoints, Some(key), tried.last().copied(), now), Ok(first), "and then from the beginning");
        *owned.entry(first).or_default() += 1;
        tried.sort_unstable();
        assert_eq!(tried, [1, 2, 3, 4, 5], "each once");
    }
    assert!(owned.values().all(|keys| (120..300).contains(keys)), "{owned:?}");
}

#[test]
fn a_key_moves_to_a_new_endpoint_once() {
    let start = Instant::now();
    let endpoints = balanced(list(3, start), Algorithm::Hash);
    let owners = |now| (0..500).map(|key| next(&endpoints, Some(scatter(key)), None, now).unwrap()).collect::<Vec<_>>();
    let warm = owners(start);
    endpoints.list[0].load.warm_up(MS(30_000), start);
    let (mut before, mut moved) = (owners(start), 0);
    for second in 1..=30 {
        let now = owners(start + MS(second * 1_000));
        let changed = before.iter().zip(&now).filter(|(before, now)| before != now);
        moved += changed.inspect(|(_, now)| assert_eq!(**now, 1)).count();
        before = now;
    }
    assert_eq!(before, warm);
    let own = warm.iter().filter(|port| **port == 1).count();
    assert!(moved <= own && moved * 10 > own * 8, "{moved} of {own}");
}

/// A breaker that has opened once.
fn opened(limits: breaker::Limits, now: Instant) -> Arc<Breaker> {
    let breaker = Breaker::new(limits, Arc::default(), now);
    for _ in 0..limits.consecutive.unwrap() {
        breaker.admit(now, None).unwrap().ended(Outcome::Failed, now);
    }
    breaker
}

#[test]
fn an_endpoint_whose_breaker_is_open_is_passed_over() {
    let now = Instant::now();
    let limits = breaker::Limits::from(&CircuitBreaker::default());
    for algorithm in ALL {
        let mut list = list(3, now);
        list[0].breaker = Some(opened(limits, now));
        let three = balanced(list.clone(), algorithm);
        let shares = shares(&three, now);
        assert!(!shares.contains_key(&1) && shares[&2].abs_diff(shares[&3]) < 120, "{algorithm:?} {shares:?}");
        let owner = |key| next(&three, Some(scatter(key)), None, now).unwrap();
        assert!((0..100).all(|key| owner(key) != 1), "{algorithm:?}");
        let two = balanced(list[..2].into(), algorithm);
        assert_eq!(next(&two, Some(7), Some(2), now), Ok(2), "better the same again than none");
        let refused = next(&balanced(list[..1].into(), algorithm), None, None, now).unwrap_err();
        assert!(matches!(refused, NoEndpoint::Refused(refused) if refused.retry_after > Duration::ZERO));
    }
}

#[test]
fn a_recovering_endpoint_is_better_than_none() {
    let (start, once) = (Instant::now(), CircuitBreaker::default());
    let limits = breaker::Limits { probes: 1, consecutive: Some(1), ..breaker::Limits::from(&once) };
    let breaker = opened(limits, start);
    let later = start + limits.open_longest;
    breaker.admit(later, None).unwrap().ended(Outcome::Passed, later);
    assert_eq!(breaker.state(), State::Recovering);
    let mut list = list(1, start);
    list[0].breaker = Some(breaker);
    let one = Endpoints::new(list, None);
    assert!((0..100).all(|_| one.next(None, None, later, None).is_ok()));
}

#[test]
fn an_endpoint_that_is_ill_is_passed_over_unless_all_are() {
    let now = Instant::now();
    for algorithm in ["RoundRobin", "Random", "LeastRequest", "PeakEwma"] {
        let balancing = serde_json::from_value(serde_json::json!({"algorithm": algorithm})).unwrap();
        let checked = |port| endpoint(port, Some(Arc::new(Health::new(HealthCheck::default(), None))), now);
        let list: Box<[Endpoint]> = (1..=3).map(checked).collect();
        let health: Vec<_> = list.iter().filter_map(|endpoint| endpoint.health.clone()).collect();
        let endpoints = Endpoints::new(list, Some(&balancing));
        let seen = |last: Option<u16>| {
            let last = last.map(|port| ([127, 0, 0, 1], port).into());
            let chosen = (0..100).map(|_| endpoints.next(None, last, now, None).unwrap().endpoint.address.port());
            chosen.collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(seen(None).len(), 3, "{algorithm}: none was checked yet");
        health[0].checked(false);
        assert_eq!(seen(None), [2, 3].into(), "{algorithm}");
        health[1].checked(false);
        assert_eq!(
            seen(Some(3)),
            [3].into(),
            "{algorithm}: a retry goes to the same one rather than to one that is ill"
        );
        health[2].checked(false);
        assert_eq!(seen(None).len(), 3, "{algorithm}: none is well, so all are used");
    }
}

#[test]
fn a_retry_goes_to_a_new_endpoint_rather_than_back_to_the_one_that_failed() {
    let now = Instant::now();
    for balancing in [
        serde_json::json!({"algorithm": "RoundRobin"}),
        serde_json::json!({"algorithm": "PeakEwma"}),
        serde_json::json!({"algorithm": "Hash", "hash": {"header": "x-user"}}),
    ] {
        let policy = serde_json::from_value(balancing.clone()).unwrap();
        let list = list(2, now);
        list[1].load.warm_up(Duration::from_secs(30), now);
        let endpoints = Endpoints::new(list, Some(&policy));
        let failed = ([127, 0, 0, 1], 1).into();
        for key in 0..500 {
            let chosen = endpoints.next(Some(scatter(key)), Some(failed), now, None).unwrap();
            assert_eq!(chosen.endpoint.address.port(), 2, "{balancing}");
        }
    }
}

#[test]
fn a_key_whose_many_endpoints_all_refuse_asks_each_of_them_about_once() {
    let now = Instant::now();
    let counts = Arc::new(breaker::Counts::default());
    let limits = breaker::Limits {
        force: Some(firebreak_crds::spec::Force::Open),
        ..breaker::Limits::from(&CircuitBreaker::default())
    };
    let mut list = list(400, now);
    for endpoint in &mut list {
        endpoint.breaker = Some(Breaker::new(limits, Arc::clone(&counts), now));
    }
    let policy =
        serde_json::from_value(serde_json::json!({"algorithm": "Hash", "hash": {"header": "x-user"}})).unwrap();
    let endpoints = Endpoints::new(list, Some(&policy));
    assert!(endpoints.next(Some(7), None, now, None).is_err());
    assert!((400..450).contains(&counts.refused()), "{}", counts.refused());
}

#[test]
fn an_endpoint_that_gets_nothing_does_not_spoil_the_choice_between_the_others() {
    let now = Instant::now();
    for algorithm in ["PeakEwma", "LeastRequest"] {
        let balancing = serde_json::from_value(serde_json::json!({"algorithm": algorithm})).unwrap();
        let mut list = list(3, now);
        let ill = Arc::new(Health::new(HealthCheck::default(), None));
        ill.checked(false);
        list[0].health = Some(ill);
        // The second is slow and busy, the third neither.
        list[1].load.place(now).ended(Outcome::Passed, now + Duration::from_secs(1));
        list[2].load.place(now).ended(Outcome::Passed, now + MS(5));
        let busy: Vec<_> = (0..5).map(|_| list[1].load.place(now)).collect();
        let endpoints = Endpoints::new(list, Some(&balancing));
        for _ in 0..300 {
            let chosen = endpoints.next(None, None, now + Duration::from_secs(1), None).unwrap();
            assert_eq!(chosen.endpoint.address.port(), 3, "{algorithm}");
        }
        drop(busy);
    }
}

#[test]
fn rather_one_that_is_ill_than_none_where_those_that_are_well_are_ejected() {
    let now = Instant::now();
    let mut list = list(2, now);
    let ill = Arc::new(Health::new(HealthCheck::default(), None));
    ill.checked(false);
    list[0].health = Some(ill);
    let limits = breaker::Limits { consecutive: Some(1), ..breaker::Limits::from(&CircuitBreaker::default()) };
    let breaker = Breaker::new(limits, Arc::default(), now);
    breaker.admit(now, None).unwrap().ended(Outcome::Failed, now);
    list[1].breaker = Some(breaker);
    let endpoints = Endpoints::new(list, None);
    assert_eq!(endpoints.next(None, None, now, None).unwrap().endpoint.address.port(), 1);
    let later = now + Duration::from_mins(2);
    let probed = (0..10).any(|_| endpoints.next(None, None, later, None).unwrap().endpoint.address.port() == 2);
    assert!(probed, "its time to be probed comes");
}
