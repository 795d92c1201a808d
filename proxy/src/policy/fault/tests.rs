use super::*;

fn set(json: &str) -> FaultSet {
    let fault: wire::Fault = serde_json::from_str(json).unwrap();
    FaultSet::new("shop/test", &fault, Arc::default(), Instant::now())
}

fn talk() -> FaultSet {
    set(r#"{"faults":[{"delay":{"percent":50,"fixed":"20s"}},{"abort":{"percent":20,"httpStatus":503}}],
        "seed":42,"expiresAt":"2100-01-01T00:00:00Z","duration":"10m"}"#)
}

#[test]
fn half_are_late_and_a_fifth_are_aborted_independently() {
    let faults = talk();
    let hits: Vec<Hit> = (0..100_000u64).map(|id| faults.draw(id_hash(&id.to_be_bytes()), 1)).collect();
    let share = |condition: fn(&&Hit) -> bool| hits.iter().filter(condition).count();
    // Five standard deviations of the binomial: 158, 127, 95.
    assert!(share(|hit| hit.delay.is_some()).abs_diff(50_000) < 5 * 158);
    assert!(share(|hit| hit.abort.is_some()).abs_diff(20_000) < 5 * 127);
    assert!(share(|hit| hit.delay.is_some() && hit.abort.is_some()).abs_diff(10_000) < 5 * 95);
}

#[test]
fn the_same_run_hits_the_same_tries() {
    let draw = |seed: u64| {
        let faults = FaultSet { seed, ..talk() };
        (0..1_000u64).map(|id| (1..4).map(|attempt| faults.draw(id, attempt)).collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    assert_eq!(draw(42), draw(42));
    assert_ne!(draw(42), draw(43));
}

#[test]
fn tries_of_one_request_are_drawn_apart() {
    let faults = talk();
    let differ = (0..1_000u64).filter(|id| faults.draw(*id, 1) != faults.draw(*id, 2)).count();
    assert!(differ > 400, "{differ}");
}

/// Written down so that a new version hits what the old one hit.
#[test]
fn the_draw_never_changes() {
    // FNV's own test vector.
    assert_eq!(id_hash(b"foobar"), 0x8594_4171_f739_67e8);
    assert_eq!(
        [word(0, 0, 0, 1), word(42, 1, 7, 2), word(u64::MAX, 7, u64::MAX, 10)].map(chance),
        [258_265, 497_697, 743_234]
    );
}

#[tokio::test(start_paused = true)]
async fn it_ends_by_either_clock() {
    let now = Instant::now();
    assert!(talk().active(now));
    assert!(!talk().active(now + Duration::from_secs(601)), "the wall clock may stand still");
    let past = set(r#"{"faults":[],"expiresAt":"2020-01-01T00:00:00Z","duration":"24h"}"#);
    assert!(!past.active(now));
}

fn delays(form: &str, count: u64) -> Vec<Duration> {
    let faults = set(&format!(
        r#"{{"faults":[{{"delay":{{"percent":100,{form}}}}}],"seed":7,"expiresAt":"2100-01-01T00:00:00Z","duration":"10m"}}"#
    ));
    let mut delays: Vec<_> =
        (0..count).map(|id| faults.draw(id_hash(&id.to_be_bytes()), 1).delay.unwrap_or_default()).collect();
    delays.sort();
    delays
}

#[test]
fn a_range_is_drawn_evenly() {
    let drawn = delays(r#""min":"100ms","max":"300ms""#, 100_000);
    let millis = |place: usize| drawn[place].as_secs_f64() * 1_000.0;
    assert!(drawn[0] >= Duration::from_millis(100) && drawn[99_999] <= Duration::from_millis(300));
    // A quantile of 100,000 even numbers is off by less than 0.2 % of the range, five times out of six; five times that is 2 ms.
    for (place, expected) in [(25_000, 150.0), (50_000, 200.0), (75_000, 250.0)] {
        assert!((millis(place) - expected).abs() < 2.0, "{place}: {} instead of {expected}", millis(place));
    }
    assert_eq!(delays(r#""min":"5ms","max":"5ms""#, 10), [Duration::from_millis(5); 10]);
}

#[test]
fn a_spread_has_the_percentiles_that_were_asked_for() {
    let drawn = delays(r#""p50":"100ms","p99":"2s""#, 200_000);
    let seconds = |place: usize| drawn[place].as_secs_f64();
    assert!((seconds(100_000) / 0.1 - 1.0).abs() < 0.02, "{}", seconds(100_000));
    assert!((seconds(198_000) / 2.0 - 1.0).abs() < 0.1, "{}", seconds(198_000));
    // Log-normal: as far below the median as above it, by factor.
    assert!((seconds(2_000) / 0.005 - 1.0).abs() < 0.1, "{}", seconds(2_000));
    assert_eq!(delays(r#""p50":"1s","p99":"1s""#, 10), [Duration::from_secs(1); 10]);
}

#[test]
fn no_delay_is_longer_than_ten_times_its_99th_percentile() {
    let drawn = delays(r#""p50":"1ms","p99":"24h""#, 200_000);
    assert_eq!(drawn[199_999], Duration::from_hours(240));
    assert!(drawn[150_000] < Duration::from_hours(24));
}

#[test]
fn the_same_run_is_late_by_the_same_time() {
    for form in [r#""min":"1ms","max":"1h""#, r#""p50":"1s","p99":"1h""#] {
        let drawn = delays(form, 1_000);
        assert_eq!(drawn, delays(form, 1_000));
        let mut different = drawn.clone();
        different.dedup();
        assert!(different.len() > 990, "{}", different.len());
    }
}

/// A length must not follow from whether there is a delay: of the tries that a small share hits, half are longer than the median.
#[test]
fn a_length_does_not_follow_from_the_odds() {
    let faults = set(
        r#"{"faults":[{"delay":{"percent":5,"min":"1ms","max":"1001ms"}}],"expiresAt":"2100-01-01T00:00:00Z","duration":"10m"}"#,
    );
    let drawn: Vec<_> = (0..100_000u64).filter_map(|id| faults.draw(id_hash(&id.to_be_bytes()), 1).delay).collect();
    let long = drawn.iter().filter(|delay| **delay > Duration::from_millis(501)).count();
    // Five standard deviations of about 5,000 throws of a coin.
    assert!(long.abs_diff(drawn.len() / 2) < 5 * 36, "{long} of {}", drawn.len());
}
