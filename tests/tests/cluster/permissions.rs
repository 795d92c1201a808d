//! What the operator is allowed to do is what it needs, also if somebody else should come to act in its name.

use anyhow::Context;
use firebreak_tests::cluster::{Namespace, app::App, install};
use serde_json::{Value, json};

/// Patches a pod of `web` as the operator would, without carrying it out; in another's name if `who` says so.
fn patch(shop: &Namespace, pod: &str, who: &[&str], patch: &Value) -> anyhow::Result<String> {
    let patch = patch.to_string();
    shop.kubectl(&[&["patch", "pod", pod, "--dry-run=server", "--type=strategic", "--patch", &patch], who].concat())
}

#[test]
fn the_operator_may_change_one_annotation_of_a_pod_and_nothing_else() -> anyhow::Result<()> {
    let shop = super::shop()?;
    let pod = App::named(&shop, "web").pod()?["metadata"]["name"].as_str().context("no name")?.to_owned();
    let name = format!("--as=system:serviceaccount:{}:firebreak-operator", install::NAMESPACE);
    // With every right there is, since kubectl reads what it patches and the operator may not: it is the policy that refuses.
    let operator = [name.as_str(), "--as-group=system:masters"];
    let annotation = |name: &str| json!({"metadata": {"annotations": {name: "x"}}});
    let image = json!({"spec": {"containers": [{"name": "app", "image": "evil:1"}]}});
    let label = json!({"metadata": {"labels": {"app": "service2"}}});
    let finalizer = json!({"metadata": {"finalizers": ["evil.example/stay"]}});
    for (change, message) in [
        (&image, "the operator may not change a pod's spec"),
        (&label, "the operator may not change a pod's labels, finalizers or owners"),
        (&finalizer, "the operator may not change a pod's labels, finalizers or owners"),
        (
            &annotation("firebreak.dev/inject"),
            "of a pod's annotations the operator may change firebreak.dev/config only",
        ),
        (&annotation("evil.example/x"), "of a pod's annotations the operator may change firebreak.dev/config only"),
    ] {
        let refusal = patch(&shop, &pod, &operator, change);
        let refusal = refusal.err().with_context(|| format!("{change} was accepted"))?.to_string();
        assert!(refusal.contains(message), "{change} was refused with: {refusal}");
    }
    patch(&shop, &pod, &operator, &annotation("firebreak.dev/config"))?;
    // Others are none of its business.
    patch(&shop, &pod, &[], &image)?;
    Ok(())
}
