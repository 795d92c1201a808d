//! How long a callee lets a connection be idle before it closes it, learned from the connections that it closed.
//!
//! Servers do not say it, and a request that is sent just when its connection is closed is lost if it must not be sent twice. A
//! restart closes idle connections too, whatever their idle time; so a time is believed when it was seen again and again, at moments
//! that lie apart: connections that were closed at once were closed by one event. What is believed is forgotten after a while, because
//! connections that are given up in time teach nothing. Closings are rare, so the state of the learning may have a lock; a request
//! reads one number.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Idle times below this are not a server's setting.
pub const SHORTEST: Duration = Duration::from_millis(500);

/// How often an idle time must have been seen.
pub const SEEN: u32 = 3;

/// After how long it is forgotten.
pub const FORGOTTEN: Duration = Duration::from_mins(10);

/// Closings that are nearer to each other are one event.
const APART: Duration = Duration::from_secs(1);

/// What is known of a callee.
#[derive(Debug)]
pub struct KeepAlive {
    began: Instant,
    /// Milliseconds; 0 while nothing is known.
    known: AtomicU64,
    /// Until when that is believed: milliseconds since `began`.
    until: AtomicU64,
    seen: Mutex<Seen>,
}

/// The idle time that was seen last, and how often.
#[derive(Debug, Default)]
struct Seen {
    idle: Duration,
    times: u32,
    last: Option<Instant>,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self { began: Instant::now(), known: AtomicU64::new(0), until: AtomicU64::new(0), seen: Mutex::default() }
    }
}

impl KeepAlive {
    /// The callee closed a connection that had been idle for so long.
    pub fn closed(&self, idle: Duration, now: Instant) {
        if idle < SHORTEST {
            return;
        }
        let mut seen = self.seen.lock();
        let agrees = seen.times > 0 && idle.abs_diff(seen.idle) <= idle.max(seen.idle) / 10;
        if seen.last.is_some_and(|last| now.saturating_duration_since(last) < APART) {
            if agrees {
                seen.idle = seen.idle.min(idle);
            }
            return;
        }
        let before = if agrees { (seen.times, seen.idle) } else { (0, idle) };
        *seen = Seen { idle: before.1.min(idle), times: before.0.saturating_add(1), last: Some(now) };
        if seen.times >= SEEN {
            self.known.store(millis(seen.idle), Relaxed);
            self.until.store(millis(now.saturating_duration_since(self.began) + FORGOTTEN), Relaxed);
        }
    }

    /// After how long the callee closes an idle connection, as far as is known.
    pub fn known(&self, now: Instant) -> Option<Duration> {
        let known = self.known.load(Relaxed);
        let believed = known > 0 && millis(now.saturating_duration_since(self.began)) < self.until.load(Relaxed);
        believed.then(|| Duration::from_millis(known))
    }

    /// How long a connection may have been idle and still be used: four fifths of what is known.
    pub fn usable(&self, now: Instant) -> Option<Duration> {
        self.known(now).map(|known| known * 4 / 5)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_time_that_is_seen_again_and_again_is_believed_for_a_while() {
        let (keep_alive, begin) = (KeepAlive::default(), Instant::now());
        for (second, idle) in [(0, 2010), (5, 2000), (9, 2040)] {
            let now = begin + Duration::from_secs(second);
            assert_eq!(keep_alive.known(now), None);
            keep_alive.closed(idle * MS, now);
        }
        let now = begin + Duration::from_secs(10);
        assert_eq!((keep_alive.known(now), keep_alive.usable(now)), (Some(2000 * MS), Some(1600 * MS)));
        let later = now + FORGOTTEN;
        assert_eq!(keep_alive.known(later), None);
        keep_alive.closed(2020 * MS, later);
        assert_eq!(keep_alive.known(later), Some(2000 * MS), "once more is enough");
    }

    #[test]
    fn what_was_closed_at_once_was_closed_by_one_event() {
        let (keep_alive, now) = (KeepAlive::default(), Instant::now());
        (0..100).for_each(|_| keep_alive.closed(700 * MS, now));
        assert_eq!(keep_alive.known(now), None);
    }

    proptest! {
        #[test]
        fn what_is_believed_was_seen(closed in prop::collection::vec((0_u32..5000, 0_u64..20), 0..40)) {
            let (keep_alive, mut now) = (KeepAlive::default(), Instant::now());
            for (idle, pause) in &closed {
                now += Duration::from_secs(*pause);
                keep_alive.closed(*idle * MS, now);
                if let Some(known) = keep_alive.known(now) {
                    prop_assert!(known >= SHORTEST && closed.iter().any(|(idle, _)| *idle * MS == known));
                }
            }
        }
    }
}
