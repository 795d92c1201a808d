//! A rate limit: a token bucket, kept as one number.
//!
//! Instead of tokens that somebody would have to fill in, it holds the moment at which the bucket will be full again (the
//! generic cell rate algorithm, ITU-T I.371). A request moves that moment by the time of one token; one that would move it
//! further ahead than the bucket is deep is refused. Workers share it without a lock, and the limit is exact.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use firebreak_crds::spec::RateLimit;
use tokio::time::Instant;

use crate::sync::AtomicU64;

/// Requests that one callee may still be sent.
#[derive(Debug)]
pub struct Rate {
    limit: RateLimit,
    /// Nanoseconds for each request.
    each: u64,
    /// How far the bucket may be from full for one more.
    depth: u64,
    began: Instant,
    /// When it is full: nanoseconds since `began`.
    full: AtomicU64,
}

impl Rate {
    /// A full bucket.
    pub fn new(limit: RateLimit, now: Instant) -> Self {
        let each = 1_000_000_000 / u64::from(limit.requests_per_second.max(1));
        let depth = each * u64::from(limit.burst().saturating_sub(1));
        Self { limit, each, depth, began: now, full: AtomicU64::new(0) }
    }

    /// What it was made of.
    pub fn limit(&self) -> RateLimit {
        self.limit
    }

    /// Takes a token.
    ///
    /// # Errors
    /// There is none; in this time there will be.
    pub fn take(&self, now: Instant) -> Result<(), Duration> {
        let now = u64::try_from(now.saturating_duration_since(self.began).as_nanos()).unwrap_or(u64::MAX);
        let taken = self.full.fetch_update(Relaxed, Relaxed, |full| {
            let full = full.max(now);
            (full - now <= self.depth).then(|| full.saturating_add(self.each))
        });
        taken.map(drop).map_err(|full| Duration::from_nanos(full.saturating_sub(now).saturating_sub(self.depth)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn rate(requests_per_second: u32, burst: Option<u32>) -> (Rate, Instant) {
        let now = Instant::now();
        (Rate::new(RateLimit { mode: None, requests_per_second, burst }, now), now)
    }

    #[test]
    fn a_burst_then_one_after_another() {
        let (rate, now) = rate(10, Some(3));
        assert_eq!([(); 3].map(|()| rate.take(now)), [Ok(()); 3]);
        assert_eq!(rate.take(now), Err(Duration::from_millis(100)));
        assert_eq!(
            rate.take(now + Duration::from_millis(40)),
            Err(Duration::from_millis(60)),
            "a refusal takes nothing"
        );
        assert_eq!(rate.take(now + Duration::from_millis(100)), Ok(()));
        assert_eq!(rate.take(now + Duration::from_millis(100)), Err(Duration::from_millis(100)));
        let later = now + Duration::from_hours(1);
        assert_eq!((0..10).filter(|_| rate.take(later).is_ok()).count(), 3, "it does not grow beyond the burst");
    }

    #[test]
    fn without_a_burst_a_seconds_worth_may_come_at_once() {
        let (rate, now) = rate(7, None);
        assert_eq!((0..100).filter(|_| rate.take(now).is_ok()).count(), 7);
    }

    #[test]
    fn threads_together_get_what_one_would() {
        let (rate, now) = rate(1, Some(1_000));
        let rate = Arc::new(rate);
        let threads = [(); 8].map(|()| {
            let rate = Arc::clone(&rate);
            std::thread::spawn(move || (0..1_000).filter(|_| rate.take(now).is_ok()).count())
        });
        assert_eq!(threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>(), 1_000);
    }

    proptest! {
        /// Over any time no more than the burst and what has come in since.
        #[test]
        fn never_more_than_the_bucket_gives(
            per_second in 1u32..5_000,
            burst in 1u32..100,
            gaps in prop::collection::vec(0u64..50_000, 1..400),
        ) {
            let (rate, start) = rate(per_second, Some(burst));
            let (mut now, mut taken) = (start, 0u64);
            for gap in gaps {
                now += Duration::from_micros(gap);
                taken += u64::from(rate.take(now).is_ok());
                let nanos = (now - start).as_nanos();
                let most = u128::from(burst) + nanos * u128::from(per_second) / 999_000_000 + 1;
                prop_assert!(u128::from(taken) <= most);
            }
        }

        /// Who waits as long as told gets in, if nobody else comes.
        #[test]
        fn the_wait_is_the_truth(per_second in 1u32..100_000, burst in 1u32..100, calls in 1usize..300) {
            let (rate, now) = rate(per_second, Some(burst));
            let wait = (0..calls).filter_map(|_| rate.take(now).err()).last();
            if let Some(wait) = wait {
                prop_assert!(rate.take(now + wait.saturating_sub(Duration::from_nanos(1))).is_err());
                prop_assert_eq!(rate.take(now + wait), Ok(()));
            }
        }
    }
}
