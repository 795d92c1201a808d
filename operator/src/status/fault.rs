//! The life of a fault, and its status.
//!
//! ```text
//! created ─► start and end are written (Pending) ─► its entry is published (Running) ─► its end passes (Completed)
//!        └─► another active fault has the claim (Refused, for good)       suspend: true ⇄ Suspended, until its end passes
//! ```
//!
//! The start is written once and never moves; the render takes a fault only from a status that the API server has given
//! back, so no proxy can see a fault whose end is not on record. The clock runs from there on, whether or not anybody is
//! there to be hit: a fault that waited for callers would go off when nobody expects it any more.
//!
//! Claims are those of policies: what a namespace says about a Service of its own and what another says about it for its own
//! callers are two. A consumer's fault never keeps the producer's from starting, nor the other way round; where both are
//! for one request, the consumer's has it, since the render puts it first and a proxy draws from one fault only.

use std::collections::BTreeMap;

use firebreak_crds::resources::{FaultSpecStatus, Phase, condition};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{
    Judge,
    conditions::{Verdict, conditions, whole_second},
    policy::{published, some, unread},
    reason, refs, target_column,
};
use crate::{
    attach::{Attaches, Conflict},
    index::{Fault, Key, Namespace, World, faults::end_of},
    render::faults_act,
};

/// The next moment after `since` at which a fault ends.
pub fn next_end(world: &World, since: Timestamp) -> Option<Timestamp> {
    world.faults.iter().filter_map(Fault::end).filter(|end| *end > since).min()
}

/// The faults that may not be active because one of the same namespace that comes first is, on a port that both are about.
pub fn conflicts(world: &World, now: Timestamp) -> BTreeMap<Key, Conflict> {
    let contends = |fault: &&Fault| {
        let over = fault.end().is_some_and(|end| end <= now);
        fault.spec.as_ref().is_ok_and(|spec| !spec.suspend) && !over && !fault.refused_for_good()
    };
    let mut contenders: Vec<_> = world.faults.iter().filter(contends).collect();
    contenders.sort_by_key(|fault| (fault.meta.created, &fault.meta.key));
    let mut holders: Vec<&Fault> = Vec::new();
    let mut lost = BTreeMap::new();
    for fault in contenders {
        let conflict = holders.iter().find_map(|holder| {
            let same = fault.meta.key.namespace == holder.meta.key.namespace;
            let target = fault.targets().find(|mine| same && holder.targets().any(|its| mine.overlaps(&its)))?;
            Some(Conflict::new(&target, &fault.meta, &holder.meta))
        });
        match conflict {
            Some(conflict) => drop(lost.insert(fault.meta.key.clone(), conflict)),
            None => holders.push(fault),
        }
    }
    lost
}

/// What is decided about a fault before it is put into words.
struct Life {
    phase: Phase,
    started_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    accepted: Verdict,
}

pub(super) fn judge(judge: &Judge<'_>, fault: &Fault) -> FaultSpecStatus {
    let callers = judge.callers(fault);
    let (hit, left_out): (Vec<_>, Vec<_>) =
        callers.into_iter().partition(|caller| faults_act(caller, &judge.options.own_namespace));
    let mut life = live(judge, fault, &left_out);
    let resolved = if fault.spec.is_ok() { refs::resolved(judge.world, fault) } else { unread(&life.accepted) };
    let published = publication(judge, fault, &mut life, &hit);
    let mut ready = Verdict::ready(&[&life.accepted, &resolved, &published]);
    if matches!(life.phase, Phase::Completed | Phase::Suspended) {
        // Nothing is left to be done, which is what tools that wait want to know.
        ready = Verdict { type_: condition::READY, status: Some(true), ..published.clone() };
    }
    let message = if life.phase == Phase::Refused { life.accepted.message.clone() } else { published.message.clone() };
    let verdicts = [life.accepted, resolved, published, Verdict::programmed(), ready];
    FaultSpecStatus {
        observed_generation: Some(fault.meta.generation),
        phase: Some(life.phase),
        target: target_column(fault.target_refs()),
        started_at: life.started_at.map(Time),
        expires_at: life.expires_at.map(Time),
        message: Some(message),
        conditions: conditions(&fault.status.conditions, fault.meta.generation, judge.options.now, verdicts),
    }
}

fn live(judge: &Judge<'_>, fault: &Fault, left_out: &[&Namespace]) -> Life {
    let now = judge.options.now;
    let (started_at, end) = (fault.status.started_at.as_ref().map(|time| time.0), fault.end());
    let life = |phase, accepted| Life { phase, started_at, expires_at: end, accepted };
    let no = |reason, message: String| Verdict::no(condition::ACCEPTED, reason, message);
    let spec = match &fault.spec {
        Ok(spec) => spec,
        Err(invalid) => return life(Phase::Refused, no(reason::INVALID, invalid.to_string())),
    };
    if fault.refused_for_good() {
        let said = fault.status.message.clone().unwrap_or_default();
        return life(Phase::Refused, no(reason::CONFLICTED, said));
    }
    let accepted = Verdict::yes(condition::ACCEPTED, reason::ACCEPTED, accepted_message(fault, left_out));
    if end.is_some_and(|end| end <= now) {
        return life(Phase::Completed, accepted);
    }
    if spec.suspend {
        return life(Phase::Suspended, accepted);
    }
    if let Some(Conflict { target, winner, older }) = judge.fault_conflicts.get(&fault.meta.key) {
        let first = if *older { "older" } else { "of the same second with a name that comes first" };
        let message = format!(
            "{target}: FaultSpec {winner} is active there and {first}; this one stays refused, create it again when that has ended"
        );
        return life(Phase::Refused, no(reason::CONFLICTED, message));
    }
    match end {
        Some(_) => life(Phase::Running, accepted),
        None => Life {
            phase: Phase::Pending,
            started_at: Some(whole_second(now)),
            expires_at: Some(end_of(now, spec.duration.get())),
            accepted,
        },
    }
}

fn accepted_message(fault: &Fault, left_out: &[&Namespace]) -> String {
    if left_out.is_empty() {
        return "the fault is valid".to_owned();
    }
    let names: Vec<_> = left_out.iter().map(|caller| caller.key.name.as_str()).collect();
    let label = "firebreak.dev/faults=enabled";
    let who = if fault.at_callee() { "pods" } else { "callers" };
    format!("the fault is valid; warning: {who} in {} are not hit, for want of the label {label}", some(&names))
}

/// The condition `Published`; a fault that no config holds yet is Pending rather than Running.
fn publication(judge: &Judge<'_>, fault: &Fault, life: &mut Life, hit: &[&Namespace]) -> Verdict {
    let no = |reason, message: String| Verdict::no(condition::PUBLISHED, reason, message);
    let end = life.expires_at.map(|end| end.to_string()).unwrap_or_default();
    match life.phase {
        Phase::Refused => Verdict { type_: condition::PUBLISHED, ..life.accepted.clone() },
        Phase::Completed => no(reason::COMPLETED, format!("ended at {end}")),
        Phase::Suspended if end.is_empty() => no(reason::SUSPENDED, "not started, because of suspend".into()),
        Phase::Suspended => no(reason::SUSPENDED, format!("stopped by suspend; its end stays {end}")),
        Phase::Pending => no(reason::PENDING, format!("starting; ends at {end}")),
        Phase::Running => {
            let mut verdict = published(judge, fault, "FaultSpec", hit);
            if verdict.reason == reason::NO_CALLERS {
                verdict.message = "nobody is hit: no namespace that it is for has the proxy and the label \
                                   firebreak.dev/faults=enabled"
                    .into();
            }
            let key = fault.id();
            let somewhere =
                hit.iter().any(|it| judge.published.holds(&it.key.name, "FaultSpec", key, fault.meta.generation));
            if !somewhere {
                life.phase = Phase::Pending;
            }
            Verdict { message: format!("{}; ends at {end}", verdict.message), ..verdict }
        }
    }
}
