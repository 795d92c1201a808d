//! Showing the demo: progress while it runs, the table when it is over.

use std::{
    io::{self, IsTerminal, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use anstyle::{AnsiColor, Style};
use comfy_table::{Cell, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::parts::{Outcome, Plot};

/// Where the demo is told.
#[derive(Clone, Debug)]
pub(crate) enum Show {
    /// To people at a terminal, with a counter that moves.
    Live(ProgressBar),
    /// To people who read a file later.
    Plain(Arc<AtomicU64>),
    /// To programs, when it is over.
    Silent,
}

#[derive(Serialize)]
struct Json<'a> {
    holds: bool,
    parts: &'a [Outcome],
}

impl Show {
    pub(crate) fn new(json: bool) -> Self {
        if json {
            return Self::Silent;
        }
        if !io::stdout().is_terminal() {
            return Self::Plain(Arc::default());
        }
        let style = ProgressStyle::with_template("  {spinner} {pos} requests, {elapsed}");
        Self::Live(ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner())))
    }

    /// A line.
    pub(crate) fn line(&self, text: &str) {
        match self {
            Self::Live(bar) => bar.suspend(|| anstream::println!("{text}")),
            Self::Plain(_) => anstream::println!("{text}"),
            Self::Silent => {}
        }
    }

    /// A part begins.
    pub(crate) fn begin(&self, number: usize, of: usize, plot: &Plot) {
        let bold = Style::new().bold();
        self.line(&format!("\n{bold}{number}/{of}  {}{bold:#}", plot.title));
        for (name, _) in plot.files {
            self.line(&format!("     in force: {name}"));
        }
        match self {
            Self::Live(bar) => {
                bar.reset();
                bar.enable_steady_tick(std::time::Duration::from_millis(100));
            }
            Self::Plain(count) => count.store(0, Relaxed),
            Self::Silent => {}
        }
    }

    /// Counts a request.
    pub(crate) fn tick(&self) -> impl Fn() + Clone + Send + 'static {
        let show = self.clone();
        move || match &show {
            Self::Live(bar) => bar.inc(1),
            Self::Plain(count) => drop(count.fetch_add(1, Relaxed)),
            Self::Silent => {}
        }
    }

    /// A part is over.
    pub(crate) fn end(&self, outcome: &Outcome) {
        if let Self::Live(bar) = self {
            bar.finish_and_clear();
        }
        let broken = outcome.checks.iter().filter(|check| !check.holds).count();
        let verdict = if broken == 0 { "as promised".to_owned() } else { format!("{broken} promises broken") };
        self.line(&format!("     {} requests in {:.1} s: {verdict}", outcome.sent, outcome.seconds));
    }

    /// Everything, at the end.
    pub(crate) fn finish(&self, parts: &[Outcome]) -> io::Result<()> {
        let holds = parts.iter().all(Outcome::holds);
        let mut out = anstream::stdout().lock();
        if matches!(self, Self::Silent) {
            serde_json::to_writer_pretty(&mut out, &Json { holds, parts })?;
            return writeln!(out);
        }
        for (number, part) in parts.iter().enumerate() {
            writeln!(out, "\n{}", table(number + 1, part))?;
            let text = format!("Learn: {}", part.lesson);
            writeln!(out, "{}", wrapped(&text))?;
        }
        let (words, colour) =
            if holds { ("Every promise held.", AnsiColor::Green) } else { ("Promises were broken.", AnsiColor::Red) };
        let style = colour.on_default().bold();
        writeln!(out, "\n{style}{words}{style:#}")?;
        if holds {
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
