//! The bulkhead: never more inside than fit, nobody forgotten, nothing lost.

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering::SeqCst},
    task::{Context, Waker},
    time::Duration,
};

use firebreak_loom::{
    check,
    policy::bulkhead::{Gate, Limits, Need, Refused, Room, Usage},
    sync::{AtomicU32, time_is_up},
};
use loom::{future::block_on, thread};

fn gate(max_connections: u32, max_requests: u32, max_pending: u32) -> Arc<Gate> {
    Gate::new(Limits { max_connections, max_requests, max_pending, max_pending_time: Duration::MAX })
}

fn acquire(gate: &Arc<Gate>, need: Need) -> Result<firebreak_loom::policy::bulkhead::Permit, Refused> {
    block_on(gate.acquire(need, None))
}

/// Nothing is in use, and what was there to be had is there again.
fn is_as_new(gate: &Arc<Gate>) {
    assert_eq!(gate.usage(), Usage::default());
    assert!(gate.try_acquire(Need::Exchange).is_some(), "a place or a lease is lost");
}

/// Whoever is not woken up would wait for ever, which loom tells.
#[test]
fn no_more_inside_than_fit_and_everyone_gets_in() {
    check(|| {
        let gate = gate(1, 1, 9);
        let inside = Arc::new(AtomicU32::new(0));
        let call = {
            let gate = Arc::clone(&gate);
            move || {
                let permit = acquire(&gate, Need::Exchange).unwrap();
                assert_eq!(inside.fetch_add(1, SeqCst), 0, "two in the room of one");
                inside.fetch_sub(1, SeqCst);
                drop(permit);
            }
        };
        let other = thread::spawn(call.clone());
        call();
        other.join().unwrap();
        is_as_new(&gate);
    });
}

#[test]
fn of_three_no_one_is_forgotten() {
    check(|| {
        let gate = gate(u32::MAX, 1, 9);
        let held = gate.try_acquire(Need::Stream).unwrap();
        let others = [(); 2].map(|()| {
            let gate = Arc::clone(&gate);
            thread::spawn(move || drop(acquire(&gate, Need::Stream).unwrap()))
        });
        drop(held);
        for other in others {
            other.join().unwrap();
        }
        is_as_new(&gate);
    });
}

#[test]
fn who_finds_no_lease_keeps_nobody_from_a_place() {
    check(|| {
        let gate = gate(1, 1, 1);
        let shared = gate.try_acquire(Need::Shared).unwrap();
        let exchange = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || drop(acquire(&gate, Need::Exchange)))
        };
        // There is a place for a stream all the time; it is refused only if the exchange waits before it.
        drop(acquire(&gate, Need::Stream));
        drop(shared);
        exchange.join().unwrap();
        is_as_new(&gate);
    });
}

#[test]
fn an_admission_that_crosses_the_end_of_the_wait_is_not_lost() {
    check(|| {
        let gate = gate(1, 1, 1);
        let held = gate.try_acquire(Need::Exchange).unwrap();
        let waiter = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || match acquire(&gate, Need::Exchange) {
                Ok(permit) => drop(permit),
                Err(refused) => assert_eq!(refused, Refused::TimedOut),
            })
        };
        let clock = thread::spawn(time_is_up);
        drop(held);
        waiter.join().unwrap();
        clock.join().unwrap();
        is_as_new(&gate);
    });
}

#[test]
fn who_leaves_while_it_is_let_in_lets_the_next_one_in() {
    check(|| {
        let gate = gate(1, 1, 9);
        let held = gate.try_acquire(Need::Exchange).unwrap();
        let leaves = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                let mut wait = Box::pin(gate.acquire(Need::Exchange, None));
                let _ = wait.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            })
        };
        let stays = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || drop(acquire(&gate, Need::Exchange).unwrap()))
        };
        drop(held);
        leaves.join().unwrap();
        stays.join().unwrap();
        is_as_new(&gate);
    });
}

#[test]
fn more_room_is_noticed_by_who_is_about_to_wait() {
    check(|| {
        let gate = gate(1, 1, 9);
        let held = gate.try_acquire(Need::Exchange).unwrap();
        let waiter = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || drop(acquire(&gate, Need::Exchange).unwrap()))
        };
        gate.set(Limits { max_pending: 9, ..Limits::NONE });
        gate.wake();
        waiter.join().unwrap();
        drop(held);
        is_as_new(&gate);
    });
}

#[test]
fn a_socket_that_is_closed_is_noticed_by_who_is_about_to_wait_for_it() {
    check(|| {
        let gate = gate(1, 1, 9);
        let Room::Yes(open) = gate.open() else { panic!("nothing is open") };
        let opener = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                loop {
                    let freed = pin!(gate.socket_freed());
                    match gate.open() {
                        Room::Yes(opened) => break drop(opened),
                        Room::AfterClosingIdle => block_on(freed),
                    }
                }
            })
        };
        drop(open);
        opener.join().unwrap();
        assert_eq!(gate.usage().connections, 0);
    });
}
