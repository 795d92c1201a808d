//! What local mode tells: one line, or one JSON object, for each thing that happens.
//!
//! Standard output carries the listeners, then `ready`; programs wait for that line. Problems go to standard error for people
//! and into the same stream of objects for programs.

use std::{
    io::{self, Write},
    net::SocketAddr,
};

use anstyle::{AnsiColor, Style};
use firebreak_proxy::telemetry::access_log::Record;
use serde::Serialize;

use super::stage::{Listener, Scene};
use crate::lint::{Finding, Severity};

/// Speaks to people or to programs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Voice {
    pub(crate) json: bool,
}

/// What happens.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(crate) enum Said<'a> {
    /// A Service port is served here.
    Listening(Served<'a>),
    /// A Service port is served no longer.
    Closed { service: String, port: u16, address: SocketAddr },
    /// Where metrics and config are served.
    Admin { address: SocketAddr },
    /// A fault acts until then.
    Fault { fault: &'a str, until: String },
    /// Something is wrong with the files.
    Problem(&'a Finding),
    /// A request failed.
    Failure(&'a Record),
    /// The proxy did not take a part of the config.
    Refused { message: &'a str },
    /// Requests can be sent; the config is in force.
    Ready { revision: &'a str },
    /// A changed config is in force.
    Applied { revision: &'a str },
    /// A changed folder was refused; the config before it stays in force.
    Kept,
    /// It is over.
    Stopped,
}

/// A Service port and what concerns it.
#[derive(Debug, Serialize)]
pub(crate) struct Served<'a> {
    service: String,
    port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    address: SocketAddr,
    /// Why the address has another port than the Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    moved: Option<String>,
    endpoints: Vec<SocketAddr>,
    policies: &'a [String],
    faults: &'a [String],
    /// What acts before its endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    beside: Option<Beside<'a>>,
}

/// What acts before the endpoints of a Service port, as though the proxy stood beside them.
#[derive(Debug, Serialize)]
pub(crate) struct Beside<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<&'a str>,
    faults: &'a [String],
}

impl<'a> Served<'a> {
    pub(crate) fn of(listener: &'a Listener) -> Self {
        let port = &listener.port;
        Self {
            service: listener.service.to_string(),
            port: port.port,
            name: port.name.as_deref(),
            address: listener.given.address,
            moved: listener.given.moved.map(super::ports::Moved::because),
            endpoints: port.endpoints.iter().flatten().map(|endpoint| endpoint.address).collect(),
            policies: &port.policies,
            faults: &port.faults,
            beside: listener
                .inbound
                .as_ref()
                .map(|inbound| Beside { policy: inbound.policy.as_deref(), faults: &inbound.faults }),
        }
    }

    fn line(&self) -> String {
        let endpoints = match self.endpoints.len() {
            0 => "no endpoints".to_owned(),
            1 => "1 endpoint".to_owned(),
            count => format!("{count} endpoints"),
        };
        let moved = self.moved.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
        let list = |kind: &str, names: &[String]| {
            if names.is_empty() { String::new() } else { format!("; {kind} {}", names.join(", ")) }
        };
        let (policies, faults) = (list("TrafficPolicy", self.policies), list("FaultSpec", self.faults));
        let beside = self.beside.as_ref().map(|it| {
            let policy = it.policy.map(|name| format!("TrafficPolicy {name}"));
            let faults = it.faults.iter().map(|name| format!("FaultSpec {name}"));
            format!("; beside its endpoints {}", policy.into_iter().chain(faults).collect::<Vec<_>>().join(", "))
        });
        let beside = beside.unwrap_or_default();
        format!(
            "listening on {} for {}:{}{moved}: {endpoints}{policies}{faults}{beside}",
            self.address, self.service, self.port
        )
    }
}

impl Voice {
    /// Says it, at once: whoever reads a pipe waits for it. A reader who has gone is no reason to stop.
    pub(crate) fn say(self, said: &Said<'_>) {
        let result = if self.json { json(said) } else { people(said) };
        drop(result);
    }

    /// Tells people what to expect or to do; programs have the events.
    pub(crate) fn hint(self, text: &str) {
        if !self.json {
            anstream::eprintln!("{text}");
        }
    }

    /// Says every finding.
    pub(crate) fn findings(self, findings: &[Finding]) {
        for finding in findings {
            self.say(&Said::Problem(finding));
        }
    }

    /// Says what became of the scene: what is served now and was not, or differently, before.
    pub(crate) fn scene(self, before: Option<&Scene>, now: &Scene, deaf: &[firebreak_proxy::Listener]) {
        let old = before.map_or(&[][..], |scene| &scene.listeners);
        for gone in old.iter().filter(|old| now.listeners.iter().all(|new| new.given.address != old.given.address)) {
            let (service, port) = (gone.service.to_string(), gone.port.port);
            self.say(&Said::Closed { service, port, address: gone.given.address });
        }
        for listener in now.listeners.iter().filter(|listener| !old.contains(listener)) {
            if deaf.iter().all(|it| it.address != listener.given.address) {
                self.say(&Said::Listening(Served::of(listener)));
            }
        }
        for firebreak_proxy::Listener { service, port, address, beside, error } in deaf {
            let endpoint = beside.map(|endpoint| format!(", before {endpoint}")).unwrap_or_default();
            let error = error.as_deref().unwrap_or_default();
            let message = format!("cannot listen on {address} for {service}:{port}{endpoint}: {error}");
            self.say(&Said::Refused { message: &message });
        }
        let mut faults: Vec<&str> = now.listeners.iter().flat_map(Listener::faults).collect();
        faults.sort_unstable();
        faults.dedup();
        for fault in faults {
            if let Some(end) =
                now.end_of(fault).filter(|end| before.and_then(|before| before.end_of(fault)) != Some(*end))
            {
                self.say(&Said::Fault { fault, until: end.to_string() });
            }
        }
        self.findings(&now.warnings);
    }
}

fn json(said: &Said<'_>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, said)?;
    writeln!(out)?;
    out.flush()
}

fn people(said: &Said<'_>) -> io::Result<()> {
    let bold = Style::new().bold();
    let mut out = anstream::stdout().lock();
    match said {
        Said::Listening(served) => writeln!(out, "{}", served.line())?,
        Said::Closed { service, port, address } => writeln!(out, "closed {address} for {service}:{port}")?,
        Said::Admin { address } => writeln!(out, "admin on {address}")?,
        Said::Fault { fault, until } => writeln!(out, "fault {fault} acts until {until}")?,
        Said::Ready { .. } => writeln!(out, "{bold}ready{bold:#}")?,
        Said::Applied { revision } => writeln!(out, "applied {revision}")?,
        Said::Failure(record) => writeln!(out, "{}", failure(record))?,
        Said::Stopped => writeln!(out, "stopped")?,
        Said::Problem(finding) => {
            let (word, colour) = match finding.severity {
                Severity::Error => ("error", AnsiColor::Red),
                Severity::Warning => ("warning", AnsiColor::Yellow),
                Severity::Note => ("note", AnsiColor::Cyan),
            };
            let style = colour.on_default().bold();
            writeln!(anstream::stderr().lock(), "{style}{word}{style:#}: {finding}")?;
        }
        Said::Refused { message } => writeln!(anstream::stderr().lock(), "error: {message}")?,
        Said::Kept => writeln!(anstream::stderr().lock(), "the config before stays in force")?,
    }
    out.flush()
}

/// The verdict on a request, as a line.
fn failure(record: &Record) -> String {
    let status = record.status.map_or("no answer".to_owned(), |status| status.to_string());
    let tries = if record.attempts == 1 { "1 try".to_owned() } else { format!("{} tries", record.attempts) };
    let named =
        |what: &str, name: &Option<Box<str>>| name.as_ref().map(|name| format!("; {what} {name}")).unwrap_or_default();
    format!(
        "{} {} to {}:{}: {status}, {} ({}), {tries} in {} ms{}{}",
        record.method,
        record.path,
        record.service,
        record.port,
        record.reason.unwrap_or_default(),
        record.fault_domain.unwrap_or_default(),
        record.duration_ms,
        named("TrafficPolicy", &record.policy),
        named("FaultSpec", &record.fault),
    )
}
