//! Beside the callee: its own proxy limits what it works on at once, and injects faults that every caller suffers.

use firebreak_tests::{app::behaviour::Behaviour, cluster::app::App, wait};

#[test]
fn a_fault_beside_the_callee_hits_its_callers_and_not_the_kubelet() -> anyhow::Result<()> {
    let shop = super::shop()?;
    let (web, service2) = (App::named(&shop, "web"), App::named(&shop, "service2"));
    shop.apply(
        "
apiVersion: firebreak.dev/v1alpha1
kind: FaultSpec
metadata: {name: beside}
spec:
  targetRefs: [{kind: Service, name: service2}]
  faults: [{abort: {percent: 100, httpStatus: 503}}]
  at: Inbound
  duration: 10m
",
    )?;
    super::in_force(&shop, "faultspec/beside")?;
    wait::until("the fault is seen", || Ok(web.call("http://service2/", "")?.reasons.contains_key("fault_abort")))?;
    let report = web.call("http://service2/", "--count 20")?;
    assert_eq!((report.with("503"), report.reasons.get("fault_abort")), (20, Some(&20)), "{report:?}");
    // The callee's proxy injected it, and the caller's says so too.
    assert!(service2.metrics()?.sum("firebreak_fault_injected_total", &[("kind", "abort")]) >= 20.0);
    assert!(web.metrics()?.sum("firebreak_fault_injected_total", &[]) < 0.5);
    let injected = [("direction", "outbound"), ("fate", "injected")];
    assert!(web.metrics()?.sum("firebreak_requests_total", &injected) >= 20.0);
    service2.ready()?;
    shop.kubectl(&["delete", "fspec", "beside"])?;
    wait::until("the fault has ended", || Ok(web.call("http://service2/", "")?.with("200") == 1))
}

#[test]
fn what_is_beyond_the_limit_is_refused_and_says_so() -> anyhow::Result<()> {
    let shop = super::shop()?;
    let (web, service2) = (App::named(&shop, "web"), App::named(&shop, "service2"));
    shop.apply(
        "
apiVersion: firebreak.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: limit}
spec:
  targetRefs: [{kind: Service, name: service2}]
  inbound: {concurrency: {max: 2, maxPending: 0}}
",
    )?;
    super::in_force(&shop, "trafficpolicy/limit")?;
    service2.behave(&Behaviour { delay: 1_000, ..Behaviour::default() })?;
    let limit = || Ok(service2.metrics()?.sum("firebreak_concurrency_limit", &[("direction", "inbound")]) > 0.5);
    wait::until("the proxy of service2 has the limit", limit)?;
    let report = web.call("http://service2/", "--count 20 --concurrency 20")?;
    let refused = report.with("503");
    assert!((10..=18).contains(&refused), "{report:?}");
    assert_eq!(report.with("200") + refused, 20, "{report:?}");
    assert_eq!(report.reasons.get("overload"), Some(&refused), "{report:?}");
    let counted = service2.metrics()?.sum("firebreak_concurrency_refused_total", &[("cause", "full")]);
    assert!((counted - f64::from(u32::try_from(refused)?)).abs() < 0.5, "the proxy counted {counted}");
    Ok(())
}
