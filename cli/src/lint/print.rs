//! The report, for people and for programs.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::{
    Report,
    finding::{Finding, Severity},
};

#[derive(Serialize)]
struct Json<'a> {
    objects: usize,
    ignored: usize,
    errors: usize,
    warnings: usize,
    notes: usize,
    findings: &'a [Finding],
}

/// One JSON object.
pub(super) fn json(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let [errors, warnings, notes] = [Severity::Error, Severity::Warning, Severity::Note].map(|it| report.count(it));
    let (objects, ignored, findings) = (report.objects, report.ignored, report.findings.as_slice());
    let json = Json { objects, ignored, errors, warnings, notes, findings };
    serde_json::to_writer_pretty(&mut *out, &json)?;
    writeln!(out)
}

/// One line a finding, in the form that editors and CI systems know (`file:line:column: …`), and a summary.
pub(super) fn people(out: &mut impl Write, report: &Report) -> io::Result<()> {
    for finding in &report.findings {
        line(out, finding)?;
    }
    let others = match report.ignored {
        0 => String::new(),
        1 => " (1 object of another kind not looked at)".to_owned(),
        count => format!(" ({count} objects of other kinds not looked at)"),
    };
    let objects = counted(report.objects, "object");
    match (report.count(Severity::Error), report.count(Severity::Warning)) {
        (0, 0) => writeln!(out, "{objects}, no problems{others}"),
        (errors, warnings) => {
            writeln!(out, "{objects}, {}, {}{others}", counted(errors, "error"), counted(warnings, "warning"))
        }
    }
}

fn line(out: &mut impl Write, finding: &Finding) -> io::Result<()> {
    let bold = Style::new().bold();
    let (word, colour) = match finding.severity {
        Severity::Error => ("error", AnsiColor::Red),
        Severity::Warning => ("warning", AnsiColor::Yellow),
        Severity::Note => ("note", AnsiColor::Cyan),
    };
    let style = colour.on_default().bold();
    write!(out, "{bold}{}:{}:{}{bold:#}: {style}{word}{style:#}: ", finding.file, finding.line, finding.column)?;
    if let Some(object) = &finding.object {
        write!(out, "{object}: ")?;
    }
    if !finding.field.is_empty() {
        write!(out, "{bold}{}{bold:#}: ", finding.field)?;
    }
    writeln!(out, "{}", finding.message)
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
