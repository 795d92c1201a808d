//! Counts without a lock: windows, the retry budget, the rate limit, what is under way at an endpoint, and what is under a fault.

use std::{sync::Arc, time::Duration};

use firebreak_crds::spec::RateLimit;
use firebreak_loom::{
    check,
    policy::{
        balance::load::Load,
        breaker::Outcome,
        budget::{self, Budget},
        fault::active::Active,
        rate::Rate,
        window::Window,
    },
};
use loom::thread;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);
/// One slice of a window of a second.
const SLICE: Duration = Duration::from_millis(100);

/// Runs the same in two threads, each with its number, and gives what both returned.
fn twice<T: 'static>(run: impl Fn(u32) -> T + Clone + 'static) -> [T; 2] {
    let other = {
        let run = run.clone();
        thread::spawn(move || run(1))
    };
    let one = run(0);
    [one, other.join().unwrap()]
}

#[test]
fn nothing_is_lost_when_a_slot_turns() {
    check(|| {
        let start = Instant::now();
        let window = Arc::new(Window::<1>::new(SECOND, start));
        window.add(window.turn(start), 0, 5);
        let turn = window.turn(start + SECOND);
        twice({
            let window = Arc::clone(&window);
            move |_| window.add(turn, 0, 1)
        });
        assert_eq!(window.sum(turn, 0), 2);
    });
}

#[test]
fn who_comes_a_whole_window_late_takes_nothing_from_who_came_in_time() {
    check(|| {
        let start = Instant::now();
        let window = Arc::new(Window::<1>::new(SECOND, start));
        let now = window.turn(start + SECOND);
        twice({
            let window = Arc::clone(&window);
            move |thread| window.add(window.turn(start + SECOND * thread), 0, 1)
        });
        assert_eq!(window.sum(now, 0), 1);
    });
}

#[test]
fn a_sum_holds_what_its_parts_hold_when_one_is_taken_out_meanwhile() {
    check(|| {
        let start = Instant::now();
        let sum = Arc::new(Window::<1>::new(SECOND, start));
        let (part, turn) = (Arc::new(sum.like()), sum.turn(start));
        part.add_with(&sum, turn, 0, 2);
        twice({
            let (part, sum) = (Arc::clone(&part), Arc::clone(&sum));
            move |thread| if thread == 0 { part.take_out_of(&sum) } else { part.add_with(&sum, turn, 0, 1) }
        });
        assert_eq!(sum.sum(turn, 0), part.sum(turn, 0));
    });
}

fn budget(parts_per_million: u32, min_per_second: u32, now: Instant) -> Arc<Budget> {
    Arc::new(Budget::new(budget::Limits { parts_per_million, min_per_second, window: SECOND }, now))
}

/// How many of two threads got a retry, each so many slices after the start.
fn taken(budget: &Arc<Budget>, start: Instant, slices: [u32; 2]) -> usize {
    let budget = Arc::clone(budget);
    let got = twice(move |thread| budget.take(start + SLICE * slices[thread as usize]));
    got.into_iter().filter(|got| *got).count()
}

#[test]
fn no_retry_beyond_the_budget_in_one_slice_or_across_two() {
    for slices in [[0, 0], [0, 1]] {
        check(move || {
            let start = Instant::now();
            let budget = budget(0, 1, start);
            assert!(taken(&budget, start, slices) <= 1, "one was left");
        });
    }
}

#[test]
fn a_refused_retry_gives_back_what_it_took_and_no_more() {
    check(|| {
        let start = Instant::now();
        let budget = budget(0, 2, start);
        assert!(budget.take(start));
        assert!(taken(&budget, start, [0, 0]) <= 1, "one was left");
        let later = (0..9).filter(|_| budget.take(start)).count();
        assert!(later <= 1 && !budget.allows(start), "{later}");
    });
}

#[test]
fn every_request_earns_its_part_of_a_retry() {
    check(|| {
        let start = Instant::now();
        let budget = budget(500_000, 0, start);
        twice({
            let budget = Arc::clone(&budget);
            move |_| budget.request(start)
        });
        assert_eq!([(); 2].map(|()| budget.take(start)), [true, false]);
    });
}

#[test]
fn a_rate_limit_gives_a_burst_and_no_more() {
    check(|| {
        let start = Instant::now();
        let rate = Arc::new(Rate::new(RateLimit { mode: None, requests_per_second: 10, burst: Some(2) }, start));
        let got = twice({
            let rate = Arc::clone(&rate);
            move |_| [(); 2].map(|()| rate.take(start).is_ok())
        });
        assert_eq!(got.as_flattened().iter().filter(|got| **got).count(), 2);
        assert_eq!([(); 2].map(|()| rate.take(start + SLICE).is_ok()), [true, false], "a tenth of a second is a token");
    });
}

#[test]
fn what_is_under_way_is_counted_and_a_peak_is_not_lost() {
    check(|| {
        let start = Instant::now();
        let load = Load::new(start);
        twice({
            let load = Arc::clone(&load);
            move |thread| {
                let took = SLICE * (1 + thread * 9);
                load.place(start).ended(Outcome::Passed, start + took);
            }
        });
        assert_eq!(load.outstanding(), 0);
        let cost = load.cost(start + SECOND);
        // Whichever came first: with the slow answer last it counts as a peak, with the fast one last it is a little less.
        assert!((0.5..=1.0).contains(&cost), "{cost}");
    });
}

#[test]
fn a_fault_hits_as_many_requests_at_once_as_it_may_and_no_more() {
    for most in [1, 2] {
        check(move || {
            let active = Arc::new(Active::default());
            let held = twice({
                let active = Arc::clone(&active);
                move |_| active.take(most)
            });
            let hit = held.iter().flatten().count();
            assert_eq!(hit, most as usize, "nobody is spared while there is a place");
            assert_eq!((active.requests(), active.spared()), (most, 2 - u64::from(most)));
        });
    }
}

#[test]
fn a_place_under_a_fault_that_is_given_back_is_free_for_one_more() {
    check(|| {
        let active = Arc::new(Active::default());
        let hit = twice({
            let active = Arc::clone(&active);
            // The second may be hit whether the other thread's place is taken, free again, or not taken yet.
            move |_| [(); 2].map(|()| active.take(1).is_some())
        });
        let hit = hit.as_flattened().iter().filter(|hit| **hit).count();
        assert!(hit >= 2, "one of the threads comes last, and one first: {hit}");
        assert_eq!((active.requests(), active.spared()), (0, 4 - hit as u64));
        assert!(active.take(1).is_some() && active.take(1).is_some(), "each was given back");
    });
}
