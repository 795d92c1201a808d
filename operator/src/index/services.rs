//! Services: where callers reach them and what is spoken there.

use std::net::IpAddr;

use firebreak_crds::{spec::Labels, wire::Protocol};
use k8s_openapi::{api::core::v1, apimachinery::pkg::util::intstr::IntOrString};

use super::{Filed, Key};

/// What is asked of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub key: Key,
    /// Its cluster IPs, of both families; none for a headless one.
    pub addresses: Vec<IpAddr>,
    /// It is only a DNS alias: there is nothing that could be recognised by address.
    pub external_name: bool,
    /// The labels of its pods; empty where it has no selector.
    pub selector: Labels,
    /// Its TCP ports, in the order given.
    pub ports: Vec<ServicePort>,
}

/// One TCP port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Its number.
    pub port: u16,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// Where its pods listen.
    pub target: TargetPort,
}

/// Where the pods of a Service listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// At this port.
    Number(u16),
    /// At whatever port has this name in each pod.
    Named(String),
}

impl TargetPort {
    /// The name, if it is one.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Number(_) => None,
            Self::Named(name) => Some(name),
        }
    }
}

impl Service {
    /// Whether it stands for pods that its selector names.
    pub fn has_pods(&self) -> bool {
        !self.external_name && !self.selector.is_empty()
    }

    /// The port called `name`.
    pub fn port_named(&self, name: &str) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.name.as_deref() == Some(name))
    }
}

impl From<v1::Service> for Service {
    fn from(service: v1::Service) -> Self {
        let key = Key::of(&service.metadata);
        let spec = service.spec.unwrap_or_default();
        // Old objects have only `clusterIP`; `None` marks a headless Service and parses as no address.
        let listed = spec.cluster_ips.filter(|ips| !ips.is_empty());
        let ips = listed.unwrap_or_else(|| spec.cluster_ip.into_iter().collect());
        let ports = spec.ports.unwrap_or_default();
        Self {
            key,
            addresses: ips.iter().filter_map(|ip| ip.parse().ok()).collect(),
            external_name: spec.type_.as_deref() == Some("ExternalName"),
            selector: spec.selector.unwrap_or_default(),
            ports: ports.iter().filter_map(ServicePort::of).collect(),
        }
    }
}

impl ServicePort {
    /// The port, if it is one for TCP: the proxy sees nothing else.
    fn of(port: &v1::ServicePort) -> Option<Self> {
        let tcp = port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
        let number = u16::try_from(port.port).ok().filter(|_| tcp)?;
        let name = port.name.clone().filter(|name| !name.is_empty());
        let protocol = protocol(port.app_protocol.as_deref(), name.as_deref());
        let target = match &port.target_port {
            None => TargetPort::Number(number),
            Some(IntOrString::Int(target)) => TargetPort::Number(u16::try_from(*target).ok()?),
            Some(IntOrString::String(name)) => TargetPort::Named(name.clone()),
        };
        Some(Self { protocol, name, port: number, target })
    }
}

impl Default for TargetPort {
    fn default() -> Self {
        Self::Number(0)
    }
}

impl Filed for Service {
    fn key(&self) -> &Key {
        &self.key
    }
}

/// What is spoken: `appProtocol` decides (KEP-1422, the `kubernetes.io/` names of KEP-3726), then the first part of the
/// port's name, as other meshes read it (`http-admin`); where neither says, the first bytes decide.
fn protocol(app_protocol: Option<&str>, name: Option<&str>) -> Protocol {
    let told = app_protocol.and_then(|it| known(it.strip_prefix("kubernetes.io/").unwrap_or(it)));
    told.or_else(|| known(name?.split('-').next()?)).unwrap_or_default()
}

fn known(word: &str) -> Option<Protocol> {
    match word.to_ascii_lowercase().as_str() {
        "http" | "http1" | "http2" | "h2c" | "grpc" | "ws" => Some(Protocol::Http),
        "tcp" | "tls" | "https" | "wss" | "amqp" | "ftp" | "imap" | "kafka" | "ldap" | "mongo" | "mongodb" | "mqtt"
        | "mysql" | "nats" | "postgres" | "postgresql" | "redis" | "sip" | "smtp" | "ssh" => Some(Protocol::Tcp),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use Protocol::{Detect, Http, Tcp};

    use super::*;

    #[test]
    fn the_protocol_is_what_the_service_says() {
        for (app_protocol, name, expected) in [
            (Some("http"), None, Http),
            (Some("kubernetes.io/h2c"), Some("tcp"), Http),
            (Some("kubernetes.io/ws"), None, Http),
            (Some("kubernetes.io/wss"), None, Tcp),
            (Some("GRPC"), None, Http),
            (Some("https"), Some("http"), Tcp),
            (Some("example.com/own"), Some("redis-main"), Tcp),
            (None, Some("http-admin"), Http),
            (None, Some("grpc"), Http),
            (None, Some("mysql"), Tcp),
            (None, Some("httpish"), Detect),
            (None, Some("web"), Detect),
            (None, None, Detect),
        ] {
            assert_eq!(protocol(app_protocol, name), expected, "{app_protocol:?} {name:?}");
        }
    }

    fn service(spec: &serde_json::Value) -> Service {
        let service = serde_json::json!({"metadata": {"namespace": "shop", "name": "a"}, "spec": spec});
        serde_json::from_value::<v1::Service>(service).unwrap().into()
    }

    #[test]
    fn both_families_and_only_tcp() {
        let dual = service(&serde_json::json!({
            "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"],
            "ports": [{"port": 53, "protocol": "UDP", "name": "dns"}, {"port": 53, "protocol": "TCP", "name": "dns-tcp"}],
        }));
        assert_eq!(dual.addresses.len(), 2);
        assert_eq!(dual.ports.iter().map(|port| port.name.as_deref()).collect::<Vec<_>>(), [Some("dns-tcp")]);
    }

    #[test]
    fn a_headless_service_has_no_address() {
        let headless =
            service(&serde_json::json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 80}]}));
        assert!(headless.addresses.is_empty() && !headless.external_name);
        assert!(service(&serde_json::json!({"type": "ExternalName", "externalName": "example.com"})).external_name);
    }
}
