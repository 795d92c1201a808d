//! A policy that is tried before it is enforced: what its counters say it would do, and what it does then.

use std::time::Duration;

use super::{
    Demo, apply,
    check::Check,
    clock::REQUEST,
    load::{Load, Tally, fate, send},
    parts::{Act, Plot, within},
};

const OBSERVED: (&str, &str) = ("examples/observe.yaml", include_str!("../../../examples/observe.yaml"));
/// What is changed in that file to put it in force, as it says itself.
const ONE_WORD: (&str, &str) = ("mode: Observe", "mode: Enforce");

pub(super) const TRIED: Plot = Plot {
    title: "service2 fails altogether, and a circuit breaker is only observed; then it is enforced",
    files: &[OBSERVED],
    lesson: "Observe a policy first: nothing changes, and the counters say what it would do.",
    explained: "While the breaker is observed each request goes to service2 and fails as it would without it, and the counters say \
             that all but the first five would have been left alone. One word puts it in force, and the same requests come to \
             just that. So a limit can be tried on real traffic before it refuses anybody.",
};

/// Requests that fail in a row until the example's breaker opens. It stays open for longer than the part takes.
const FAILURES: u64 = 5;

pub(super) async fn tried(demo: &mut Demo) -> anyhow::Result<Act> {
    const REQUESTS: u64 = 100;
    let before = demo.scrape().await?;
    demo.services.mood.fail(100);
    let observed = one_by_one(demo, REQUESTS).await;
    let counted = demo.seen(&before, &observed).await?.metrics;
    let would = |would| {
        let labels = [("service", "default/service2"), ("protection", "breaker"), ("would", would)];
        counted.sum("firebreak_observed_total", &labels)
    };
    let (observe, enforce) = ONE_WORD;
    demo.show.line(&format!("     now with {enforce}"));
    apply(&mut demo.engine, &demo.services, &[(OBSERVED.0, &OBSERVED.1.replace(observe, enforce))])?;
    let enforced = one_by_one(demo, REQUESTS).await;
    demo.services.mood.fail(0);
    let checks = vec![
        Check::exactly("observed: failed, as without it", REQUESTS, observed.fate(fate::FAILED)),
        Check::exactly("observed: would have opened", 1, would("open")),
        Check::exactly("observed: would have been left alone", REQUESTS - FAILURES, would("refuse")),
        Check::exactly("enforced: failed before it was left alone", FAILURES, enforced.fate(fate::FAILED)),
        Check::exactly("enforced: left alone, as the counters said", would("refuse"), enforced.fate(fate::LEFT_ALONE)),
        within("the longest that such a refusal took", Duration::from_millis(250), enforced.slowest_refusal),
    ];
    let tally = observed.plus(enforced);
    Ok(demo.seen(&before, &tally).await?.act(checks))
}

/// One after the other, so that it is no chance how many are under way when the breaker opens.
async fn one_by_one(demo: &Demo, most: u64) -> Tally {
    let (to, until) = (demo.service2.clone(), demo.clock.curtain());
    send(Load { to, at_once: 1, most, until, patience: REQUEST }, demo.show.tick()).await
}
