//! The two families whose samples say which request they are about. They are written here, because the library gives examples
//! only to numbers that it counts itself.

use std::{
    fmt::{self, Write},
    sync::Arc,
    time::Duration,
};

use crate::{
    telemetry::{
        exemplar::{Exemplar, Exemplars, Name},
        histogram::{BOUNDS, micros_of},
        metrics::{BLAMED, CalleeMetrics},
    },
    verdict::REASONS,
};

/// Failures by cause and durations by bucket.
pub(super) fn write(text: &mut String, callees: &[Arc<CalleeMetrics>], with_exemplars: bool) -> fmt::Result {
    let exemplars = |callee: &CalleeMetrics| if with_exemplars { callee.exemplars() } else { Exemplars::default() };
    let callees: Vec<_> = callees.iter().map(|callee| (&**callee, labels_of(callee), exemplars(callee))).collect();
    failures(text, &callees)?;
    durations(text, &callees)
}

/// A callee, its labels as they are written, and its examples.
type Told<'a> = (&'a CalleeMetrics, String, Exemplars);

fn failures(text: &mut String, callees: &[Told<'_>]) -> fmt::Result {
    head(text, "firebreak_failures", "counter", "Requests that failed, by reason and by whose problem it is")?;
    for (callee, labels, exemplars) in callees {
        for (place, reason) in REASONS.iter().enumerate() {
            for (blamed, domain) in BLAMED.iter().enumerate() {
                let count = callee.failures(*reason, blamed);
                if count == 0 {
                    continue;
                }
                let (reason, domain) = (reason.name(), domain.unwrap_or_else(|| reason.domain()).name());
                write!(
                    text,
                    "firebreak_failures_total{{{labels},reason=\"{reason}\",fault_domain=\"{domain}\"}} {count}"
                )?;
                if let Some(exemplar) = exemplars.failure((place, blamed)) {
                    example(text, exemplar, 1.0)?;
                }
                text.push('\n');
            }
        }
    }
    Ok(())
}

fn durations(text: &mut String, callees: &[Told<'_>]) -> fmt::Result {
    const FAMILY: &str = "firebreak_request_duration_seconds";
    head(text, FAMILY, "histogram", "Time from a request's first byte to its response's last")?;
    for (callee, labels, exemplars) in callees {
        let merged = callee.durations();
        let count = merged.count();
        if count == 0 {
            continue;
        }
        let seconds = Duration::from_micros(merged.micros).as_secs_f64();
        writeln!(text, "{FAMILY}_sum{{{labels}}} {seconds:?}\n{FAMILY}_count{{{labels}}} {count}")?;
        let mut cumulative = 0;
        for (bucket, count) in merged.buckets.iter().enumerate() {
            cumulative += count;
            write!(text, "{FAMILY}_bucket{{{labels},le=\"")?;
            match BOUNDS.get(bucket) {
                Some(bound) => write!(text, "{bound:?}\"}} {cumulative}")?,
                None => write!(text, "+Inf\"}} {cumulative}")?,
            }
            if let Some(exemplar) = exemplars.duration(bucket) {
                // As exact as the bounds are compared: it must not be above that of its bucket.
                example(text, exemplar, Duration::from_micros(micros_of(exemplar.took)).as_secs_f64())?;
            }
            text.push('\n');
        }
    }
    Ok(())
}

fn head(text: &mut String, family: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(text, "# HELP {family} {help}.\n# TYPE {family} {kind}")
}

fn labels_of(callee: &CalleeMetrics) -> String {
    let (direction, service, port) = (callee.direction.name(), escaped(&callee.service), escaped(&callee.port));
    format!("direction=\"{direction}\",service=\"{service}\",port=\"{port}\"")
}

fn example(text: &mut String, exemplar: &Exemplar, value: f64) -> fmt::Result {
    match &exemplar.name {
        Name::Trace(id) => write!(text, " # {{trace_id=\"{id:032x}\"}}")?,
        Name::Request(id) => write!(text, " # {{request_id=\"{}\"}}", escaped(id.text()))?,
    }
    let millis = exemplar.at.as_millisecond();
    write!(text, " {value:?} {}.{:03}", millis / 1000, millis % 1000)
}

/// A label's value as the format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}
