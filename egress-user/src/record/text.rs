//! One aligned line a record, for people.

use std::fmt::Write as _;

use time::format_description::FormatItem;
use time::macros::format_description;

use super::{Record, Verdict};

const CLOCK: &[FormatItem<'_>] =
    format_description!("[hour]:[minute]:[second].[subsecond digits:3]");

/// Formats records and colours them when a terminal reads them.
#[derive(Clone, Copy)]
pub struct Painter {
    colour: bool,
}

impl Painter {
    /// Colour only for a terminal, and not when `NO_COLOR` is set.
    pub fn new(terminal: bool) -> Painter {
        Painter {
            colour: terminal && std::env::var_os("NO_COLOR").is_none(),
        }
    }

    /// The line, without its end.
    pub fn line(&self, record: &Record) -> String {
        let clock = record.time.format(CLOCK).unwrap_or_default();
        let name = record
            .sni
            .as_ref()
            .or(record.sni_raw.as_ref())
            .or(record.original_dst.as_ref());
        let name = name.map_or("-", String::as_str);
        let port = record.port.map(|port| format!(":{port}"));
        let mut line = format!(
            "{clock} {:<7} {} {:<40} {:>9} up {:>9} down {:>9}",
            record.hop.as_str(),
            self.verdict(record.verdict),
            format!("{name}{}", port.unwrap_or_default()),
            human_bytes(record.bytes_to_origin),
            human_bytes(record.bytes_to_client),
            duration(record),
        );
        for (key, value) in details(record) {
            let _ = write!(line, " {key}={value}");
        }
        line
    }

    /// The verdict, padded and coloured.
    pub fn verdict(&self, verdict: Verdict) -> String {
        let word = format!("{:<12}", verdict.as_str());
        let colour = match verdict {
            Verdict::Allowed => "32",
            Verdict::WouldRefuse | Verdict::Closed => "33",
            Verdict::Refused | Verdict::Failed => "31",
        };
        if self.colour {
            format!("\x1b[{colour}m{word}\x1b[0m")
        } else {
            word
        }
    }
}

fn details(record: &Record) -> impl Iterator<Item = (&'static str, String)> {
    let process = record
        .process
        .as_ref()
        .map(|process| format!("{}[{}]", process.comm.escape_default(), process.pid));
    [
        ("reason", record.reason.as_ref().map(ToString::to_string)),
        ("rule", record.rule.as_ref().map(ToString::to_string)),
        (
            "protocol",
            record.protocol.as_ref().map(ToString::to_string),
        ),
        ("process", process),
        ("to", record.dialled.clone()),
        ("id", Some(record.connection.to_string())),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((key, value?)))
}

fn duration(record: &Record) -> String {
    match record.timings.total {
        Some(total) if total.get() >= 10_000.0 => format!("{:.1}s", total.get() / 1000.0),
        Some(total) => format!("{:.1}ms", total.get()),
        None => "-".to_owned(),
    }
}

/// A count of bytes in the largest unit that leaves at least one digit before the point.
pub(crate) fn human_bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown of it")]
    let mut value = count as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection_id::ConnectionId;
    use crate::record::Hop;

    #[test]
    fn bytes_in_readable_units() {
        assert_eq!(human_bytes(0), "0 B");
        assert_eq!(human_bytes(1023), "1023 B");
        assert_eq!(human_bytes(1536), "1.5 KiB");
        assert_eq!(human_bytes(1 << 30), "1.0 GiB");
        assert_eq!(human_bytes(u64::MAX), "16777216.0 TiB");
    }

    #[test]
    fn lines_align_and_stay_one_line() {
        let mut record = Record::new(Hop::Agent, ConnectionId::new(), std::time::Instant::now());
        record.sni = Some("en.wikipedia.org".to_owned());
        record.port = Some(443);
        record.process = Some(crate::workload::Process {
            pid: 7,
            comm: "a\nb".to_owned(),
            uid: 0,
        });
        let line = Painter { colour: false }.line(&record);
        assert!(line.contains("en.wikipedia.org:443"), "{line}");
        assert!(line.contains("process=a\\nb[7]"), "{line}");
        assert_eq!(line.lines().count(), 1);
    }
}
