//! The injector: `AdmissionReview` in, decision with a reason, JSON patch out.
//!
//! ```text
//! review ─► decide (reason) ─► annotations (settings) ─► sidecar (the pod as it should be) ─► patch (before, after)
//! ```
//!
//! Everything that decides is pure and builds without a server (`default-features = false`), so that the operator can
//! ask the same [`decide`] why a pod has no proxy. The feature `server` adds the webhook itself.

pub mod annotations;
#[cfg(feature = "server")]
pub mod args;
#[cfg(feature = "server")]
pub mod certificate;
pub mod decide;
#[cfg(feature = "server")]
pub mod metrics;
pub mod patch;
pub mod probes;
pub mod quantity;
pub mod review;
#[cfg(feature = "server")]
pub mod run;
#[cfg(feature = "server")]
pub mod server;
pub mod sidecar;
