//! Firebreak's own parts fail: traffic goes on, and pods that do not need them start.

use std::thread;

use firebreak_tests::cluster::{Namespace, app, app::App, install, kubectl};

#[test]
fn operator_and_injector_are_killed_under_load_and_no_request_fails() -> anyhow::Result<()> {
    let shop = super::shop()?;
    let web = App::named(&shop, "web");
    shop.apply_example("talk-1-timeouts-and-retries.yaml")?;
    super::in_force(&shop, "trafficpolicy/service2")?;
    let report = thread::scope(|scope| -> anyhow::Result<_> {
        let load = scope.spawn(|| web.call("http://service2/", "--for 15s --concurrency 4"));
        let kill = ["--namespace", install::NAMESPACE, "delete", "pods", "--all", "--force", "--grace-period=0"];
        kubectl(kill)?;
        for deployment in ["firebreak-operator", "firebreak-injector"] {
            install::rollout(deployment)?;
        }
        load.join().map_err(|_| anyhow::anyhow!("the caller's thread ended"))?
    })?;
    assert!(report.sent > 1000, "{report:?}");
    assert_eq!(report.with("200"), report.sent, "{report:?}");
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
    let report = thread::scope(|scope| -> anyhow::Result<_> {
        let load = scope.spawn(|| web.call("http://steady/", "--for 20s --concurrency 4"));
        shop.kubectl(&["rollout", "restart", "deployment/steady"])?;
        steady.ready()?;
        load.join().map_err(|_| anyhow::anyhow!("the caller's thread ended"))?
    })?;
    assert!(report.sent > 1000, "{report:?}");
    assert_eq!(report.with("200"), report.sent, "{report:?}");
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
    firebreak_tests::wait::until("the ReplicaSet's pod is refused", || {
        refusal = shop.kubectl(&["get", "events", "--field-selector", "reason=FailedCreate"])?;
        Ok(refusal.contains("protected"))
    })?;
    Ok(refusal)
}
