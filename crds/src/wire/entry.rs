//! The kinds of entries.

use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::spec::{
    self, BlastRadius, Bulkhead, CircuitBreaker, Concurrency, Duration, HealthCheck, Hedge, HttpMatch, LabelSelector,
    Labels, LoadBalancing, OutlierDetection, Position, RateLimit, Retries, Route, Timeouts,
};

/// What an entry says.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "read once a config, and most entries are policies")]
pub enum Body {
    /// A callee.
    Service(Service),
    /// How callees are treated.
    Policy(Policy),
    /// What goes wrong on purpose.
    Fault(Fault),
    /// What is enforced beside the pods of a Service of the namespace itself.
    Inbound(Inbound),
}

impl Body {
    /// The kind as it stands in the document.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Service(_) => "Service",
            Self::Policy(_) => "TrafficPolicy",
            Self::Fault(_) => "FaultSpec",
            Self::Inbound(_) => "Inbound",
        }
    }

    pub(super) fn to_raw(&self) -> Result<Box<RawValue>, serde_json::Error> {
        match self {
            Self::Service(service) => to_raw_value(service),
            Self::Policy(policy) => to_raw_value(policy),
            Self::Fault(fault) => to_raw_value(fault),
            Self::Inbound(inbound) => to_raw_value(inbound),
        }
    }
}

/// A callee that a policy or fault touches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Addresses at which callers reach it: its cluster IPs, of both families.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<Port>,
}

/// One port of a callee: the unit that has policies, limits and metrics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Port {
    /// The port's name, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The Service's port number.
    pub port: u16,
    /// What is spoken on it.
    #[serde(default)]
    pub protocol: Protocol,
    /// Local mode: addresses on which the proxy itself listens for callers of this port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listen: Vec<SocketAddr>,
    /// Where to connect to. Absent: to the address that the caller called, and let the cluster balance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Vec<Endpoint>>,
    /// Names of the policies that may apply, the strongest first: the first whose `from` fits the caller is in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// Names of the policies that are observed, the strongest first: the first whose `from` fits the caller is followed beside the
    /// one in force, in place of what that has under `observe`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub observe: Vec<String>,
    /// Names of the faults aimed at it, the strongest first: the first that is for a request acts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<String>,
}

/// What is enforced beside the pods of a Service, for whoever calls them. The entry has the Service's name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Inbound {
    /// The labels that its pods have.
    pub selector: Labels,
    /// Its ports, as far as something is enforced there.
    pub ports: Vec<InboundPort>,
}

/// A port of a Service, seen from its pods.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InboundPort {
    /// The Service's port number.
    pub port: u16,
    /// The name that the pods give to the port where they listen, if the Service goes by that.
    #[serde(default, rename = "targetName", skip_serializing_if = "Option::is_none")]
    pub target_name: Option<String>,
    /// Where the pods listen. By a name: in any of them, for proxies that do not know the names of their pod's ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<u16>,
    /// Local mode: the endpoints before which the proxy itself does what one beside each of them would.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
    /// Name of the policy in force here, if one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// As that says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
    /// Names of the faults that act here, the strongest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<String>,
}

/// One place where a callee runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    /// Address and port.
    pub address: SocketAddr,
    /// Local mode: where the proxy itself listens as though it stood beside it. Tries go there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<SocketAddr>,
}

impl Endpoint {
    /// An endpoint that is called at its own address.
    pub fn at(address: SocketAddr) -> Self {
        Self { address, beside: None }
    }

    /// Where a try connects to.
    pub fn way(&self) -> SocketAddr {
        self.beside.unwrap_or(self.address)
    }
}

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// Not said: the first bytes decide, whoever sends them.
    #[default]
    Detect,
    /// HTTP/1.1 or HTTP/2 without TLS; the caller's first bytes decide which.
    Http,
    /// Bytes that are none of our business.
    Tcp,
}

/// How a callee is treated by the callers that `from` selects.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Which of the namespace's pods, by their labels. Absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<LabelSelector>,
    /// As the user wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// As the user wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<Retries>,
    /// As the user wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedge: Option<Hedge>,
    /// As the user wrote it.
    #[serde(default, rename = "circuitBreaker", skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreaker>,
    /// As the user wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bulkhead: Option<Bulkhead>,
    /// As the user wrote it.
    #[serde(default, rename = "loadBalancing", skip_serializing_if = "Option::is_none")]
    pub load_balancing: Option<LoadBalancing>,
    /// As the user wrote it.
    #[serde(default, rename = "outlierDetection", skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierDetection>,
    /// As the user wrote it.
    #[serde(default, rename = "healthCheck", skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// As the user wrote it.
    #[serde(default, rename = "rateLimit", skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// As the user wrote them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Those of its protections that are observed. They stand apart, so that a reader that knows nothing of it does not enforce
    /// them. It has no `from` of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observe: Option<Box<Self>>,
}

/// What goes wrong on purpose, and until when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// Which of the namespace's pods, by their labels. Absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<LabelSelector>,
    /// As the user wrote it.
    #[serde(default, rename = "match", skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<HttpMatch>,
    /// As the user wrote them.
    pub faults: Vec<spec::Fault>,
    /// As the user wrote it, but for `Inbound`, which is left out: such a fault acts where an [`Inbound`] names it, and a proxy
    /// that does not know these finds it named nowhere.
    #[serde(default, skip_serializing_if = "Position::is_default")]
    pub at: Position,
    /// As the user wrote it.
    #[serde(default)]
    pub seed: u64,
    /// As the user wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blast_radius: Option<BlastRadius>,
    /// The end, by the wall clock.
    pub expires_at: Timestamp,
    /// The longest that a proxy acts after it first saw the fault, by its own monotonic clock: a wrong wall clock cannot
    /// prolong a fault.
    pub duration: Duration,
}
