//! The limit on requests at once: never more inside than it says, nobody forgotten, nothing lost.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use firebreak_crds::spec::Concurrency;
use firebreak_loom::{
    check,
    policy::concurrency::{Limit, Place, Refused},
    sync::{AtomicU32, time_is_up},
};
use loom::{future::block_on, thread};
use tokio::time::Instant;

fn limit(max: u32, max_pending: u32) -> Arc<Limit> {
    let spec = Concurrency { max: Some(max), max_pending: Some(max_pending), ..Concurrency::default() };
    Limit::new(spec, Instant::now())
}

fn acquire(limit: &Arc<Limit>) -> Result<Place, Refused> {
    block_on(limit.acquire(None))
}

fn is_as_new(limit: &Arc<Limit>) {
    let usage = limit.usage();
    assert_eq!((usage.in_flight, usage.pending), (0, 0));
    assert!(acquire(limit).is_ok(), "a place is lost");
}

/// Whoever is not woken up would wait for ever, which loom tells.
#[test]
fn no_more_inside_than_fit_and_everyone_gets_in() {
    check(|| {
        let limit = limit(1, 9);
        let inside = Arc::new(AtomicU32::new(0));
        let call = {
            let limit = Arc::clone(&limit);
            move || {
                let place = acquire(&limit).unwrap();
                assert_eq!(inside.fetch_add(1, SeqCst), 0, "two in the room of one");
                inside.fetch_sub(1, SeqCst);
                drop(place);
            }
        };
        let other = thread::spawn(call.clone());
        call();
        other.join().unwrap();
        is_as_new(&limit);
    });
}

#[test]
fn who_makes_room_for_another_is_told() {
    check(|| {
        let limit = limit(1, 1);
        let held = acquire(&limit).unwrap();
        let others = [(); 2].map(|()| {
            let limit = Arc::clone(&limit);
            thread::spawn(move || acquire(&limit).map(drop))
        });
        drop(held);
        let refused = others.into_iter().map(|other| other.join().unwrap()).filter(Result::is_err).count();
        assert!(refused <= 1, "one of the two may wait");
        is_as_new(&limit);
    });
}

#[test]
fn an_admission_that_crosses_the_end_of_the_wait_is_not_lost() {
    check(|| {
        let limit = limit(1, 1);
        let held = acquire(&limit).unwrap();
        let waits = {
            let limit = Arc::clone(&limit);
            thread::spawn(move || acquire(&limit).map(drop))
        };
        let ends = thread::spawn(time_is_up);
        drop(held);
        let _ = waits.join().unwrap();
        ends.join().unwrap();
        is_as_new(&limit);
    });
}

/// What two measure at once is in one window or the next, and the limit stays within its bounds.
#[test]
fn no_measurement_is_lost() {
    check(|| {
        let limit = limit(2, 0);
        let answered = |limit: &Arc<Limit>| {
            let mut place = acquire(limit).unwrap();
            place.answered(Instant::now() + Duration::from_secs(2));
        };
        let other = {
            let limit = Arc::clone(&limit);
            thread::spawn(move || answered(&limit))
        };
        answered(&limit);
        other.join().unwrap();
        let usage = limit.usage();
        assert!(usage.limit == 2 && usage.takes >= Duration::from_secs(1), "{usage:?}");
        is_as_new(&limit);
    });
}

/// A larger limit that comes while somebody begins to wait lets him in; what is under way counts in it.
#[test]
fn who_waits_is_told_of_other_bounds() {
    check(|| {
        let limit = limit(1, 9);
        let held = acquire(&limit).unwrap();
        let other = {
            let limit = Arc::clone(&limit);
            thread::spawn(move || drop(acquire(&limit).unwrap()))
        };
        limit.set(Concurrency { min: Some(2), max: Some(2), max_pending: Some(9), ..Concurrency::default() });
        other.join().unwrap();
        assert_eq!(limit.usage().in_flight, 1);
        drop(held);
        is_as_new(&limit);
    });
}
