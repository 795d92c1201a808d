//! The demo's time, so that `--for` is a promise: when the time is over, so is the demo.
//!
//! Counted backwards from the end: there the proxy has stopped and everything is told; before that, the last requests have been
//! counted; before that, the longest request has come to its end. What is left is when the last request may begin. On a
//! machine on which the parts need more than there is, the demo ends early and says so; it never ends late.

use std::time::Duration;

use tokio::time::Instant;

/// The longest that a request takes where example 1 is in force: three seconds, and a little for this machine. A caller gives
/// up after it, so that no request outlasts what is kept for it.
pub(crate) const REQUEST: Duration = Duration::from_millis(3250);
/// For reading what the proxy has counted.
const COUNTING: Duration = Duration::from_millis(250);
/// For stopping the proxy and telling the end.
const CLOSING: Duration = Duration::from_millis(500);
/// What the six parts take: their requests 2.1 s at the shortest [`Clock::first_part`], 1.4 s, 1.1 s, 2.5 s, 1.7 s and 0.1 s, and
/// the rest for a machine that has more to do.
pub(crate) const PARTS: Duration = Duration::from_secs(10);

/// The shortest demo that can be promised to end in time.
pub(crate) const LEAST: Duration = PARTS.saturating_add(REQUEST).saturating_add(COUNTING).saturating_add(CLOSING);
/// The longest; nothing is left to be seen by then.
pub(crate) const MOST: Duration = Duration::from_mins(10);

/// When what must be over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    begun: Instant,
    length: Duration,
}

impl Clock {
    /// Starts now and ends after `length`.
    pub(crate) fn start(length: Duration) -> Self {
        Self { begun: Instant::now(), length }
    }

    /// How long the first part sends requests, if it does not run out of them.
    pub(crate) fn first_part(&self) -> Duration {
        self.length.mul_f64(0.15).min(Duration::from_secs(4))
    }

    /// When no more requests are begun, and no part.
    pub(crate) fn last_call(&self) -> Instant {
        self.before_end(CLOSING + COUNTING + REQUEST)
    }

    /// When a part is cut, whatever it waits for.
    pub(crate) fn curtain(&self) -> Instant {
        self.before_end(CLOSING)
    }

    fn before_end(&self, rest: Duration) -> Instant {
        self.begun + self.length.saturating_sub(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_demo_has_time_for_its_parts_and_for_the_longest_request() {
        let clock = Clock::start(LEAST);
        assert_eq!(clock.last_call() - clock.begun, PARTS);
        assert!(clock.curtain() - clock.last_call() >= REQUEST);
        assert!(clock.begun + LEAST - clock.curtain() >= CLOSING);
        assert_eq!(clock.first_part(), Duration::from_millis(2100));
    }

    #[test]
    fn what_is_kept_back_does_not_grow_with_the_time() {
        let clock = Clock::start(MOST);
        assert_eq!(clock.begun + MOST - clock.last_call() + PARTS, LEAST);
        assert_eq!(clock.first_part(), Duration::from_secs(4));
    }
}
