use proptest::prelude::*;

use super::*;

fn hedge(parts_per_million: u32) -> Hedge {
    Hedge { after: Duration::from_millis(50), parts_per_million }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn of_a_thousand_slow_requests_exactly_the_share_is_sent_twice() {
    let now = Instant::now();
    for (parts, expected) in [(20_000, 20), (1_000, 1), (999, 0), (500_000, 500), (1_000_000, 1_000), (15_500, 15)] {
        let load = ExtraLoad::new(now);
        let sent = (0..1_000).filter(|_| {
            load.request(hedge(parts), now);
            load.take(now)
        });
        assert_eq!(sent.count(), expected, "{parts} of a million");
    }
}

#[test]
fn a_quiet_callee_gets_one_now_and_then() {
    let start = Instant::now();
    let load = ExtraLoad::new(start);
    // One request a minute: the window never holds a whole one.
    let sent = (0..200).filter(|minute| {
        let now = start + seconds(60 * minute);
        load.request(hedge(20_000), now);
        load.take(now)
    });
    assert_eq!(sent.count(), 4);
}

#[test]
fn good_times_are_not_saved_up() {
    let start = Instant::now();
    let load = ExtraLoad::new(start);
    // An hour of a hundred requests a second that are all fast: two a second might have been sent.
    for second in 0..3_600 {
        (0..100).for_each(|_| load.request(hedge(20_000), start + seconds(second)));
    }
    let now = start + seconds(3_600);
    let sent = (0..1_000).filter(|_| load.take(now)).count();
    assert!((17..=20).contains(&sent), "{sent}: what the window has added, of ten seconds less a slice");
}

#[test]
fn what_was_not_sent_is_not_lost() {
    let now = Instant::now();
    let load = ExtraLoad::new(now);
    load.request(hedge(1_000_000), now);
    assert!(load.take(now) && !load.take(now));
    load.put_back();
    assert!(load.take(now) && !load.take(now));
}

#[test]
fn a_plan_without_a_share_is_none() {
    let spec = |json| serde_json::from_str::<spec::Hedge>(json).unwrap();
    assert_eq!(Hedge::new(&spec(r#"{"after": "50ms"}"#)), Some(hedge(20_000)), "the default share");
    assert_eq!(Hedge::new(&spec(r#"{"after": "50ms", "maxExtraLoadPercent": 0}"#)), None);
    assert_eq!(Hedge::new(&spec(r#"{"maxExtraLoadPercent": 5}"#)), None);
}

#[test]
fn the_table_of_causes_is_in_order() {
    assert!(REFUSED.iter().enumerate().all(|(place, cause)| *cause as usize == place));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Request,
    Slow,
    Refused,
    Pass(u64),
}

proptest! {
    /// Whatever comes in whatever order: never more than the share of all requests so far, and never more at once than the
    /// window has added, or one.
    #[test]
    fn never_more_than_the_share(
        parts in 1u32..=1_000_000,
        steps in proptest::collection::vec(
            prop_oneof![
                4 => Just(Step::Request),
                4 => Just(Step::Slow),
                1 => Just(Step::Refused),
                1 => (0u64..20_000).prop_map(Step::Pass),
            ],
            1..500,
        ),
    ) {
        let mut now = Instant::now();
        let load = ExtraLoad::new(now);
        let (mut requests, mut sent) = (0u64, 0u64);
        for step in steps {
            match step {
                Step::Request => {
                    load.request(hedge(parts), now);
                    requests += 1;
                }
                Step::Slow => sent += u64::from(load.take(now)),
                Step::Refused => {
                    if load.take(now) {
                        load.put_back();
                    }
                }
                Step::Pass(millis) => now += Duration::from_millis(millis),
            }
            prop_assert!(sent * WHOLE <= requests * u64::from(parts), "{sent} of {requests}");
        }
    }
}
