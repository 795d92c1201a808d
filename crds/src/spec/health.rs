//! Whether an endpoint is asked how it is, and how.

use serde::{Deserialize, Serialize};

use super::{Duration, defaults};

/// Asks each endpoint from time to time whether it is well, where endpoints are known: exactly one of `http`, `grpc` and `tcp`. One
/// that is not gets no request until it is well again, unless none of them is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "kube", schemars(extend("x-kubernetes-validations" = super::schema::health_rules())))]
pub struct HealthCheck {
    /// A GET request over HTTP/1.1: an answer from 200 to 399 is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpCheck>,
    /// A call of `grpc.health.v1.Health/Check`: an answer of SERVING is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcCheck>,
    /// A connection: one that opens is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpCheck>,
    /// Another port of the endpoint than that for requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(range(min = 1, max = 65_535)))]
    pub port: Option<u16>,
    /// From one check to the next, 100ms to 1h, give or take a tenth. Default 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
    /// How long a check may take, up to `interval`. Default 1s, or `interval` if that is shorter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Checks in a row that must fail before an endpoint counts as ill. Default 3. The first check of an endpoint decides alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(range(min = 1, max = 100)))]
    pub unhealthy_after: Option<u32>,
    /// Checks in a row that must pass before it counts as well again. Default 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(range(min = 1, max = 100)))]
    pub healthy_after: Option<u32>,
}

/// What a check over HTTP asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct HttpCheck {
    /// The path, and a query if there is one.
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 1024), regex(pattern = r"^/[!-~]*$")))]
    pub path: String,
    /// The header `Host`. Left out: the endpoint's address and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 253), regex(pattern = r"^[A-Za-z0-9._:\[\]-]+$")))]
    pub host: Option<String>,
}

/// What a check over gRPC asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct GrpcCheck {
    /// The name of the service. Left out: the server as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 253)))]
    pub service: Option<String>,
}

/// Nothing more than a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct TcpCheck {}

impl HealthCheck {
    /// From one check to the next, with the default applied.
    pub fn interval(&self) -> std::time::Duration {
        self.interval.map_or(defaults::HEALTH_INTERVAL, Duration::get)
    }

    /// How long a check may take, with the default applied.
    pub fn timeout(&self) -> std::time::Duration {
        self.timeout.map_or(defaults::HEALTH_TIMEOUT.min(self.interval()), Duration::get)
    }

    /// How many checks in a row must fail, and how many pass, with the defaults applied.
    pub fn thresholds(&self) -> (u32, u32) {
        (
            self.unhealthy_after.unwrap_or(defaults::UNHEALTHY_AFTER),
            self.healthy_after.unwrap_or(defaults::HEALTHY_AFTER),
        )
    }
}
