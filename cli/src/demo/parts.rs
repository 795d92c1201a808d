//! The talk's three examples, and what each promises.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use tokio::time::Instant;

use super::{
    Demo,
    check::Check,
    load::{Load, Tally, fate, send},
    metrics::Metrics,
};

/// Example 1: connect 1 s, in all 3 s, three retries of 300 ms.
const TALK_1: (&str, &str) =
    ("examples/talk-1-timeouts-and-retries.yaml", include_str!("../../../examples/talk-1-timeouts-and-retries.yaml"));
/// Example 2: 100 connections, 100 waiting.
const TALK_2: (&str, &str) = ("examples/talk-2-bulkhead.yaml", include_str!("../../../examples/talk-2-bulkhead.yaml"));
/// Example 3: 20 s late at 50 %, 503 at 20 %.
const TALK_3: (&str, &str) = ("examples/talk-3-faults.yaml", include_str!("../../../examples/talk-3-faults.yaml"));

/// Tries that example 1 allows: one and three retries.
const TRIES: i32 = 4;
/// The longest that example 1 lets a request take, and a little for this machine.
const REQUEST: Duration = Duration::from_millis(3250);

/// How to tell a part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plot {
    pub(crate) title: &'static str,
    pub(crate) files: &'static [(&'static str, &'static str)],
    pub(crate) lesson: &'static str,
}

/// What a part came to.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    pub(crate) title: &'static str,
    pub(crate) files: Vec<&'static str>,
    pub(crate) sent: u64,
    /// As the proxy counted them.
    pub(crate) fates: BTreeMap<&'static str, u64>,
    pub(crate) tries: u64,
    pub(crate) seconds: f64,
    pub(crate) checks: Vec<Check>,
    pub(crate) lesson: &'static str,
}

pub(crate) const FAILING: Plot = Plot {
    title: "service2 answers 503 to 30 % of tries",
    files: &[TALK_1],
    lesson: "Four tries that each fail with 30 % fail together with 0.3⁴, or 0.8 %. The price stands in the tries: 1.4 for each \
             request, which a retry budget keeps from growing when everything fails.",
};
pub(crate) const HANGING: Plot = Plot {
    title: "service2 takes requests and never answers",
    files: &[TALK_1],
    lesson: "Each try ends after 300 ms, so callers know after 1.3 s and not after 3, and nobody waits for ever. Retries do not \
             help against a callee that hangs: they only make it later. That is what bulkheads are for.",
};
pub(crate) const FULL: Plot = Plot {
    title: "service2 hangs, behind a bulkhead of 100 connections and 100 waiting",
    files: &[TALK_2],
    lesson: "A callee that hangs takes 100 connections of its caller and no more. Request 201 is refused at once, those who wait \
             are sent away after a second, and service3 never notices.",
};
pub(crate) const FAULTS: Plot = Plot {
    title: "a fault on purpose: 50 % of tries 20 s late, 20 % answered 503",
    files: &[TALK_1, TALK_3],
    lesson: "The fault hits tries, below the retries: 60 % of tries fail, 13 % of requests. Nobody waited 20 s, because each \
             try ends after 300 ms. An experiment like this tests the policy; one above the retries would test nothing.",
};

/// What proxy and callers saw in one part.
struct Seen<'a> {
    tally: &'a Tally,
    metrics: Metrics,
}

pub(super) async fn failing(demo: &mut Demo) -> anyhow::Result<Vec<Check>> {
    demo.services.mood.fail(30);
    let (before, passed_on) = (demo.scrape().await?, demo.services.mood.passed_on());
    let until = Instant::now() + demo.length.mul_f64(0.2).min(Duration::from_secs(4));
    let tally = send(Load { to: demo.service2.clone(), at_once: 20, most: 2000, until }, demo.show.tick()).await;
    demo.services.mood.fail(0);
    let seen = demo.seen(&before, &tally).await?;
    let (fails, tries) = (0.3f64, seen.tries());
    let passed_on = demo.services.mood.passed_on() - passed_on;
    let mut checks = vec![
        Check::share("succeeded at the first try", 1.0 - fails, seen.fate(fate::SUCCEEDED), tally.sent),
        Check::share("succeeded after retry", fails - fails.powi(TRIES), seen.fate(fate::AFTER_RETRY), tally.sent),
        Check::share("failed, four times", fails.powi(TRIES), seen.fate(fate::FAILED), tally.sent),
        Check::share("tries that were answered 503", fails, seen.outcome("error"), tries),
        Check::exactly("service2's calls to service3", passed_on, seen.succeeded_at("default/service3")),
    ];
    checks.extend(seen.sums());
    Ok(checks)
}

pub(super) async fn hanging(demo: &mut Demo) -> anyhow::Result<Vec<Check>> {
    const CALLERS: u64 = 20;
    demo.services.mood.hang(true);
    let before = demo.scrape().await?;
    let load = Load { to: demo.service2.clone(), at_once: 20, most: CALLERS, until: demo.far() };
    let tally = send(load, demo.show.tick()).await;
    demo.services.mood.hang(false);
    let seen = demo.seen(&before, &tally).await?;
    let mut checks = vec![
        Check::exactly("timed out", CALLERS, seen.fate(fate::TIMED_OUT)),
        Check::exactly(
            "tries, each cut after 300 ms",
            CALLERS * u64::from(TRIES.unsigned_abs()),
            seen.outcome("timed_out"),
        ),
        within("the longest that a caller waited", REQUEST, tally.slowest),
    ];
    checks.extend(seen.sums());
    Ok(checks)
}

pub(super) async fn full(demo: &mut Demo) -> anyhow::Result<Vec<Check>> {
    const ROOM: u64 = 100;
    const TOO_MANY: u64 = 20;
    const BYSTANDERS: u64 = 100;
    demo.services.mood.hang(true);
    let before = demo.scrape().await?;
    let load = |to: &hyper::Uri, at_once: usize, most: u64| Load { to: to.clone(), at_once, most, until: demo.far() };
    let crowd = tokio::spawn(send(load(&demo.service2, 200, 2 * ROOM), demo.show.tick()));
    let in_use = |metrics: &Metrics, resource: &str| {
        metrics.sum("firebreak_bulkhead_in_use", &[("service", "default/service2"), ("resource", resource)])
    };
    let filled = |now: &Metrics| in_use(now, "connections") == ROOM && in_use(now, "pending") == ROOM;
    let crowded = Metrics::until(demo.admin, filled).await?;
    let late = send(load(&demo.service2, 20, TOO_MANY), demo.show.tick()).await;
    let bystanders = send(load(&demo.service3, 10, BYSTANDERS), demo.show.tick()).await;
    // Those who wait are sent away after a second; then the callee wakes up.
    let refused = |now: &Metrics| requests(&now.since(&before), fate::REFUSED) == ROOM + TOO_MANY;
    Metrics::until(demo.admin, refused).await?;
    demo.services.mood.hang(false);
    let tally = crowd.await?.plus(late);
    let seen = demo.seen(&before, &tally).await?;
    let reason = |reason: &str| tally.reasons.get(reason).copied().unwrap_or_default();
    let mut checks = vec![
        Check::exactly("connections while it hung", ROOM, in_use(&crowded, "connections")),
        Check::exactly("waiting for one", ROOM, in_use(&crowded, "pending")),
        Check::exactly("refused at once (bulkhead_full)", TOO_MANY, reason("bulkhead_full")),
        within("the longest that such a refusal took", Duration::from_millis(250), tally.slowest_refusal),
        Check::exactly("refused after waiting (bulkhead_timeout)", ROOM, reason("bulkhead_timeout")),
        Check::exactly("succeeded, when it woke up", ROOM, seen.fate(fate::SUCCEEDED)),
        Check::exactly("service3's requests meanwhile that succeeded", BYSTANDERS, bystanders.fate(fate::SUCCEEDED)),
    ];
    checks.extend(seen.sums());
    Ok(checks)
}

pub(super) async fn faults(demo: &mut Demo) -> anyhow::Result<Vec<Check>> {
    // A try fails unless it is neither late nor answered 503. One that is late is cut, whatever would come then.
    const LATE: f64 = 0.5;
    const ABORTED: f64 = 0.5 * 0.2;
    const FAILS: f64 = LATE + ABORTED;
    let before = demo.scrape().await?;
    let load = Load { to: demo.service2.clone(), at_once: 100, most: 1000, until: demo.last_call() };
    let tally = send(load, demo.show.tick()).await;
    let seen = demo.seen(&before, &tally).await?;
    let (all, tries) = (tally.sent, seen.tries());
    // A request that fails four times ends as its last try does.
    let lost = FAILS.powi(TRIES - 1);
    let mut checks = vec![
        Check::share("tries cut after 300 ms, being 20 s late", LATE, seen.outcome("timed_out"), tries),
        Check::share("tries answered 503 by the fault", ABORTED, seen.outcome("injected"), tries),
        Check::share("succeeded at the first try", 1.0 - FAILS, seen.fate(fate::SUCCEEDED), all),
        Check::share("succeeded after retry", FAILS - FAILS.powi(TRIES), seen.fate(fate::AFTER_RETRY), all),
        Check::share("timed out at the fourth try", lost * LATE, seen.fate(fate::TIMED_OUT), all),
        Check::share("injected 503 at the fourth try", lost * ABORTED, seen.fate(fate::INJECTED), all),
        within("the longest that a caller waited", REQUEST, tally.slowest),
    ];
    checks.extend(seen.sums());
    Ok(checks)
}

impl Demo {
    /// What was counted since `before`, once the proxy has counted every request of `tally`.
    async fn seen<'a>(&self, before: &Metrics, tally: &'a Tally) -> anyhow::Result<Seen<'a>> {
        let counted = |now: &Metrics| all_requests(&now.since(before)) >= tally.sent;
        let metrics = Metrics::until(self.admin, counted).await?.since(before);
        Ok(Seen { tally, metrics })
    }
}

impl Seen<'_> {
    fn fate(&self, fate: &str) -> u64 {
        requests(&self.metrics, fate)
    }

    fn outcome(&self, outcome: &str) -> u64 {
        self.metrics.sum("firebreak_attempts_total", &[("service", "default/service2"), ("outcome", outcome)])
    }

    fn tries(&self) -> u64 {
        self.metrics.sum("firebreak_attempts_total", &[("service", "default/service2")])
    }

    fn succeeded_at(&self, service: &str) -> u64 {
        self.metrics.sum("firebreak_requests_total", &[("service", service), ("fate", fate::SUCCEEDED)])
    }

    /// What must hold in every part: each request has one fate, and callers saw the fates that the proxy counted.
    fn sums(&self) -> [Check; 2] {
        let both = |seen: u64, counted: u64| seen == counted;
        let succeeded = self.fate(fate::SUCCEEDED) + self.fate(fate::AFTER_RETRY);
        let agree = both(self.tally.fate(fate::SUCCEEDED), succeeded)
            && [fate::FAILED, fate::TIMED_OUT, fate::REFUSED, fate::INJECTED, fate::UNREACHABLE]
                .into_iter()
                .all(|fate| both(self.tally.fate(fate), self.fate(fate)));
        let words = |agree| if agree { "agree" } else { "differ" };
        [
            Check::exactly("requests sent, and all fates together", self.tally.sent, all_requests(&self.metrics)),
            Check::that("callers and proxy about every fate", words(true), words(agree), agree),
        ]
    }
}

/// What was counted at service2, by fate, and its tries.
pub(super) fn counted(metrics: &Metrics) -> (BTreeMap<&'static str, u64>, u64) {
    let fates = fate::ALL.iter().map(|fate| (*fate, requests(metrics, fate)));
    let tries = metrics.sum("firebreak_attempts_total", &[("service", "default/service2")]);
    (fates.filter(|(_, count)| *count > 0).collect(), tries)
}

fn requests(metrics: &Metrics, fate: &str) -> u64 {
    metrics.sum("firebreak_requests_total", &[("service", "default/service2"), ("fate", fate)])
}

fn all_requests(metrics: &Metrics) -> u64 {
    metrics.sum("firebreak_requests_total", &[("service", "default/service2")])
}

fn within(what: &str, limit: Duration, seen: Duration) -> Check {
    let millis = |time: Duration| format!("{} ms", time.as_millis());
    Check::that(what, format!("at most {}", millis(limit)), millis(seen), seen <= limit)
}
