//! Firebreak's own parts fail: traffic goes on, and pods that do not need them start.

use firebreak_tests::{
    cluster::{Namespace, app, app::App, install, kubectl},
    wait,
};

/// A policy on service3 that gives up and never tries again.
const CLOCKS_ONLY: &str = "
apiVersion: firebreak.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: service3}
spec:
  targetRefs: [{kind: Service, name: service3}]
  timeouts: {connect: 2s, attempt: 5s, request: 10s}
";

/// Under a policy that retries, under one that does not, and without any: no retry hides a request that was lost.
#[test]
fn operator_and_injector_are_killed_under_load_and_no_request_fails() -> anyhow::Result<()> {
    let (shop, bare) = (super::shop()?, super::shop()?);
    let (web, service3) = (App::named(&shop, "web"), App::deploy(&shop, "service3")?);
    service3.ready_for(&web)?;
    shop.apply_example("talk-1-timeouts-and-retries.yaml")?;
    shop.apply(CLOCKS_ONLY)?;
    super::in_force(&shop, "trafficpolicy/service2")?;
    super::in_force(&shop, "trafficpolicy/service3")?;
    let (bare_web, bare_service2) = (App::named(&bare, "web"), App::named(&bare, "service2"));

    let load = |caller: &App, url| caller.load(url, "--concurrency 4 --pause 5ms");
    let loads =
        [load(&web, "http://service2/")?, load(&web, "http://service3/")?, load(&bare_web, "http://service2/")?];
    install::kill_all()?;
    // The new ones take part in it too: they publish.
    shop.apply(&CLOCKS_ONLY.replace("10s", "11s"))?;
    super::in_force(&shop, "trafficpolicy/service3")?;
    let [retried, clocked, plain] = loads.map(app::Load::end);

    for report in [&retried?, &clocked?, &plain?] {
        assert!(report.sent > 500, "{report:?}");
        assert_eq!(report.with("200"), report.sent, "{report:?}");
    }
    for service in [service3, bare_service2] {
        let tries = service.record()?.tries_a_request();
        assert!(tries.keys().all(|count| *count == 1), "a request was tried again, so one was lost: {tries:?}");
    }
    Ok(())
}

/// The proxy of a pod that ends tells callers to go elsewhere before its application ends, so that a rollout needs no retries.
#[test]
fn a_rollout_of_the_service_under_load_fails_no_request() -> anyhow::Result<()> {
    let shop = super::shop()?;
    let (web, steady) = (App::named(&shop, "web"), App::named(&shop, "steady"));
    // As for any rollout in Kubernetes, the application must outlive the moment in which its address is still handed out.
    let manifest = app::manifest("steady")
        .replace("  selector: {matchLabels", "  replicas: 2\n  selector: {matchLabels")
        .replace("args: [serve]", "args: [serve]\n        lifecycle: {preStop: {sleep: {seconds: 3}}}");
    shop.apply(&manifest)?;
    steady.ready_for(&web)?;
    // Over HTTP/2 one connection carries all of them; it is to be left before it ends.
    let loads = [
        (web.load("http://steady/", "--concurrency 4")?, "200"),
        (web.load("http://steady:81/firebreak.test.Echo/Echo", "--concurrency 4 --protocol grpc")?, "grpc 0"),
    ];
    shop.kubectl(&["rollout", "restart", "deployment/steady"])?;
    steady.ready()?;
    wait::until("the old pods are gone", || Ok(shop.pods("steady")?.len() == 2))?;
    for (load, outcome) in loads {
        let report = load.end()?;
        assert!(report.sent > 1000, "{report:?}");
        assert_eq!(report.with(outcome), report.sent, "{report:?}");
    }
    Ok(())
}

#[test]
fn without_the_injector_pods_that_opted_out_start_and_others_wait() -> anyhow::Result<()> {
    install::firebreak()?;
    let shop = Namespace::enabled("shop")?;
    let plain = Namespace::create("plain", &[])?;
    let injector = install::Stopped::new("firebreak-injector")?;
    App::deploy(&plain, "app")?;
    let opted_out =
        app::manifest("app").replace("{app: app}}\n    spec", "{app: app, firebreak.dev/inject: disabled}}\n    spec");
    shop.apply(&opted_out)?;
    App::named(&shop, "app").ready()?;
    kubectl(["--namespace", "kube-system", "run", "firebreak-probe", "--image", app::IMAGE, "--", "serve"])?;
    let started = kubectl([
        "--namespace",
        "kube-system",
        "wait",
        "pod/firebreak-probe",
        "--for=condition=Ready",
        "--timeout=30s",
    ]);
    kubectl(["--namespace", "kube-system", "delete", "pod", "firebreak-probe", "--force", "--grace-period=0"])?;
    started?;
    // A pod that is to be protected does not start without its protection; it does when the injector is back.
    shop.apply(&app::manifest("protected"))?;
    let refusal = wait_for_refusal(&shop)?;
    assert!(refusal.contains("failed calling webhook"), "{refusal}");
    injector.start()?;
    App::named(&shop, "protected").ready()
}

fn wait_for_refusal(shop: &Namespace) -> anyhow::Result<String> {
    let mut refusal = String::new();
    wait::until("the ReplicaSet's pod is refused", || {
        refusal = shop.kubectl(&["get", "events", "--field-selector", "reason=FailedCreate"])?;
        Ok(refusal.contains("protected"))
    })?;
    Ok(refusal)
}
