//! Whom a policy is for: the callee's namespace sets it for everyone, a caller's namespace for itself, and `from` for some.

use firebreak_tests::{
    cluster::{
        Namespace,
        app::{App, manifest},
        install,
    },
    wait,
};

/// A policy on service2 of namespace `of` whose requests may take so long.
fn policy(name: &str, of: &str, request: &str, from: &str) -> String {
    format!(
        "
apiVersion: firebreak.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: {name}}}
spec:
  targetRefs: [{{kind: Service, name: service2{of}}}]
  timeouts: {{request: {request}}}
  {from}
"
    )
}

/// Waits until a call of `path` from `caller` ends with `outcome`.
fn ends_with(caller: &App, url: &str, outcome: &str) -> anyhow::Result<()> {
    wait::until(&format!("{url} ends with {outcome}"), || Ok(caller.call(url, "")?.with(outcome) == 1))
}

#[test]
fn the_callees_namespace_decides_for_all_and_the_callers_for_itself() -> anyhow::Result<()> {
    install::firebreak()?;
    let [shop, consumer, bystander] = ["shop", "consumer", "bystander"].map(Namespace::enabled);
    let (shop, consumer, bystander) = (shop?, consumer?, bystander?);
    let service2 = App::deploy(&shop, "service2")?;
    let (web, other) = (App::deploy(&consumer, "web")?, App::deploy(&bystander, "web")?);
    let host = format!("service2.{}", shop.name);
    wait::until("the Service has the pod", || Ok(web.call(&format!("http://{host}/"), "")?.with("200") == 1))?;
    service2.ready()?;

    let slow = format!("http://{host}/?delay=600");
    shop.apply(&policy("everyone", "", "300ms", ""))?;
    ends_with(&web, &slow, "504")?;
    ends_with(&other, &slow, "504")?;
    consumer.apply(&policy("ours", &format!(", namespace: {}", shop.name), "5s", ""))?;
    ends_with(&web, &slow, "200")?;
    assert_eq!(other.call(&slow, "")?.with("504"), 1, "a consumer's policy is for its own namespace");
    Ok(())
}

#[test]
fn from_narrows_a_policy_to_some_callers_and_a_port_to_some_calls() -> anyhow::Result<()> {
    let shop = super::shop()?;
    shop.apply(&manifest("batch"))?;
    let (web, batch) = (App::named(&shop, "web"), App::named(&shop, "batch"));
    batch.ready()?;
    let (slow, other_port) = ("http://service2/?delay=600", "http://service2:82/?delay=600");
    shop.apply(&policy("web-only", ", sectionName: http", "300ms", "from: {podSelector: {matchLabels: {app: web}}}"))?;
    ends_with(&web, slow, "504")?;
    assert_eq!(web.call(other_port, "")?.with("200"), 1, "the policy names another port");
    assert_eq!(batch.call(slow, "")?.with("200"), 1, "the policy is not for this caller");
    Ok(())
}

#[test]
fn a_route_is_an_exception_and_a_namespace_is_the_default_for_its_services() -> anyhow::Result<()> {
    let shop = super::shop()?;
    let web = App::named(&shop, "web");
    shop.apply(&format!(
        "
apiVersion: firebreak.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: default}}
spec:
  targetRefs: [{{kind: Namespace, name: {}}}]
  timeouts: {{request: 300ms}}
  routes:
  - match: {{path: {{prefix: /reports}}, headers: {{x-user: {{exact: qa}}}}}}
    timeouts: {{request: 5s}}
",
        shop.name
    ))?;
    ends_with(&web, "http://service2/?delay=600", "504")?;
    let report = "http://service2/reports/7?delay=600";
    assert_eq!(web.call(report, "--header x-user:qa")?.with("200"), 1);
    assert_eq!(web.call(report, "")?.with("504"), 1, "the header is missing");
    assert_eq!(web.call("http://service2/reportsnot?delay=600", "--header x-user:qa")?.with("504"), 1);
    Ok(())
}
