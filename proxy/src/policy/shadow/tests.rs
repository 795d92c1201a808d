use std::time::Duration;

use firebreak_crds::wire;
use http::StatusCode;
use serde_json::{Value, json};

use super::*;
use crate::{
    config::compile,
    policy::{
        breaker::Outcome,
        retry::{Brought, Told},
    },
    verdict::Reason,
};

/// A policy that is observed, of a callee with the endpoints 127.0.0.1:1 to 4.
pub(super) fn observer(policy: &wire::Policy, now: Instant) -> Observer {
    compile::observed_alone(policy, &[1, 2, 3, 4].map(|port| ([127, 0, 0, 1], port).into()), now)
}

/// A request of which nothing is known beside its head.
fn asked(started: Instant) -> Asked {
    Asked { started, grpc: false, switching: false, layers: 0 }
}

struct Scene {
    observer: Arc<Observer>,
    start: Instant,
}

impl Scene {
    fn new(policy: Value) -> Self {
        let start = Instant::now();
        Self { observer: Arc::new(observer(&serde_json::from_value(policy).unwrap(), start)), start }
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    /// A request that comes in at `ms`.
    fn get(&self, ms: u64) -> Observed {
        let (head, ()) = http::Request::get("/").body(()).unwrap().into_parts();
        let mut observed = self.observer.follow(&head, asked(self.at(ms)));
        assert!(observed.arrives(self.at(ms)));
        observed.enters(Need::Exchange, self.at(ms));
        *observed
    }

    fn began(&self, one: &Observed, number: u32, ms: u64) {
        one.tell(Step::Began { number, endpoint: ([127, 0, 0, 1], 1).into() }, self.at(ms));
    }

    fn ended(&self, one: &Observed, number: u32, brought: Brought, ms: u64) {
        let failed = !matches!(brought, Brought::Response { status, .. } if status.is_success());
        let verdict = Verdict::Told(if failed { Outcome::Failed } else { Outcome::Passed });
        let (told, replayable, layered) = (Told::Nothing, true, false);
        one.tell(Step::Ended { number, verdict, brought, told, replayable, layered }, self.at(ms));
    }

    fn over(&self, one: &Observed, ms: u64) {
        one.tell(Step::Over(None), self.at(ms));
    }

    /// A request with one try.
    fn whole(&self, from: u64, to: u64, status: u16) {
        let one = self.get(from);
        self.began(&one, 1, from);
        self.ended(&one, 1, response(status), to);
        self.over(&one, to);
    }

    fn would(&self, would: Would) -> u64 {
        self.observer.shadow.counts.would(would)
    }

    fn advance(&self, ms: u64) {
        self.observer.catch_up(self.at(ms));
    }
}

fn response(status: u16) -> Brought {
    Brought::Response { status: StatusCode::from_u16(status).unwrap(), grpc: None }
}

#[test]
fn a_clock_that_would_have_run_out_is_a_failure_at_its_time() {
    let scene = Scene::new(json!({
        "timeouts": {"attempt": "100ms"},
        "circuitBreaker": {"tripOn": {"consecutiveFailures": 2}, "openFor": {"initial": "1m"}},
    }));
    let slow = [scene.get(0), scene.get(0)];
    for one in &slow {
        scene.began(one, 1, 0);
    }
    scene.whole(90, 95, 500);
    assert_eq!(scene.would(Would::TimeOut), 0);
    scene.whole(101, 102, 200);
    assert_eq!((scene.would(Would::TimeOut), scene.would(Would::RefuseOpen)), (2, 1), "they still run, and it is open");
    for one in &slow {
        scene.ended(one, 1, response(200), 5_000);
    }
    for one in &slow {
        scene.over(one, 5_000);
    }
    assert!(scene.observer.line.lock().is_empty());
    assert_eq!(scene.would(Would::TimeOut), 2, "each is counted once");
}

#[test]
fn what_a_shorter_clock_in_force_ended_says_nothing() {
    let scene = Scene::new(json!({
        "timeouts": {"attempt": "1s"}, "retries": {"conditions": ["5xx"]},
        "circuitBreaker": {"tripOn": {"consecutiveFailures": 1}},
    }));
    let one = scene.get(0);
    scene.began(&one, 1, 0);
    scene.ended(&one, 1, Brought::Nothing { reason: Reason::AttemptTimeout, grpc: false }, 100);
    scene.over(&one, 100);
    scene.whole(200, 300, 200);
    let counted: Vec<_> = scene.observer.shadow.counts.all().filter(|(_, times)| *times > 0).collect();
    assert_eq!(counted, []);
}

#[test]
fn a_request_that_waited_in_the_books_does_everything_later() {
    let scene =
        Scene::new(json!({"bulkhead": {"maxRequests": 1, "maxPendingTime": "10s"}, "timeouts": {"request": "250ms"}}));
    let both = [0, 1].map(|from| {
        let one = scene.get(from);
        scene.began(&one, 1, from);
        one
    });
    for (one, end) in both.iter().zip([150, 151]) {
        scene.ended(one, 1, response(200), end);
        scene.over(one, end);
    }
    scene.advance(250);
    assert_eq!((scene.would(Would::Queue), scene.would(Would::TimeOut)), (1, 0));
    scene.advance(251);
    assert_eq!(scene.would(Would::TimeOut), 1, "it began at 150 and would have ended at 300");
    assert!(scene.observer.line.lock().is_empty());
}

#[test]
fn what_is_held_is_bounded_by_what_runs_and_what_would_wait() {
    let scene = Scene::new(json!({"bulkhead": {"maxRequests": 3, "maxPending": 5, "maxPendingTime": "1h"}}));
    let held: Vec<_> = (0..3).map(|_| scene.get(0)).collect();
    for number in 0..1_000 {
        scene.whole(number, number + 1, 200);
        assert!(scene.observer.line.lock().len() <= 3 + 5 + 1);
    }
    assert_eq!((scene.would(Would::Queue), scene.would(Would::RefuseFull)), (5, 995));
    for one in &held {
        scene.over(one, 2_000);
    }
    scene.advance(3_000);
    assert!(scene.observer.line.lock().is_empty());
}

#[test]
fn further_tries_are_counted_when_they_would_be_made() {
    let scene = Scene::new(json!({"retries": {"maxRetries": 1}}));
    let one = scene.get(0);
    scene.began(&one, 1, 0);
    scene.ended(&one, 1, response(503), 10);
    assert_eq!(scene.would(Would::Retry), 0, "not before it is known that the request goes on or not");
    scene.began(&one, 2, 20);
    assert_eq!(scene.would(Would::Retry), 1);
    scene.ended(&one, 2, response(503), 30);
    scene.began(&one, 3, 40);
    scene.over(&one, 50);
    assert_eq!(scene.would(Would::Retry), 1, "the third is one of the policy in force");
}

#[test]
fn other_limits_let_in_who_waits() {
    let scene = Scene::new(
        json!({"bulkhead": {"maxRequests": 1, "maxPendingTime": "1h"}, "circuitBreaker": {"force": "Open"}}),
    );
    let held = scene.get(0);
    let waiting = scene.get(0);
    scene.began(&waiting, 1, 0);
    assert_eq!((scene.would(Would::Queue), scene.would(Would::RefuseOpen)), (1, 0));
    scene.observer.line.lock().set(crate::policy::bulkhead::Limits::NONE, scene.at(10));
    scene.advance(10);
    assert_eq!(scene.would(Would::RefuseOpen), 1);
    scene.over(&held, 20);
}

#[test]
fn endpoints_that_would_be_out_are_passed_over_in_the_books() {
    let scene = Scene::new(json!({"outlierDetection": {"consecutiveFailures": 2, "ejectFor": {"initial": "1m"}}}));
    (0..5).for_each(|number| scene.whole(number * 10, number * 10 + 5, 500));
    assert_eq!(scene.would(Would::Divert), 3);
    assert_eq!(scene.observer.shadow.counts.endpoints.entered(State::Open), 1);
}
