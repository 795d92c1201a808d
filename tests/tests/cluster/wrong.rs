//! Bad input: refused with a message that helps, by the API server in the same words as by `firebreak lint` (whose half of the
//! table is in `tests/wrong.rs`), and what is in force stays in force.

use anyhow::Context;
use firebreak_tests::{
    cluster::{Namespace, app::App, install, kubectl},
    wait, wrong,
};

#[test]
fn the_api_server_refuses_each_wrong_yaml_and_says_why() -> anyhow::Result<()> {
    install::firebreak()?;
    for case in wrong::table()? {
        let refusal = kubectl(["apply", "--dry-run=server", "--filename", &case.path.to_string_lossy()]);
        let refusal = refusal.err().with_context(|| format!("{} was accepted", case.name()))?.to_string();
        assert!(refusal.contains(&case.message), "{} was refused with: {refusal}", case.name());
    }
    Ok(())
}

#[test]
fn a_fault_cannot_be_changed_once_it_is_there() -> anyhow::Result<()> {
    install::firebreak()?;
    let shop = Namespace::create("shop", &[])?;
    shop.apply_example("talk-3-faults.yaml")?;
    let patch = ["patch", "fspec", "service2-slow-and-failing", "--type=merge", "--patch"];
    let longer = shop.kubectl(&[patch.as_slice(), &[r#"{"spec": {"duration": "24h"}}"#]].concat());
    let refusal = longer.err().context("the change was accepted")?.to_string();
    assert!(refusal.contains("a FaultSpec cannot be changed after creation, except for suspend"), "{refusal}");
    shop.kubectl(&[patch.as_slice(), &[r#"{"spec": {"suspend": true}}"#]].concat())?;
    Ok(())
}

#[test]
fn a_config_that_is_corrupted_by_hand_leaves_the_old_one_in_force_and_shows() -> anyhow::Result<()> {
    let shop = super::shop()?;
    let web = App::named(&shop, "web");
    shop.apply_example("talk-1-timeouts-and-retries.yaml")?;
    super::in_force(&shop, "trafficpolicy/service2")?;
    let gives_up = || Ok(web.call("http://service2/?hang=true", "--patience 5s")?.with("504") == 1);
    wait::until("the policy is in force", gives_up)?;
    // While the operator is there, it would put the config right before anyone saw it.
    let operator = install::Stopped::new("firebreak-operator")?;
    let broken = r#"{"data": {"config.json": "{\"format\": 1, \"entries\": [{\"kind"}}"#;
    shop.kubectl(&["patch", "configmap", "firebreak-proxy", "--type=merge", "--patch", broken])?;
    shop.kubectl(&["annotate", "pods", "--all", "--overwrite", "firebreak.dev/config=corrupted-by-hand"])?;
    wait::until("the proxy says so", || Ok(web.metrics()?.sum("firebreak_config_refused_total", &[]) > 0.0))?;
    assert!(gives_up()?, "the policy that was in force is gone");
    // A proxy that starts with nothing but this is ready, and forwards.
    let late = App::deploy(&shop, "late")?;
    assert_eq!(late.call("http://service2/", "--count 5")?.with("200"), 5);
    operator.start()?;
    wait::until("the operator has put it right", || {
        let config = shop.json(&["get", "configmap", "firebreak-proxy"])?;
        Ok(serde_json::from_str::<serde_json::Value>(config["data"]["config.json"].as_str().unwrap_or_default())
            .is_ok())
    })
}

/// What only the cluster can know is said on the object's status.
#[test]
fn conflicts_and_missing_targets_are_said_on_the_object() -> anyhow::Result<()> {
    let shop = super::shop()?;
    shop.apply_example("quickstart.yaml")?;
    super::in_force(&shop, "trafficpolicy/service2")?;
    let younger = wrong::renamed("quickstart.yaml", "name: service2\nspec", "name: younger\nspec")?;
    shop.apply(&younger)?;
    let message = condition(&shop, "younger", "Accepted", "False")?;
    assert!(message.contains(&format!("{}/service2", shop.name)), "the winner is not named: {message}");
    shop.apply(
        &wrong::renamed("quickstart.yaml", "    name: service2\n", "    name: nobody\n")?
            .replace("  name: service2\n", "  name: third\n"),
    )?;
    let message = condition(&shop, "third", "ResolvedRefs", "False")?;
    assert!(message.contains("nobody"), "{message}");
    Ok(())
}

/// Waits for a condition of a TrafficPolicy and gives its message.
fn condition(shop: &Namespace, name: &str, condition: &str, status: &str) -> anyhow::Result<String> {
    let wanted = format!("--for=condition={condition}={status}");
    shop.kubectl(&["wait", &format!("trafficpolicy/{name}"), &wanted, "--timeout=10s"])?;
    let path = format!("jsonpath={{.status.conditions[?(@.type=='{condition}')].message}}");
    shop.kubectl(&["get", "trafficpolicy", name, "--output", &path])
}
