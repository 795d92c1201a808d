//! A breaker from open to closed: a callee that fails is left alone, and is let back in by degrees.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    Demo,
    check::Check,
    clock::REQUEST,
    load::{Load, Tally, fate, send},
    metrics::Metrics,
    parts::{Act, Plot, within},
};

const BREAKER: (&str, &str) = ("examples/breaker.yaml", include_str!("../../../examples/breaker.yaml"));

pub(super) const LEFT_ALONE: Plot = Plot {
    title: "service2 fails altogether, behind a circuit breaker; then it is well again",
    files: &[BREAKER],
    lesson: "A callee that fails is left alone, probed, and let back in by degrees.",
    explained: "After five failures in a row service2 gets no more requests, and callers know at once. Half a second later three \
             real requests probe it; when they have passed, a share of the traffic follows that grows while all goes well. A \
             breaker that let everything back in at once would knock over what has just come back.",
};

/// Between ten requests and the next ten: half a step of the example's recovery.
const PACE: Duration = Duration::from_millis(25);

/// The longest that a request takes where the example is in force: one try of a second, and a little for this machine.
const LONGEST: Duration = Duration::from_millis(1250);

/// Callers at a time.
const CALLERS: usize = 5;

pub(super) async fn left_alone(demo: &mut Demo) -> anyhow::Result<Act> {
    const WHILE_ILL: u64 = 500;
    // Five in a row open it; each of the other callers may have had one under way.
    const MOST: u64 = 5 + CALLERS as u64 - 1;
    let before = demo.scrape().await?;
    demo.services.mood.fail(100);
    let ill = load(demo, WHILE_ILL).await;
    demo.services.mood.fail(0);
    let back = back_in(demo, &before).await?;
    let well = load(demo, 100).await;
    let succeeded = well.fate(fate::SUCCEEDED);
    let tally = ill.clone().plus(back).plus(well);
    let seen = demo.seen(&before, &tally).await?;
    let into = |state: &str| entered(&seen.metrics, state);
    let reached = |state: &str| {
        let (promised, seen) = ("at least once", into(state));
        Check::that(format!("came to be {state}"), promised, format!("{seen} times"), seen > 0)
    };
    let failed = ill.fate(fate::FAILED);
    let checks = vec![
        Check::that(
            "failed before it was left alone",
            format!("5 to {MOST}"),
            failed.to_string(),
            (5..=MOST).contains(&failed),
        ),
        Check::exactly("left alone", WHILE_ILL - failed, ill.fate(fate::LEFT_ALONE)),
        within("the longest that such a refusal took", Duration::from_millis(250), ill.slowest_refusal),
        reached("half_open"),
        reached("recovering"),
        reached("closed"),
        Check::exactly("succeeded afterwards, of 100", 100, succeeded),
        Check::exactly(
            "tries, and requests that were not left alone",
            seen.tries(),
            tally.sent - seen.fate(fate::LEFT_ALONE),
        ),
    ];
    Ok(seen.act(checks))
}

async fn load(demo: &Demo, most: u64) -> Tally {
    let (to, until) = (demo.service2.clone(), demo.clock.curtain());
    send(Load { to, at_once: CALLERS, most, until, patience: REQUEST }, demo.show.tick()).await
}

/// Requests until everything is let through again, at a pace at which a recovery has some in each of its steps.
async fn back_in(demo: &Demo, before: &Metrics) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    while Instant::now() + LONGEST < demo.clock.curtain() && entered(&demo.scrape().await?.since(before), "closed") == 0
    {
        tally = tally.plus(load(demo, 10).await);
        sleep(PACE).await;
    }
    Ok(tally)
}

/// How often service2's breaker has come into a state.
fn entered(metrics: &Metrics, state: &str) -> u64 {
    let labels = [("service", "default/service2"), ("level", "service"), ("state", state)];
    metrics.sum("firebreak_breaker_transitions_total", &labels)
}
