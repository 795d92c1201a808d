//! tcpSocket probes, made truthful.
//!
//! The kubelet's connection is redirected to the proxy, which accepts it whether or not the application listens: a
//! tcpSocket probe would always pass. So it becomes an HTTP probe of the proxy's admin port, where the proxy dials the
//! application and answers for it. httpGet and gRPC probes pass through as ordinary requests, and exec probes never touch
//! the network. This is the one thing that injection changes in what a user wrote.
//!
//! The proxy is told how httpGet and gRPC probes look ([`over_http`]): what is enforced beside the application is not for
//! them, and nobody else is to pass for one.
//!
//! The admin port is open to the whole cluster, so the proxy dials only the ports that it is told of ([`asked_for`]): else
//! any pod could try out any port of this one, past whatever keeps it from calling them itself.

use std::collections::BTreeSet;

use firebreak_crds::{
    pod::{GRPC_CHECK, Ports, Probe},
    redirect::{ADMIN_PORT, PortRange},
};
use serde_json::{Value, json};

use crate::decide::{INIT_CONTAINER, PROXY_CONTAINER, list};

/// Where the proxy answers for the application, in front of the port's number.
const PATH: &str = "/probe/tcp/";
/// The kinds of probe a container can have.
const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];

/// Turns the tcpSocket probes of the pod's own containers (native sidecars among them) into HTTP probes.
///
/// Left as they are: probes of a port in `skipped`, which still reach the application; probes with a `host`, which do
/// not go to the pod; and probes of a port name that the container does not declare, which fail and shall go on failing.
pub fn translate(spec: &mut Value, skipped: &[PortRange]) {
    for containers in ["initContainers", "containers"] {
        let own = |container: &&mut Value| own(container);
        for container in spec.get_mut(containers).and_then(Value::as_array_mut).into_iter().flatten().filter(own) {
            for kind in PROBES {
                translate_probe(container, kind, skipped);
            }
        }
    }
}

/// The ports that probes ask the proxy for. They are read from the probes as they are, so that a pod which comes a second
/// time, with more probes, gives the whole answer.
pub fn asked_for(spec: &Value) -> BTreeSet<u16> {
    let containers = ["initContainers", "containers"].into_iter().flat_map(|kind| list(&spec[kind]));
    let probes = containers.filter(|it| own(it)).flat_map(|it| PROBES.map(|kind| &it[kind]["httpGet"]));
    let of_proxy = probes.filter(|http| http["port"] == ADMIN_PORT);
    of_proxy.filter_map(|http| http["path"].as_str()?.strip_prefix(PATH)?.parse().ok()).collect()
}

/// The probes of the pod's own containers that reach the application over HTTP. One over HTTPS the proxy cannot look into.
pub fn over_http(spec: &Value) -> BTreeSet<Probe> {
    let containers = ["initContainers", "containers"].into_iter().flat_map(|kind| list(&spec[kind]));
    containers.filter(|it| own(it)).flat_map(|it| PROBES.into_iter().filter_map(|kind| http_probe(it, kind))).collect()
}

/// The TCP ports of the pod's own containers by their names, native sidecars' after the others', as Services find them.
pub fn named_ports(spec: &Value) -> Ports {
    let mut named = Ports::default();
    let sidecars = list(&spec["initContainers"]).filter(|it| it["restartPolicy"] == "Always");
    for port in list(&spec["containers"]).chain(sidecars).filter(|it| own(it)).flat_map(|it| list(&it["ports"])) {
        let tcp = port["protocol"].as_str().is_none_or(|protocol| protocol == "TCP");
        if let (Some(name), Some(number), true) = (port["name"].as_str(), number(&port["containerPort"]), tcp) {
            named.0.entry(name.to_owned()).or_insert(number);
        }
    }
    named
}

fn http_probe(container: &Value, kind: &str) -> Option<Probe> {
    let probe = container.get(kind)?;
    if let Some(grpc) = probe.get("grpc") {
        return Some(Probe { port: number(grpc.get("port")?)?, path: GRPC_CHECK.to_owned(), agent: None });
    }
    let http = probe.get("httpGet").filter(|http| goes_to_pod(http))?;
    let encrypted = http["scheme"].as_str().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
    let port = port_number(container, http.get("port")?).filter(|port| *port != ADMIN_PORT && !encrypted)?;
    // As the kubelet asks: from the root, and without what a server is not told.
    let path = http["path"].as_str().unwrap_or_default().split('#').next().unwrap_or_default();
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let is_agent =
        |header: &&Value| header["name"].as_str().is_some_and(|name| name.eq_ignore_ascii_case("user-agent"));
    let agent = list(&http["httpHeaders"]).find(is_agent);
    let agent = agent.map(|header| header["value"].as_str().unwrap_or_default().to_owned());
    Some(Probe { port, path, agent })
}

/// Whether the container is the pod's own.
fn own(container: &Value) -> bool {
    container["name"] != INIT_CONTAINER && container["name"] != PROXY_CONTAINER
}

fn translate_probe(container: &mut Value, kind: &str, skipped: &[PortRange]) {
    let Some(port) = tcp_port(container, kind).filter(|port| !skipped.iter().any(|range| range.contains(*port))) else {
        return;
    };
    if let Some(probe) = container[kind].as_object_mut() {
        probe.remove("tcpSocket");
        probe.insert("httpGet".to_owned(), json!({"path": format!("{PATH}{port}"), "port": ADMIN_PORT}));
    }
}

/// The number of the port that a tcpSocket probe of the pod itself dials.
fn tcp_port(container: &Value, kind: &str) -> Option<u16> {
    let socket = container.get(kind)?.get("tcpSocket").filter(|socket| goes_to_pod(socket))?;
    port_number(container, socket.get("port")?)
}

fn goes_to_pod(probe: &Value) -> bool {
    probe["host"].as_str().is_none_or(str::is_empty)
}

/// The number of a port that a probe names as the container does, or by its number.
fn port_number(container: &Value, port: &Value) -> Option<u16> {
    match port {
        Value::String(name) => number(&list(&container["ports"]).find(|port| port["name"] == **name)?["containerPort"]),
        port => number(port),
    }
}

fn number(port: &Value) -> Option<u16> {
    port.as_u64().and_then(|port| u16::try_from(port).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(container: &Value, skipped: &[PortRange]) -> Value {
        let mut spec = json!({"containers": [container]});
        translate(&mut spec, skipped);
        spec["containers"][0].take()
    }

    #[test]
    fn numbers_and_names_of_ports_become_the_proxys_path_and_the_rest_of_the_probe_stays() {
        let after = translated(
            &json!({
                "ports": [{"name": "http", "containerPort": 80}, {"name": "db", "containerPort": 3306}],
                "livenessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 3},
                "readinessProbe": {"tcpSocket": {"port": "db"}, "failureThreshold": 7},
            }),
            &[],
        );
        let via = |port| json!({"path": format!("/probe/tcp/{port}"), "port": 15020});
        assert_eq!(after["livenessProbe"], json!({"httpGet": via(8080), "periodSeconds": 3}));
        assert_eq!(after["readinessProbe"], json!({"httpGet": via(3306), "failureThreshold": 7}));
    }

    #[test]
    fn the_proxy_is_asked_for_what_probes_of_the_pods_own_containers_name() {
        let probe = |path: &str, port: u16| json!({"httpGet": {"path": path, "port": port}});
        let spec = json!({
            "initContainers": [
                {"name": PROXY_CONTAINER, "startupProbe": probe("/probe/tcp/1", ADMIN_PORT)},
                {"name": "sidecar", "startupProbe": probe("/probe/tcp/7000", ADMIN_PORT)},
            ],
            "containers": [
                {"name": "a", "livenessProbe": probe("/probe/tcp/80", ADMIN_PORT), "readinessProbe": probe("/ready", ADMIN_PORT)},
                {"name": "b", "livenessProbe": probe("/probe/tcp/80", ADMIN_PORT), "readinessProbe": probe("/probe/tcp/3", 8080),
                 "startupProbe": probe("/probe/tcp/70000", ADMIN_PORT)},
            ],
        });
        assert_eq!(asked_for(&spec).into_iter().collect::<Vec<_>>(), [80, 7000]);
    }

    #[test]
    fn probes_over_http_are_told_as_the_kubelet_sends_them() {
        let agent = json!([{"name": "X-A", "value": "b"}, {"name": "user-agent", "value": "me/1"}]);
        let spec = json!({
            "initContainers": [
                {"name": PROXY_CONTAINER, "startupProbe": {"httpGet": {"path": "/ready", "port": ADMIN_PORT}}},
                {"name": "sidecar", "startupProbe": {"grpc": {"port": 9000, "service": "a"}}},
            ],
            "containers": [
                {"name": "a", "ports": [{"name": "web", "containerPort": 8080}],
                 "livenessProbe": {"httpGet": {"path": "healthz?a=b#c", "port": "web"}},
                 "readinessProbe": {"httpGet": {"port": 81, "httpHeaders": agent}},
                 "startupProbe": {"httpGet": {"path": "/probe/tcp/5432", "port": ADMIN_PORT}}},
                {"name": "b", "livenessProbe": {"httpGet": {"path": "/", "port": 82, "scheme": "HTTPS"}},
                 "readinessProbe": {"httpGet": {"path": "/", "port": 83, "host": "192.0.2.1"}},
                 "startupProbe": {"httpGet": {"path": "/", "port": "web"}}},
            ],
        });
        let probe =
            |port, path: &str, agent: Option<&str>| Probe { port, path: path.into(), agent: agent.map(Into::into) };
        let expected = [
            probe(81, "/", Some("me/1")),
            probe(8080, "/healthz?a=b", None),
            probe(9000, "/grpc.health.v1.Health/Check", None),
        ];
        assert_eq!(over_http(&spec).into_iter().collect::<Vec<_>>(), expected, "`web` is no port of b");
    }

    #[test]
    fn named_ports_are_those_that_services_find() {
        let ports = |port: u16| json!([{"name": "web", "containerPort": port}, {"containerPort": 1}]);
        let spec = json!({
            "initContainers": [
                {"name": PROXY_CONTAINER, "restartPolicy": "Always", "ports": [{"name": "firebreak-admin", "containerPort": ADMIN_PORT}]},
                {"name": "sidecar", "restartPolicy": "Always", "ports": [{"name": "metrics", "containerPort": 9}]},
                {"name": "once", "ports": [{"name": "gone", "containerPort": 10}]},
            ],
            "containers": [
                {"name": "a", "ports": ports(8080)},
                {"name": "b", "ports": ports(9090)},
                {"name": "c", "ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}]},
            ],
        });
        assert_eq!(named_ports(&spec), Ports([("metrics".to_owned(), 9), ("web".to_owned(), 8080)].into()));
    }

    #[test]
    fn what_still_tells_the_truth_is_left_alone() {
        for probe in [
            json!({"httpGet": {"port": 80, "path": "/healthz"}}),
            json!({"grpc": {"port": 9000}}),
            json!({"exec": {"command": ["true"]}}),
            json!({"tcpSocket": {"port": 80, "host": "192.0.2.1"}}),
            json!({"tcpSocket": {"port": "unknown"}}),
            json!({"tcpSocket": {"port": 22}}),
        ] {
            let container = json!({"livenessProbe": probe, "startupProbe": {"tcpSocket": {"port": 22}}});
            assert_eq!(translated(&container, &[PortRange::port(22)]), container);
        }
    }
}
