//! `firebreak lint`: what the API server and the operator would say, before anything is applied.
//!
//! The schema and the CEL rules are the very ones of the CustomResourceDefinitions, so lint and API server cannot disagree;
//! what lint adds is the line, the likely meaning of a typing error, and warnings about policies that are valid and cannot
//! work. Objects of other kinds are none of its business, except to look up the ports of a Service.

mod across;
mod finding;
mod print;
mod rules;
mod schema;
mod structure;

use std::{io::Write, process::ExitCode};

use firebreak_crds::{
    API_VERSION, GROUP, VERSION,
    spec::{self, FaultSpecSpec, TrafficPolicySpec},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

pub(crate) use self::{
    finding::{Finding, Severity},
    schema::BadDefinition,
};
use crate::{
    args::LintArgs,
    manifest::{self, Document, Manifests},
    told,
};

/// What became of a set of files.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Objects of our kinds.
    pub(crate) objects: usize,
    /// Documents of other kinds.
    pub(crate) ignored: usize,
    /// In the order of the files.
    pub(crate) findings: Vec<Finding>,
}

/// An object of ours that the schema accepts.
#[derive(Debug)]
pub(crate) struct Checked<'a> {
    pub(crate) document: &'a Document,
    pub(crate) spec: Spec,
}

/// Its spec.
#[derive(Debug)]
pub(crate) enum Spec {
    Policy(Box<TrafficPolicySpec>),
    Fault(FaultSpecSpec),
}

/// Runs the command. Exit code 1 means that something is wrong with the objects, 2 that they could not be read.
pub(crate) fn run(args: &LintArgs) -> anyhow::Result<ExitCode> {
    let sources = manifest::read(&args.paths)?;
    let mut report = check(&Manifests::parse(&sources))?;
    if args.strict {
        let warnings = report.findings.iter_mut().filter(|finding| finding.severity == Severity::Warning);
        warnings.for_each(|finding| finding.severity = Severity::Error);
    }
    let mut out = anstream::stdout().lock();
    let printed = if args.json { print::json(&mut out, &report) } else { print::people(&mut out, &report) };
    told(printed.and_then(|()| out.flush()))?;
    Ok(if report.count(Severity::Error) > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

impl Report {
    /// How many findings are of this severity.
    pub(crate) fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

/// Checks every object of ours, alone and beside the others.
pub(crate) fn check(manifests: &Manifests) -> Result<Report, BadDefinition> {
    let mut report = Report::default();
    let mut checked = Vec::new();
    for document in &manifests.documents {
        if !concerns_us(document) {
            report.ignored += 1;
            continue;
        }
        report.objects += 1;
        let (spec, findings) = check_one(document)?;
        report.findings.extend(findings);
        checked.extend(spec.map(|spec| Checked { document, spec }));
    }
    report.findings.extend(across::check(&checked, &manifests.documents));
    report.findings.extend(manifests.broken.iter().cloned().map(Finding::from));
    report.findings.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
    Ok(report)
}

/// An object of our group; and one of our kinds whose group is missing, which is a mistake and not another's.
fn concerns_us(document: &Document) -> bool {
    let api = document.text("/apiVersion");
    let ours = ["TrafficPolicy", "FaultSpec"].contains(&document.text("/kind"));
    api.split('/').next() == Some(GROUP) || (ours && !api.contains('/'))
}

/// The findings about one object alone, and its spec when there is no error among them.
pub(crate) fn check_one(document: &Document) -> Result<(Option<Spec>, Vec<Finding>), BadDefinition> {
    let kinds = schema::kinds()?;
    let error = |field: &str, message: String| Finding::of(document, Severity::Error, field, message);
    if document.text("/apiVersion") != API_VERSION {
        let message = format!("must be {API_VERSION}: {VERSION} is the only version of {GROUP}");
        return Ok((None, vec![error("apiVersion", message)]));
    }
    let Some(kind) = kinds.get(document.text("/kind")) else {
        let names: Vec<&str> = kinds.keys().map(String::as_str).collect();
        let meant = similar(document.text("/kind"), &names).map(|meant| format!("; did you mean {meant}?"));
        let message = format!("must be one of {}{}", names.join(", "), meant.unwrap_or_default());
        return Ok((None, vec![error("kind", message)]));
    };
    let (value, nulls) = manifest::without_nulls(&document.value);
    let mut findings = structure::check(kind, document, &value);
    findings.extend(rules::check(kind, document, &value, !findings.is_empty()));
    let spec = if findings.is_empty() { typed(document, &value, &mut findings) } else { None };
    findings.extend(nulls.iter().filter(|field| !ignores_nulls(field)).map(|field| {
        let message = "is empty, so the API server drops it: give it a value or remove it";
        Finding::of(document, Severity::Warning, field, message)
    }));
    Ok((spec, findings))
}

/// `kubectl get -o yaml` and generators write these as null.
fn ignores_nulls(field: &str) -> bool {
    field.starts_with("metadata.") || field == "status" || field.starts_with("status.")
}

fn typed(document: &Document, value: &Value, findings: &mut Vec<Finding>) -> Option<Spec> {
    let spec = if document.text("/kind") == "TrafficPolicy" {
        decode(value).map(|spec| Spec::Policy(Box::new(spec)))
    } else {
        decode(value).map(Spec::Fault)
    };
    match &spec {
        Err(message) => findings.push(Finding::of(document, Severity::Error, "spec", message.clone())),
        Ok(Spec::Policy(policy)) => {
            let found =
                [(Severity::Warning, spec::warnings(policy)), (Severity::Note, spec::without_endpoints(policy))];
            findings.extend(
                found.into_iter().flat_map(|(severity, found)| found.into_iter().map(move |it| (severity, it))).map(
                    |(severity, it)| Finding::of(document, severity, &manifest::field("spec", &it.field), it.message),
                ),
            );
        }
        Ok(Spec::Fault(_)) => {}
    }
    spec.ok()
}

fn decode<T: DeserializeOwned>(value: &Value) -> Result<T, String> {
    T::deserialize(&value["spec"]).map_err(|error| error.to_string())
}

/// The one of `known` that was probably meant by `written`.
fn similar<'a>(written: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |known: &str| strsim::damerau_levenshtein(&written.to_lowercase(), &known.to_lowercase());
    let nearest = known.iter().copied().min_by_key(|known| distance(known))?;
    // A third of the letters may be wrong; `from` for `form` is one transposition, which counts as one.
    (distance(nearest) <= (nearest.chars().count() / 3).max(1)).then_some(nearest)
}

#[cfg(test)]
mod tests;
