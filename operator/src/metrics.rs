//! The operator's figures, for `/metrics`.

use std::sync::{Arc, atomic::AtomicU64};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Which kind of object a figure is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Kind {
    pub(crate) kind: &'static str,
}

/// All figures. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) objects: Family<Kind, Gauge>,
    pub(crate) invalid: Family<Kind, Gauge>,
    pub(crate) watch_errors: Family<Kind, Counter>,
    pub(crate) renders: Counter,
    pub(crate) writes: Family<Kind, Counter>,
    pub(crate) skipped: Family<Kind, Counter>,
    pub(crate) errors: Family<Kind, Counter>,
    pub(crate) pokes: Counter,
    pub(crate) lease_held: Gauge,
    pub(crate) certificate_expires: Gauge<f64, AtomicU64>,
}

impl Metrics {
    /// The figures, and the registry that shows them.
    pub(crate) fn new() -> (Self, Arc<Registry>) {
        let (metrics, mut registry) = (Self::default(), Registry::with_prefix("firebreak_operator"));
        registry.register("objects", "Objects known, by kind", metrics.objects.clone());
        registry.register("invalid_objects", "Objects that do not parse, by kind", metrics.invalid.clone());
        registry.register("watch_errors", "Watches that broke and were begun again", metrics.watch_errors.clone());
        registry.register("renders", "Configs rendered", metrics.renders.clone());
        registry.register("writes", "Objects written", metrics.writes.clone());
        registry.register("writes_skipped", "Writes not made because nothing differed", metrics.skipped.clone());
        registry.register(
            "write_errors",
            "Writes that the API server refused or did not answer",
            metrics.errors.clone(),
        );
        registry.register("pokes", "Pods touched so that the kubelet projects a new config", metrics.pokes.clone());
        registry.register("lease_held", "1 while this replica writes", metrics.lease_held.clone());
        registry.register(
            "certificate_expires_timestamp_seconds",
            "When the injector's certificate ends, in seconds since the epoch",
            metrics.certificate_expires.clone(),
        );
        (metrics, Arc::new(registry))
    }
}

/// The label set of `kind`.
pub(crate) const fn of(kind: &'static str) -> Kind {
    Kind { kind }
}
