use proptest::prelude::*;

use super::*;

const MS: fn(u64) -> Duration = Duration::from_millis;

fn limits() -> Limits {
    Limits {
        consecutive: Some(3),
        failures: Some(Rate { parts_per_million: 500_000, window: MS(10_000), min_requests: 10 }),
        above_others: None,
        slow: Some(Slow {
            rate: Rate { parts_per_million: 800_000, window: MS(10_000), min_requests: 10 },
            threshold: MS(100),
        }),
        open_first: MS(1_000),
        open_longest: MS(8_000),
        probes: 3,
        ramp: MS(20_000),
        first_share: 0.05,
        force: None,
    }
}

/// A breaker with a clock of its own.
struct Bench {
    breaker: Arc<Breaker>,
    counts: Arc<Counts>,
    now: Instant,
}

impl Bench {
    fn new(limits: Limits) -> Self {
        let (now, counts) = (Instant::now(), Arc::new(Counts::default()));
        Self { breaker: Breaker::new(limits, Arc::clone(&counts), now), counts, now }
    }

    fn admit(&self) -> Result<Ticket, Refused> {
        self.breaker.admit(self.now, None)
    }

    /// Sends a try that ends after `took`.
    fn send(&mut self, outcome: Outcome, took: Duration) -> bool {
        let admitted = self.admit();
        self.now += took;
        admitted.map(|ticket| ticket.ended(outcome, self.now)).is_ok()
    }

    fn fail(&mut self, times: u32) {
        (0..times).for_each(|_| assert!(self.send(Outcome::Failed, MS(1))));
    }

    fn open(limits: Limits) -> Self {
        let mut bench = Self::new(limits);
        bench.fail(3);
        assert_eq!(bench.breaker.state(), State::Open);
        bench
    }

    fn half_open(limits: Limits) -> Self {
        let mut bench = Self::open(limits);
        bench.now += limits.open_longest;
        bench
    }

    fn recovering(limits: Limits) -> Self {
        let mut bench = Self::half_open(limits);
        (0..limits.probes).for_each(|_| assert!(bench.send(Outcome::Passed, MS(1))));
        bench
    }
}

#[test]
fn failures_in_a_row_open_it_and_a_success_breaks_the_row() {
    let mut bench = Bench::new(limits());
    bench.fail(2);
    assert!(bench.send(Outcome::Passed, MS(1)));
    bench.fail(2);
    assert_eq!(bench.breaker.state(), State::Closed);
    bench.fail(1);
    assert_eq!(bench.breaker.state(), State::Open);
    assert!(!bench.send(Outcome::Passed, MS(1)));
    assert_eq!((bench.counts.entered(State::Open), bench.counts.refused()), (1, 1));
}

#[test]
fn a_share_of_failures_opens_it_once_there_are_enough_requests() {
    let mut bench = Bench::new(Limits { consecutive: None, ..limits() });
    for _ in 0..4 {
        assert!(bench.send(Outcome::Passed, MS(1)));
        bench.fail(1);
    }
    assert!(bench.send(Outcome::Passed, MS(1)));
    assert_eq!(bench.breaker.state(), State::Closed, "nine requests say nothing");
    bench.fail(1);
    assert_eq!(bench.breaker.state(), State::Open);
}

#[test]
fn slow_answers_open_it_although_none_failed() {
    let mut bench = Bench::new(limits());
    for _ in 0..9 {
        assert!(bench.send(Outcome::Passed, MS(101)));
    }
    assert_eq!(bench.breaker.state(), State::Closed);
    assert!(bench.send(Outcome::Passed, MS(101)));
    assert_eq!(bench.breaker.state(), State::Open);
}

#[test]
fn what_is_older_than_the_window_does_not_count() {
    let mut bench = Bench::new(Limits { consecutive: None, ..limits() });
    bench.fail(9);
    bench.now += MS(10_000);
    bench.fail(9);
    assert_eq!(bench.breaker.state(), State::Closed);
}

#[test]
fn it_stays_open_twice_as_long_each_time_up_to_its_limit() {
    let limits = limits();
    let mut bench = Bench::open(limits);
    for most in [1_000, 2_000, 4_000, 8_000, 8_000] {
        let Refused { retry_after } = bench.admit().unwrap_err();
        assert!(retry_after >= MS(most / 2) && retry_after <= MS(most), "{retry_after:?} of {most}");
        bench.now += retry_after;
        bench.fail(1);
    }
}

#[test]
fn there_are_never_more_probes_than_must_pass_and_the_first_is_alone() {
    let bench = Bench::half_open(limits());
    let first = bench.admit().unwrap();
    assert_eq!(bench.breaker.state(), State::HalfOpen);
    assert!(bench.admit().is_err(), "a callee that is still ill costs one request, not three");
    first.ended(Outcome::Passed, bench.now);
    let rest: Vec<_> = (0..2).map(|_| bench.admit().unwrap()).collect();
    assert!(bench.admit().is_err(), "one has passed, two are under way: that is all three");
    for probe in rest {
        probe.ended(Outcome::Passed, bench.now);
    }
    assert_eq!(bench.breaker.state(), State::Recovering);
}

#[test]
fn a_head_in_time_is_enough_for_the_other_probes_to_go() {
    let bench = Bench::half_open(limits());
    let mut stream = bench.admit().unwrap();
    assert!(bench.admit().is_err());
    stream.answered(bench.now);
    let _rest: Vec<_> = (0..2).map(|_| bench.admit().unwrap()).collect();
    assert!(bench.admit().is_err());
}

#[test]
fn a_cancelled_probe_gives_its_permit_back_without_a_verdict() {
    let bench = Bench::half_open(limits());
    for _ in 0..100 {
        drop(bench.admit().unwrap());
    }
    assert_eq!(bench.breaker.state(), State::HalfOpen);
    let probe = bench.admit().unwrap();
    assert!(bench.admit().is_err());
    drop(probe);
}

#[test]
fn a_probe_that_never_reports_has_failed_when_its_time_is_up() {
    let mut bench = Bench::half_open(limits());
    let _stuck = bench.breaker.admit(bench.now, Some(bench.now + MS(300))).unwrap();
    bench.now += MS(300);
    assert!(bench.admit().is_err());
    assert_eq!(bench.breaker.state(), State::Open);
}

#[test]
fn a_stream_whose_head_came_in_time_is_a_probe_that_passed() {
    let mut bench = Bench::half_open(Limits { probes: 1, ..limits() });
    let mut stream = bench.breaker.admit(bench.now, Some(bench.now + MS(300))).unwrap();
    bench.now += MS(50);
    stream.answered(bench.now);
    bench.now += MS(300);
    let _turns = bench.admit();
    assert_eq!(bench.breaker.state(), State::Recovering);
    stream.ended(Outcome::Failed, bench.now);
    assert_eq!(bench.breaker.state(), State::Recovering, "it was of an earlier generation by then");
}

#[test]
fn a_slow_probe_fails() {
    let mut bench = Bench::half_open(limits());
    assert!(bench.send(Outcome::Passed, MS(101)));
    assert_eq!(bench.breaker.state(), State::Open);
}

#[test]
fn late_outcomes_decide_nothing() {
    let mut bench = Bench::new(limits());
    let before: Vec<_> = (0..10).map(|_| bench.admit().unwrap()).collect();
    bench.fail(3);
    bench.now += limits().open_longest;
    let probe = bench.admit().unwrap();
    let mut before = before.into_iter();
    before.by_ref().take(5).for_each(|ticket| ticket.ended(Outcome::Passed, bench.now));
    assert_eq!(bench.breaker.state(), State::HalfOpen, "old successes do not close it");
    before.for_each(|ticket| ticket.ended(Outcome::Failed, bench.now));
    assert_eq!(bench.breaker.state(), State::HalfOpen, "old failures do not open it");
    probe.ended(Outcome::Passed, bench.now);
}

#[test]
fn a_recovery_admits_a_share_that_grows_to_everything() {
    let mut bench = Bench::recovering(limits());
    assert_eq!(bench.breaker.state(), State::Recovering);
    let began = bench.now;
    let mut shares = Vec::new();
    while bench.breaker.state() == State::Recovering {
        let admitted = (0..1_000).filter(|_| bench.send(Outcome::Passed, MS(1))).count();
        shares.push(admitted);
    }
    assert!(shares[0] >= 50 && shares[0] <= 70, "{shares:?}");
    assert!(shares.is_sorted() && shares.len() >= 15, "{shares:?}");
    let took = bench.now - began;
    assert!(took >= MS(19_000) && took <= MS(22_000), "{took:?}");
    assert!(bench.send(Outcome::Passed, MS(1)));
    assert_eq!(bench.counts.entered(State::Closed), 1);
}

#[test]
fn a_recovery_falls_back_while_the_callee_is_not_healthy() {
    let mut bench = Bench::recovering(Limits { failures: None, slow: None, ..limits() });
    let mut sent = 0;
    let mut step = |bad: bool| {
        // Two of three fail: unhealthy, but never three in a row.
        let mut outcome = || {
            sent += 1;
            if bad && sent % 3 != 0 { Outcome::Failed } else { Outcome::Passed }
        };
        let admitted = (0..1_000).filter(|_| bench.send(outcome(), MS(1))).count();
        (admitted, bench.breaker.state())
    };
    let grown = (0..10).map(|_| step(false).0).last().unwrap();
    step(true);
    let (fallen, _) = step(true);
    assert!(fallen * 3 / 2 < grown, "{fallen} of {grown}");
    let states: Vec<_> = (0..8).map(|_| step(true).1).collect();
    assert!(states.contains(&State::Open), "below its first share a recovery is none: {states:?}");
}

#[test]
fn few_requests_are_not_held_up_by_a_small_share() {
    let mut bench = Bench::recovering(limits());
    let began = bench.now;
    while bench.breaker.state() == State::Recovering {
        bench.send(Outcome::Passed, MS(1));
        bench.now += MS(5_000);
    }
    assert!(bench.now - began <= limits().ramp + MS(10_000), "{:?}", bench.now - began);
}

#[test]
fn of_many_callers_with_few_requests_a_share_gets_in_too() {
    fastrand::seed(7);
    let fleet: Vec<_> = (0..1_000).map(|_| Bench::recovering(limits())).collect();
    let admitted = fleet.iter().filter(|bench| bench.admit().is_ok()).count();
    assert!((25..=75).contains(&admitted), "a twentieth is 50, and one of each would be everything: {admitted}");
}

#[test]
fn a_share_does_not_grow_while_what_it_let_in_hangs() {
    let mut bench = Bench::recovering(limits());
    let hanging = std::iter::repeat_with(|| bench.admit().ok()).find_map(|ticket| ticket).unwrap();
    bench.now += limits().ramp * 2;
    let _ = bench.admit();
    assert_eq!(bench.breaker.state(), State::Recovering);
    drop(hanging);
    bench.now += limits().ramp * 2;
    assert!(bench.admit().is_ok());
    assert_eq!(bench.breaker.state(), State::Closed, "nothing hangs any more, and nothing went wrong");
}

#[test]
fn a_recovery_in_which_it_trips_is_over() {
    let mut bench = Bench::recovering(limits());
    while bench.breaker.state() == State::Recovering {
        bench.send(Outcome::Failed, MS(1));
    }
    assert_eq!(bench.breaker.state(), State::Open);
    let Refused { retry_after } = bench.admit().unwrap_err();
    assert!(retry_after >= MS(990), "twice as long as the first time: {retry_after:?}");
}

#[test]
fn a_recovery_that_starts_with_everything_closes_it() {
    assert_eq!(Bench::recovering(Limits { first_share: 1.0, ..limits() }).breaker.state(), State::Closed);
}

#[test]
fn by_hand_it_stays_where_it_was_put() {
    let mut open = Bench::new(Limits { force: Some(Force::Open), ..limits() });
    open.now += MS(1_000_000);
    assert!(open.admit().is_err());
    assert_eq!(open.breaker.state(), State::ForcedOpen);
    let mut closed = Bench::new(Limits { force: Some(Force::Closed), ..limits() });
    closed.fail(100);
    assert_eq!(closed.breaker.state(), State::ForcedClosed);
}

#[test]
fn other_limits_do_not_let_traffic_back_in() {
    let bench = Bench::open(limits());
    let other = bench.breaker.with(None, Limits { probes: 1, ..limits() }, bench.now);
    assert!(other.admit(bench.now, None).is_err());
    let half_open = Bench::half_open(limits());
    let ticket = half_open.admit().unwrap();
    let other = half_open.breaker.with(None, Limits { probes: 1, ..limits() }, half_open.now);
    ticket.ended(Outcome::Passed, half_open.now);
    assert!(other.admit(half_open.now, None).is_ok(), "it probes anew");
    assert_eq!(other.state(), State::HalfOpen);
    let closed = Bench::new(limits());
    assert_eq!(closed.breaker.with(None, Limits { probes: 1, ..limits() }, closed.now).state(), State::Closed);
    assert_eq!(
        other.with(None, Limits { force: Some(Force::Closed), ..limits() }, bench.now).state(),
        State::ForcedClosed
    );
}

#[test]
fn a_race_opens_it_once() {
    let bench = Bench::new(limits());
    let tickets: Vec<_> = (0..64).map(|_| bench.admit().unwrap()).collect();
    let now = bench.now;
    std::thread::scope(|scope| {
        let mut tickets = tickets.into_iter();
        for _ in 0..4 {
            let batch: Vec<_> = tickets.by_ref().take(16).collect();
            scope.spawn(move || batch.into_iter().for_each(|ticket| ticket.ended(Outcome::Failed, now)));
        }
    });
    assert_eq!((bench.breaker.state(), bench.counts.entered(State::Open)), (State::Open, 1));
}

/// What may happen to a breaker.
#[derive(Clone, Debug)]
enum Event {
    Admit,
    End { which: usize, passed: bool },
    Cancel { which: usize },
    Wait { millis: u64 },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => Just(Event::Admit),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(which, passed)| Event::End { which, passed }),
        1 => any::<usize>().prop_map(|which| Event::Cancel { which }),
        1 => (0u64..3_000).prop_map(|millis| Event::Wait { millis }),
    ]
}

proptest! {
    /// Whatever happens, there are never more probes under way than must pass, an open breaker admits nothing before its time,
    /// and none gets stuck: left alone long enough, it admits.
    #[test]
    fn it_keeps_its_promises(events in prop::collection::vec(event(), 1..400)) {
        let mut bench = Bench::new(limits());
        let mut under_way: Vec<(State, Ticket)> = Vec::new();
        let mut closed_until = None;
        for event in events {
            let which = |which: usize, len: usize| which.checked_rem(len);
            match event {
                Event::Admit => match bench.admit() {
                    Ok(ticket) => {
                        prop_assert!(closed_until.is_none_or(|until| bench.now >= until));
                        under_way.push((State::of(ticket.generation), ticket));
                    }
                    Err(refused) if bench.breaker.state() == State::Open => {
                        closed_until = Some(bench.now + refused.retry_after);
                    }
                    Err(_) => prop_assert_ne!(bench.breaker.state(), State::Closed),
                },
                Event::End { which: number, passed } => if let Some(place) = which(number, under_way.len()) {
                    let outcome = if passed { Outcome::Passed } else { Outcome::Failed };
                    under_way.swap_remove(place).1.ended(outcome, bench.now);
                },
                Event::Cancel { which: number } => if let Some(place) = which(number, under_way.len()) {
                    drop(under_way.swap_remove(place));
                },
                Event::Wait { millis } => bench.now += MS(millis),
            }
            let probes = under_way.iter().filter(|(state, ticket)| {
                *state == State::HalfOpen && ticket.generation == bench.breaker.word.load(SeqCst)
            });
            prop_assert!(probes.count() <= 3);
        }
        under_way.clear();
        bench.now += MS(1_000_000);
        let admits = (0..3).any(|_| {
            bench.now += MS(20_000);
            bench.admit().is_ok()
        });
        prop_assert!(admits, "stuck");
    }
}
