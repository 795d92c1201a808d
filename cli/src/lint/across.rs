//! What only shows when objects stand side by side: two that claim the same, a port that its Service does not have.
//!
//! A target that is not among the files is no finding: it may well be in the cluster.

use std::collections::{BTreeMap, BTreeSet};

use firebreak_crds::spec::{Callers, TargetKind, TargetRef};
use serde_json::Value;

use super::{
    Checked, Spec,
    finding::{Finding, ObjectId, Severity},
};
use crate::manifest::Document;

/// All findings about `objects` beside each other and beside the Services among `documents`.
pub(super) fn check(objects: &[Checked<'_>], documents: &[Document]) -> Vec<Finding> {
    let mut findings = twice(objects);
    let mut claims: BTreeMap<Claim, &Checked<'_>> = BTreeMap::new();
    for object in objects {
        for (index, target) in object.targets().iter().enumerate() {
            let field = format!("spec.targetRefs[{index}]");
            findings.extend(foreign_namespace(object, target, &field));
            findings.extend(missing_port(object, target, &field, documents));
            let Some(claim) = Claim::of(object, target) else { continue };
            match claims.get(&claim) {
                Some(first) if ObjectId::of(first.document) != ObjectId::of(object.document) => {
                    findings.push(conflict(object, first, &field));
                }
                Some(_) => {}
                None => drop(claims.insert(claim, object)),
            }
        }
    }
    findings
}

/// What no two objects may have in common.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    of_fault: bool,
    target: TargetRef,
    /// The object's own namespace, for a consumer's policy: it speaks for the callers there.
    callers_in: Option<String>,
    /// `from` as text. Empty for faults: two on one target cannot both be observed, whoever their callers are.
    from: String,
}

impl Claim {
    fn of(object: &Checked<'_>, target: &TargetRef) -> Option<Self> {
        let own = object.namespace();
        let there = target.namespace.as_deref().unwrap_or(own);
        let of_fault = match &object.spec {
            Spec::Policy(_) => false,
            Spec::Fault(fault) if fault.suspend => return None,
            Spec::Fault(_) => true,
        };
        let from = if of_fault { None } else { object.from() };
        Some(Self {
            of_fault,
            callers_in: (there != own).then(|| own.to_owned()),
            target: TargetRef { namespace: Some(there.to_owned()), ..target.clone() },
            from: from.and_then(|from| serde_json::to_string(from).ok()).unwrap_or_default(),
        })
    }
}

impl Checked<'_> {
    fn targets(&self) -> &[TargetRef] {
        match &self.spec {
            Spec::Policy(policy) => &policy.target_refs,
            Spec::Fault(fault) => &fault.target_refs,
        }
    }

    fn from(&self) -> Option<&Callers> {
        match &self.spec {
            Spec::Policy(policy) => policy.from.as_ref(),
            Spec::Fault(fault) => fault.from.as_ref(),
        }
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

fn conflict(object: &Checked<'_>, first: &Checked<'_>, field: &str) -> Finding {
    let (other, at) = (ObjectId::of(first.document), place(first.document));
    let message = match object.spec {
        Spec::Policy(_) => format!(
            "{other} ({at}) claims the same target for the same callers: the older of the two is in force, the other gets \
             Accepted=False, Conflicted; merge them or tell their callers apart with `from`"
        ),
        Spec::Fault(_) => format!(
            "{other} ({at}) has the same target: while both are active, the younger gets Accepted=False, Conflicted; merge \
             them or suspend one"
        ),
    };
    Finding::of(object.document, Severity::Warning, field, message)
}

fn foreign_namespace(object: &Checked<'_>, target: &TargetRef, field: &str) -> Option<Finding> {
    let own = object.namespace();
    (target.kind == TargetKind::Namespace && !own.is_empty() && target.name != own).then(|| {
        let message = format!("is `{}`: a Namespace target must be the object's own namespace, `{own}`", target.name);
        Finding::of(object.document, Severity::Error, &format!("{field}.name"), message)
    })
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
