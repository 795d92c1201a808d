//! A fault with an end: what goes wrong on purpose, for whom, and until when.

use serde::{Deserialize, Serialize};

#[cfg(feature = "kube")]
use super::schema;
use super::{Callers, Duration, HttpMatch, Percent, TargetRef};

/// Faults that the proxies of the callers, or with `at: Inbound` of the callee, inject for a time that is set in advance.
///
/// Only `suspend` may change after creation: what ran is what the object says ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "kube", derive(kube::CustomResource, schemars::JsonSchema))]
#[allow(clippy::duplicated_attributes, reason = "each printer column has a type, and most are strings")]
#[cfg_attr(
    feature = "kube",
    kube(
        group = "firebreak.dev",
        version = "v1alpha1",
        kind = "FaultSpec",
        plural = "faultspecs",
        shortname = "fspec",
        category = "firebreak",
        namespaced,
        status = "crate::resources::FaultSpecStatus",
        derive = "PartialEq",
        printcolumn(name = "Target", type_ = "string", json_path = ".status.target"),
        printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
        printcolumn(name = "Ends", type_ = "string", json_path = ".status.expiresAt"),
        printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1),
        printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
        doc = "Faults that the proxies of a Service's callers inject, with an end that needs nobody to bring it about."
    )
)]
#[cfg_attr(feature = "kube", schemars(extend("x-kubernetes-validations" = schema::fault_spec_rules())))]
pub struct FaultSpecSpec {
    /// Whose callers see the faults: up to 16 Services or Service ports, or the object's own Namespace.
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 16)))]
    pub target_refs: Vec<TargetRef>,
    /// Which callers. Left out: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Callers>,
    /// Which requests: one of the list must match. Left out: all of them.
    #[serde(default, rename = "match", skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "kube", schemars(length(max = 16)))]
    pub matches: Vec<HttpMatch>,
    /// What goes wrong. Each fault is drawn independently; delays come before aborts.
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 8)))]
    pub faults: Vec<Fault>,
    /// Where it goes wrong. Left out: `Attempt`.
    #[serde(default)]
    pub at: Position,
    /// How long, from the moment the operator starts it. Required, at most 24h.
    #[cfg_attr(feature = "kube", schemars(with = "Option<Duration>"))]
    pub duration: Duration,
    /// Which requests are hit is a hash of this seed, the fault's place in the list, the trace or request id, and the
    /// attempt's number: the same seed and the same ids hit the same tries. Left out: 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[cfg_attr(feature = "kube", schemars(range(max = 9_007_199_254_740_991u64)))]
    pub seed: u64,
    /// How much may go wrong at once. Left out: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blast_radius: Option<BlastRadius>,
    /// `true` stops the faults; their end does not move.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
}

/// One thing that goes wrong: exactly one of the fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "kube", schemars(extend("x-kubernetes-validations" = schema::fault_rules())))]
pub struct Fault {
    /// The try waits before it is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<Delay>,
    /// The try ends as the fault says; mostly it is not sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort: Option<Abort>,
    /// The answer's body ends early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncate: Option<Truncate>,
    /// The answer's body comes slowly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttle: Option<Throttle>,
}

/// A pause before a try is sent: `fixed`, or between `min` and `max`, or spread as `p50` and `p99` say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "kube", schemars(extend("x-kubernetes-validations" = schema::delay_rules())))]
pub struct Delay {
    /// How many tries of a hundred.
    pub percent: Percent,
    /// Always this long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixed: Option<Duration>,
    /// At least this long; every length up to `max` is equally likely.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<Duration>,
    /// At most this long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Duration>,
    /// Half of the pauses are shorter. Lengths are log-normal, as the latency of a slow callee is; none is longer than
    /// ten times `p99`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50: Option<Duration>,
    /// One pause of a hundred is longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99: Option<Duration>,
}

/// The end of a try: exactly one of `httpStatus`, `grpcStatus`, `reset`, `refuse`, `blackhole` and `resetAfterHeaders`. But for
/// the last it is not sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "kube", schemars(extend("x-kubernetes-validations" = schema::abort_rules())))]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a word that users write, and a rule lets one of them be true"
)]
pub struct Abort {
    /// How many tries of a hundred.
    pub percent: Percent,
    /// Answered with this status; a gRPC call is answered with the gRPC status that clients read from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(range(min = 400, max = 599)))]
    pub http_status: Option<u16>,
    /// Answered with this gRPC status; a request that is not gRPC is answered with the HTTP status that stands for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kube", schemars(range(min = 1, max = 16)))]
    pub grpc_status: Option<u8>,
    /// The try ends as if the connection had been reset before a response.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reset: bool,
    /// The try ends as if nobody listened at the callee's address.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refuse: bool,
    /// The try hangs, as if no packet came back, until a clock of the policy ends it, at the latest until the fault ends.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub blackhole: bool,
    /// The try is sent, and the connection is reset between the answer's headers and its body.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reset_after_headers: bool,
}

/// An answer whose body ends early: the caller sees an incomplete message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct Truncate {
    /// How many tries of a hundred.
    pub percent: Percent,
    /// So many bytes of the body come through, and nothing after them. A body that is no longer is left as it is.
    #[cfg_attr(feature = "kube", schemars(range(min = 1, max = 9_007_199_254_740_991u64)))]
    pub after_bytes: u64,
}

/// An answer whose body comes through as on a slow line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct Throttle {
    /// How many tries of a hundred.
    pub percent: Percent,
    /// No more bytes of the body than these come through in a second.
    #[cfg_attr(feature = "kube", schemars(range(min = 1, max = 1_000_000_000)))]
    pub bytes_per_second: u32,
}

/// How much may go wrong at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct BlastRadius {
    /// Requests that may be under the fault at the same time, in each proxy. The next one that would be hit is spared.
    #[cfg_attr(feature = "kube", schemars(range(min = 1, max = 1_000_000)))]
    pub max_active: u32,
}

/// Where a fault is injected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub enum Position {
    /// In the caller's proxy, into each try, below retries, timeouts and bulkhead: the experiment tests the policy.
    #[default]
    Attempt,
    /// In the caller's proxy, into the request, once, above retries, timeouts, bulkhead and breaker: the caller suffers it whatever the policy.
    Request,
    /// In the proxy beside the callee's pod, into each request that comes in, whoever sent it: every caller suffers it.
    Inbound,
}

impl Position {
    /// Whether it is what stands for a position that is left out.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(seed: &u64) -> bool {
    *seed == 0
}
