//! The talk's three examples, and what each promises; and what all parts have in common.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use tokio::time::Instant;

use super::{
    Demo, breaker,
    check::Check,
    clock::REQUEST,
    load::{Load, Tally, fate, send},
    metrics::Metrics,
    observe,
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
/// Of a caller where no policy ends requests: longer than the demo leaves service2 hanging.
const PATIENCE: Duration = Duration::from_secs(15);

/// How to tell a part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plot {
    pub(crate) title: &'static str,
    pub(crate) files: &'static [(&'static str, &'static str)],
    /// What to learn, in one line.
    pub(crate) lesson: &'static str,
    /// Why it is so.
    pub(crate) explained: &'static str,
}

/// What a part came to.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    pub(crate) title: &'static str,
    pub(crate) files: Vec<&'static str>,
    /// Requests to service2, as its callers counted them.
    pub(crate) sent: u64,
    /// The same requests, as the proxy counted them.
    pub(crate) fates: BTreeMap<&'static str, u64>,
    pub(crate) tries: u64,
    pub(crate) seconds: f64,
    pub(crate) checks: Vec<Check>,
    pub(crate) lesson: &'static str,
    pub(crate) explained: &'static str,
}

/// What a part sent, and what was counted.
pub(crate) struct Act {
    pub(crate) sent: u64,
    pub(crate) fates: BTreeMap<&'static str, u64>,
    pub(crate) tries: u64,
    pub(crate) checks: Vec<Check>,
}

const FAILING: Plot = Plot {
    title: "service2 answers 503 to 30 % of tries",
    files: &[TALK_1],
    lesson: "Retries turn 30 % of failures into 0.8 %, at the price of 1.4 tries a request.",
    explained: "Four tries that each fail with 30 % fail together with 0.3⁴, or 0.8 %. The price stands in the tries: 1.4 for each \
             request, which a retry budget keeps from growing when everything fails.",
};
const HANGING: Plot = Plot {
    title: "service2 takes requests and never answers",
    files: &[TALK_1],
    lesson: "The timeout of each try ends the wait, after 1.3 s; no retry helps here.",
    explained: "Each try ends after 300 ms, so callers know after 1.3 s and not after 3, and nobody waits for ever. Retries do not \
             help against a callee that hangs: they only make it later. That is what bulkheads are for.",
};
const FULL: Plot = Plot {
    title: "service2 hangs, behind a bulkhead of 100 connections and 100 waiting",
    files: &[TALK_2],
    lesson: "A callee that hangs holds 100 connections and no more; others do not notice.",
    explained: "A callee that hangs takes 100 connections of its caller and no more. Request 201 is refused at once, those who wait \
             are sent away after a second, and service3 never notices.",
};
const FAULTS: Plot = Plot {
    title: "a fault on purpose: 50 % of tries 20 s late, 20 % answered 503",
    files: &[TALK_1, TALK_3],
    lesson: "Faults below retries test the policy: 60 % of tries fail, 13 % of requests.",
    explained: "The fault hits tries, below the retries: 60 % of tries fail, 13 % of requests. Nobody waited 20 s, because each \
             try ends after 300 ms. An experiment like this tests the policy; one above the retries would test nothing.",
};

/// In the order of the play.
pub(crate) const ALL: [Plot; 6] = [FAILING, HANGING, FULL, FAULTS, breaker::LEFT_ALONE, observe::TRIED];

/// What proxy and callers saw in one part.
pub(super) struct Seen<'a> {
    tally: &'a Tally,
    pub(super) metrics: Metrics,
}

pub(super) async fn failing(demo: &mut Demo) -> anyhow::Result<Act> {
    demo.services.mood.fail(30);
    let (before, passed_on) = (demo.scrape().await?, demo.services.mood.passed_on());
    let until = Instant::now() + demo.clock.first_part();
    let load = Load { to: demo.service2.clone(), at_once: 20, most: 2000, until, patience: REQUEST };
    let tally = send(load, demo.show.tick()).await;
    demo.services.mood.fail(0);
    let seen = demo.seen(&before, &tally).await?;
    let (fails, tries) = (0.3f64, seen.tries());
    let passed_on = demo.services.mood.passed_on() - passed_on;
    let checks = vec![
        Check::share("succeeded at the first try", 1.0 - fails, seen.fate(fate::SUCCEEDED), tally.sent),
        Check::share("succeeded after retry", fails - fails.powi(TRIES), seen.fate(fate::AFTER_RETRY), tally.sent),
        Check::share("failed, four times", fails.powi(TRIES), seen.fate(fate::FAILED), tally.sent),
        Check::share("tries that were answered 503", fails, seen.outcome("error"), tries),
        Check::exactly("service2's calls to service3", passed_on, seen.succeeded_at("default/service3")),
    ];
    Ok(seen.act(checks))
}

pub(super) async fn hanging(demo: &mut Demo) -> anyhow::Result<Act> {
    const CALLERS: u64 = 20;
    demo.services.mood.hang(true);
    let before = demo.scrape().await?;
    let load =
        Load { to: demo.service2.clone(), at_once: 20, most: CALLERS, until: demo.clock.curtain(), patience: REQUEST };
    let tally = send(load, demo.show.tick()).await;
    demo.services.mood.hang(false);
    let seen = demo.seen(&before, &tally).await?;
    let checks = vec![
        Check::exactly("timed out", CALLERS, seen.fate(fate::TIMED_OUT)),
        Check::exactly(
            "tries, each cut after 300 ms",
            CALLERS * u64::from(TRIES.unsigned_abs()),
            seen.outcome("timed_out"),
        ),
        within("the longest that a caller waited", REQUEST, tally.slowest),
    ];
    Ok(seen.act(checks))
}

pub(super) async fn full(demo: &mut Demo) -> anyhow::Result<Act> {
    const ROOM: u64 = 100;
    const TOO_MANY: u64 = 20;
    const BYSTANDERS: u64 = 100;
    demo.services.mood.hang(true);
    let before = demo.scrape().await?;
    let load = |to: &hyper::Uri, at_once: usize, most: u64| {
        let until = demo.clock.curtain();
        send(Load { to: to.clone(), at_once, most, until, patience: PATIENCE }, demo.show.tick())
    };
    let in_use = |metrics: &Metrics, resource: &str| {
        metrics.sum("firebreak_bulkhead_in_use", &[("service", "default/service2"), ("resource", resource)])
    };
    let filled = |now: &Metrics| in_use(now, "connections") == ROOM && in_use(now, "pending") == ROOM;
    // Those who wait are sent away after a second; then the callee wakes up.
    let refused = |now: &Metrics| requests(&now.since(&before), fate::REFUSED) == ROOM + TOO_MANY;
    let crowd = async { anyhow::Ok(load(&demo.service2, 200, 2 * ROOM).await) };
    let meanwhile = async {
        let crowded = Metrics::until(demo.admin, filled).await?;
        let late = load(&demo.service2, 20, TOO_MANY).await;
        let bystanders = load(&demo.service3, 10, BYSTANDERS).await;
        Metrics::until(demo.admin, refused).await?;
        demo.services.mood.hang(false);
        anyhow::Ok((crowded, late, bystanders))
    };
    let (crowd, (crowded, late, bystanders)) = tokio::try_join!(crowd, meanwhile)?;
    let tally = crowd.plus(late);
    let seen = demo.seen(&before, &tally).await?;
    let reason = |reason: &str| tally.reasons.get(reason).copied().unwrap_or_default();
    let checks = vec![
        Check::exactly("connections while it hung", ROOM, in_use(&crowded, "connections")),
        Check::exactly("waiting for one", ROOM, in_use(&crowded, "pending")),
        Check::exactly("refused at once (bulkhead_full)", TOO_MANY, reason("bulkhead_full")),
        within("the longest that such a refusal took", Duration::from_millis(250), tally.slowest_refusal),
        Check::exactly("refused after waiting (bulkhead_timeout)", ROOM, reason("bulkhead_timeout")),
        Check::exactly("succeeded, when it woke up", ROOM, seen.fate(fate::SUCCEEDED)),
        Check::exactly("service3's requests meanwhile that succeeded", BYSTANDERS, bystanders.fate(fate::SUCCEEDED)),
    ];
    Ok(seen.act(checks))
}

pub(super) async fn faults(demo: &mut Demo) -> anyhow::Result<Act> {
    // A try fails unless it is neither late nor answered 503. One that is late is cut, whatever would come then.
    const LATE: f64 = 0.5;
    const ABORTED: f64 = 0.5 * 0.2;
    const FAILS: f64 = LATE + ABORTED;
    let before = demo.scrape().await?;
    let load =
        Load { to: demo.service2.clone(), at_once: 100, most: 500, until: demo.clock.last_call(), patience: REQUEST };
    let tally = send(load, demo.show.tick()).await;
    let seen = demo.seen(&before, &tally).await?;
    let (all, tries) = (tally.sent, seen.tries());
    // A request that fails four times ends as its last try does.
    let lost = FAILS.powi(TRIES - 1);
    let checks = vec![
        Check::share("tries cut after 300 ms, being 20 s late", LATE, seen.outcome("timed_out"), tries),
        Check::share("tries answered 503 by the fault", ABORTED, seen.outcome("injected"), tries),
        Check::share("succeeded at the first try", 1.0 - FAILS, seen.fate(fate::SUCCEEDED), all),
        Check::share("succeeded after retry", FAILS - FAILS.powi(TRIES), seen.fate(fate::AFTER_RETRY), all),
        Check::share("timed out at the fourth try", lost * LATE, seen.fate(fate::TIMED_OUT), all),
        Check::share("injected 503 at the fourth try", lost * ABORTED, seen.fate(fate::INJECTED), all),
        within("the longest that a caller waited", REQUEST, tally.slowest),
    ];
    Ok(seen.act(checks))
}

impl Demo {
    /// What was counted since `before`, once the proxy has counted every request of `tally`.
    pub(super) async fn seen<'a>(&self, before: &Metrics, tally: &'a Tally) -> anyhow::Result<Seen<'a>> {
        let counted = |now: &Metrics| all_requests(&now.since(before)) >= tally.sent;
        let metrics = Metrics::until(self.admin, counted).await?.since(before);
        Ok(Seen { tally, metrics })
    }
}

impl Seen<'_> {
    /// What the part comes to; beside its own `checks` it has those that every part has.
    pub(super) fn act(&self, mut checks: Vec<Check>) -> Act {
        checks.extend(self.sums());
        let fates = fate::ALL.iter().map(|fate| (*fate, self.fate(fate))).filter(|(_, count)| *count > 0).collect();
        Act { sent: self.tally.sent, fates, tries: self.tries(), checks }
    }

    pub(super) fn fate(&self, fate: &str) -> u64 {
        requests(&self.metrics, fate)
    }

    fn outcome(&self, outcome: &str) -> u64 {
        self.metrics.sum("firebreak_attempts_total", &[("service", "default/service2"), ("outcome", outcome)])
    }

    pub(super) fn tries(&self) -> u64 {
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
            && [fate::FAILED, fate::TIMED_OUT, fate::REFUSED, fate::LEFT_ALONE, fate::INJECTED, fate::UNREACHABLE]
                .into_iter()
                .all(|fate| both(self.tally.fate(fate), self.fate(fate)));
        let words = |agree| if agree { "agree" } else { "differ" };
        [
            Check::exactly("requests sent, and all fates together", self.tally.sent, all_requests(&self.metrics)),
            Check::that("callers and proxy about every fate", words(true), words(agree), agree),
        ]
    }
}

fn requests(metrics: &Metrics, fate: &str) -> u64 {
    metrics.sum("firebreak_requests_total", &[("service", "default/service2"), ("fate", fate)])
}

fn all_requests(metrics: &Metrics) -> u64 {
    metrics.sum("firebreak_requests_total", &[("service", "default/service2")])
}

pub(super) fn within(what: &str, limit: Duration, seen: Duration) -> Check {
    let millis = |time: Duration| format!("{} ms", time.as_millis());
    Check::that(what, format!("at most {}", millis(limit)), millis(seen), seen <= limit)
}
