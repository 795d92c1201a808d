//! The talk's second example: a hundred connections, a hundred that wait, and the next is refused at once.

use std::thread;

use firebreak_tests::{
    app::{behaviour::Behaviour, call::Report},
    cluster::app::App,
    wait,
};

#[test]
fn a_service_that_hangs_takes_its_hundred_connections_and_no_more() -> anyhow::Result<()> {
    let shop = super::shop()?;
    let (web, service2) = (App::named(&shop, "web"), App::named(&shop, "service2"));
    let service3 = App::deploy(&shop, "service3")?;
    service3.ready_for(&web)?;
    shop.apply_example("talk-2-bulkhead.yaml")?;
    super::in_force(&shop, "trafficpolicy/service2")?;
    service2.behave(&Behaviour { hang: true, ..Behaviour::default() })?;
    service3.behave(&Behaviour::default())?;

    let (stuck, others) = thread::scope(|scope| -> anyhow::Result<_> {
        let stuck = scope.spawn(|| web.call("http://service2/", "--count 230 --concurrency 230 --patience 6s --each"));
        wait::until("service2 has its hundred", || Ok(service2.record()?.in_flight == 100))?;
        let others = web.call("http://service3/", "--count 300 --concurrency 10")?;
        let stuck = stuck.join().map_err(|_| anyhow::anyhow!("the caller's thread ended"))??;
        Ok((stuck, others))
    })?;

    // 100 hang until the caller loses patience, 100 wait their second in vain, 30 are refused.
    assert_eq!(stuck.with("no answer"), 100, "{:?}", summary(&stuck));
    assert_eq!(stuck.with("503"), 130, "{:?}", summary(&stuck));
    assert_eq!(stuck.reasons["bulkhead_full"], 30, "{:?}", summary(&stuck));
    assert_eq!(stuck.reasons["bulkhead_timeout"], 100, "{:?}", summary(&stuck));
    for request in &stuck.each {
        let expected = match request.reason() {
            Some("bulkhead_full") => 0..500,
            Some("bulkhead_timeout") => 950..1800,
            _ => 5900..7000,
        };
        assert!(expected.contains(&request.ms), "{request:?}");
    }
    assert_eq!(service2.record()?.most_in_flight, 100);

    assert_eq!(others.with("200"), 300, "{others:?}");
    assert!(others.p99 < 250, "other services are slowed down: {others:?}");

    // When the service is back, so are its callers.
    service2.behave(&Behaviour::default())?;
    wait::until("the places are given back", || Ok(service2.record()?.in_flight == 0))?;
    let after = web.call("http://service2/", "--count 500 --concurrency 150")?;
    assert_eq!(after.with("200"), 500, "{after:?}");
    Ok(())
}

fn summary(report: &Report) -> impl std::fmt::Debug {
    (report.outcomes.clone(), report.reasons.clone(), report.fastest, report.slowest)
}
