//! The last failures, one row each.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};

use super::{
    moment,
    told::{Found, Record},
};

/// Longest path in a row.
const PATH: usize = 32;

/// The table, and what to do with it.
pub(super) fn text(found: &Found) -> String {
    let Some(newest) = found.records.first() else {
        return format!("No request has failed at {} since {}.\n", found.proxy, moment(&found.since));
    };
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["ended (UTC)", "callee", "request", "status", "why", "tries", "ms", "id"]);
    for told in &found.records {
        table.add_row(row(&told.record));
    }
    let next = newest.record.id().map_or_else(
        || {
            "Requests without an x-request-id or traceparent cannot be asked for one by one; --json tells all."
                .to_owned()
        },
        |id| format!("Next: firebreak explain {id} tells one from beginning to end."),
    );
    format!("{table}\n{next}\n")
}

fn row(record: &Record) -> Vec<Cell> {
    let number = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    let path: String = record.path.chars().take(PATH).collect();
    let more = if path.len() < record.path.len() { "…" } else { "" };
    let callee = match (record.direction.as_str(), record.service.as_str()) {
        ("inbound", "unknown") => "this pod".to_owned(),
        ("inbound", service) => format!("{service}:{}, beside it", record.port),
        (_, service) => format!("{service}:{}", record.port),
    };
    vec![
        Cell::new(record.time.strftime("%F %T").to_string()),
        Cell::new(callee),
        Cell::new(format!("{} {path}{more}", record.method)),
        number(record.status.map_or("-".to_owned(), |status| status.to_string())),
        Cell::new(record.reason.as_deref().unwrap_or("slowed")),
        number(record.attempts.to_string()),
        number(record.duration_ms.to_string()),
        Cell::new(record.id().unwrap_or("-")),
    ]
}
