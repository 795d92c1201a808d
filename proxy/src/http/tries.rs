//! The tries of a call, as its record tells them.
//!
//! A request that succeeds at once must not pay for what nobody will read: only the try that is under way is held, in the
//! call itself. It moves to the heap when another follows it, or is made beside it, and becomes text in a record when the call is
//! over and did not simply succeed.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::StatusCode;
use tokio::time::Instant;

use crate::{
    policy::fault::FaultSet,
    telemetry::access_log::{self, Try, millis},
    upstream::send::Evidence,
    verdict::{AttemptOutcome, Reason},
};

/// Most tries that a record lists: the first ones, and the last.
const LISTED: usize = 16;

/// What is known of the tries that a call has made.
#[derive(Debug, Default)]
pub struct Tries {
    before: Vec<Seen>,
    last: Option<Seen>,
    made: u32,
    /// A fault made the request late before its first.
    late: bool,
}

/// How a try ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// When.
    pub at: Instant,
    /// What it counts as.
    pub outcome: AttemptOutcome,
    /// Why it did not simply succeed.
    pub reason: Option<Reason>,
    /// The answer's status.
    pub status: Option<StatusCode>,
    /// Its gRPC status, where its head has one.
    pub grpc_status: Option<u8>,
    /// What is known of its connection, where it came to one.
    pub connection: Option<Evidence>,
    /// The error of the system, where it came to none for one.
    pub errno: Option<i32>,
}

#[derive(Debug)]
struct Seen {
    number: u32,
    way: SocketAddr,
    began: Instant,
    fault: Option<Arc<FaultSet>>,
    delay: Option<Duration>,
    hedge: bool,
    ended: Option<Ended>,
}

impl Tries {
    /// A try that goes to `way` begins: its number, from 1. With `hedge` it is made beside the one before.
    pub fn begin(&mut self, way: SocketAddr, hedge: bool, now: Instant) -> u32 {
        self.made = self.made.saturating_add(1);
        let number = self.made;
        let begun = Seen { number, way, began: now, fault: None, delay: None, hedge, ended: None };
        let before = self.last.replace(begun);
        if self.before.len() < LISTED - 1 {
            self.before.extend(before);
        }
        number
    }

    /// How many were made so far.
    pub fn made(&self) -> u32 {
        self.made
    }

    /// A fault hits the one that began last, or the whole request before its first, by a delay of this length or otherwise.
    pub fn hit(&mut self, fault: &Arc<FaultSet>, delay: Option<Duration>) {
        if let Some(last) = &mut self.last {
            last.fault = Some(Arc::clone(fault));
            last.delay = delay;
        } else {
            self.late = delay.is_some();
        }
    }

    /// Number `number` is over.
    pub fn ended(&mut self, number: u32, ended: Ended) {
        let seen = self.last.iter_mut().chain(self.before.iter_mut().rev()).find(|seen| seen.number == number);
        if let Some(seen) = seen {
            seen.ended = Some(ended);
        }
    }

    /// The FaultSpec that hit the last try, if that is still under way.
    pub fn fault_under_way(&self) -> Option<&Arc<FaultSet>> {
        self.last.as_ref().filter(|last| last.ended.is_none()).and_then(|last| last.fault.as_ref())
    }

    /// Whether try number `number` is over and never had a connection.
    pub fn lacked_connection(&self, number: u32) -> bool {
        let seen = self.last.iter().chain(self.before.iter().rev()).find(|seen| seen.number == number);
        seen.and_then(|seen| seen.ended).is_some_and(|ended| ended.connection.is_none())
    }

    /// Whether a fault made the last try late, or all of them.
    pub fn delayed(&self) -> bool {
        self.late || self.last.as_ref().is_some_and(|last| last.delay.is_some())
    }

    /// All of them, for the record of a request that began at `started` and is over `now`. `behind` says which endpoint a way leads to.
    pub fn told(&self, started: Instant, now: Instant, behind: impl Fn(SocketAddr) -> SocketAddr) -> Vec<Try> {
        self.before.iter().chain(&self.last).map(|seen| seen.told(started, now, behind(seen.way))).collect()
    }
}

impl Seen {
    fn told(&self, started: Instant, now: Instant, endpoint: SocketAddr) -> Try {
        let ended = self.ended;
        let connection = ended.and_then(|ended| ended.connection);
        let until = ended.map_or(now, |ended| ended.at);
        let (began, took) =
            (self.began.saturating_duration_since(started), until.saturating_duration_since(self.began));
        Try {
            number: self.number,
            endpoint,
            started_ms: millis(began),
            duration_ms: millis(took),
            outcome: ended.map(|ended| ended.outcome.name()),
            reason: ended.and_then(|ended| ended.reason).map(Reason::name),
            status: ended.and_then(|ended| ended.status).map(|status| status.as_u16()),
            grpc_status: ended.and_then(|ended| ended.grpc_status),
            fault: self.fault.as_ref().map(|fault| fault.name.clone()),
            delay_ms: self.delay.map(millis),
            hedge: self.hedge,
            connection_reused: connection.map(|it| it.reused),
            connection_age_ms: connection.map(|it| millis(it.age)),
            connection_idle_ms: connection.filter(|it| it.reused).map(|it| millis(it.idle)),
            bytes_sent: connection.map(|it| it.bytes.sent),
            bytes_received: connection.map(|it| it.bytes.received),
            errno: ended.and_then(|ended| ended.errno).or(connection.and_then(|it| it.errno)).map(access_log::errno),
            started: began,
            took,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(at: Instant, outcome: AttemptOutcome, reason: Option<Reason>) -> Ended {
        Ended { at, outcome, reason, status: None, grpc_status: None, connection: None, errno: None }
    }

    #[test]
    fn one_try_takes_no_memory_of_its_own() {
        let mut tries = Tries::default();
        let now = Instant::now();
        tries.begin(([127, 0, 0, 1], 80).into(), false, now);
        tries.ended(1, ended(now, AttemptOutcome::Answered, None));
        assert_eq!(tries.before.capacity(), 0);
    }

    #[test]
    fn they_are_told_in_their_order_with_their_times() {
        let mut tries = Tries::default();
        let started = Instant::now();
        let at = |ms| started + Duration::from_millis(ms);
        tries.begin(([127, 0, 0, 1], 80).into(), false, at(5));
        tries.ended(1, ended(at(25), AttemptOutcome::TimedOut, Some(Reason::AttemptTimeout)));
        tries.begin(([127, 0, 0, 2], 80).into(), false, at(40));
        let told = tries.told(started, at(100), |way| way);
        let times: Vec<_> = told.iter().map(|told| (told.number, told.started_ms, told.duration_ms)).collect();
        assert_eq!(times, [(1, 5, 20), (2, 40, 60)], "what is under way has lasted until now");
        assert_eq!(told[0].reason, Some("attempt_timeout"));
        assert_eq!((told[1].outcome, told[1].reason), (None, None));
    }

    #[test]
    fn two_at_once_end_in_any_order() {
        let mut tries = Tries::default();
        let started = Instant::now();
        let at = |ms| started + Duration::from_millis(ms);
        tries.begin(([127, 0, 0, 1], 80).into(), false, started);
        tries.begin(([127, 0, 0, 2], 80).into(), true, at(50));
        tries.ended(1, ended(at(60), AttemptOutcome::Cancelled, None));
        tries.ended(2, ended(at(70), AttemptOutcome::Answered, None));
        let told = tries.told(started, at(100), |way| way);
        let told: Vec<_> = told.iter().map(|told| (told.hedge, told.duration_ms, told.outcome.unwrap())).collect();
        assert_eq!(told, [(false, 60, "cancelled"), (true, 20, "answered")]);
    }

    #[test]
    fn of_very_many_the_first_and_the_last_are_told() {
        let mut tries = Tries::default();
        let now = Instant::now();
        (0..100).for_each(|_| {
            tries.begin(([127, 0, 0, 1], 80).into(), false, now);
        });
        let numbers: Vec<_> = tries.told(now, now, |way| way).iter().map(|told| told.number).collect();
        assert_eq!((numbers.len(), numbers[14], numbers[15]), (LISTED, 15, 100));
    }
}
