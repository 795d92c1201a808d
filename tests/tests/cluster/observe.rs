//! What a person sees of a proxy from outside: a line for what failed, numbers for everyone, and the rest for the pod itself.

use anyhow::Context;
use firebreak_tests::{cluster::app::App, wait};
use serde_json::Value;

#[test]
fn the_log_has_a_line_for_each_request_that_failed() -> anyhow::Result<()> {
    let shop = super::shop()?;
    let web = App::named(&shop, "web");
    assert_eq!(web.call("http://service2/well", "--header x-request-id:well")?.with("200"), 1);
    assert_eq!(web.call("http://service2/ill?status=503&seed=5", "--header x-request-id:ill")?.with("503"), 1);
    let line = |id: &str| -> anyhow::Result<Option<Value>> {
        let log = shop.kubectl(&["logs", "deployment/web", "--container", "firebreak-proxy"])?;
        let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        Ok(lines.find(|line| line["request_id"] == id))
    };
    wait::until("the line is written", || Ok(line("ill")?.is_some()))?;
    let failed = line("ill")?.context("it is gone")?;
    let expected = [
        ("direction", "outbound".into()),
        ("method", "GET".into()),
        ("path", "/ill".into()), // without the query, which may hold secrets
        ("status", 503.into()),
        ("fate", "failed".into()),
        ("reason", "callee_error".into()),
        ("fault_domain", "callee_app".into()),
        ("attempts", 1.into()),
    ];
    for (field, value) in expected {
        let value: Value = value;
        assert_eq!(failed[field], value, "{field}: {failed}");
    }
    assert_eq!(line("well")?, None, "a request that succeeded is logged");
    Ok(())
}

#[test]
fn other_pods_may_read_the_numbers_and_nothing_else() -> anyhow::Result<()> {
    let shop = super::shop()?;
    let (web, service2) = (App::named(&shop, "web"), App::named(&shop, "service2"));
    let ip = service2.pod()?["status"]["podIP"].as_str().context("no address")?.to_owned();
    for (method, path, status) in [("GET", "metrics", "200"), ("GET", "config", "403"), ("POST", "drain", "403")] {
        let report = web.call(&format!("http://{ip}:15020/{path}"), &format!("--each --method {method}"))?;
        assert_eq!(report.with(status), 1, "{method} /{path}: {report:?}");
        assert_eq!(report.each[0].proxy_status, None, "another proxy answered: {report:?}");
        let is_there = report.each[0].body.contains("firebreak_");
        assert_eq!(is_there, path == "metrics", "{method} /{path}: {report:?}");
    }
    assert!(!service2.proxy_config()?.is_null(), "what is refused to others is there for the pod itself");
    assert_eq!(web.call("http://service2/", "--count 20 --fresh")?.with("200"), 20, "it was drained");
    Ok(())
}
