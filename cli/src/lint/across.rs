//! What only shows when objects stand side by side: two that claim the same, a port that its Service does not have.
//!
//! Who conflicts with whom is the operator's to say, so its own functions are asked. A target that is not among the files is
//! no finding: it may well be in the cluster.

use std::collections::{BTreeMap, BTreeSet};

use firebreak_crds::{resources::FaultSpecStatus, spec::TargetRef};
use firebreak_operator::{
    Event, Key, Update, World,
    attach::{Conflict, Target, conflicts, silenced},
    index::{Fault, Policy},
    status::fault_conflicts,
};
use jiff::Timestamp;
use serde_json::Value;

use super::{
    Checked, Spec,
    finding::{Finding, ObjectId, Severity},
};
use crate::manifest::Document;

/// All findings about `objects` beside each other and beside the Services among `documents`.
pub(super) fn check(objects: &[Checked<'_>], documents: &[Document]) -> Vec<Finding> {
    let mut findings = twice(objects);
    let world = world(objects);
    let policies = conflicts(world.policies.iter());
    let faults = fault_conflicts(&world, Timestamp::UNIX_EPOCH);
    let faults: BTreeMap<Key, Vec<Conflict>> =
        faults.into_iter().map(|(key, conflict)| (key, vec![conflict])).collect();
    for object in objects {
        let (lost, invalid) = match &object.spec {
            Spec::Policy(_) => (&policies, world.policies.get(&object.key()).and_then(|it| it.spec.as_ref().err())),
            Spec::Fault(_) => (&faults, world.faults.get(&object.key()).and_then(|it| it.spec.as_ref().err())),
        };
        // Where kubectl chooses the namespace, nobody knows yet whether a Namespace target is the object's own.
        let invalid = invalid.filter(|_| !object.namespace().is_empty());
        findings.extend(invalid.map(|it| Finding::of(object.document, Severity::Error, &it.path, &it.message)));
        let policy = world.policies.get(&object.key()).filter(|_| matches!(object.spec, Spec::Policy(_)));
        let silenced = policy.into_iter().flat_map(|policy| silenced(policy, world.policies.iter()));
        findings
            .extend(silenced.map(|it| Finding::of(object.document, Severity::Warning, "spec.inbound", it.to_string())));
        let lost = lost.get(&object.key()).into_iter().flatten();
        findings.extend(lost.map(|conflict| explain(object, conflict, objects)));
        for (index, target) in object.targets().iter().enumerate() {
            let field = format!("spec.targetRefs[{index}]");
            findings.extend(missing_port(object, target, &field, documents));
        }
    }
    findings
}

/// The objects as the operator would know them. Files have no age, so who is older is not decided here.
fn world(objects: &[Checked<'_>]) -> World {
    let mut world = World::default();
    for object in objects {
        let (value, _) = crate::manifest::without_nulls(&object.document.value);
        // What lacks a name has its finding already.
        match &object.spec {
            Spec::Policy(_) => Policy::from_json(value).ok().map(|it| world.apply(Event::Policy(Update::Apply(it)))),
            Spec::Fault(_) => Fault::from_json(value).ok().map(|mut it| {
                it.status = FaultSpecStatus::default();
                world.apply(Event::Fault(Update::Apply(it)))
            }),
        };
    }
    world
}

impl Checked<'_> {
    fn targets(&self) -> &[TargetRef] {
        match &self.spec {
            Spec::Policy(policy) => &policy.target_refs,
            Spec::Fault(fault) => &fault.target_refs,
        }
    }

    fn key(&self) -> Key {
        Key::new(self.namespace(), self.document.text("/metadata/name"))
    }

    fn namespace(&self) -> &str {
        self.document.text("/metadata/namespace")
    }
}

fn twice(objects: &[Checked<'_>]) -> Vec<Finding> {
    let mut first: BTreeMap<ObjectId, &Document> = BTreeMap::new();
    let mut findings = Vec::new();
    for object in objects.iter().filter(|object| !object.document.text("/metadata/name").is_empty()) {
        match first.get(&ObjectId::of(object.document)) {
            Some(earlier) => {
                let message = format!("is defined already at {}: the one applied last wins", place(earlier));
                findings.push(Finding::of(object.document, Severity::Warning, "metadata.name", message));
            }
            None => drop(first.insert(ObjectId::of(object.document), object.document)),
        }
    }
    findings
}

fn explain(object: &Checked<'_>, conflict: &Conflict, objects: &[Checked<'_>]) -> Finding {
    let own = object.namespace();
    let index = object.targets().iter().position(|target| Target::of(own, target).to_string() == conflict.target);
    let field = index.map_or("spec.targetRefs".to_owned(), |index| format!("spec.targetRefs[{index}]"));
    let kind = object.document.text("/kind");
    let winner = objects.iter().find(|it| it.document.text("/kind") == kind && it.key() == conflict.winner);
    let other = format!("{kind} {} ({})", conflict.winner, winner.map(|it| place(it.document)).unwrap_or_default());
    let message = match object.spec {
        Spec::Policy(_) => format!(
            "{other} claims the same target for the same callers: the one created first is in force (files do not say \
             which; created in the same second, as by one `kubectl apply`, it is {}, whose name comes first), the other gets \
             Accepted=False, Conflicted; merge them or tell their callers apart with `from`",
            conflict.winner
        ),
        Spec::Fault(_) => format!(
            "{other} has the same target: while one is active, the other gets Accepted=False, Conflicted; merge them or \
             suspend one"
        ),
    };
    Finding::of(object.document, Severity::Warning, &field, message)
}

fn missing_port(object: &Checked<'_>, target: &TargetRef, field: &str, documents: &[Document]) -> Option<Finding> {
    let section = target.section_name.as_deref()?;
    let namespace = target.namespace.as_deref().unwrap_or(object.namespace());
    let service = documents.iter().find(|document| {
        document.text("/apiVersion") == "v1"
            && document.text("/kind") == "Service"
            && document.text("/metadata/name") == target.name
            && document.text("/metadata/namespace") == namespace
    })?;
    let ports = service.value.pointer("/spec/ports").and_then(Value::as_array)?;
    let names: BTreeSet<&str> = ports.iter().filter_map(|port| port["name"].as_str()).collect();
    (!names.contains(section)).then(|| {
        let having = if names.is_empty() {
            "its ports have no names".to_owned()
        } else {
            format!("its ports are {}", names.into_iter().collect::<Vec<_>>().join(", "))
        };
        let message = format!("Service {} ({}) has no port named `{section}`; {having}", target.name, place(service));
        Finding::of(object.document, Severity::Warning, &format!("{field}.sectionName"), message)
    })
}

fn place(document: &Document) -> String {
    format!("{}:{}", document.file, document.place("").line)
}
