//! The injector: AdmissionReview in, decision with a reason, JSON patch out.
//!
//! Everything that decides is pure and builds without a server (`default-features = false`), so that the operator can
//! ask the same [`decide`] why a pod has no proxy. The feature `server` adds the webhook itself.

pub mod decide;
