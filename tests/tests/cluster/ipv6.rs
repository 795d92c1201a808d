//! Services and pods that are called by an IPv6 address are protected and captured as those of IPv4 are.

use anyhow::Context;
use firebreak_tests::{
    app::{hold::Event, tcp::Exchange},
    cluster::{
        Namespace,
        app::{App, manifest},
        install, kubectl,
    },
    wait,
};

const REQUESTS: usize = 20;

/// Whether the cluster has IPv6. The one that `up` starts has; a borrowed one may not, and it is said there.
fn cluster_has_ipv6() -> anyhow::Result<bool> {
    let path = r#"jsonpath={.items[*].status.addresses[?(@.type=="InternalIP")].address}"#;
    let has = kubectl(["get", "nodes", "--output", path])?.contains(':');
    if !has {
        eprintln!("nothing is tested: the cluster's nodes have no IPv6 address");
    }
    Ok(has)
}

/// One Service with an address of IPv6 only, one with an address of each family, and a policy on both.
const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: six}
spec:
  ipFamilies: [IPv6]
  selector: {app: service2}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: grpc, port: 81, targetPort: 8080}, {name: echo, port: 9000}]
---
apiVersion: v1
kind: Service
metadata: {name: both}
spec:
  ipFamilyPolicy: RequireDualStack
  ipFamilies: [IPv4, IPv6]
  selector: {app: service2}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: firebreak.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: service2}
spec:
  targetRefs: [{kind: Service, name: six}, {kind: Service, name: both}]
  timeouts: {request: 1s}
";

fn shop_with_ipv6() -> anyhow::Result<Namespace> {
    let shop = super::shop()?;
    shop.apply(SERVICES)?;
    super::in_force(&shop, "trafficpolicy/service2")?;
    let web = App::named(&shop, "web");
    for (service, address) in addresses(&shop)? {
        let url = format!("http://{address}/healthz");
        wait::until(&format!("{service} has the pod"), || web.run(&["get", &url]).map(|_| true))?;
    }
    Ok(shop)
}

/// The cluster IPs of the Services, as they stand in a URL.
fn addresses(shop: &Namespace) -> anyhow::Result<Vec<(&'static str, String)>> {
    let mut addresses = Vec::new();
    for (service, count) in [("six", 1), ("both", 2)] {
        let spec = shop.json(&["get", "service", service])?["spec"].take();
        let ips = spec["clusterIPs"].as_array().context("no cluster IP")?;
        assert_eq!(ips.len(), count, "{service}: {ips:?}");
        for ip in ips.iter().filter_map(|ip| ip.as_str()) {
            addresses.push((service, if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() }));
        }
    }
    assert_eq!(addresses.iter().filter(|(_, address)| address.starts_with('[')).count(), 2, "{addresses:?}");
    Ok(addresses)
}

/// Requests that the proxy of `app` counted in one direction.
fn counted(app: &App, labels: &[(&str, &str)]) -> anyhow::Result<f64> {
    Ok(app.metrics()?.sum("firebreak_requests_total", labels))
}

#[test]
fn a_service_that_is_called_by_ipv6_is_protected() -> anyhow::Result<()> {
    install::firebreak()?;
    if !cluster_has_ipv6()? {
        return Ok(());
    }
    let shop = shop_with_ipv6()?;
    let (web, service2) = (App::named(&shop, "web"), App::named(&shop, "service2"));
    let by_name = [("six", "six".to_owned())];
    for (service, host) in addresses(&shop)?.into_iter().chain(by_name) {
        let name = format!("{}/{service}", shop.name);
        let (sending, receiving) =
            ([("direction", "outbound"), ("service", name.as_str())], [("direction", "inbound")]);
        let before = (counted(&web, &sending)?, counted(&service2, &receiving)?);
        let report = web.call(&format!("http://{host}/"), &format!("--count {REQUESTS}"))?;
        assert_eq!(report.with("200"), REQUESTS, "{host}: {report:?}");
        let after = (counted(&web, &sending)?, counted(&service2, &receiving)?);
        let grown = (after.0 - before.0, after.1 - before.1);
        // Both proxies were in the way. Others, such as probes, may be counted beside them at the service.
        assert!((grown.0 - 20.0).abs() < 0.5 && grown.1 >= 20.0, "{host}: the proxies counted {grown:?}");
        let report = web.call(&format!("http://{host}/?hang=true"), "--patience 5s")?;
        assert_eq!(report.reasons.get("request_timeout"), Some(&1), "{host}: {report:?}");
    }
    Ok(())
}

#[test]
fn whatever_is_spoken_passes_over_ipv6_and_can_be_faulted() -> anyhow::Result<()> {
    install::firebreak()?;
    if !cluster_has_ipv6()? {
        return Ok(());
    }
    let shop = shop_with_ipv6()?;
    let web = App::named(&shop, "web");
    let echoed: Exchange = web.exec(&["talk", "six:9000", "--say", "hello"])?;
    assert_eq!(echoed.lines, ["hello"]);
    for (kind, authority) in [("websocket", "six:80"), ("grpc", "six:81")] {
        let end = web.hold(kind, authority)?.close()?;
        assert!(matches!(end, Event::Closed { .. }), "{kind} to {authority}: {end:?}");
    }
    shop.apply(
        "
apiVersion: firebreak.dev/v1alpha1
kind: FaultSpec
metadata: {name: outage}
spec:
  targetRefs: [{kind: Service, name: six}]
  faults: [{abort: {percent: 100, httpStatus: 503}}]
  duration: 10m
",
    )?;
    super::in_force(&shop, "faultspec/outage")?;
    let report = web.call("http://six/", &format!("--count {REQUESTS}"))?;
    assert_eq!(report.reasons.get("fault_abort"), Some(&REQUESTS), "{report:?}");
    let report = web.call("http://both/", &format!("--count {REQUESTS}"))?;
    assert_eq!(report.with("200"), REQUESTS, "the fault is on another Service: {report:?}");
    Ok(())
}

/// What arrives from a pod without the proxy, at the pod's own address, goes through the proxy of the one that is called.
#[test]
fn what_arrives_by_ipv6_goes_through_the_proxy() -> anyhow::Result<()> {
    install::firebreak()?;
    if !cluster_has_ipv6()? {
        return Ok(());
    }
    let (shop, plain) = (Namespace::enabled("shop")?, Namespace::create("plain", &[])?);
    shop.apply(&manifest("service2"))?;
    let caller = App::deploy(&plain, "web")?;
    let service2 = App::named(&shop, "service2");
    service2.ready()?;
    let pod = service2.pod()?;
    let ips = pod["status"]["podIPs"].as_array().context("no addresses")?;
    let ip = ips.iter().filter_map(|ip| ip["ip"].as_str()).find(|ip| ip.contains(':')).context("no IPv6 address")?;
    let before = counted(&service2, &[("direction", "inbound")])?;
    let report = caller.call(&format!("http://[{ip}]:8080/"), "--count 200")?;
    assert_eq!(report.with("200"), 200, "{report:?}");
    let grown = counted(&service2, &[("direction", "inbound")])? - before;
    assert!(grown >= 200.0, "the proxy counted {grown}");
    let greeted: Exchange = caller.exec(&["talk", &format!("[{ip}]:2525"), "--greeted", "--say", "hello"])?;
    assert_eq!(greeted.lines.len(), 2, "{greeted:?}");
    Ok(())
}
