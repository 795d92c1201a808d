//! What the injector tells a proxy of the pod that it stands in: how the kubelet asks how the pod is, and the names of its ports.
//!
//! Both travel as JSON in the environment of the proxy's container.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Environment variable with the [`Probes`].
pub const PROBES: &str = "FIREBREAK_PROBES";
/// Environment variable with the [`Ports`].
pub const PORTS: &str = "FIREBREAK_PORTS";

/// The method that a gRPC probe calls (gRPC Health Checking Protocol).
pub const GRPC_CHECK: &str = "/grpc.health.v1.Health/Check";
/// How the kubelet's `User-Agent` begins where the pod does not give it another.
const KUBELET: &[u8] = b"kube-probe/";

/// A probe that reaches the pod's application over HTTP.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Probe {
    /// Port of the pod.
    pub port: u16,
    /// Path and query, as they stand in the request.
    pub path: String,
    /// The `User-Agent` that the pod gives it, an empty one for none; absent: the kubelet's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
}

/// The probes of a pod that reach its application over HTTP, those over gRPC among them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Probes(pub Vec<Probe>);

/// The TCP ports of a pod by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ports(pub BTreeMap<String, u16>);

impl Probe {
    /// Whether a request looks like it: one to its port with this method, path and query, and `User-Agent`. The kubelet follows servers that
    /// send it on to the same path with a slash at its end.
    pub fn is(&self, port: u16, method: &str, path: &str, agent: Option<&[u8]>) -> bool {
        let asks = if self.path == GRPC_CHECK { "POST" } else { "GET" };
        let is_its = || match self.agent.as_deref() {
            None => agent.is_some_and(|agent| agent.starts_with(KUBELET)),
            Some("") => agent.is_none(),
            Some(its) => agent == Some(its.as_bytes()),
        };
        let is_path = path == self.path || path.strip_suffix('/') == Some(&self.path);
        self.port == port && is_path && method == asks && is_its()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_known_by_all_that_is_known_of_it() {
        let kubelet = Some(&b"kube-probe/1.34"[..]);
        let probe =
            |path: &str, agent: Option<&str>| Probe { port: 80, path: path.into(), agent: agent.map(Into::into) };
        let plain = probe("/healthz?deep", None);
        assert!(plain.is(80, "GET", "/healthz?deep", kubelet));
        assert!(probe("/healthz", None).is(80, "GET", "/healthz/", kubelet));
        for (port, method, path, agent) in [
            (81, "GET", "/healthz?deep", kubelet),
            (80, "POST", "/healthz?deep", kubelet),
            (80, "GET", "/healthz", kubelet),
            (80, "GET", "/healthz?deep", Some(&b"curl/8"[..])),
            (80, "GET", "/healthz?deep", None),
        ] {
            assert!(!plain.is(port, method, path, agent), "{port} {method} {path} {agent:?}");
        }
        assert!(probe(GRPC_CHECK, None).is(80, "POST", GRPC_CHECK, Some(b"kube-probe/1.34 grpc-go/1.72")));
        let named = probe("/", Some("me/1"));
        assert!(named.is(80, "GET", "/", Some(b"me/1")) && !named.is(80, "GET", "/", kubelet));
        assert!(probe("/", Some("")).is(80, "GET", "/", None) && !probe("/", Some("")).is(80, "GET", "/", kubelet));
    }
}
