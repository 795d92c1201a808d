//! `helm upgrade` and `helm rollback` under load: other settings and another chart, and no request notices.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
};

use anyhow::ensure;
use firebreak_tests::{
    cluster::{
        Namespace,
        app::{App, IMAGE, Load},
        install, kubectl, run,
    },
    root, wait,
};
use serde_json::Value;

/// One of each kind: how many, how much, how talkative; of operator, injector and the proxies of new pods.
const SETTINGS: &str = "operator.replicas=3,operator.log=debug,operator.resources.requests.memory=48Mi,\
    injector.replicas=3,injector.log=debug,injector.resources.limits.memory=160Mi,\
    proxy.logLevel=warn,proxy.resources.requests.cpu=5m";
const CRD: &str = "files/crds/trafficpolicies.yaml";
/// What the next version of the CRD has, and where it stands.
const NEW_COLUMN: (&str, &str) = (
    "  - additionalPrinterColumns:\n",
    "  - additionalPrinterColumns:\n    - {jsonPath: .metadata.generation, name: Next, type: integer}\n",
);

fn policy(request: &str) -> String {
    format!(
        "
apiVersion: firebreak.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: service2}}
spec:
  targetRefs: [{{kind: Service, name: service2}}]
  timeouts: {{request: {request}}}
"
    )
}

/// The chart as its next version may be: a CRD that has changed, a template more and a template fewer.
fn next_chart() -> anyhow::Result<PathBuf> {
    let chart = Path::new(env!("CARGO_TARGET_TMPDIR")).join("next-chart");
    fs::remove_dir_all(&chart).ok();
    copy(&root().join("charts/firebreak"), &chart)?;
    change(&chart.join("Chart.yaml"), "\nversion: ", "\nversion: 9")?;
    change(&chart.join(CRD), NEW_COLUMN.0, NEW_COLUMN.1)?;
    let more =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: firebreak-next, namespace: {{ .Release.Namespace }}}\n";
    fs::write(chart.join("templates/next.yaml"), more)?;
    fs::remove_file(chart.join("templates/cluster-roles.yaml"))?;
    Ok(chart)
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() { copy(&entry.path(), &to)? } else { fs::copy(entry.path(), &to).map(drop)? }
    }
    Ok(())
}

fn change(file: &Path, from: &str, to: &str) -> anyhow::Result<()> {
    let text = fs::read_to_string(file)?;
    ensure!(text.contains(from), "{} does not contain {from}", file.display());
    Ok(fs::write(file, text.replacen(from, to, 1))?)
}

/// A pod as the API server would take it in now; it is not created.
pub(super) fn admitted(shop: &Namespace) -> anyhow::Result<Value> {
    let pod = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{generateName: asked-}}, \
         spec: {{containers: [{{name: app, image: {IMAGE}}}]}}}}"
    );
    let arguments = ["--namespace", &shop.name, "create", "--dry-run=server", "--output=json", "--filename=-"];
    Ok(serde_json::from_str(&run("kubectl", arguments, &pod)?)?)
}

/// Runs helm, and asks all the while whether a pod would get its proxy.
fn helm_while_pods_come_in(shop: &Namespace, arguments: &[&str]) -> anyhow::Result<()> {
    thread::scope(|scope| {
        let helm = scope.spawn(|| install::helm(arguments));
        while !helm.is_finished() {
            let pod = admitted(shop)?;
            ensure!(super::install::has_proxy(&pod), "a pod came in without the proxy: {pod}");
        }
        helm.join().map_err(|_| anyhow::anyhow!("helm's thread ended"))?.map(drop)
    })
}

/// Waits until so many of operator and injector are ready.
fn are_ready(count: usize) -> anyhow::Result<()> {
    for component in ["operator", "injector"] {
        wait::until("the replicas are ready", || Ok(install::replicas(component)?.len() == count))?;
    }
    Ok(())
}

fn has_new_column() -> anyhow::Result<bool> {
    let path = "jsonpath={.spec.versions[0].additionalPrinterColumns[*].name}";
    let columns = kubectl(["get", "customresourcedefinition", "trafficpolicies.firebreak.dev", "--output", path])?;
    Ok(columns.split(' ').any(|name| name == "Next"))
}

#[test]
fn an_upgrade_and_the_way_back_fail_no_request_and_lose_no_policy() -> anyhow::Result<()> {
    let (shop, bare) = (super::shop()?, super::shop()?);
    let web = App::named(&shop, "web");
    shop.apply(&policy("2s"))?;
    super::in_force(&shop, "trafficpolicy/service2")?;
    install::set_installed(false); // until all is as it was
    let chart = next_chart()?;
    let chart = chart.to_string_lossy();
    let to = ["--namespace", install::NAMESPACE, "--wait", "--timeout", "2m"];

    let unprotected = App::named(&bare, "web").load("http://service2/", "--concurrency 2 --pause 10ms")?;
    let protected = web.load("http://service2/", "--concurrency 2 --pause 10ms")?;
    // A policy that is out of force for a moment leaves a request of that moment hanging.
    let given_up = web.load("http://service2/?hang=true", "--concurrency 4 --patience 10s")?;
    helm_while_pods_come_in(
        &shop,
        &[["upgrade", install::RELEASE, &chart, "--set", SETTINGS].as_slice(), &to].concat(),
    )?;
    are_ready(3)?;
    ensure!(has_new_column()?, "the CRD was not upgraded");
    // The API server may ask an old injector as long as that one is there to answer.
    wait::until("new pods get the new settings", || {
        Ok(admitted(&shop)?["spec"]["initContainers"].to_string().contains("warn"))
    })?;
    shop.apply(&policy("2s500ms"))?;
    super::in_force(&shop, "trafficpolicy/service2")?;

    helm_while_pods_come_in(&shop, &[["rollback", install::RELEASE].as_slice(), &to].concat())?;
    are_ready(2)?;
    ensure!(!has_new_column()?, "the CRD was not rolled back");
    shop.apply(&policy("2s"))?;
    super::in_force(&shop, "trafficpolicy/service2")?;
    install::set_installed(true);

    let [unprotected, protected, given_up] = [unprotected, protected, given_up].map(Load::end);
    for report in [&unprotected?, &protected?] {
        assert!(report.sent > 500, "{report:?}");
        assert_eq!(report.with("200"), report.sent, "{report:?}");
    }
    let given_up = given_up?;
    assert_eq!(given_up.reasons.get("request_timeout"), Some(&given_up.sent), "{given_up:?}");
    Ok(())
}
