use super::*;

fn limit(spec: serde_json::Value) -> Arc<Limit> {
    Limit::new(serde_json::from_value(spec).unwrap(), Instant::now())
}

async fn holding(limit: &Arc<Limit>, count: u32) -> Vec<Place> {
    let mut places = Vec::new();
    for _ in 0..count {
        places.push(limit.acquire(None).await.unwrap());
    }
    places
}

#[tokio::test(start_paused = true)]
async fn who_finds_no_room_waits_so_long_and_no_longer() {
    let limit = limit(serde_json::json!({"max": 2, "maxPendingTime": "50ms", "maxPending": 1}));
    let held = holding(&limit, 2).await;
    let began = Instant::now();
    let waits = tokio::spawn({
        let limit = Arc::clone(&limit);
        async move { limit.acquire(None).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(limit.usage().pending, 1);
    assert_eq!(waits.await.unwrap().unwrap_err(), Refused::TimedOut);
    assert_eq!(Instant::now() - began, Duration::from_millis(50));
    let soon = Some(Instant::now() + Duration::from_millis(10));
    assert_eq!(limit.acquire(soon).await.unwrap_err(), Refused::Deadline);
    assert_eq!(REFUSED.map(|cause| limit.refused(cause)), [0, 1, 1]);
    drop(held);
    assert_eq!((limit.usage().in_flight, limit.usage().pending), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_nearest_deadline_is_next_and_the_newest_takes_the_oldests_place() {
    let limit = limit(serde_json::json!({"max": 1, "maxPendingTime": "1s", "maxPending": 2}));
    let held = holding(&limit, 1).await;
    let start = |deadline: Option<u64>| {
        let (limit, deadline) = (Arc::clone(&limit), deadline.map(|it| Instant::now() + Duration::from_millis(it)));
        tokio::spawn(async move { limit.acquire(deadline).await })
    };
    let (old, new) = (start(None), start(None));
    tokio::task::yield_now().await;
    let soon = start(Some(500));
    assert_eq!(old.await.unwrap().unwrap_err(), Refused::Full);
    drop(held);
    let soon = soon.await.unwrap().unwrap();
    assert!(!new.is_finished());
    drop(soon);
    assert!(new.await.unwrap().is_ok());
    assert_eq!(limit.usage().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn it_moves_with_what_requests_take_and_keeps_what_it_knows_within_other_bounds() {
    let limit = limit(serde_json::json!({"initial": 10}));
    for _ in 0..10 {
        let mut places = holding(&limit, 10).await;
        tokio::time::advance(Duration::from_millis(10)).await;
        for place in &mut places {
            place.answered(Instant::now());
        }
    }
    let usage = limit.usage();
    assert!(usage.limit > 10, "{usage:?}");
    assert_eq!(usage.takes, Duration::from_millis(10));
    limit.set(serde_json::from_value(serde_json::json!({"max": 5})).unwrap());
    assert_eq!((limit.usage().limit, limit.usage().takes), (5, usage.takes));
}

#[tokio::test(start_paused = true)]
async fn other_bounds_let_in_nobody_for_whom_what_is_under_way_leaves_no_room_and_at_once_whoever_has_some() {
    let set = |limit: &Arc<Limit>, spec| limit.set(serde_json::from_value(spec).unwrap());
    let limit = limit(serde_json::json!({"max": 3, "maxPending": 0}));
    let mut held = holding(&limit, 3).await;
    set(&limit, serde_json::json!({"max": 2, "maxPending": 1, "maxPendingTime": "1h"}));
    held.pop();
    assert_eq!((limit.usage().limit, limit.usage().in_flight), (2, 2), "what was let in before counts");
    let waits = tokio::spawn({
        let limit = Arc::clone(&limit);
        async move { limit.acquire(None).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(limit.usage().pending, 1);
    set(&limit, serde_json::json!({"min": 3, "max": 3, "maxPending": 0}));
    let place = waits.await.unwrap().unwrap();
    assert_eq!(limit.usage().in_flight, 3);
    assert_eq!(limit.acquire(None).await.unwrap_err(), Refused::Full);
    drop((held, place));
    assert_eq!((limit.usage().in_flight, limit.usage().pending), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_window_with_few_requests_ends_by_time_and_an_early_departure_says_nothing() {
    let limit = limit(serde_json::json!({"initial": 4}));
    let mut places = holding(&limit, 4).await;
    tokio::time::advance(Duration::from_secs(2)).await;
    for place in &mut places {
        place.overloaded(Instant::now());
        place.answered(Instant::now());
    }
    assert_eq!(limit.usage().takes, Duration::ZERO, "what is told once is not told again");
    drop(places);
    let mut place = limit.acquire(None).await.unwrap();
    tokio::time::advance(Duration::from_secs(2)).await;
    place.answered(Instant::now());
    assert_eq!(limit.usage().takes, Duration::from_secs(2));
    let mut early = limit.acquire(None).await.unwrap();
    tokio::time::advance(Duration::from_millis(1_500)).await;
    early.left(Instant::now());
    let mut late = limit.acquire(None).await.unwrap();
    tokio::time::advance(Duration::from_secs(3)).await;
    late.left(Instant::now());
    assert_eq!(limit.usage().takes, Duration::from_secs(3));
}
