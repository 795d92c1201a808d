//! The four clocks. There are no others: a user who knows these knows when a request ends.

use serde::{Deserialize, Serialize};

use super::{Duration, Mode};

/// How long things may take. A clock that is left out does not run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "kube", schemars(extend("x-kubernetes-validations" = super::schema::timeout_rules())))]
pub struct Timeouts {
    /// Whether it acts, or only counts what it would have done. Default: the policy's mode. Not on a route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Time to open a connection to the callee.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<Duration>,
    /// Time for one try, until its response headers: connecting and an injected delay count, waiting in the bulkhead does
    /// not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Duration>,
    /// Time for the whole request, from the first byte received to the last response byte: all tries, back-offs and the
    /// upload. After a protocol upgrade only `idle` counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Duration>,
    /// Longest silence, without a byte either way, on an open stream or connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<Duration>,
}

impl Timeouts {
    /// These timeouts with the fields of `over` in their place where `over` has them.
    #[must_use]
    pub fn overridden_by(&self, over: &Self) -> Self {
        Self {
            mode: self.mode,
            connect: over.connect.or(self.connect),
            attempt: over.attempt.or(self.attempt),
            request: over.request.or(self.request),
            idle: over.idle.or(self.idle),
        }
    }
}
