//! A policy that is observed changes nothing between real pods, and counts.

use firebreak_tests::{
    app::behaviour::Behaviour,
    cluster::{app::App, metrics::Metrics},
    wait,
};

#[test]
fn an_observed_breaker_opens_in_the_books_only() -> anyhow::Result<()> {
    let shop = super::shop()?;
    let (web, service2) = (App::named(&shop, "web"), App::named(&shop, "service2"));
    shop.apply_example("observe.yaml")?;
    super::in_force(&shop, "trafficpolicy/service2-observed")?;
    service2.behave(&Behaviour { status: 503, ..Behaviour::default() })?;
    let report = web.call("http://service2/", "--count 20")?;
    assert_eq!(report.with("503"), 20, "{report:?}");
    assert!(!report.reasons.contains_key("breaker_open"), "{report:?}");
    let labels = [("direction", "outbound"), ("protection", "breaker")];
    let of =
        |metrics: &Metrics, would| metrics.sum("firebreak_observed_total", &[labels[0], labels[1], ("would", would)]);
    wait::until("the breaker has opened in the books", || Ok(of(&web.metrics()?, "open") >= 1.0))?;
    wait::until("requests would have been refused", || Ok(of(&web.metrics()?, "refuse") >= 1.0))
}
