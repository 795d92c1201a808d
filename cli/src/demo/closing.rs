//! The last table: what became of all requests, and what to learn from it.
//!
//! A row's total is what callers sent, its other numbers are what the proxy counted: a row that does not add up would show a
//! request that the proxy lost. Colour is put in afterwards, by column, so that it does not count as width.

use anstyle::{AnsiColor, Style};
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};

use super::{load::fate, parts::Outcome};

/// Table and lessons, with colours, for a stream that removes them where they are not wanted.
pub(super) fn closing(parts: &[Outcome]) -> String {
    let bold = Style::new().bold();
    let occurred = |fate: &&str| parts.iter().any(|part| count(part, fate) > 0);
    let fates: Vec<&str> = fate::ALL.into_iter().filter(occurred).collect();
    let mut lines = vec![format!("{bold}What became of the requests to service2{bold:#}")];
    lines.extend(coloured(&table(parts, &fates).to_string(), &fates));
    lines.push(format!("{bold}What to learn from it{bold:#}"));
    lines.extend((1..).zip(parts).map(|(number, part)| format!("{bold}{number}{bold:#}  {}", part.lesson)));
    lines.join("\n")
}

fn table(parts: &[Outcome], fates: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled);
    // A word a line keeps the table as narrow as a terminal.
    let words = fates.iter().map(|fate| fate.replace('_', "\n"));
    table.set_header(std::iter::once("part".to_owned()).chain(words).chain(["total".to_owned()]));
    for (number, part) in (1..).zip(parts) {
        let counts = fates.iter().map(|fate| count(part, fate)).chain([part.sent]);
        table.add_row(row(&format!("{number}"), counts));
    }
    let all = |of: &dyn Fn(&Outcome) -> u64| parts.iter().map(of).sum::<u64>();
    let counts = fates.iter().map(|fate| all(&|part| count(part, fate))).chain([all(&|part| part.sent)]);
    table.add_row(row("all", counts));
    table
}

fn row(name: &str, counts: impl Iterator<Item = u64>) -> Vec<Cell> {
    let counts = counts.map(|count| Cell::new(count).set_alignment(CellAlignment::Right));
    std::iter::once(Cell::new(name)).chain(counts).collect()
}

fn count(part: &Outcome, fate: &str) -> u64 {
    part.fates.get(fate).copied().unwrap_or_default()
}

/// The lines of a table, with the colour of its fate for each count that is not zero.
fn coloured(table: &str, fates: &[&str]) -> Vec<String> {
    let mut head = true;
    let mut line = |line: &str| {
        head &= !line.starts_with('╞');
        // The first piece is the border, the second the part.
        let piece = |(index, piece): (usize, &str)| {
            let Some((cell, border)) = piece.char_indices().last().map(|(last, _)| piece.split_at(last)) else {
                return String::new();
            };
            let style = match (head, cell.trim(), index.checked_sub(2).and_then(|index| fates.get(index))) {
                (true, ..) => Style::new().bold(),
                (_, "0", _) | (_, _, None) => Style::new(),
                (_, _, Some(fate)) => colour(fate).on_default(),
            };
            format!("{style}{cell}{style:#}{border}")
        };
        if line.starts_with('│') {
            line.split_inclusive(['│', '┆']).enumerate().map(piece).collect()
        } else {
            line.to_owned()
        }
    };
    table.lines().map(&mut line).collect()
}

/// Green is what callers wanted, yellow what cost something or was kept off, red what went wrong.
fn colour(of: &str) -> AnsiColor {
    match of {
        fate::SUCCEEDED => AnsiColor::Green,
        fate::AFTER_RETRY | fate::REFUSED | fate::LEFT_ALONE => AnsiColor::Yellow,
        fate::INJECTED => AnsiColor::Magenta,
        _ => AnsiColor::Red,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(sent: u64, fates: &[(&'static str, u64)]) -> Outcome {
        Outcome {
            title: "",
            files: Vec::new(),
            sent,
            fates: fates.iter().copied().collect(),
            tries: 0,
            seconds: 0.0,
            checks: Vec::new(),
            lesson: "Learn this.",
            explained: "",
        }
    }

    #[test]
    fn each_part_has_a_row_and_each_fate_that_occurred_a_column() {
        let parts = [part(15, &[(fate::SUCCEEDED, 10), (fate::AFTER_RETRY, 5)]), part(7, &[(fate::TIMED_OUT, 7)])];
        let text = anstream::adapter::strip_str(&closing(&parts)).to_string();
        assert_eq!(
            text,
            "What became of the requests to service2
┌──────┬───────────┬───────────┬───────┬───────┐
│ part ┆ succeeded ┆ succeeded ┆ timed ┆ total │
│      ┆           ┆ after     ┆ out   ┆       │
│      ┆           ┆ retry     ┆       ┆       │
╞══════╪═══════════╪═══════════╪═══════╪═══════╡
│ 1    ┆        10 ┆         5 ┆     0 ┆    15 │
│ 2    ┆         0 ┆         0 ┆     7 ┆     7 │
│ all  ┆        10 ┆         5 ┆     7 ┆    22 │
└──────┴───────────┴───────────┴───────┴───────┘
What to learn from it
1  Learn this.
2  Learn this."
        );
    }

    #[test]
    fn a_count_has_its_fates_colour_and_zero_has_none() {
        let text = closing(&[part(9, &[(fate::SUCCEEDED, 9)]), part(3, &[(fate::TIMED_OUT, 3)])]);
        let line = text.lines().find(|line| line.contains(" 2 ")).unwrap();
        let (green, red) = (AnsiColor::Green.on_default(), AnsiColor::Red.on_default());
        assert!(line.contains(&format!("{red}     3 {red:#}")), "{line:?}");
        assert!(!line.contains(&green.to_string()), "{line:?}");
    }
}
