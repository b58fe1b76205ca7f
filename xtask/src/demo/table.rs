//! The records of both hops, one connection a line.

use egress_lab::deployment::Record;

use super::paint::Paint;

const HEADINGS: [&str; 5] = ["connection", "asked for", "agent", "gateway", "carried"];

/// As much of a connection's id as tells it from the others: its last digits are random.
const ID_DIGITS: usize = 12;

/// What the two hops wrote about one connection.
pub(crate) struct Connection<'a> {
    pub(crate) agent: &'a Record,
    pub(crate) gateway: Option<&'a Record>,
}

/// Puts the hops' records together by connection id, in the agent's order. Gives none when a
/// record of the gateway has no counterpart, or an id occurs twice.
pub(crate) fn pair<'a>(agent: &'a [Record], gateway: &'a [Record]) -> Option<Vec<Connection<'a>>> {
    let id = |record: &'a Record| record.text("connection");
    let pairs: Vec<_> = agent
        .iter()
        .map(|agent| Connection {
            agent,
            gateway: gateway.iter().find(|gateway| id(gateway) == id(agent)),
        })
        .collect();
    let mut ids: Vec<_> = agent.iter().map(id).collect();
    ids.sort_unstable();
    ids.dedup();
    let paired = pairs.iter().filter(|pair| pair.gateway.is_some()).count();
    (ids.len() == agent.len() && paired == gateway.len()).then_some(pairs)
}

/// The connections as an aligned table.
pub(crate) fn render(connections: &[Connection<'_>], paint: Paint) -> String {
    let rows: Vec<[String; 5]> = connections.iter().map(row).collect();
    let mut widths = HEADINGS.map(width);
    for row in &rows {
        for (widest, cell) in widths.iter_mut().zip(row) {
            *widest = (*widest).max(width(cell));
        }
    }
    let mut text = String::from("  ");
    for (heading, width) in HEADINGS.iter().zip(widths) {
        text.push_str(&paint.dim(&format!("{heading:<width$}")));
        text.push_str("   ");
    }
    for row in &rows {
        text.truncate(text.trim_end().len());
        text.push_str("\n  ");
        for (cell, width) in row.iter().zip(widths) {
            text.push_str(&colour(cell, &format!("{cell:<width$}"), paint));
            text.push_str("   ");
        }
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn row(connection: &Connection<'_>) -> [String; 5] {
    let Connection { agent, gateway } = connection;
    let asked = match agent.text("sni") {
        "" => agent.text("original_dst"),
        name => name,
    };
    let id = agent.text("connection");
    let tail = id.len().saturating_sub(ID_DIGITS);
    [
        id.get(tail..).unwrap_or(id).to_owned(),
        asked.to_owned(),
        judgement(agent),
        gateway.map_or_else(|| "was not asked".into(), judgement),
        gateway.map_or_else(String::new, carried),
    ]
}

/// The verdict with the rule that let it through, or the reason for which it was not.
fn judgement(record: &Record) -> String {
    let why = match record.text("reason") {
        "" => record.text("rule"),
        reason => reason,
    };
    let by = if is_by_kernel(record) {
        " by the kernel"
    } else {
        ""
    };
    format!("{}{by} ({why})", record.text("verdict"))
}

/// Whether the record, which is among the agent's, is of something that the kernel refused.
pub(crate) fn is_by_kernel(record: &Record) -> bool {
    record.text("hop") == "kernel"
}

fn carried(record: &Record) -> String {
    if record.text("dialled").is_empty() {
        return String::new();
    }
    let bytes = |field| record.number(field).unwrap_or_default();
    format!(
        "to {}, {} B up, {} B down",
        record.text("dialled"),
        bytes("bytes_to_origin"),
        bytes("bytes_to_client"),
    )
}

fn colour(cell: &str, padded: &str, paint: Paint) -> String {
    if cell.starts_with("allowed") {
        paint.good(padded)
    } else if cell.starts_with("refused") || cell.starts_with("failed") {
        paint.bad(padded)
    } else {
        padded.to_owned()
    }
}

fn width(text: impl AsRef<str>) -> usize {
    text.as_ref().chars().count()
}
