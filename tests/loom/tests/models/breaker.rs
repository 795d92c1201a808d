//! The breaker: one opening, no more probes than permits, no decision by what is over, and seats for half.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use firebreak_loom::{
    check,
    policy::breaker::{Breaker, Counts, Limits, Outcome, Peers, Rate, State, Ticket},
    sync::AtomicU32,
};
use loom::thread;
use tokio::time::Instant;

const OPEN: Duration = Duration::from_secs(1);

/// It opens at the second failure in a row, and one probe closes it.
const LIMITS: Limits = Limits {
    consecutive: Some(2),
    failures: None,
    above_others: None,
    slow: None,
    open_first: OPEN,
    open_longest: OPEN,
    probes: 1,
    ramp: Duration::from_secs(20),
    first_share: 1.0,
    force: None,
};

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

    fn admit(&self) -> Ticket {
        self.breaker.admit(self.now, None).unwrap()
    }

    fn fail(&self) {
        self.admit().ended(Outcome::Failed, self.now);
    }

    /// It was opened, and would probe now.
    fn half_open(limits: Limits) -> Self {
        let mut bench = Self::new(limits);
        bench.fail();
        bench.fail();
        bench.now += OPEN;
        bench
    }
}

fn fails(ticket: Ticket, now: Instant) -> thread::JoinHandle<()> {
    thread::spawn(move || ticket.ended(Outcome::Failed, now))
}

#[test]
fn a_race_of_failures_opens_it_once() {
    let share = Rate { parts_per_million: 1_000_000, window: Duration::from_secs(1), min_requests: 2 };
    let by_share = Limits { consecutive: None, failures: Some(share), ..LIMITS };
    for limits in [LIMITS, by_share] {
        check(move || {
            let bench = Bench::new(limits);
            let (one, other) = (bench.admit(), bench.admit());
            let racer = fails(one, bench.now);
            other.ended(Outcome::Failed, bench.now);
            racer.join().unwrap();
            assert_eq!((bench.breaker.state(), bench.counts.entered(State::Open)), (State::Open, 1));
        });
    }
}

#[test]
fn no_more_probes_than_permits() {
    check(|| {
        let bench = Bench::half_open(LIMITS);
        let under_way = Arc::new(AtomicU32::new(0));
        let (breaker, now) = (Arc::clone(&bench.breaker), bench.now);
        let probe = move || {
            if let Ok(ticket) = breaker.admit(now, None) {
                assert_eq!(under_way.fetch_add(1, SeqCst), 0, "two probes with one permit");
                under_way.fetch_sub(1, SeqCst);
                drop(ticket);
            }
        };
        let other = thread::spawn(probe.clone());
        probe();
        other.join().unwrap();
        assert_eq!(bench.breaker.state(), State::HalfOpen, "what was given up decides nothing");
        assert!(bench.breaker.admit(bench.now, None).is_ok(), "a permit is lost");
    });
}

#[test]
fn what_was_sent_before_it_opened_decides_nothing_after_it_closed() {
    check(|| {
        let mut bench = Bench::new(LIMITS);
        let old = bench.admit();
        let racer = fails(old, bench.now);
        for sent in 0.. {
            if bench.breaker.state() != State::Closed {
                break;
            }
            if sent >= 2 {
                // The other one is about to open it, and nothing counts any more.
                thread::yield_now();
            }
            if let Ok(ticket) = bench.breaker.admit(bench.now, None) {
                ticket.ended(Outcome::Failed, bench.now);
            }
        }
        bench.now += OPEN;
        bench.admit().ended(Outcome::Passed, bench.now);
        assert_eq!(bench.breaker.state(), State::Closed);
        bench.fail();
        racer.join().unwrap();
        assert_eq!(bench.breaker.state(), State::Closed, "one failure is not two in a row");
        bench.fail();
        assert_eq!(bench.breaker.state(), State::Open);
    });
}

#[test]
fn a_probe_and_an_old_failure_leave_the_word_to_the_probe() {
    check(|| {
        let mut bench = Bench::new(LIMITS);
        let old = bench.admit();
        bench.fail();
        bench.fail();
        bench.now += OPEN;
        let probe = bench.admit();
        let racer = fails(old, bench.now);
        probe.ended(Outcome::Passed, bench.now);
        racer.join().unwrap();
        assert_eq!((bench.breaker.state(), bench.counts.entered(State::Open)), (State::Closed, 1));
    });
}

/// Two breakers of one callee, of which each opens at its first failure.
fn pair() -> (Arc<Peers>, [Bench; 2]) {
    let (now, counts) = (Instant::now(), Arc::new(Counts::default()));
    let peers = Peers::new(None, now);
    peers.count(2);
    let limits = Limits { consecutive: Some(1), ..LIMITS };
    let bench = || {
        let (counts, peers) = (Arc::clone(&counts), Some(Arc::clone(&peers)));
        Bench { breaker: Breaker::among(peers, limits, Arc::clone(&counts), now), counts, now }
    };
    let both = [bench(), bench()];
    (peers, both)
}

#[test]
fn of_two_that_fail_together_one_stays() {
    check(|| {
        let (_, both) = pair();
        let racer = fails(both[0].admit(), both[0].now);
        both[1].fail();
        racer.join().unwrap();
        let open = both.iter().filter(|bench| bench.breaker.state() == State::Open).count();
        assert_eq!((open, both[0].counts.kept_in()), (1, 1));
    });
}

#[test]
fn who_is_retired_while_it_opens_leaves_its_seat() {
    check(|| {
        let (_, [gone, other]) = pair();
        let racer = fails(gone.admit(), gone.now);
        gone.breaker.retire(gone.now);
        racer.join().unwrap();
        other.fail();
        assert_eq!(other.breaker.state(), State::Open, "its seat is lost");
    });
}

#[test]
fn no_more_are_out_than_may_be_when_endpoints_leave_meanwhile() {
    check(|| {
        let (peers, [one, _]) = pair();
        let racer = fails(one.admit(), one.now);
        peers.count(1);
        peers.settle([&*one.breaker].into_iter(), one.now);
        racer.join().unwrap();
        assert_eq!(one.breaker.state(), State::Closed, "the last one stays");
    });
}
