//! `helm install`, a label, and pods come up with the proxy beside them.

use firebreak_tests::{
    cluster::{
        Namespace,
        app::{App, IMAGE},
        install, kubectl,
    },
    wait,
};
use serde_json::Value;

const PROXY: &str = "firebreak-proxy";

pub(super) fn has_proxy(pod: &Value) -> bool {
    let containers = pod["spec"]["initContainers"].as_array().into_iter().flatten();
    containers.into_iter().any(|container| container["name"] == PROXY)
}

fn restarts(pod: &Value) -> u64 {
    let statuses =
        ["initContainerStatuses", "containerStatuses"].iter().filter_map(|kind| pod["status"][kind].as_array());
    statuses.flatten().filter_map(|status| status["restartCount"].as_u64()).sum()
}

#[test]
fn pods_of_a_labelled_namespace_come_up_with_the_proxy_in_one_try() -> anyhow::Result<()> {
    let shop = super::shop()?;
    for name in ["web", "service2"] {
        let pods = shop.pods(name)?;
        assert_eq!(pods.len(), 1, "{name} took more than one try");
        assert!(has_proxy(&pods[0]), "{name} has no proxy: {}", pods[0]["spec"]);
        assert_eq!(restarts(&pods[0]), 0, "{name}");
    }
    let web = App::named(&shop, "web");
    let report = web.call("http://service2/", "--count 20")?;
    assert_eq!(report.with("200"), 20, "{report:?}");
    // Both proxies were in the way of every request.
    let sent = web.metrics()?.sum("firebreak_requests_total", &[("direction", "outbound")]);
    let received =
        App::named(&shop, "service2").metrics()?.sum("firebreak_requests_total", &[("direction", "inbound")]);
    assert!(sent >= 20.0 && received >= 20.0, "web's proxy counted {sent}, service2's {received}");
    Ok(())
}

#[test]
fn pods_of_other_namespaces_are_left_alone() -> anyhow::Result<()> {
    install::firebreak()?;
    let namespace = Namespace::create("plain", &[])?;
    let app = App::deploy(&namespace, "app")?;
    assert!(!has_proxy(&app.pod()?));
    Ok(())
}

#[test]
fn a_job_with_the_proxy_completes() -> anyhow::Result<()> {
    let shop = super::shop()?;
    shop.apply(&format!(
        "
apiVersion: batch/v1
kind: Job
metadata: {{name: job}}
spec:
  backoffLimit: 0
  template:
    metadata: {{labels: {{app: job}}}}
    spec:
      restartPolicy: Never
      containers: [{{name: job, image: {IMAGE}, args: [call, http://service2/, --count, '3']}}]
"
    ))?;
    shop.kubectl(&["wait", "job/job", "--for=condition=Complete", "--timeout=60s"])?;
    assert!(has_proxy(&shop.pods("job")?[0]), "the job's pod ran without the proxy");
    Ok(())
}

#[test]
fn a_pod_on_the_nodes_network_is_skipped_and_an_event_says_why() -> anyhow::Result<()> {
    install::firebreak()?;
    let shop = Namespace::enabled("shop")?;
    shop.apply(&format!(
        "
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: agent}}
spec:
  selector: {{matchLabels: {{app: agent}}}}
  template:
    metadata: {{labels: {{app: agent}}}}
    spec:
      hostNetwork: true
      terminationGracePeriodSeconds: 1
      containers:
      - name: agent
        image: {IMAGE}
        args: [serve, --http, '28080', --echo, '29000', --greeting, '22525', --control, '28079']
"
    ))?;
    shop.kubectl(&["rollout", "status", "daemonset/agent", "--timeout=60s"])?;
    assert!(!has_proxy(&shop.pods("agent")?[0]));
    wait::until("an Event on the DaemonSet says why", || {
        let events = shop.kubectl(&["get", "events", "--field-selector", "involvedObject.kind=DaemonSet"])?;
        Ok(events.contains("hostNetwork"))
    })
}

/// A TCP probe of the kubelet would always succeed against a proxy that accepts for the application.
#[test]
fn probes_see_the_application_and_not_the_proxy() -> anyhow::Result<()> {
    install::firebreak()?;
    let shop = Namespace::enabled("shop")?;
    let pod = |name: &str, probe: &str| {
        format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{{name: app, image: {IMAGE}, args: [serve], readinessProbe: {{periodSeconds: 1, {probe}}}}}]
---"
        )
    };
    let probes = [
        ("http", "httpGet: {path: /, port: 8080}"),
        ("tcp", "tcpSocket: {port: 9000}"),
        ("exec", "exec: {command: [/firebreak-testapp, record]}"),
        ("closed", "tcpSocket: {port: 4444}"),
        ("failing", "httpGet: {path: '/?status=500', port: 8080}"),
    ];
    shop.apply(&probes.map(|(name, probe)| pod(name, probe)).concat())?;
    for name in ["http", "tcp", "exec"] {
        shop.kubectl(&["wait", &format!("pod/{name}"), "--for=condition=Ready", "--timeout=60s"])?;
    }
    for name in ["closed", "failing"] {
        wait::until("the probe has failed", || {
            let events =
                shop.kubectl(&["get", "events", "--field-selector", &format!("involvedObject.name={name}")])?;
            Ok(events.contains("Readiness probe failed"))
        })?;
        let ready = shop.json(&["get", "pod", name])?["status"]["containerStatuses"][0]["ready"].clone();
        assert_eq!(ready, false, "{name}");
    }
    Ok(())
}

#[test]
fn helms_own_test_of_the_chart_passes() -> anyhow::Result<()> {
    install::firebreak()?;
    install::helm(&["test", "firebreak", "--namespace", install::NAMESPACE, "--timeout", "2m"])?;
    Ok(())
}

#[test]
fn after_an_uninstall_pods_still_start_and_an_upgrade_brings_the_proxy_back() -> anyhow::Result<()> {
    let shop = super::shop()?;
    install::uninstall()?;
    let bare = App::deploy(&shop, "bare")?;
    assert!(!has_proxy(&bare.pod()?));
    let report = App::named(&shop, "web").call("http://service2/", "--count 5")?;
    assert_eq!(report.with("200"), 5, "pods that have the proxy go on: {report:?}");
    kubectl(["get", "customresourcedefinition", "trafficpolicies.firebreak.dev", "faultspecs.firebreak.dev"])?;
    install::firebreak()?;
    let again = App::deploy(&shop, "again")?;
    assert!(has_proxy(&again.pod()?));
    Ok(())
}
