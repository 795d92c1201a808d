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
        [chance(0, 0, 0, 1), chance(42, 1, 7, 2), chance(u64::MAX, 7, u64::MAX, 10)],
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
