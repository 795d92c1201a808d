//! tcpSocket probes, made truthful.
//!
//! The kubelet's connection is redirected to the proxy, which accepts it whether or not the application listens: a
//! tcpSocket probe would always pass. So it becomes an HTTP probe of the proxy's admin port, where the proxy dials the
//! application and answers for it. httpGet and gRPC probes need nothing, they pass through as ordinary requests, and
//! exec probes never touch the network. This is the one thing that injection changes in what a user wrote.
//!
//! The admin port is open to the whole cluster, so the proxy dials only the ports that it is told of ([`asked_for`]): else
//! any pod could try out any port of this one, past whatever keeps it from calling them itself.

use std::collections::BTreeSet;

use firebreak_crds::redirect::{ADMIN_PORT, PortRange};
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
    let socket = container.get(kind)?.get("tcpSocket")?;
    if socket["host"].as_str().is_some_and(|host| !host.is_empty()) {
        return None;
    }
    let number = match socket.get("port")? {
        Value::String(name) => &list(&container["ports"]).find(|port| port["name"] == **name)?["containerPort"],
        number => number,
    };
    number.as_u64().and_then(|number| u16::try_from(number).ok())
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
