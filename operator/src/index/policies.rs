//! `TrafficPolicy` objects, parsed or kept with the reason why not.

use std::sync::Arc;

use firebreak_crds::{
    resources::TrafficPolicyStatus,
    spec::{Callers, TargetRef, TrafficPolicySpec},
};
use serde_json::Value;

use super::{Filed, Key, Meta, Nameless, Parsed, dissect};
use crate::{
    attach::{Attaches, check_own, check_targets},
    status,
};

/// A policy as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Who it is.
    pub meta: Meta,
    /// What it says, or why that cannot be read.
    pub spec: Parsed<TrafficPolicySpec>,
    /// What was last written about it, as far as it is ours.
    pub status: TrafficPolicyStatus,
}

impl Policy {
    /// Reads the raw object. A spec that does not parse is kept as [`Invalid`].
    pub fn from_json(object: Value) -> Result<Self, Nameless> {
        let (meta, spec, mut status): (_, _, TrafficPolicyStatus) = dissect(object)?;
        status.conditions.retain(status::ours);
        let spec = spec.and_then(|spec: Arc<TrafficPolicySpec>| {
            check_targets(&meta.key.namespace, &spec.target_refs)?;
            if spec.inbound.is_some() {
                check_own(&meta.key.namespace, &spec.target_refs, "inbound")?;
            }
            Ok(spec)
        });
        Ok(Self { meta, spec, status })
    }

    /// Whether proxies see no difference between the two: only the status changed.
    pub(crate) fn renders_as(&self, other: &Self) -> bool {
        self.meta.same_spec(&other.meta) && self.spec == other.spec
    }
}

impl Filed for Policy {
    fn key(&self) -> &Key {
        &self.meta.key
    }
}

impl Attaches for Policy {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn target_refs(&self) -> &[TargetRef] {
        self.spec.as_ref().map_or(&[], |spec| &spec.target_refs)
    }

    fn observes(&self) -> bool {
        self.spec.as_ref().is_ok_and(|spec| spec.observes())
    }

    fn from(&self) -> Option<&Callers> {
        self.spec.as_ref().ok()?.from.as_ref()
    }

    fn has_inbound(&self) -> bool {
        self.spec.as_ref().is_ok_and(|spec| spec.inbound.is_some() && !spec.observes())
    }
}
