//! A service that fails is left alone, looked at now and then by a few requests, and let back in when it is well.

use firebreak_tests::{
    app::behaviour::Behaviour,
    cluster::{Namespace, app::App, metrics::Metrics},
    wait,
};

/// As in `examples/breaker.yaml`, with shorter times. A try that fails is not tried again, so that requests are tries.
const POLICY: &str = "
apiVersion: firebreak.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: service2}
spec:
  targetRefs: [{kind: Service, name: service2}]
  circuitBreaker:
    tripOn: {consecutiveFailures: 5}
    openFor: {initial: 1s, max: 2s}
    halfOpen: {probes: 3}
    recovery: {ramp: 1s, startPercent: 20}
";
/// Each port of a Service has a breaker of its own.
const PORT: (&str, &str) = ("port", "80");
const FAILURES: usize = 5;
const PROBES: usize = 3;
const CALLERS: usize = 4;

const OUTAGE: &str = "
apiVersion: firebreak.dev/v1alpha1
kind: FaultSpec
metadata: {name: outage}
spec:
  targetRefs: [{kind: Service, name: service2}]
  faults: [{abort: {percent: 100, httpStatus: 503}}]
  duration: 10m
";

fn shop_with_breaker() -> anyhow::Result<Namespace> {
    let shop = super::shop()?;
    shop.apply(POLICY)?;
    super::in_force(&shop, "trafficpolicy/service2")?;
    Ok(shop)
}

/// How often the breaker came into `state`.
fn times(metrics: &Metrics, state: &str) -> usize {
    rounded(metrics.sum("firebreak_breaker_transitions_total", &[PORT, ("level", "service"), ("state", state)]))
}

fn is_in(web: &App, state: &str) -> anyhow::Result<bool> {
    Ok(web.metrics()?.sum("firebreak_breaker_state", &[PORT, ("state", state)]) > 0.5)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counters are small and not negative")]
fn rounded(count: f64) -> usize {
    count.round() as usize
}

/// What comes through from the trip on: a few probes in each half-open state. When the breaker trips, each other caller has one
/// more under way.
fn most_let_through(metrics: &Metrics) -> usize {
    FAILURES + CALLERS - 1 + PROBES * times(metrics, "half_open")
}

/// Requests go on until the breaker is closed, since it is they that look; then all of them succeed.
fn comes_back(web: &App) -> anyhow::Result<()> {
    let load = web.load("http://service2/", "--pause 20ms")?;
    wait::until("the breaker is closed", || is_in(web, "closed"))?;
    let during = load.end()?;
    assert_eq!(during.with("200") + during.reasons.get("breaker_open").unwrap_or(&0), during.sent, "{during:?}");
    let after = web.call("http://service2/", "--count 100 --concurrency 4")?;
    assert_eq!(after.with("200"), 100, "{after:?}");
    let metrics = web.metrics()?;
    assert_eq!((times(&metrics, "recovering"), times(&metrics, "closed")), (1, 1), "it came back by another way");
    Ok(())
}

#[test]
fn a_service_that_fails_gets_a_few_probes_until_it_is_well() -> anyhow::Result<()> {
    let shop = shop_with_breaker()?;
    let (web, service2) = (App::named(&shop, "web"), App::named(&shop, "service2"));
    assert!(is_in(&web, "closed")?);
    service2.behave(&Behaviour { status: 503, ..Behaviour::default() })?;
    let load = web.load("http://service2/", &format!("--concurrency {CALLERS} --pause 10ms --each"))?;
    wait::until("it was looked at twice", || Ok(times(&web.metrics()?, "half_open") >= 2))?;
    wait::until("it was found ill", || is_in(&web, "open"))?;
    let report = load.end()?;

    let reached = report.reasons.get("callee_error").copied().unwrap_or_default();
    let refused = report.reasons.get("breaker_open").copied().unwrap_or_default();
    assert_eq!((report.with("503"), reached + refused), (report.sent, report.sent), "{:?}", report.reasons);
    assert!(refused > 100, "{:?}", report.reasons);
    for request in report.each.iter().filter(|request| request.reason() == Some("breaker_open")) {
        assert_eq!(request.parameter("firebreak-attempts"), Some("0"), "{request:?}");
        assert_eq!(request.parameter("firebreak-domain"), Some("caller_policy"), "{request:?}");
    }
    // The callee saw what was not refused, which was little, and the proxy counted what was.
    let metrics = web.metrics()?;
    assert_eq!(service2.record()?.tries, reached as u64, "{:?}", report.reasons);
    assert!((FAILURES..=most_let_through(&metrics)).contains(&reached), "{reached} came through: {metrics:?}");
    let counted = metrics.sum("firebreak_requests_total", &[PORT, ("fate", "refused_by_breaker")]);
    assert_eq!(rounded(counted), refused, "{:?}", report.reasons);

    service2.behave(&Behaviour::default())?;
    comes_back(&web)
}

/// So that the breaker can be rehearsed without breaking anything.
#[test]
fn a_fault_trips_the_breaker_and_its_end_lets_it_close() -> anyhow::Result<()> {
    let shop = shop_with_breaker()?;
    let (web, service2) = (App::named(&shop, "web"), App::named(&shop, "service2"));
    shop.apply(OUTAGE)?;
    super::in_force(&shop, "faultspec/outage")?;
    service2.behave(&Behaviour::default())?;
    let report = web.call("http://service2/", "--count 50")?;
    assert_eq!(report.with("503"), 50, "{report:?}");
    let [injected, refused] =
        ["fault_abort", "breaker_open"].map(|reason| report.reasons.get(reason).copied().unwrap_or_default());
    assert_eq!(injected + refused, 50, "{:?}", report.reasons);
    assert!((FAILURES..=most_let_through(&web.metrics()?)).contains(&injected), "{:?}", report.reasons);
    assert_eq!(service2.record()?.tries, 0, "the callee had no part in it");
    shop.kubectl(&["delete", "fspec", "outage"])?;
    wait::until("the fault has ended", || {
        let config = web.proxy_config()?["config"].take();
        Ok(!config.to_string().contains(&format!("{}/outage", shop.name)))
    })?;
    comes_back(&web)
}
