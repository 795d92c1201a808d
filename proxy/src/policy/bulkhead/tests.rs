use super::*;

fn gate(max_connections: u32, max_requests: u32, max_pending: u32) -> Arc<Gate> {
    Gate::new(Limits { max_connections, max_requests, max_pending, max_pending_time: Duration::from_secs(1) })
}

#[tokio::test(start_paused = true)]
async fn request_201_is_refused_at_once() {
    let gate = gate(100, u32::MAX, 100);
    let held: Vec<Permit> = (0..100).map(|_| gate.try_acquire(Need::Exchange).unwrap()).collect();
    let waiting: Vec<_> = (0..100)
        .map(|_| {
            let gate = Arc::clone(&gate);
            tokio::spawn(async move { gate.acquire(Need::Exchange, None).await })
        })
        .collect();
    while gate.usage().pending < 100 {
        tokio::task::yield_now().await;
    }
    let before = Instant::now();
    assert_eq!(gate.acquire(Need::Exchange, None).await.unwrap_err(), Refused::Full);
    assert_eq!(before.elapsed(), Duration::ZERO);
    drop(held);
    for waiter in waiting {
        waiter.await.unwrap().unwrap();
    }
    assert_eq!(gate.usage(), Usage { requests: 0, connections: 0, pending: 0 });
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_by_the_queue_time_or_by_the_requests_own_end() {
    let gate = gate(1, u32::MAX, 10);
    let _held = gate.try_acquire(Need::Exchange).unwrap();
    assert_eq!(gate.acquire(Need::Exchange, None).await.unwrap_err(), Refused::TimedOut);
    let soon = Instant::now() + Duration::from_millis(5);
    assert_eq!(gate.acquire(Need::Exchange, Some(soon)).await.unwrap_err(), Refused::Deadline);
    assert_eq!(gate.usage().pending, 0);
}

#[tokio::test(start_paused = true)]
async fn who_came_first_is_let_in_first() {
    let gate = gate(1, u32::MAX, 10);
    let held = gate.try_acquire(Need::Exchange).unwrap();
    let mut first = Box::pin(gate.acquire(Need::Exchange, None));
    assert!(futures_poll(first.as_mut()).is_none());
    let mut second = Box::pin(gate.acquire(Need::Exchange, None));
    assert!(futures_poll(second.as_mut()).is_none());
    drop(held);
    assert!(gate.try_acquire(Need::Exchange).is_none(), "nobody overtakes the queue");
    let first = first.await.unwrap();
    assert!(futures_poll(second.as_mut()).is_none());
    drop(first);
    second.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_waiter_who_leaves_takes_nothing_with_it() {
    let gate = gate(1, u32::MAX, 1);
    let held = gate.try_acquire(Need::Exchange).unwrap();
    {
        let mut gone = Box::pin(gate.acquire(Need::Exchange, None));
        assert!(futures_poll(gone.as_mut()).is_none());
        drop(held);
        // Admitted, but it never looks.
    }
    assert_eq!(gate.usage(), Usage { requests: 0, connections: 0, pending: 0 });
    assert!(gate.try_acquire(Need::Exchange).is_some());
}

#[tokio::test(start_paused = true)]
async fn more_room_wakes_who_waits() {
    let gate = gate(1, u32::MAX, 10);
    let _held = gate.try_acquire(Need::Exchange).unwrap();
    let mut waiting = Box::pin(gate.acquire(Need::Exchange, None));
    assert!(futures_poll(waiting.as_mut()).is_none());
    gate.set(Limits { max_connections: 2, ..Limits::NONE });
    gate.wake();
    waiting.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_leaves_the_queue_lets_the_next_one_try() {
    let gate =
        Gate::new(Limits { max_connections: 1, max_requests: 2, max_pending: 9, max_pending_time: Duration::MAX });
    let _held = gate.try_acquire(Need::Exchange).unwrap();
    let mut stuck = Box::pin(gate.acquire(Need::Exchange, Some(Instant::now() + Duration::from_secs(1))));
    assert!(futures_poll(stuck.as_mut()).is_none());
    let mut behind = Box::pin(gate.acquire(Need::Stream, None));
    assert!(futures_poll(behind.as_mut()).is_none(), "first come, first served");
    assert_eq!(stuck.await.unwrap_err(), Refused::Deadline);
    assert!(futures_poll(behind.as_mut()).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_connection_for_those_inside_does_not_queue_behind_those_outside() {
    let gate = gate(2, 1, 9);
    let _inside = gate.try_acquire(Need::Stream).unwrap();
    let mut outside = Box::pin(gate.acquire(Need::Stream, None));
    assert!(futures_poll(outside.as_mut()).is_none());
    assert!(gate.try_acquire(Need::Shared).is_some());
}

#[test]
fn streams_share_a_connection_and_exchanges_do_not() {
    let gate = gate(2, 3, 0);
    let _shared = gate.try_acquire(Need::Shared).unwrap();
    let _exchange = gate.try_acquire(Need::Exchange).unwrap();
    assert!(gate.try_acquire(Need::Exchange).is_none(), "no lease left");
    let _streams = [gate.try_acquire(Need::Stream).unwrap(), gate.try_acquire(Need::Stream).unwrap()];
    assert!(gate.try_acquire(Need::Stream).is_none(), "no place left");
    assert_eq!(gate.usage().requests, 3, "what failed halfway took nothing");
}

#[tokio::test(start_paused = true)]
async fn an_idle_socket_makes_room_for_a_busy_one() {
    let gate = gate(1, u32::MAX, 0);
    let Room::Yes(idle) = gate.open() else { panic!("empty") };
    let closed = gate.socket_freed();
    assert!(matches!(gate.open(), Room::AfterClosingIdle));
    drop(idle);
    closed.await;
    assert!(matches!(gate.open(), Room::Yes(_)));
}

/// Many threads, a small room: never more inside than fit, and nobody is forgotten.
#[test]
fn exact_under_contention() {
    let gate = gate(3, u32::MAX, u32::MAX);
    let inside = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                for _ in 0..2_000 {
                    let permit = runtime.block_on(gate.acquire(Need::Exchange, None)).unwrap();
                    assert!(inside.fetch_add(1, SeqCst) < 3);
                    inside.fetch_sub(1, SeqCst);
                    drop(permit);
                }
            });
        }
    });
    assert_eq!(gate.usage(), Usage { requests: 0, connections: 0, pending: 0 });
}

fn futures_poll<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}
