//! The verdict: one reason for each request that did not simply succeed, and what everybody is told about it.
//!
//! The same word stands in the `Proxy-Status` header, the metric labels and the log, and never changes its meaning.
//! `docs/reasons.md` has a row for each.

pub mod advice;
pub mod fate;
pub mod proxy_status;
pub mod reason;
pub mod recorder;

pub use self::{
    fate::{ATTEMPT_OUTCOMES, AttemptOutcome, FATES, Fate},
    reason::{Domain, REASONS, Reason},
};
