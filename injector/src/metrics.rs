//! What the injector counts, prefix `firebreak_injector_`.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// Metric handles, cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Pods by what became of them.
    pub admissions: Family<Admission, Counter>,
    /// Time to answer, without TLS and transfer.
    pub seconds: Histogram,
    /// End of the certificate's validity, in seconds since 1970; 0 without a certificate.
    pub certificate_expires: Gauge,
    /// Certificates that could not be used.
    pub certificates_refused: Counter,
}

/// What became of a pod: bounded by the number of reason codes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Admission {
    /// `injected`, `skipped`, `refused`, or `error` for a request that had no answer.
    pub result: &'static str,
    /// The reason's code, empty for an injected pod.
    pub reason: &'static str,
}

impl Metrics {
    /// Metrics, entered in `registry`.
    pub fn new(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("firebreak_injector");
        let metrics = Self {
            admissions: Family::default(),
            seconds: Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5]),
            certificate_expires: Gauge::default(),
            certificates_refused: Counter::default(),
        };
        registry.register("admissions", "Pods by result and reason", metrics.admissions.clone());
        registry.register_with_unit("admission", "Time to answer", Unit::Seconds, metrics.seconds.clone());
        registry.register(
            "certificate_expires_timestamp_seconds",
            "End of the certificate's validity, in seconds since 1970",
            metrics.certificate_expires.clone(),
        );
        registry.register(
            "certificates_refused",
            "Certificates that could not be used",
            metrics.certificates_refused.clone(),
        );
        metrics
    }
}
