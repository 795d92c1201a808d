//! The talk's third example: half of the tries are twenty seconds late, a fifth is answered 503, and it ends on time.

use std::time::{Duration, SystemTime};

use anyhow::Context;
use firebreak_tests::{
    chance,
    cluster::{Namespace, app::App, install},
    wait,
};

const NAME: &str = "faultspec/service2-slow-and-failing";

/// Every try fails, for so long.
fn outage(duration: &str) -> String {
    format!(
        "
apiVersion: firebreak.dev/v1alpha1
kind: FaultSpec
metadata: {{name: outage}}
spec:
  targetRefs: [{{kind: Service, name: service2}}]
  faults: [{{abort: {{percent: 100, httpStatus: 503}}}}]
  duration: {duration}
"
    )
}

fn is_faulted(web: &App) -> anyhow::Result<bool> {
    Ok(web.call("http://service2/", "")?.reasons.contains_key("fault_abort"))
}

#[test]
fn half_is_late_and_a_fifth_fails() -> anyhow::Result<()> {
    const REQUESTS: usize = 500;
    let shop = super::shop()?;
    let web = App::named(&shop, "web");
    shop.apply_example("talk-3-faults.yaml")?;
    super::in_force(&shop, NAME)?;
    let report = web.call("http://service2/", &format!("--count {REQUESTS} --concurrency {REQUESTS} --each"))?;
    let count = |outcome: &str, late: bool| {
        report.each.iter().filter(|request| request.outcome == outcome && (request.ms >= 20_000) == late).count()
    };
    // The two faults are drawn independently.
    for (outcome, late, share) in [("200", false, 0.4), ("503", false, 0.1), ("200", true, 0.4), ("503", true, 0.1)] {
        let seen = count(outcome, late);
        assert!(chance::expected(REQUESTS, share).contains(&seen), "{seen} × {outcome}, late: {late}");
    }
    assert!(report.each.iter().all(|request| !(5_000..20_000).contains(&request.ms)), "a delay that is not 20 s");
    // Each failure says whose it is.
    assert_eq!(report.reasons["fault_abort"], report.with("503"), "{:?}", report.reasons);
    let aborts = web.metrics()?.sum("firebreak_fault_injected_total", &[("kind", "abort")]);
    assert!((aborts - f64::from(u32::try_from(report.with("503"))?)).abs() < 0.5, "the proxy counted {aborts}");
    Ok(())
}

#[test]
fn faults_are_below_the_policy_so_callers_see_the_policy_at_work() -> anyhow::Result<()> {
    const REQUESTS: usize = 1000;
    let shop = super::shop()?;
    let web = App::named(&shop, "web");
    shop.apply_example("talk-1-timeouts-and-retries.yaml")?;
    super::in_force(&shop, "trafficpolicy/service2")?;
    shop.apply_example("talk-3-faults.yaml")?;
    super::in_force(&shop, NAME)?;
    let report = web.call("http://service2/", &format!("--count {REQUESTS} --concurrency 100"))?;
    // A try fails when it is late (and is cut at 300 ms) or, in half of the other cases' fifth, aborted: 0.5 + 0.5 × 0.2.
    let failed = REQUESTS - report.with("200");
    assert!(chance::expected(REQUESTS, 0.6_f64.powi(4)).contains(&failed), "{failed} failed: {report:?}");
    assert_eq!(report.with("503") + report.with("504"), failed, "{report:?}");
    assert!(report.slowest < 3500, "no request outlasts its clock: {report:?}");
    Ok(())
}

#[test]
fn a_fault_ends_on_time_with_the_operator_gone() -> anyhow::Result<()> {
    let shop = super::shop()?;
    let web = App::named(&shop, "web");
    shop.apply(&outage("20s"))?;
    wait::until("the fault is seen", || is_faulted(&web))?;
    let operator = install::Stopped::new("firebreak-operator")?;
    assert!(is_faulted(&web)?, "it ended with the operator, not with its time");
    let expires = shop.json(&["get", "fspec", "outage"])?["status"]["expiresAt"].as_str().context("no end")?.to_owned();
    wait::until("the fault has ended", || Ok(!is_faulted(&web)?))?;
    let late = seconds_after(&expires)?;
    assert!((-1.0..2.0).contains(&late), "it ended {late} s after {expires}");
    operator.start()?;
    shop.kubectl(&["wait", "fspec/outage", "--for=jsonpath={.status.phase}=Completed", "--timeout=30s"])?;
    Ok(())
}

#[test]
fn deleting_or_suspending_a_fault_ends_it_within_two_seconds() -> anyhow::Result<()> {
    let shop: Namespace = super::shop()?;
    let web = App::named(&shop, "web");
    let suspend = ["patch", "fspec", "outage", "--type=merge", "--patch", r#"{"spec": {"suspend": true}}"#];
    for end in [suspend.as_slice(), &["delete", "fspec", "outage"]] {
        shop.kubectl(&["delete", "fspec", "outage", "--ignore-not-found"])?;
        shop.apply(&outage("10m"))?;
        wait::until("the fault is seen", || is_faulted(&web))?;
        shop.kubectl(end)?;
        wait::within(Duration::from_secs(2), "the fault has ended", || Ok(!is_faulted(&web)?))?;
    }
    Ok(())
}

#[test]
fn a_namespace_that_does_not_allow_faults_has_none() -> anyhow::Result<()> {
    let shop = super::shop()?;
    shop.kubectl(&["label", "namespace", &shop.name, "firebreak.dev/faults-"])?;
    let web = App::named(&shop, "web");
    shop.apply(&outage("10m"))?;
    shop.apply_example("talk-1-timeouts-and-retries.yaml")?;
    super::in_force(&shop, "trafficpolicy/service2")?;
    let report = web.call("http://service2/", "--count 50")?;
    assert_eq!(report.with("200"), 50, "{report:?}");
    kubectl_label_faults(&shop)?;
    wait::until("the fault is seen once it is allowed", || is_faulted(&web))
}

fn kubectl_label_faults(shop: &Namespace) -> anyhow::Result<()> {
    shop.kubectl(&["label", "namespace", &shop.name, "firebreak.dev/faults=enabled"]).map(drop)
}

/// Seconds from `time` (RFC 3339) until now.
fn seconds_after(time: &str) -> anyhow::Result<f64> {
    let time = SystemTime::from(time.parse::<jiff::Timestamp>()?);
    Ok(match SystemTime::now().duration_since(time) {
        Ok(after) => after.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    })
}
