//! One series of requests through the parts of a policy in force, in simulated time and in the pipeline's order, and through the same
//! policy observed: both must decide the same of each request.
//!
//! Left out are series in which two things happen in the same millisecond: which comes first then is chance in either.

mod in_force;

use std::{net::SocketAddr, time::Duration};

use firebreak_crds::wire;
use http::StatusCode;
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use serde_json::{Value, json};
use tokio::time::Instant;

use self::in_force::enforced;
use super::{tests::observer, *};
use crate::{
    http::reply::is_failure,
    policy::{
        breaker::Outcome,
        retry::{Brought, Told},
    },
    verdict::Reason,
};

/// A request as it is without the policy.
#[allow(clippy::struct_excessive_bools, reason = "each is drawn on its own")]
#[derive(Clone, Debug)]
struct Case {
    arrives: Duration,
    path: &'static str,
    method: &'static str,
    keyed: bool,
    grpc: bool,
    switching: bool,
    layers: u32,
    replayable: bool,
    /// A layer below says of each failure that it has tried again in vain.
    layered: bool,
    tries: Vec<TryCase>,
    /// How long the rest of the last answer takes.
    body: Duration,
    /// Breakers hear at the end of the last answer what it was.
    late: bool,
    at_last: Option<Outcome>,
}

#[derive(Clone, Copy, Debug)]
struct TryCase {
    /// Since the end of the try before.
    pause: Duration,
    takes: Duration,
    brings: Brought,
    told: Told,
    endpoint: SocketAddr,
}

/// What is decided of each request, in the order of [`WOULD`], and how often breakers opened.
type Decided = (Vec<[u64; WOULD.len()]>, [u64; 2]);

impl Case {
    fn head(&self) -> Parts {
        let mut head = http::Request::builder().method(self.method).uri(self.path);
        if self.keyed {
            head = head.header("idempotency-key", "a");
        }
        head.body(()).unwrap().into_parts().0
    }

    fn hedgeable(&self) -> bool {
        let head = self.head();
        self.layers < 2 && !self.switching && is_idempotent(&head.method, &head.headers)
    }

    fn verdict(&self, brings: Brought, last: bool) -> Verdict {
        match brings {
            Brought::Response { status, grpc } if is_failure(status, grpc) => Verdict::Told(Outcome::Failed),
            Brought::Response { .. } if last && self.late => Verdict::Later,
            Brought::Response { .. } => Verdict::Told(Outcome::Passed),
            Brought::Nothing { reason, .. } if reason.is_outcome() => Verdict::Told(Outcome::Failed),
            Brought::Nothing { .. } => Verdict::Nothing,
        }
    }

    fn steps(&self) -> Vec<(Duration, Step)> {
        let (mut at, mut steps) = (self.arrives, Vec::new());
        for (number, one) in (1..).zip(&self.tries) {
            at += one.pause;
            steps.push((at, Step::Began { number, endpoint: one.endpoint }));
            at += one.takes;
            let verdict = self.verdict(one.brings, number as usize == self.tries.len());
            let (told, brought, replayable, layered) = (one.told, one.brings, self.replayable, self.layered);
            steps.push((at, Step::Ended { number, verdict, brought, told, replayable, layered }));
        }
        steps.push((at + self.body, Step::Over(self.at_last)));
        steps
    }
}

/// What a try brings, by luck of 100: above `ill` it is well.
fn brings(luck: u8, ill: u8, kind: usize, grpc: bool) -> Brought {
    const STATUSES: [u16; 5] = [409, 429, 500, 502, 503];
    const CODES: [u8; 4] = [4, 8, 13, 14];
    const REASONS: [Reason; 5] = [
        Reason::ConnectionRefused,
        Reason::ConnectionReset,
        Reason::StreamRefused,
        Reason::ProtocolError,
        Reason::CallerCancelled,
    ];
    let ok = StatusCode::OK;
    if luck >= ill {
        return Brought::Response { status: ok, grpc: grpc.then_some(0) };
    }
    match kind {
        kind if kind >= 5 => Brought::Nothing { reason: REASONS[kind - 5], grpc },
        kind if grpc => Brought::Response { status: ok, grpc: Some(CODES[kind % 4]) },
        kind => Brought::Response { status: StatusCode::from_u16(STATUSES[kind]).unwrap(), grpc: None },
    }
}

fn tries(ill: u8, grpc: bool) -> impl Strategy<Value = Vec<TryCase>> {
    let told = prop_oneof![
        8 => Just(Told::Nothing),
        1 => (1u64..20_000).prop_map(|wait| Told::After(Duration::from_millis(wait))),
        1 => Just(Told::Never),
    ];
    let one = (1u64..2_000, 1u64..12_000, 0u8..100, 0usize..10, told, 1u16..5);
    prop::collection::vec(one, 1..5).prop_map(move |tries| {
        let mut first = true;
        let one = |(pause, takes, luck, kind, told, port)| TryCase {
            pause: if std::mem::take(&mut first) { Duration::ZERO } else { Duration::from_millis(pause) },
            takes: Duration::from_millis(takes),
            brings: brings(luck, ill, kind, grpc),
            told,
            endpoint: ([127, 0, 0, 1], port).into(),
        };
        tries.into_iter().map(one).collect()
    })
}

fn case(ill: u8) -> impl Strategy<Value = (u64, Case)> {
    let head = (prop::sample::select(vec!["GET", "POST"]), any::<bool>(), prop::sample::select(vec!["/", "/reports"]));
    let rarely = || prop::bool::weighted(0.05);
    let about = (prop::sample::select(vec![0, 0, 0, 0, 1, 2]), rarely(), rarely(), prop::bool::weighted(0.9));
    let end =
        (1u64..6_000, any::<bool>(), prop::sample::select(vec![None, Some(Outcome::Passed), Some(Outcome::Failed)]));
    (0u64..6_000, head, about, end, any::<bool>()).prop_flat_map(move |(gap, head, about, end, grpc)| {
        let ((method, keyed, path), (layers, switching, layered, replayable), (body, late, at_last)) =
            (head, about, end);
        tries(ill, grpc).prop_map(move |tries| {
            let (arrives, body) = (Duration::ZERO, Duration::from_millis(body));
            let case = Case {
                arrives,
                path,
                method,
                keyed,
                grpc,
                switching,
                layers,
                replayable,
                layered,
                tries,
                body,
                late,
                at_last,
            };
            (gap, case)
        })
    })
}

fn cases() -> impl Strategy<Value = Vec<Case>> {
    (0u8..100).prop_flat_map(|ill| prop::collection::vec(case(ill), 1..40)).prop_map(|cases| {
        let mut now = Duration::ZERO;
        let case = |(gap, case)| {
            now += Duration::from_millis(gap);
            Case { arrives: now, ..case }
        };
        cases.into_iter().map(case).collect()
    })
}

fn millis(range: std::ops::Range<u64>) -> impl Strategy<Value = Value> {
    range.prop_map(|millis| json!(format!("{millis}ms")))
}

/// What a route may have of its own.
fn plans() -> impl Strategy<Value = Value> {
    let timeouts = (prop::option::of(millis(1_000..12_000)), prop::option::of(millis(8_000..40_000)));
    let timeouts = timeouts.prop_map(|(attempt, request)| json!({"attempt": attempt, "request": request}));
    let conditions = [
        "5xx",
        "gateway-error",
        "reset-before-response",
        "connect-failure",
        "refused-stream",
        "retriable-4xx",
        "codes",
        "grpc-unavailable",
        "grpc-internal",
        "grpc-deadline-exceeded",
    ];
    let methods = prop::sample::select(vec!["Safe", "Idempotent", "All"]);
    let retries = (1u32..4, prop::sample::subsequence(conditions.to_vec(), 1..10), methods);
    let retries = retries.prop_map(|(max, conditions, methods)| {
        json!({"maxRetries": max, "conditions": conditions, "codes": [429], "methods": methods})
    });
    let hedge = (millis(200..4_000), 1u32..100)
        .prop_map(|(after, share)| json!({"after": after, "maxExtraLoadPercent": share}));
    let part = |strategy: BoxedStrategy<Value>| prop::option::weighted(0.6, strategy);
    (part(timeouts.boxed()), part(retries.boxed()), part(hedge.boxed()))
        .prop_map(|(timeouts, retries, hedge)| json!({"timeouts": timeouts, "retries": retries, "hedge": hedge}))
}

fn policies() -> impl Strategy<Value = Value> {
    let rate = (1u32..3, 1u32..4).prop_map(|(rate, burst)| json!({"requestsPerSecond": rate, "burst": burst}));
    let bulkhead = (1u32..6, 0u32..5, millis(500..30_000)).prop_map(
        |(places, pending, patience)| json!({"maxRequests": places, "maxPending": pending, "maxPendingTime": patience}),
    );
    let breaker = (1u32..6, 1u32..4, millis(5_000..60_000)).prop_map(|(failures, probes, open)| {
        json!({
            "tripOn": {"consecutiveFailures": failures, "failureRate": {"percent": 60, "minRequests": 5, "window": "1m"}},
            "openFor": {"initial": open}, "halfOpen": {"probes": probes}, "recovery": {"ramp": "1m", "startPercent": 20},
        })
    });
    let outliers = (1u32..6, millis(5_000..60_000)).prop_map(|(failures, eject)| {
        json!({"consecutiveFailures": failures, "ejectFor": {"initial": eject},
            "failureRate": {"aboveOthers": 30, "window": "1m", "minRequests": 5}})
    });
    let budget = prop::option::of((0u32..60, 0u32..2)).prop_map(|budget| {
        budget.map(|(percent, floor)| json!({"percent": percent, "minPerSecond": floor, "window": "10s"}))
    });
    let part = |strategy: BoxedStrategy<Value>| prop::option::of(strategy);
    let parts = (part(rate.boxed()), part(bulkhead.boxed()), part(breaker.boxed()), part(outliers.boxed()));
    (parts, budget, plans(), prop::option::of(plans())).prop_map(
        |((rate, bulkhead, breaker, outliers), budget, base, route)| {
            let mut policy = base;
            policy["rateLimit"] = json!(rate);
            policy["bulkhead"] = json!(bulkhead);
            policy["circuitBreaker"] = json!(breaker);
            policy["outlierDetection"] = json!(outliers);
            if let (Some(budget), true) = (budget, policy["retries"].is_object()) {
                policy["retries"]["budget"] = budget;
            }
            if let Some(mut route) = route {
                route["match"] = json!({"path": {"prefix": "/reports"}});
                policy["routes"] = json!([route]);
            }
            policy
        },
    )
}

/// What it decides observed, of requests that it changes nothing of.
fn observed(policy: &wire::Policy, cases: &[Case], start: Instant) -> Decided {
    let Observer { shadow: parts, line } = observer(policy, start);
    // Each has counters of its own, so that it shows what was decided of which.
    let own = |_| {
        let shadow = Arc::new(Shadow { counts: Arc::default(), ..(*parts).clone() });
        Arc::new(Observer { shadow, line: Arc::clone(&line) })
    };
    let observers: Vec<_> = cases.iter().map(own).collect();
    let follow = |(it, case): (&Arc<Observer>, &Case)| {
        let (started, grpc, switching, layers) = (start + case.arrives, case.grpc, case.switching, case.layers);
        it.follow(&case.head(), Asked { started, grpc, switching, layers })
    };
    let mut followed: Vec<_> = observers.iter().zip(cases).map(follow).collect();
    let steps = |(number, case): (usize, &Case)| case.steps().into_iter().map(move |(at, step)| (at, number, step));
    let mut events: Vec<_> = cases.iter().enumerate().flat_map(steps).collect();
    events.sort_by_key(|(at, number, _)| (*at, *number));
    for (at, number, step) in events {
        let (now, one) = (start + at, &mut followed[number]);
        if at == cases[number].arrives && one.arrives(now) {
            one.enters(Need::Exchange, now);
        }
        one.tell(step, now);
    }
    let mut line = line.lock();
    line.advance(start + Duration::from_hours(1_000));
    assert!(line.is_empty(), "nothing is left of what is over");
    let counts = observers.iter().map(|observer| &*observer.shadow.counts);
    (counts.map(decisions).collect(), opened(&parts))
}

fn decisions(counts: &Counts) -> [u64; WOULD.len()] {
    WOULD.map(|would| counts.would(would))
}

fn opened(parts: &Shadow) -> [u64; 2] {
    [&parts.counts.breaker, &parts.counts.endpoints].map(|counts| counts.entered(State::Open))
}

/// Both decisions of each request, or nothing where two things happened at once.
fn both(policy: &Value, cases: &[Case], seed: u64) -> Option<[Decided; 2]> {
    let policy: wire::Policy = serde_json::from_value(policy.clone()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    // The same chance for both: breakers draw how long they are open, and retries how long they wait.
    fastrand::seed(seed);
    let (start, in_force) = runtime.block_on(async {
        let start = Instant::now();
        (start, enforced(&policy, cases, start).await)
    });
    let (counts, parts) = in_force?;
    fastrand::seed(seed);
    let in_force = (counts.iter().map(decisions).collect(), opened(&parts));
    Some([in_force, observed(&policy, cases, start)])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, max_global_rejects: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_observed_is_decided_as_what_is_enforced(policy in policies(), cases in cases(), seed: u64) {
        let both = both(&policy, &cases, seed);
        prop_assume!(both.is_some());
        let [in_force, observed] = both.unwrap_or_default();
        prop_assert_eq!(in_force, observed, "{}", policy);
    }
}

/// The series above are not all alike: each decision is among them.
#[test]
fn the_proof_meets_every_decision() {
    let mut runner = TestRunner::deterministic();
    let (mut met, mut opened) = ([0; WOULD.len()], [0; 2]);
    for seed in 0..400 {
        let policy = policies().new_tree(&mut runner).unwrap().current();
        let cases = cases().new_tree(&mut runner).unwrap().current();
        let Some([in_force, observed]) = both(&policy, &cases, seed) else { continue };
        assert_eq!(in_force, observed, "{policy}");
        observed.0.iter().for_each(|one| met.iter_mut().zip(one).for_each(|(met, times)| *met += times));
        opened.iter_mut().zip(observed.1).for_each(|(met, times)| *met += times);
    }
    for (would, times) in WOULD.iter().zip(met) {
        assert!(times >= 100, "{would:?} is met {times} times: {met:?}");
    }
    assert!(opened.iter().all(|times| *times >= 100), "{opened:?}");
}
