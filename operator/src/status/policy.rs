//! The status of a `TrafficPolicy`.

use std::iter;

use firebreak_crds::{
    resources::{TrafficPolicyStatus, condition},
    spec::{Mode, TrafficPolicySpec, warnings, without_endpoints},
};

use super::{
    Judge, Problem,
    conditions::{Verdict, conditions},
    reason, refs, target_column,
};
use crate::{
    attach::{Attaches, Conflict, silenced},
    index::{Key, Namespace, Policy},
};

pub(super) fn judge(judge: &Judge<'_>, policy: &Policy) -> TrafficPolicyStatus {
    let lost = judge.policy_conflicts.get(&policy.meta.key).map_or(&[][..], Vec::as_slice);
    let accepted = accepted(judge, policy, lost);
    let (resolved, published) = match &policy.spec {
        Err(_) => (unread(&accepted), Verdict { type_: condition::PUBLISHED, ..accepted.clone() }),
        Ok(spec) if !lost.is_empty() && lost.len() == spec.target_refs.len() => {
            (refs::resolved(judge.world, policy), Verdict { type_: condition::PUBLISHED, ..accepted.clone() })
        }
        Ok(_) => {
            (refs::resolved(judge.world, policy), published(judge, policy, "TrafficPolicy", &judge.callers(policy)))
        }
    };
    let ready = Verdict::ready(&[&accepted, &resolved, &published]);
    let verdicts = [accepted, resolved, published, Verdict::programmed(), ready];
    let spec = policy.spec.as_ref().ok();
    TrafficPolicyStatus {
        observed_generation: Some(policy.meta.generation),
        target: spec.and_then(|spec| target_column(&spec.target_refs)),
        protections: spec.and_then(|spec| protections(spec)),
        conditions: conditions(&policy.status.conditions, policy.meta.generation, judge.options.now, verdicts),
    }
}

fn accepted(judge: &Judge<'_>, policy: &Policy, lost: &[Conflict]) -> Verdict {
    let spec = match &policy.spec {
        Ok(spec) => spec,
        Err(invalid) => return Verdict::no(condition::ACCEPTED, reason::INVALID, invalid.to_string()),
    };
    if !lost.is_empty() {
        return Verdict::no(condition::ACCEPTED, reason::CONFLICTED, conflicted(lost, spec.target_refs.len()));
    }
    let warnings = warnings(spec)
        .into_iter()
        .chain(without_endpoints(spec))
        .map(|it| format!("warning: {} {}", it.field, it.message));
    let silenced = silenced(policy, judge.world.policies.iter()).into_iter().map(|it| format!("warning: inbound {it}"));
    let says = if spec.observes() {
        "the policy is valid, and is observed: it changes nothing"
    } else {
        "the policy is valid"
    };
    let parts: Vec<_> =
        iter::once(says.to_owned()).chain(warnings).chain(silenced).chain(outshone(judge, policy, spec)).collect();
    Verdict::yes(condition::ACCEPTED, reason::ACCEPTED, parts.join("; "))
}

/// What is observed of an enforced policy gives way to a policy that is observed as a whole, where that is for the same callers.
fn outshone(judge: &Judge<'_>, policy: &Policy, spec: &TrafficPolicySpec) -> Option<String> {
    let observed = if spec.observes() { Vec::new() } else { spec.part(Mode::Observe).fields() };
    let meets = |other: &&Policy| {
        other.observes() && policy.targets().any(|target| other.targets().any(|theirs| target.overlaps(&theirs)))
    };
    let other = judge.world.policies.iter().filter(|_| !observed.is_empty()).find(meets)?;
    Some(format!(
        "warning: what it observes ({}) is not observed for callers that TrafficPolicy {} is for, which is observed in its place",
        observed.join(", "),
        other.meta.key
    ))
}

fn conflicted(lost: &[Conflict], targets: usize) -> String {
    let line = |Conflict { target, winner, older }: &Conflict| {
        let first = if *older { "is older" } else { "is of the same second with a name that comes first" };
        format!("{target} is claimed by TrafficPolicy {winner}, which {first} and has the same `from`")
    };
    let lines: Vec<_> = lost.iter().map(line).collect();
    let rest = if lost.len() < targets { "; the other targets are in force" } else { "" };
    format!("{}{rest}", lines.join("; "))
}

/// The condition `ResolvedRefs` of what cannot be read.
pub(super) fn unread(accepted: &Verdict) -> Verdict {
    let message = "the targets cannot be read".to_owned();
    Verdict { type_: condition::RESOLVED_REFS, status: None, message, ..accepted.clone() }
}

/// The condition `Published`: whether the config of every namespace in `callers` holds the object as it is now.
pub(super) fn published<T: Attaches>(
    judge: &Judge<'_>,
    object: &T,
    kind: &'static str,
    callers: &[&Namespace],
) -> Verdict {
    let no = |reason, message: String| Verdict::no(condition::PUBLISHED, reason, message);
    if callers.is_empty() {
        let message = "no namespace that it is for has the proxy: label one with firebreak.dev/inject=enabled";
        return no(reason::NO_CALLERS, message.into());
    }
    if !refs::any_port(judge.world, object) {
        return no(reason::NO_TARGETS, "no target has a TCP port that can be recognised by its address".into());
    }
    let Meta { key, generation } = Meta::of(object);
    let missing = |caller: &&&Namespace| !judge.published.holds(&caller.key.name, kind, key, generation);
    let missing: Vec<_> = callers.iter().filter(missing).map(|caller| caller.key.name.as_str()).collect();
    let problem = missing.iter().find_map(|caller| Some((caller, judge.published.problem(caller)?)));
    match (missing.as_slice(), problem) {
        ([], _) => Verdict::yes(condition::PUBLISHED, reason::PUBLISHED, in_config_of(callers)),
        (_, Some((caller, problem))) => {
            let reason = match problem {
                Problem::TooLarge { .. } => reason::CONFIG_TOO_LARGE,
                Problem::Refused(_) => reason::WRITE_FAILED,
            };
            no(reason, format!("namespace {caller}: {problem}"))
        }
        (missing, None) => no(reason::PENDING, format!("not yet in the config of {}", some(missing))),
    }
}

struct Meta<'a> {
    key: &'a Key,
    generation: i64,
}

impl<'a> Meta<'a> {
    fn of<T: Attaches>(object: &'a T) -> Self {
        Self { key: object.id(), generation: object.meta().generation }
    }
}

fn in_config_of(callers: &[&Namespace]) -> String {
    let names: Vec<_> = callers.iter().map(|caller| caller.key.name.as_str()).collect();
    format!("in the config of {}", some(&names))
}

/// The first few names, and how many more.
pub(super) fn some(names: &[&str]) -> String {
    let shown = names.len().min(3);
    let more = names.len() - shown;
    let namespaces = if names.len() == 1 { "namespace" } else { "namespaces" };
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{namespaces} {}{rest}", names[..shown].join(", "))
}

fn protections(spec: &TrafficPolicySpec) -> Option<String> {
    let routes = spec.routes.len();
    let routes = (routes > 0).then(|| if routes == 1 { "1 route".to_owned() } else { format!("{routes} routes") });
    let named = [
        spec.timeouts.as_ref().map(|_| "timeouts".to_owned()),
        spec.retries.as_ref().map(|_| "retries".to_owned()),
        spec.hedge.as_ref().map(|_| "hedging".to_owned()),
        spec.circuit_breaker.as_ref().map(|_| "breaker".to_owned()),
        spec.bulkhead.as_ref().map(|_| "bulkhead".to_owned()),
        spec.load_balancing.as_ref().map(|_| "balancing".to_owned()),
        spec.outlier_detection.as_ref().map(|_| "outliers".to_owned()),
        spec.health_check.as_ref().map(|_| "health checks".to_owned()),
        spec.rate_limit.as_ref().map(|_| "rate limit".to_owned()),
        spec.inbound.as_ref().map(|_| "inbound concurrency".to_owned()),
        routes,
    ];
    let named: Vec<_> = named.into_iter().flatten().collect();
    let only = if spec.observes() { "observed: " } else { "" };
    (!named.is_empty()).then(|| format!("{only}{}", named.join(", ")))
}
