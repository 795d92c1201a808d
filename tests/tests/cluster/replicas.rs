//! Two operators run and one of them writes: the other takes over when it ends or falls silent, and writes nothing twice.

use std::time::Duration;

use anyhow::ensure;
use firebreak_crds::wire::revision;
use firebreak_tests::{
    cluster::{Namespace, app::App, install, kubectl},
    wait,
};
use serde_json::Value;

const LEASE: &str = "firebreak-operator";
const POLICY: &str = "trafficpolicy/service2";

/// A policy on service2 of the namespace that it is in, or of another one's, then for callers from its own only.
fn policy(of: &str, request: &str) -> String {
    format!(
        "
apiVersion: firebreak.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: service2}}
spec:
  targetRefs: [{{kind: Service, name: service2{of}}}]
  timeouts: {{request: {request}}}
"
    )
}

/// The pod that the Lease names.
fn holder() -> anyhow::Result<String> {
    let path = "jsonpath={.spec.holderIdentity}";
    kubectl(["--namespace", install::NAMESPACE, "get", "lease", LEASE, "--output", path])
}

/// How many operators believe that they may write.
fn writers() -> anyhow::Result<f64> {
    let counts = install::replicas("operator")?.into_iter().map(|pod| install::metrics(&pod));
    counts.map(|metrics| Ok(metrics?.sum("firebreak_operator_lease_held", &[]))).sum()
}

/// Which version of the namespace's config was written last, and what its pods were told of it.
fn written(shop: &Namespace) -> anyhow::Result<[String; 2]> {
    let version =
        shop.kubectl(&["get", "configmap", "firebreak-proxy", "--output", "jsonpath={.metadata.resourceVersion}"])?;
    let told = "jsonpath={.items[*].metadata.annotations.firebreak\\.dev/config}";
    Ok([version, shop.kubectl(&["get", "pods", "--output", told])?])
}

/// Waits until the config is about this namespace only, and its pods were told: each namespace that an earlier test has left
/// goes at its own pace, and changes everyone's config when it does.
fn settled(shop: &Namespace) -> anyhow::Result<()> {
    let own = format!("{}/", shop.name);
    wait::until("what earlier tests have left is gone", || {
        let config =
            shop.kubectl(&["get", "configmap", "firebreak-proxy", "--output", "jsonpath={.data.config\\.json}"])?;
        let [_, told] = written(shop)?;
        let entries = serde_json::from_str::<Value>(&config)?["entries"].take();
        let is_own = |entry: &Value| entry["name"].as_str().is_some_and(|name| name.starts_with(&own));
        Ok(entries.as_array().is_some_and(|entries| entries.iter().all(is_own))
            && told.split(' ').all(|told| told == revision(config.as_bytes())))
    })
}

#[test]
fn when_the_operator_that_writes_is_killed_the_other_one_goes_on() -> anyhow::Result<()> {
    let shop = super::shop()?;
    shop.apply(&policy("", "30s"))?;
    super::in_force(&shop, POLICY)?;
    let replicas = install::replicas("operator")?;
    let first = holder()?;
    let others: Vec<_> = replicas.iter().filter(|pod| **pod != first).collect();
    ensure!(replicas.len() == 2 && others.len() == 1, "{first} holds the lease of {replicas:?}");
    assert!((writers()? - 1.0).abs() < 0.5, "{} write", writers()?);
    settled(&shop)?;
    let before = written(&shop)?;

    kubectl(["--namespace", install::NAMESPACE, "delete", "pod", &first, "--force", "--grace-period=0"])?;
    wait::until("the other one holds the lease", || Ok(holder()? == *others[0]))?;
    // It has looked at everything once it has published what is new to it; what was as it should be is untouched.
    let witness = Namespace::enabled("witness")?;
    witness.apply(&policy(&format!(", namespace: {}", shop.name), "30s"))?;
    witness.kubectl(&["wait", POLICY, "--for=condition=Published", "--timeout=10s"])?;
    assert_eq!(written(&shop)?, before, "what had not changed was written again");

    shop.apply(&policy("", "200ms"))?;
    super::in_force(&shop, POLICY)?;
    assert_eq!(App::named(&shop, "web").call("http://service2/?hang=true", "--patience 5s")?.with("504"), 1);
    assert_ne!(written(&shop)?, before);
    assert_eq!(holder()?, *others[0]);
    Ok(())
}

/// As after a node was lost: nobody gives the lease back, and until it has run out nobody may write.
#[test]
fn a_holder_that_falls_silent_is_waited_for_and_then_replaced() -> anyhow::Result<()> {
    let shop = super::shop()?;
    shop.apply(&policy("", "30s"))?;
    super::in_force(&shop, POLICY)?;
    settled(&shop)?;
    let silent = format!(r#"{{"spec": {{"holderIdentity": "lost", "renewTime": "{:.6}"}}}}"#, jiff::Timestamp::now());
    kubectl(["--namespace", install::NAMESPACE, "patch", "lease", LEASE, "--type=merge", "--patch", &silent])?;
    wait::until("the one that wrote has stopped", || Ok(writers()? < 0.5))?;
    let before = written(&shop)?;
    shop.apply(&policy("", "200ms"))?;
    // It lasts 15 seconds, of which asking has taken some.
    let took = wait::within(Duration::from_secs(25), "another one holds the lease", || {
        let holder = holder()?;
        ensure!(holder != "lost" || written(&shop)? == before, "it was written while nobody might");
        Ok(holder != "lost")
    })?;
    assert!(took > Duration::from_secs(8), "the lease was taken after {took:?}");
    super::in_force(&shop, POLICY)?;
    assert!(install::replicas("operator")?.contains(&holder()?), "the lease went to {}", holder()?);
    assert!((writers()? - 1.0).abs() < 0.5, "{} write", writers()?);
    Ok(())
}
