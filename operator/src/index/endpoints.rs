//! Endpoints: where the pods of a Service, or in local mode its processes, listen.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::discovery::v1;

use super::{Filed, Key};

/// Names the Service that a slice belongs to (KEP-0752).
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What is asked of an `EndpointSlice`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    /// Namespace and name of the slice itself.
    pub key: Key,
    /// Name of the Service in the same namespace; empty if the slice belongs to none.
    pub service: String,
    /// TCP ports, by the name of the Service's port.
    pub ports: Vec<(Option<String>, u16)>,
    /// Addresses that take requests.
    pub addresses: Vec<IpAddr>,
}

impl Slice {
    /// Addresses for the Service's port called `name`.
    pub fn addresses_for(&self, name: Option<&str>) -> impl Iterator<Item = SocketAddr> {
        let ports = self.ports.iter().filter(move |(port_name, _)| port_name.as_deref() == name).map(|(_, port)| *port);
        ports.flat_map(|port| self.addresses.iter().map(move |address| SocketAddr::new(*address, port)))
    }
}

impl From<v1::EndpointSlice> for Slice {
    fn from(slice: v1::EndpointSlice) -> Self {
        let key = Key::of(&slice.metadata);
        let labels = slice.metadata.labels.unwrap_or_default();
        // "ready" that is not given means ready (discovery.k8s.io/v1, EndpointConditions).
        let ready = |endpoint: &v1::Endpoint| endpoint.conditions.as_ref().and_then(|it| it.ready).unwrap_or(true);
        let tcp = |port: &v1::EndpointPort| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
        let ports = slice.ports.unwrap_or_default().into_iter().filter(tcp).filter_map(|port| {
            let number = u16::try_from(port.port?).ok()?;
            Some((port.name.filter(|name| !name.is_empty()), number))
        });
        let endpoints = slice.endpoints.unwrap_or_default();
        let addresses = endpoints.iter().filter(|endpoint| ready(endpoint)).flat_map(|endpoint| &endpoint.addresses);
        Self {
            key,
            service: labels.get(SERVICE_NAME).cloned().unwrap_or_default(),
            ports: ports.collect(),
            addresses: addresses.filter_map(|address| address.parse().ok()).collect(),
        }
    }
}

impl Filed for Slice {
    fn key(&self) -> &Key {
        &self.key
    }
}
