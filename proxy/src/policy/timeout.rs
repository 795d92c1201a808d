//! The four clocks of a plan, and the points in time that they make of a request's start.

use std::time::Duration;

use firebreak_crds::spec::Timeouts;
use tokio::time::Instant;

use crate::verdict::Reason;

/// Lengths of the clocks; one that is absent does not run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clocks {
    /// To open a connection.
    pub connect: Option<Duration>,
    /// For one try, until response headers.
    pub attempt: Option<Duration>,
    /// For the whole request.
    pub request: Option<Duration>,
    /// Longest silence.
    pub idle: Option<Duration>,
}

/// The nearest end among several clocks, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// When.
    pub at: Instant,
    /// What is said when it comes.
    pub reason: Reason,
}

impl From<&Timeouts> for Clocks {
    fn from(timeouts: &Timeouts) -> Self {
        let get = |clock: Option<firebreak_crds::spec::Duration>| clock.map(firebreak_crds::spec::Duration::get);
        Self {
            connect: get(timeouts.connect),
            attempt: get(timeouts.attempt),
            request: get(timeouts.request),
            idle: get(timeouts.idle),
        }
    }
}

impl Clocks {
    /// When a request that began at `started` must be over.
    pub fn request_end(&self, started: Instant) -> Option<End> {
        self.request.map(|length| End { at: started + length, reason: Reason::RequestTimeout })
    }

    /// When a try that begins at `now` must have its response headers, within a request that must end at `request_end`. Where both
    /// clocks end together it is the request's that counts: no other try could follow.
    pub fn attempt_end(&self, now: Instant, request_end: Option<End>) -> Option<End> {
        let attempt = self.attempt.map(|length| End { at: now + length, reason: Reason::AttemptTimeout });
        nearest(request_end, attempt)
    }

    /// When a probe that begins at `now` must have its response, of a request to which the policy came at `started`: whatever the
    /// caller's own deadline, it may take as long as the policy says.
    pub fn probe_end(&self, started: Instant, now: Instant) -> Option<Instant> {
        self.attempt_end(now, self.request_end(started)).map(|end| end.at)
    }

    /// Whether a try that its request's end cut short had nearly all of the time that the policy gives one, so that it says what
    /// its own end would say.
    pub fn had_its_time(&self, had: Duration) -> bool {
        self.attempt.or(self.request).is_some_and(|time| had >= time.mul_f64(0.9))
    }

    /// When a connection that is begun at `now` must be open, within a try that must end at `attempt_end`.
    pub fn connect_end(&self, now: Instant, attempt_end: Option<End>) -> Option<End> {
        let connect = self.connect.map(|length| End { at: now + length, reason: Reason::ConnectTimeout });
        nearest(connect, attempt_end)
    }
}

/// The nearer of two ends, the first of two equal ones.
pub fn nearest(a: Option<End>, b: Option<End>) -> Option<End> {
    [a, b].into_iter().flatten().min_by_key(|end| end.at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_clock_gives_the_reason() {
        let now = Instant::now();
        let ms = Duration::from_millis;
        let clocks = Clocks { connect: Some(ms(200)), attempt: Some(ms(300)), request: Some(ms(1_000)), idle: None };
        let request_end = clocks.request_end(now);
        assert_eq!(clocks.attempt_end(now, request_end).unwrap().reason, Reason::AttemptTimeout);
        assert_eq!(clocks.attempt_end(now + ms(900), request_end).unwrap().reason, Reason::RequestTimeout);
        assert_eq!(
            clocks.attempt_end(now + ms(700), request_end).unwrap().reason,
            Reason::RequestTimeout,
            "both at once"
        );
        let attempt_end = clocks.attempt_end(now, request_end);
        assert_eq!(clocks.connect_end(now, attempt_end).unwrap().reason, Reason::ConnectTimeout);
        assert_eq!(clocks.connect_end(now + ms(250), attempt_end).unwrap().reason, Reason::AttemptTimeout);
        assert_eq!(Clocks::default().attempt_end(now, None), None);
    }
}
