//! Conditions as Kubernetes writes them.

use firebreak_crds::resources::condition;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::reason;

/// Longest message, in characters: enough for people, and far from the schema's limit.
const LONGEST: usize = 2048;

/// The types of condition that are ours.
const TYPES: [&str; 5] =
    [condition::ACCEPTED, condition::RESOLVED_REFS, condition::PUBLISHED, condition::PROGRAMMED, condition::READY];

/// Whether `found` is ours to write. Others may keep theirs beside it; what we compare must not hold them, or every look at the
/// status would find a difference that no write of ours can remove.
pub(crate) fn ours(found: &Condition) -> bool {
    TYPES.contains(&found.type_.as_str())
}

/// One condition before it has a time.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    pub(super) type_: &'static str,
    /// Nothing means `Unknown`.
    pub(super) status: Option<bool>,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Verdict {
    pub(super) fn yes(type_: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { type_, status: Some(true), reason, message: message.into() }
    }

    pub(super) fn no(type_: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { type_, status: Some(false), reason, message: message.into() }
    }

    pub(super) fn holds(&self) -> bool {
        self.status == Some(true)
    }

    /// Acknowledgements travel on the stream, which proxies may do without.
    pub(super) fn programmed() -> Self {
        let message = "proxies do not report which config they run";
        let (status, reason) = (None, reason::NO_ACKNOWLEDGEMENTS);
        Self { type_: condition::PROGRAMMED, status, reason, message: message.into() }
    }

    /// The summary: the first of `verdicts` that does not hold, or the last.
    pub(super) fn ready(verdicts: &[&Self]) -> Self {
        let decisive = verdicts.iter().find(|verdict| !verdict.holds()).or(verdicts.last());
        let (status, reason, message) = decisive.map_or((None, reason::PENDING, ""), |verdict| {
            (Some(verdict.holds()), verdict.reason, verdict.message.as_str())
        });
        Self { type_: condition::READY, status, reason, message: message.into() }
    }
}

/// The conditions, each with the time at which its status last changed.
pub(super) fn conditions(
    before: &[Condition],
    generation: i64,
    now: Timestamp,
    verdicts: impl IntoIterator<Item = Verdict>,
) -> Vec<Condition> {
    let dated = |verdict: Verdict| {
        let status = match verdict.status {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        };
        let old = before.iter().find(|old| old.type_ == verdict.type_ && old.status == status);
        let last_transition_time = old.map_or(Time(whole_second(now)), |old| old.last_transition_time.clone());
        Condition {
            type_: verdict.type_.into(),
            status: status.into(),
            reason: verdict.reason.into(),
            message: verdict.message.chars().take(LONGEST).collect(),
            observed_generation: Some(generation),
            last_transition_time,
        }
    };
    verdicts.into_iter().map(dated).collect()
}

/// `time` as the API server will give it back.
pub(super) fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::new(time.as_second(), 0).unwrap_or(time)
}
