//! `FaultSpec` objects, parsed or kept with the reason why not.

use std::{sync::Arc, time::Duration};

use firebreak_crds::{
    resources::{FaultSpecStatus, Phase, condition},
    spec::{Callers, FaultSpecSpec, Position, TargetRef, defaults},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::Value;

use super::{Filed, Invalid, Key, Meta, Nameless, Parsed, dissect};
use crate::{
    attach::{Attaches, check_own, check_targets},
    status::{self, reason},
};

/// A fault as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// Who it is.
    pub meta: Meta,
    /// What it says, or why that cannot be read.
    pub spec: Parsed<FaultSpecSpec>,
    /// What was last written about it, as far as it is ours: here is its life.
    pub status: FaultSpecStatus,
}

impl Fault {
    /// Reads the raw object. A spec that does not parse, or whose end is out of bounds, is kept as [`Invalid`].
    pub fn from_json(object: Value) -> Result<Self, Nameless> {
        let (meta, spec, mut status): (_, _, FaultSpecStatus) = dissect(object)?;
        status.conditions.retain(status::ours);
        let spec = spec.and_then(|spec: Arc<FaultSpecSpec>| {
            check_targets(&meta.key.namespace, &spec.target_refs)?;
            if spec.at == Position::Inbound {
                check_own(&meta.key.namespace, &spec.target_refs, "at: Inbound")?;
            }
            check_end(&spec)?;
            Ok(spec)
        });
        Ok(Self { meta, spec, status })
    }

    /// When it ends, if it has started: never later than its duration allows, whatever the status says.
    pub fn end(&self) -> Option<Timestamp> {
        let duration = self.spec.as_ref().ok()?.duration;
        let started = self.status.started_at.as_ref()?.0;
        // The start was cut to the second when it was written.
        let latest = end_of(started, duration.get() + Duration::from_secs(1));
        Some(self.status.expires_at.as_ref().map_or(latest, |expires| expires.0.min(latest)))
    }

    /// Whether proxies shall act on it at `now`: started, not over, not stopped, not refused.
    pub fn active(&self, now: Timestamp) -> bool {
        let stopped = self.spec.as_ref().map_or(true, |spec| spec.suspend);
        !stopped && self.status.phase != Some(Phase::Refused) && self.end().is_some_and(|end| now < end)
    }

    /// Whether it was refused because another fault was active. That is for good: a fault that starts by itself later,
    /// when nobody watches any more, is an outage.
    pub fn refused_for_good(&self) -> bool {
        let conflicted = |it: &Condition| it.type_ == condition::ACCEPTED && it.reason == reason::CONFLICTED;
        self.status.phase == Some(Phase::Refused) && self.status.conditions.iter().any(conflicted)
    }

    /// Whether proxies see no difference between the two.
    pub(crate) fn renders_as(&self, other: &Self) -> bool {
        let life = |it: &Self| (it.status.phase == Some(Phase::Refused), it.end());
        self.meta.same_spec(&other.meta) && self.spec == other.spec && life(self) == life(other)
    }
}

/// The end of what starts at `started`, to the second, rounded up: what is written to the status has no fractions, and a
/// fault must not end before its duration because of that.
pub fn end_of(started: Timestamp, duration: Duration) -> Timestamp {
    let end = started.saturating_add(SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX));
    let end = end.unwrap_or(Timestamp::MAX);
    if end.subsec_nanosecond() == 0 { end } else { Timestamp::new(end.as_second() + 1, 0).unwrap_or(Timestamp::MAX) }
}

fn check_end(spec: &FaultSpecSpec) -> Result<(), Invalid> {
    let duration = spec.duration.get();
    if !duration.is_zero() && duration <= defaults::FAULT_MAX_DURATION {
        return Ok(());
    }
    let message = format!("{} is out of bounds: a fault lasts longer than 0s and at most 24h", spec.duration);
    Err(Invalid { path: "spec.duration".into(), message })
}

impl Filed for Fault {
    fn key(&self) -> &Key {
        &self.meta.key
    }
}

impl Attaches for Fault {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn target_refs(&self) -> &[TargetRef] {
        self.spec.as_ref().map_or(&[], |spec| &spec.target_refs)
    }

    fn from(&self) -> Option<&Callers> {
        self.spec.as_ref().ok()?.from.as_ref()
    }

    fn at_callee(&self) -> bool {
        self.spec.as_ref().is_ok_and(|spec| spec.at == Position::Inbound)
    }
}
