//! What users write: the specs of TrafficPolicy and FaultSpec.
//!
//! Every field that a user may leave out is an `Option` here and has no default in the schema, because a route overrides
//! its policy field by field and a default filled in by the API server could not be told from a choice. Defaults live in
//! [`defaults`] and are applied where a policy is put in force.

pub mod balance;
pub mod breaker;
pub mod bulkhead;
pub mod defaults;
pub mod duration;
pub mod fault;
pub mod health;
pub mod hedge;
pub mod inbound;
pub mod matching;
pub mod mode;
pub mod outlier;
pub mod percent;
pub mod rate_limit;
pub mod retry;
pub mod route;
#[cfg(feature = "kube")]
pub(crate) mod schema;
pub mod selector;
pub mod target;
pub mod timeout;
pub mod warnings;

use serde::{Deserialize, Serialize};

pub use self::{
    balance::{Algorithm, HashKey, LoadBalancing},
    breaker::{CircuitBreaker, FailureRate, Force, HalfOpen, OpenFor, Recovery, SlowCalls, TripOn},
    bulkhead::Bulkhead,
    duration::Duration,
    fault::{Abort, BlastRadius, Delay, Fault, FaultSpecSpec, Position, Throttle, Truncate},
    health::{GrpcCheck, HealthCheck, HttpCheck, TcpCheck},
    hedge::Hedge,
    inbound::{Concurrency, Inbound},
    matching::{HttpMatch, PathMatch, ValueMatch},
    mode::{Mode, Part},
    outlier::{Deviation, EjectFor, OutlierDetection},
    percent::Percent,
    rate_limit::RateLimit,
    retry::{Backoff, Budget, Condition, Methods, Retries},
    route::Route,
    selector::{Callers, Expression, LabelSelector, Labels, Operator},
    target::{TargetKind, TargetRef},
    timeout::Timeouts,
    warnings::{Warning, warnings, without_endpoints},
};

/// How callers treat a Service: its timeouts, retries, breaker, bulkhead and balancing, with exceptions for some requests.
///
/// A policy in the Service's own namespace applies to every caller that carries the proxy. A policy in another namespace
/// names the Service's namespace in its targetRef, applies only to callers in its own namespace, and wins there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "kube", derive(kube::CustomResource, schemars::JsonSchema))]
#[allow(clippy::duplicated_attributes, reason = "each printer column has a type, and most are strings")]
#[cfg_attr(
    feature = "kube",
    kube(
        group = "firebreak.dev",
        version = "v1alpha1",
        kind = "TrafficPolicy",
        plural = "trafficpolicies",
        shortname = "tpol",
        category = "firebreak",
        namespaced,
        status = "crate::resources::TrafficPolicyStatus",
        derive = "PartialEq",
        printcolumn(name = "Target", type_ = "string", json_path = ".status.target"),
        printcolumn(name = "Protects", type_ = "string", json_path = ".status.protections"),
        printcolumn(
            name = "Accepted",
            type_ = "string",
            json_path = ".status.conditions[?(@.type=='Accepted')].status"
        ),
        printcolumn(
            name = "Published",
            type_ = "string",
            json_path = ".status.conditions[?(@.type=='Published')].status"
        ),
        printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
        printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
        label("gateway.networking.k8s.io/policy", "Direct"),
        doc = "How callers treat a Service: timeouts, retries, breakers and bulkheads, enforced by the proxy beside each caller."
    )
)]
#[cfg_attr(feature = "kube", schemars(extend("x-kubernetes-validations" = schema::policy_rules())))]
pub struct TrafficPolicySpec {
    /// What the policy protects: up to 16 Services, Service ports (by `sectionName`), or the policy's own Namespace.
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 16)))]
    pub target_refs: Vec<TargetRef>,
    /// Which callers it is for. Left out: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Callers>,
    /// Whether the policy acts, or only counts what it would have done, beside the one that is enforced. Default Enforce.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// How long things may take. A clock that is left out does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// When a failed try is repeated. Left out: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<Retries>,
    /// When a second try is sent beside a first that is slow. Left out: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedge: Option<Hedge>,
    /// When calls to a callee that fails are stopped, and how it is let back in. Left out: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreaker>,
    /// How much of each caller one callee may take. Left out: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bulkhead: Option<Bulkhead>,
    /// Which endpoint a try goes to, where endpoints are known. Left out: one after the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancing: Option<LoadBalancing>,
    /// Which endpoints are left out because they fail, where endpoints are known. Left out: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierDetection>,
    /// How endpoints are asked whether they are well, where they are known. Left out: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// How many requests each caller may send a callee over time. Left out: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// What the proxies beside the Service's own pods enforce, whoever calls. Left out: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbound: Option<Inbound>,
    /// Exceptions for some requests. The first that matches overrides `timeouts`, `retries` and `hedge` field by field.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "kube", schemars(length(max = 32)))]
    pub routes: Vec<Route>,
}
