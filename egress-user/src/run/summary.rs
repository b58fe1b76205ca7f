//! What `egress run` says at its end: one screen on standard error.

use std::fmt::Write;

use crate::record::{Painter, Tally, TallyRow, Verdict, human_bytes};

/// Rows shown before the rest is only counted: what fits one screen.
const ROWS: usize = 20;

/// The summary, or nothing when nothing happened.
pub(super) fn render(
    tally: &Tally,
    kernel: &[(&'static str, u64)],
    left_behind: bool,
    painter: Painter,
) -> String {
    let mut out = String::new();
    let refusals: Vec<_> = kernel
        .iter()
        .filter(|(name, count)| name.starts_with("refuse") && *count > 0)
        .collect();
    if tally.total() == 0 && refusals.is_empty() && !left_behind {
        return out;
    }
    // Writing to a String cannot fail.
    let _ = writeln!(out, "egress: {}", headline(tally));
    table(&mut out, tally.rows(), painter);
    for (name, count) in refusals {
        let _ = writeln!(out, "  kernel: {count} × {}", name.replace('_', " "));
    }
    if left_behind {
        let _ = writeln!(out, "  processes that the command left behind were ended");
    }
    out
}

fn headline(tally: &Tally) -> String {
    let mut parts = vec![match tally.total() {
        1 => "1 connection".to_owned(),
        total => format!("{total} connections"),
    }];
    for verdict in [
        Verdict::Allowed,
        Verdict::WouldRefuse,
        Verdict::Refused,
        Verdict::Failed,
        Verdict::Closed,
    ] {
        let count = tally.count(verdict);
        let always = matches!(verdict, Verdict::Allowed | Verdict::Refused);
        if count > 0 || always {
            parts.push(format!("{count} {}", verdict.as_str().replace('_', " ")));
        }
    }
    parts.join(", ")
}

fn table(out: &mut String, mut rows: Vec<TallyRow>, painter: Painter) {
    rows.sort_by_key(|row| std::cmp::Reverse(row.connections));
    let shown = rows.len().min(ROWS);
    let rest = rows.split_off(shown);
    let width = rows.iter().map(|row| row.name.chars().count()).max();
    let width = width.unwrap_or_default();
    for row in &rows {
        let _ = write!(
            out,
            "  {:<width$}  {} {:>6} ×  {:>10} out  {:>10} in",
            row.name,
            painter.verdict(row.verdict),
            row.connections,
            human_bytes(row.bytes_to_origin),
            human_bytes(row.bytes_to_client),
        );
        let _ = match &row.reason {
            Some(reason) => writeln!(out, "  {reason}"),
            None => writeln!(out),
        };
    }
    if !rest.is_empty() {
        let connections: u64 = rest.iter().map(|row| row.connections).sum();
        let _ = writeln!(
            out,
            "  and {} more names with {connections} connections; --log shows them all",
            rest.len()
        );
    }
}
