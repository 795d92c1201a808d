use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { parts_per_million: 200_000, min_per_second: 1, window: Duration::from_secs(10) };

fn spend(budget: &Budget, now: Instant) -> usize {
    (0..100_000).take_while(|_| budget.take(now)).count()
}

#[test]
fn a_fifth_of_the_requests_and_the_floor() {
    let now = Instant::now();
    let budget = Budget::new(LIMITS, now);
    (0..100).for_each(|_| budget.request(now));
    assert_eq!(spend(&budget, now), 10 + 20);
    assert!(!budget.allows(now));
}

#[test]
fn what_was_spent_comes_back_after_the_window() {
    let start = Instant::now();
    let budget = Budget::new(LIMITS, start);
    spend(&budget, start);
    assert!(!budget.allows(start + Duration::from_secs(9)));
    assert!(budget.allows(start + Duration::from_secs(10)));
}

#[test]
fn looking_spends_nothing() {
    let now = Instant::now();
    let budget = Budget::new(LIMITS, now);
    (0..1_000).for_each(|_| assert!(budget.allows(now)));
    assert_eq!(spend(&budget, now), 10);
}

#[test]
fn racing_workers_never_overspend() {
    let now = Instant::now();
    let budget = Budget::new(LIMITS, now);
    let spent: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(|| (0..1_000).filter(|_| budget.take(now)).count())).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert!(spent <= 10, "{spent}");
    assert!(spend(&budget, now) + spent == 10, "what a race refused is still there");
}

proptest! {
    /// Whatever came before: when a retry is sent, the window's retries are within the floor and the share.
    #[test]
    fn never_over_the_share(steps in prop::collection::vec((0u64..2_000, 0u32..50, 0usize..50), 1..60)) {
        let mut now = Instant::now();
        let budget = Budget::new(LIMITS, now);
        let mut history = Vec::new();
        for (pause, requests, wanted) in steps {
            now += Duration::from_millis(pause);
            (0..requests).for_each(|_| budget.request(now));
            let sent = (0..wanted).filter(|_| budget.take(now)).count();
            history.push((now, requests as usize, sent));
            // The ring forgets a slot at a time: what it may still count, and what it must.
            let within = |reach: Duration| history.iter().filter(move |(at, ..)| now - *at < reach);
            let made: usize = within(LIMITS.window).map(|(_, requests, _)| requests).sum();
            let retried: usize = within(LIMITS.window * 9 / 10).map(|(.., sent)| sent).sum();
            prop_assert!(sent == 0 || retried <= 10 + made / 5);
        }
    }
}
