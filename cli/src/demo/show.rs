//! Showing the demo: progress while it runs, the table when it is over.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use anstyle::{AnsiColor, Style};
use comfy_table::{Cell, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use firebreak_crds::spec;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::{
    clock::MOST,
    closing::closing,
    parts::{Outcome, Plot},
};

/// Where the demo is told.
#[derive(Clone, Debug)]
pub(crate) struct Show {
    /// To programs, in one object when it is over; otherwise to people, as it happens.
    json: bool,
    /// Moves on standard error, if that is a terminal.
    bar: ProgressBar,
}

#[derive(Serialize)]
struct Json<'a> {
    holds: bool,
    parts: &'a [Outcome],
    /// Titles of the parts for which there was no time.
    unplayed: Vec<&'static str>,
}

impl Show {
    pub(crate) fn new(json: bool) -> Self {
        // Lines that go through a pipe to the same terminal would not wait for the bar.
        let bar = if json || io::stdout().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("  {spinner} {msg} {pos} requests, {elapsed}");
        Self { json, bar: bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner())) }
    }

    /// A line.
    pub(crate) fn line(&self, text: &str) {
        if !self.json {
            self.bar.suspend(|| anstream::println!("{text}"));
        }
    }

    /// A part begins.
    pub(crate) fn begin(&self, number: usize, of: usize, plot: &Plot) {
        let bold = Style::new().bold();
        self.line(&format!("\n{bold}{number}/{of}  {}{bold:#}", plot.title));
        for (name, _) in plot.files {
            self.line(&format!("     in force: {name}"));
        }
        self.bar.reset();
        self.bar.set_message(format!("{number}/{of}"));
        self.bar.enable_steady_tick(Duration::from_millis(100));
    }

    /// Counts a request.
    pub(crate) fn tick(&self) -> impl Fn() + Clone + Send + 'static {
        let bar = self.bar.clone();
        move || bar.inc(1)
    }

    /// A part is over.
    pub(crate) fn end(&self, outcome: &Outcome) {
        self.bar.finish_and_clear();
        let verdict = match outcome.checks.iter().filter(|check| !check.holds).count() {
            0 => "as promised".to_owned(),
            1 => "1 promise broken".to_owned(),
            broken => format!("{broken} promises broken"),
        };
        self.line(&format!("     {} requests in {:.1} s: {verdict}", outcome.sent, outcome.seconds));
    }

    /// Everything, at the end; with the parts that `length` had no room for.
    pub(crate) fn finish(&self, parts: &[Outcome], unplayed: &[Plot], length: spec::Duration) -> io::Result<()> {
        self.bar.finish_and_clear();
        let holds = parts.iter().all(Outcome::holds);
        let mut out = anstream::stdout().lock();
        if self.json {
            let unplayed: Vec<_> = unplayed.iter().map(|plot| plot.title).collect();
            let json = Json { holds: holds && unplayed.is_empty(), parts, unplayed };
            serde_json::to_writer_pretty(&mut out, &json)?;
            return writeln!(out);
        }
        for (number, part) in (1..).zip(parts) {
            writeln!(out, "\n{}", table(number, part))?;
            writeln!(out, "{}", wrapped(part.explained))?;
        }
        if !parts.is_empty() {
            writeln!(out, "\n{}", closing(parts))?;
        }
        let (colour, words) = verdict(holds, parts.len(), unplayed.len(), length);
        let style = colour.on_default().bold();
        writeln!(out, "\n{style}{words}{style:#}")?;
        if holds && unplayed.is_empty() {
            let next = "Next: firebreak local DIR runs your own YAML like this; firebreak lint FILE checks it.";
            writeln!(out, "{next}")?;
        }
        out.flush()
    }
}

impl Outcome {
    /// Whether everything was seen that was promised.
    pub(crate) fn holds(&self) -> bool {
        self.checks.iter().all(|check| check.holds)
    }
}

/// The last word.
fn verdict(holds: bool, played: usize, unplayed: usize, length: spec::Duration) -> (AnsiColor, String) {
    let broken = if holds { "" } else { "Promises were broken. " };
    if unplayed > 0 {
        let (of, more) = (played + unplayed, (2 * length.get()).min(MOST).as_secs());
        let late = format!("{length} were too little for this machine: {played} of {of} parts were over in time");
        return (AnsiColor::Red, format!("{broken}{late}. Try firebreak demo --for {more}s."));
    }
    if holds {
        (AnsiColor::Green, "Every promise held.".to_owned())
    } else {
        (AnsiColor::Red, broken.trim_end().to_owned())
    }
}

fn table(number: usize, part: &Outcome) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled);
    let title = format!("{number}  {}", part.title);
    table.set_header([title.as_str(), "expected", "seen", ""]);
    for check in &part.checks {
        let mark = if check.holds { "✓" } else { "✗" };
        table.add_row([&check.what, &check.expected, &check.seen, mark].map(Cell::new));
    }
    table
}

/// Broken into lines that a narrow terminal holds.
fn wrapped(text: &str) -> String {
    const WIDTH: usize = 96;
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().filter(|line| line.chars().count() + word.chars().count() < WIDTH);
        match line {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) => line.extend([" ", word]),
            None => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}
