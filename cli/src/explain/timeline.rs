//! One request from beginning to end: who called whom, each try, and the verdict.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};
use firebreak_proxy::verdict::{Domain, Reason};

use super::{
    moment,
    told::{Found, Record, Try},
};

/// Columns that a line has before it is broken.
const WIDTH: usize = 96;
/// Columns of the words at the left.
const MARGIN: usize = 11;

const BOLD: Style = Style::new().bold();

/// The requests that were found, the first of them first.
pub(super) fn text(found: &Found) -> String {
    let told: Vec<_> = found.records.iter().rev().map(|told| request(&found.proxy, &told.record)).collect();
    told.join("\n")
}

fn request(proxy: &str, record: &Record) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = head(&mut text, proxy, record);
    let _ = tries(&mut text, record);
    let _ = verdict(&mut text, record);
    text
}

fn head(text: &mut String, proxy: &str, record: &Record) -> std::fmt::Result {
    let callee = format!("{}:{}", record.service, record.port);
    let (who, whom) = if record.direction == "inbound" {
        let known = record.service != "unknown";
        let callee = if known { format!("{callee} beside {proxy}") } else { proxy.to_owned() };
        ("a caller".to_owned(), format!("the application of {callee}"))
    } else {
        (proxy.to_owned(), callee)
    };
    let answer = record.status.map_or("no answer".to_owned(), |status| status.to_string());
    let why = record.reason.as_deref().unwrap_or("slowed");
    writeln!(text, "{BOLD}{} {}: {answer}, {why}{BOLD:#}\n", record.method, record.path)?;
    let length = std::time::Duration::from_millis(record.duration_ms);
    let began = record.time.checked_sub(length).unwrap_or(record.time);
    line(text, "when", &format!("{}, for {} ms", moment(&began), record.duration_ms))?;
    line(text, "who", &format!("{who} → {whom} ({})", record.direction))?;
    for (word, kind, value) in [
        ("id", "", record.request_id.as_deref()),
        ("trace", "", record.trace()),
        ("policy", "TrafficPolicy ", record.policy.as_deref()),
    ] {
        if let Some(value) = value {
            let generation = record.policy_generation.filter(|_| word == "policy");
            let generation = generation.map(|generation| format!(", generation {generation}")).unwrap_or_default();
            line(text, word, &format!("{kind}{value}{generation}"))?;
        }
    }
    writeln!(text)
}

fn tries(text: &mut String, record: &Record) -> std::fmt::Result {
    if record.tries.is_empty() {
        let none = match record.attempts {
            0 => "none: the callee saw nothing of it",
            _ => "not looked into: the connection does not speak HTTP",
        };
        line(text, "tries", none)?;
        return writeln!(text);
    }
    writeln!(text, "  {BOLD}   at ms  took ms  try  endpoint{BOLD:#}")?;
    let wide = record.tries.iter().map(|told| told.endpoint.len()).max().unwrap_or_default();
    let mut last = 0;
    for told in &record.tries {
        if told.number > last + 1 {
            writeln!(text, "  {:>17}  {} more", "", told.number - last - 1)?;
        }
        last = told.number;
        let (at, took, number) = (told.started_ms, told.duration_ms, told.number);
        let (style, said) = said(told);
        writeln!(text, "  {at:>8} {took:>8} {number:>4}  {:wide$}  {style}{said}{style:#}", told.endpoint)?;
        if let Some(evidence) = evidence(told) {
            writeln!(text, "  {:>22}  {:wide$}  {evidence}", "", "")?;
        }
    }
    let status = record.status.map_or("no answer".to_owned(), |status| status.to_string());
    writeln!(text, "  {:>8} {:>8} {:>4}  end: the caller got {status}\n", record.duration_ms, "", "")
}

/// What became of a try.
fn said(told: &Try) -> (Style, String) {
    let red = AnsiColor::Red.on_default();
    let (style, outcome) = match told.outcome.as_deref() {
        None => (AnsiColor::Yellow.on_default(), "under way when the request ended"),
        Some("answered") => (Style::new(), "answered"),
        Some("cancelled") => (Style::new(), "cancelled: the other try was faster"),
        Some(outcome) => (red, outcome),
    };
    let mut parts = vec![outcome.to_owned()];
    parts.extend(told.reason.clone());
    parts.extend(told.status.map(|status| status.to_string()));
    parts.extend(told.grpc_status.map(|status| format!("grpc-status {status}")));
    parts.extend(told.hedge.then(|| "hedge".into()));
    parts.extend(
        told.connection_reused.map(|reused| if reused { "reused connection" } else { "new connection" }.into()),
    );
    if let Some(fault) = &told.fault {
        let delay = told.delay_ms.map(|ms| format!(" delayed it by {ms} ms")).unwrap_or_default();
        parts.push(format!("FaultSpec {fault}{delay}"));
    }
    (style, parts.join(", "))
}

/// What is known of the connection of a try that failed.
fn evidence(told: &Try) -> Option<String> {
    told.reason.as_ref()?;
    let mut parts = Vec::new();
    parts.extend(told.connection_age_ms.map(|ms| format!("connection {} old", short(ms))));
    parts.extend(told.connection_idle_ms.map(|ms| format!("idle for {} before", short(ms))));
    let bytes = told.bytes_sent.zip(told.bytes_received);
    parts.extend(bytes.map(|(sent, received)| format!("{sent} bytes sent, {received} received")));
    parts.extend(told.errno.clone());
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// A length of time in the unit that people use for it.
fn short(ms: u64) -> String {
    if ms < 1000 { format!("{ms} ms") } else { format!("{}.{} s", ms / 1000, ms % 1000 / 100) }
}

fn verdict(text: &mut String, record: &Record) -> std::fmt::Result {
    let Some(reason) = &record.reason else { return slowed(text, record) };
    let domain = record.fault_domain.as_deref().unwrap_or_default();
    let whose = Domain::named(domain).map(|domain| format!(" ({})", domain.whose())).unwrap_or_default();
    line(text, "verdict", &format!("{BOLD}{reason}{BOLD:#}, which counts as {}", record.fate))?;
    line(text, "whose", &format!("{domain}{whose}"))?;
    if let Some(advice) = Reason::named(reason).map(Reason::advice) {
        line(text, "means", advice.means)?;
        line(text, "next", advice.next)?;
    }
    if let Some(ms) = record.callee_idle_timeout_ms {
        line(text, "evidence", &format!("the callee closes connections idle for about {}", short(ms)))?;
    }
    if let Some(dependency) = &record.dependency {
        line(text, "evidence", &format!("its application called {dependency}, which failed: ask that first"))?;
    }
    if let (Some(fault), "injected") = (&record.fault, domain) {
        line(text, "fault", &format!("FaultSpec {fault} is to blame: kubectl get fspec -A shows it"))?;
    }
    Ok(())
}

/// The caller has its answer, late.
fn slowed(text: &mut String, record: &Record) -> std::fmt::Result {
    let delayed = record.tries.iter().find(|told| told.delay_ms.is_some()).and_then(|told| told.fault.as_ref());
    // Otherwise a throttle made the last try late, or the fault hit the whole request.
    let is_above = record.tries.iter().all(|told| told.fault.is_none());
    let by_fault = delayed.or(record.fault.as_ref().filter(|_| record.tries.len() < 2 || is_above));
    line(text, "verdict", &format!("{BOLD}slowed{BOLD:#}, which counts as {}", record.fate))?;
    line(text, "means", "Nothing failed for the caller, but it waited longer than for one try.")?;
    let next = match by_fault {
        Some(fault) => format!("FaultSpec {fault} slowed it; delete or suspend it to end that."),
        None => {
            "Look at the tries that failed or were slow: without another the caller would have seen that.".to_owned()
        }
    };
    line(text, "next", &next)
}

/// A word and what is said of it, broken into lines.
fn line(text: &mut String, word: &str, said: &str) -> std::fmt::Result {
    let mut column = MARGIN;
    write!(text, "  {word:<width$}", width = MARGIN - 2)?;
    for (place, piece) in said.split(' ').enumerate() {
        let width = piece.chars().count();
        if place > 0 && column + 1 + width > WIDTH {
            write!(text, "\n{:MARGIN$}{piece}", "")?;
            column = MARGIN + width;
        } else {
            write!(text, "{}{piece}", if place > 0 { " " } else { "" })?;
            column += width + usize::from(place > 0);
        }
    }
    writeln!(text)
}
