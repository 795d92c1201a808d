//! The talk's first example: a connection in one second, a request in three, three more tries of 300 milliseconds.

use std::{collections::BTreeMap, time::Duration};

use firebreak_tests::{
    app::behaviour::Behaviour,
    chance,
    cluster::{Namespace, app::App},
    wait,
};

const IN: (&str, &str) = ("direction", "inbound");
const REFUSED: (&str, &str) = ("reason", "connection_refused");

fn shop_with_talk_1() -> anyhow::Result<Namespace> {
    let shop = super::shop()?;
    shop.apply_example("talk-1-timeouts-and-retries.yaml")?;
    super::in_force(&shop, "trafficpolicy/service2")?;
    Ok(shop)
}

#[test]
fn a_service_that_fails_30_percent_fails_under_1_percent_of_its_callers() -> anyhow::Result<()> {
    const REQUESTS: usize = 4000;
    let shop = shop_with_talk_1()?;
    let (web, service2) = (App::named(&shop, "web"), App::named(&shop, "service2"));
    service2.behave(&Behaviour { status: 503, percent: 30, seed: 1, ..Behaviour::default() })?;
    let report =
        web.call("http://service2/", &format!("--count {REQUESTS} --concurrency 8 --method POST --body 100"))?;
    let failed = report.with("503");
    assert_eq!(report.with("200") + failed, REQUESTS, "{report:?}");
    assert!(chance::expected(REQUESTS, 0.3_f64.powi(4)).contains(&failed), "{failed} requests failed");

    // Why: how many requests needed how many tries, as the service saw it.
    let record = service2.record()?;
    let tries = record.tries_a_request();
    for (count, share) in [(1, 0.7), (2, 0.7 * 0.3), (3, 0.7 * 0.09), (4, 0.027)] {
        let seen = tries.get(&count).copied().unwrap_or_default();
        assert!(chance::expected(REQUESTS, share).contains(&seen), "{seen} requests had {count} tries: {tries:?}");
    }
    assert_eq!(tries.values().sum::<usize>(), REQUESTS, "{tries:?}");
    assert!(tries.keys().all(|count| *count <= 4), "{tries:?}");
    let given_up = record.seen.values().filter(|tries| tries.iter().all(|seen| seen.status == Some(503)));
    assert!(given_up.clone().all(|tries| tries.len() == 4), "a request was given up before its fourth try");
    assert_eq!(given_up.count(), failed, "what the caller and the service saw differ");

    // And the proxy counts the same.
    let metrics = web.metrics()?;
    let service = format!("{}/service2", shop.name);
    let of_service = ("service", service.as_str());
    let count = |name: &str, label| metrics.sum(name, &[of_service, label]);
    assert_same(count("firebreak_attempts_total", of_service), record.tries, "tries");
    let again = REQUESTS - tries[&1] - failed;
    assert_same(count("firebreak_requests_total", ("fate", "succeeded_after_retry")), again as u64, "saved by a retry");
    assert_same(count("firebreak_requests_total", ("fate", "failed")), failed as u64, "failed");
    Ok(())
}

#[test]
fn a_service_that_hangs_is_given_up_in_time_and_each_try_ends_at_300_ms() -> anyhow::Result<()> {
    let shop = shop_with_talk_1()?;
    let (web, service2) = (App::named(&shop, "web"), App::named(&shop, "service2"));
    service2.behave(&Behaviour { hang: true, ..Behaviour::default() })?;
    let report = web.call("http://service2/", "--count 5 --each")?;
    assert_eq!(report.with("504"), 5, "{report:?}");
    assert_eq!(report.reasons, BTreeMap::from([("attempt_timeout".to_owned(), 5)]), "{report:?}");
    assert!((1200..=3000).contains(&report.fastest), "{report:?}");
    assert!((1200..=3000).contains(&report.slowest), "{report:?}");
    for request in &report.each {
        assert_eq!(request.parameter("firebreak-attempts"), Some("4"), "{request:?}");
        assert_eq!(
            request.parameter("firebreak-policy"),
            Some(format!("{}/service2", shop.name).as_str()),
            "{request:?}"
        );
    }
    wait::until("the service has seen every try end", || Ok(service2.record()?.in_flight == 0))?;
    let record = service2.record()?;
    assert_eq!(record.tries_a_request(), BTreeMap::from([(4, 5)]));
    for lasted in record.cut_after() {
        // A little less is what connecting takes: the service sees a try later than the caller begins it.
        let expected = Duration::from_millis(200)..Duration::from_millis(400);
        assert!(expected.contains(&lasted), "a try lasted {lasted:?}");
    }
    Ok(())
}

/// A Service whose pod is there, with its proxy, and whose application does not listen.
const NOBODY_LISTENS: &str = "
apiVersion: v1
kind: Service
metadata: {name: closed}
spec:
  selector: {app: service2}
  ports: [{name: http, port: 80, targetPort: 4444}]
---
apiVersion: firebreak.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: closed}
spec:
  targetRefs: [{kind: Service, name: closed}]
  retries: {maxRetries: 2, conditions: [connect-failure], budget: {percent: 100, minPerSecond: 100}}
";

/// A proxy accepts for its application before it knows whether that one listens, and its caller's proxy connects in any case. It
/// is a failed connection all the same: nothing was processed, so a POST may be sent again.
#[test]
fn a_connection_that_the_callees_own_proxy_cannot_open_is_one_that_failed() -> anyhow::Result<()> {
    const REQUESTS: usize = 5;
    let shop = super::shop()?;
    let (web, service2) = (App::named(&shop, "web"), App::named(&shop, "service2"));
    shop.apply(NOBODY_LISTENS)?;
    super::in_force(&shop, "trafficpolicy/closed")?;
    let call = || web.call("http://closed/", &format!("--method POST --body 100 --each --count {REQUESTS}"));
    // Until kube-proxy knows the Service, the connection is refused on the way already.
    let refused = || service2.metrics().map(|metrics| metrics.sum("firebreak_failures_total", &[IN, REFUSED]));
    wait::until("the calls get as far as the callee's proxy", || {
        call()?;
        Ok(refused()? > 0.5)
    })?;
    let before = refused()?;
    let report = call()?;
    assert_eq!(report.with("502"), REQUESTS, "{report:?}");
    assert_eq!(report.reasons.get("connection_refused"), Some(&REQUESTS), "{report:?}");
    for request in &report.each {
        assert_eq!(request.parameter("firebreak-domain"), Some("callee_platform"), "{request:?}");
        assert_eq!(request.parameter("firebreak-attempts"), Some("3"), "{request:?}");
    }
    assert_same(refused()? - before, 3 * REQUESTS as u64, "tries that came as far as the callee's proxy");
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn assert_same(counted: f64, seen: u64, what: &str) {
    assert!((counted - seen as f64).abs() < 0.5, "{what}: the proxy counted {counted}, there were {seen}");
}
