//! One series of requests through the parts of a policy in force, in simulated time and in the pipeline's order, and through the same
//! policy observed: both must decide the same of each request.
//!
//! Left out are series in which two things happen in the same millisecond: which comes first then is chance in either.

use std::{cell::RefCell, time::Duration};

use firebreak_crds::wire;
use futures::future::join_all;
use http::StatusCode;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::time::{sleep, sleep_until, timeout};

use super::{tests::observer, *};
use crate::policy::{
    breaker::Outcome,
    bulkhead::{self, Gate},
    retry::Brought,
};

/// A request as it is without the policy.
#[derive(Clone, Copy, Debug)]
struct Case {
    arrives: Duration,
    takes: Duration,
    fails: bool,
}

/// What is decided of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decided {
    LimitedRate,
    Full,
    Waited,
    BreakerOpen,
    TimedOut,
    Passed,
}

fn cases() -> impl Strategy<Value = Vec<Case>> {
    let case = (0u64..6_000, 1u64..20_000, 0u8..100);
    (prop::collection::vec(case, 1..120), 0u8..100).prop_map(|(cases, ill)| {
        let mut now = Duration::ZERO;
        let case = |(gap, takes, luck): (u64, u64, u8)| {
            now += Duration::from_millis(gap);
            Case { arrives: now, takes: Duration::from_millis(takes), fails: luck < ill }
        };
        cases.into_iter().map(case).collect()
    })
}

fn policies() -> impl Strategy<Value = Value> {
    let rate = prop::option::of((1u32..3, 1u32..4));
    let bulkhead = prop::option::of((1u32..6, 0u32..5, 500u64..30_000));
    let breaker = prop::option::of((1u32..6, 1u32..4, 5_000u64..60_000));
    let attempt = prop::option::of(1_000u64..20_000);
    (rate, bulkhead, breaker, attempt).prop_map(|(rate, bulkhead, breaker, attempt)| {
        let mut policy = json!({});
        if let Some((per_second, burst)) = rate {
            policy["rateLimit"] = json!({"requestsPerSecond": per_second, "burst": burst});
        }
        if let Some((places, pending, patience)) = bulkhead {
            policy["bulkhead"] =
                json!({"maxRequests": places, "maxPending": pending, "maxPendingTime": format!("{patience}ms")});
        }
        if let Some((failures, probes, open)) = breaker {
            policy["circuitBreaker"] = json!({
                "tripOn": {"consecutiveFailures": failures, "failureRate": {"percent": 60, "minRequests": 5, "window": "1m"}},
                "openFor": {"initial": format!("{open}ms")}, "halfOpen": {"probes": probes},
                "recovery": {"ramp": "1m", "startPercent": 20},
            });
        }
        if let Some(attempt) = attempt {
            policy["timeouts"] = json!({"attempt": format!("{attempt}ms")});
        }
        policy
    })
}

/// Everything that decides, as it is for a policy in force.
struct Enforced {
    rate: Option<Arc<Rate>>,
    gate: Arc<Gate>,
    breaker: Option<Arc<Breaker>>,
    attempt: Option<Duration>,
    /// When something happened.
    moments: RefCell<Vec<Instant>>,
}

impl Enforced {
    fn happens(&self) {
        self.moments.borrow_mut().push(Instant::now());
    }

    async fn decide(&self, case: Case, start: Instant) -> Decided {
        sleep_until(start + case.arrives).await;
        self.happens();
        if self.rate.as_ref().is_some_and(|rate| rate.take(Instant::now()).is_err()) {
            return Decided::LimitedRate;
        }
        let patience = Instant::now().checked_add(self.gate.limits().max_pending_time);
        let permit = match self.gate.acquire(Need::Exchange, None).await {
            Ok(permit) => {
                // A place that comes free in the moment in which the wait ends is one of two things at once.
                let waited = start + case.arrives < Instant::now();
                self.moments.borrow_mut().extend(patience.filter(|_| waited));
                permit
            }
            Err(bulkhead::Refused::Full) => return Decided::Full,
            Err(_) => {
                self.happens();
                return Decided::Waited;
            }
        };
        let now = Instant::now();
        let end = self.attempt.map(|attempt| now + attempt);
        let Ok(ticket) = self.breaker.as_ref().map(|breaker| breaker.admit(now, end)).transpose() else {
            return Decided::BreakerOpen;
        };
        let ended = match self.attempt {
            Some(attempt) => timeout(attempt, sleep(case.takes)).await.is_ok(),
            None => {
                sleep(case.takes).await;
                true
            }
        };
        self.happens();
        let outcome = if case.fails || !ended { Outcome::Failed } else { Outcome::Passed };
        if let Some(ticket) = ticket {
            ticket.ended(outcome, Instant::now());
        }
        drop(permit);
        if ended { Decided::Passed } else { Decided::TimedOut }
    }
}

/// What the policy decides in force; nothing where two things happen at once.
async fn enforced(policy: &wire::Policy, cases: &[Case], start: Instant) -> Option<Vec<Decided>> {
    let parts = observer(policy, start).shadow;
    let world = Enforced {
        rate: parts.rate.clone(),
        gate: Gate::new(policy.bulkhead.as_ref().map_or(bulkhead::Limits::NONE, Into::into)),
        breaker: parts.breaker.clone(),
        attempt: parts.policy.plan_of(None).clocks.attempt,
        moments: RefCell::default(),
    };
    let decided = join_all(cases.iter().map(|case| world.decide(*case, start))).await;
    let mut moments = world.moments.into_inner();
    moments.sort_unstable();
    moments.windows(2).all(|two| two[0] != two[1]).then_some(decided)
}

/// What it decides observed, of requests that it changes nothing of.
fn observed(policy: &wire::Policy, cases: &[Case], start: Instant) -> Vec<Decided> {
    let Observer { shadow: parts, line } = observer(policy, start);
    let (head, ()) = http::Request::get("/").body(()).unwrap().into_parts();
    // Each has counters of its own, so that it shows what was decided of which.
    let own = |_| {
        let shadow = Arc::new(Shadow { counts: Arc::default(), ..(*parts).clone() });
        Arc::new(Observer { shadow, line: Arc::clone(&line) })
    };
    let shadows: Vec<_> = cases.iter().map(own).collect();
    let mut followed: Vec<_> =
        shadows.iter().zip(cases).map(|(it, case)| it.follow(&head, start + case.arrives, false, 0)).collect();
    let arrivals = cases.iter().enumerate().map(|(number, case)| (case.arrives, number, false));
    let ends = cases.iter().enumerate().map(|(number, case)| (case.arrives + case.takes, number, true));
    let mut events: Vec<_> = arrivals.chain(ends).collect();
    events.sort_unstable();
    for (at, number, is_end) in events {
        let (now, one) = (start + at, &mut followed[number]);
        if is_end {
            let (outcome, status) = if cases[number].fails {
                (Outcome::Failed, StatusCode::INTERNAL_SERVER_ERROR)
            } else {
                (Outcome::Passed, StatusCode::OK)
            };
            let (verdict, brought) = (Verdict::Told(outcome), Brought::Response { status, grpc: None });
            one.tell(Step::Ended { number: 1, verdict, brought, replayable: true }, now);
            one.tell(Step::Over(None), now);
        } else if one.arrives(now) {
            one.enters(Need::Exchange, now);
            one.tell(Step::Began { number: 1, endpoint: ([127, 0, 0, 1], 80).into() }, now);
        }
    }
    let mut line = line.lock();
    line.advance(start + Duration::from_hours(1_000));
    assert!(line.is_empty(), "nothing is left of what is over");
    shadows.iter().map(|shadow| decided(&shadow.shadow.counts)).collect()
}

fn decided(counts: &Counts) -> Decided {
    let decisions = [
        (Would::LimitRate, Decided::LimitedRate),
        (Would::RefuseFull, Decided::Full),
        (Would::EndWait, Decided::Waited),
        (Would::RefuseOpen, Decided::BreakerOpen),
        (Would::TimeOut, Decided::TimedOut),
    ];
    let made: Vec<_> = decisions.into_iter().filter(|(would, _)| counts.would(*would) > 0).collect();
    assert!(made.len() <= 1, "one thing is decided of each request: {made:?}");
    made.first().map_or(Decided::Passed, |(_, decided)| *decided)
}

/// Both decisions of each request, and whether no two things happened at once.
fn both(policy: &Value, cases: &[Case], seed: u64) -> Option<(Vec<Decided>, Vec<Decided>)> {
    let policy: wire::Policy = serde_json::from_value(policy.clone()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    // The same chance for both: breakers draw how long they are open.
    fastrand::seed(seed);
    let (start, in_force) = runtime.block_on(async {
        let start = Instant::now();
        (start, enforced(&policy, cases, start).await)
    });
    fastrand::seed(seed);
    Some((in_force?, observed(&policy, cases, start)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_global_rejects: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_observed_is_decided_as_what_is_enforced(policy in policies(), cases in cases(), seed: u64) {
        let both = both(&policy, &cases, seed);
        prop_assume!(both.is_some());
        let (in_force, observed) = both.unwrap_or_default();
        prop_assert_eq!(in_force, observed, "{}", policy);
    }
}

/// The series above are not all alike: each decision is among them, also behind a queue.
#[test]
fn the_proof_meets_every_decision() {
    use Decided::{BreakerOpen, Full, LimitedRate, Passed, TimedOut, Waited};
    let policy = json!({
        "rateLimit": {"requestsPerSecond": 1, "burst": 2},
        "bulkhead": {"maxRequests": 2, "maxPending": 2, "maxPendingTime": "4s"},
        "circuitBreaker": {"tripOn": {"consecutiveFailures": 3}, "openFor": {"initial": "9s"}, "halfOpen": {"probes": 1}},
        "timeouts": {"attempt": "6s"},
    });
    let case = |number: u64| Case {
        arrives: Duration::from_millis(number * 613 + number % 7),
        takes: Duration::from_millis(700 + number * number * 37 % 6_311),
        fails: number % 60 > 35,
    };
    let cases: Vec<_> = (0..200).map(case).collect();
    let (in_force, observed) = both(&policy, &cases, 7).unwrap();
    assert_eq!(in_force, observed);
    for decided in [LimitedRate, Full, Waited, BreakerOpen, TimedOut, Passed] {
        assert!(observed.contains(&decided), "{decided:?} is not among {observed:?}");
    }
}
