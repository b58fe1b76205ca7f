//! What was found, for people and for programs.

use std::fmt::{self, Write as _};

use serde::Serialize;

/// The form of a report.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// An aligned table.
    #[default]
    Table,
    /// One JSON object.
    Json,
}

/// What one check came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// As owed.
    Pass,
    /// Something was on the wire.
    Leak,
    /// Nothing was, but what was owed was not given.
    Fail,
    /// It could not be tried here.
    NotTried,
}

/// One check with what came of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Finding {
    pub(super) id: &'static str,
    pub(super) what: String,
    pub(super) owed: String,
    pub(super) got: String,
    pub(super) verdict: Verdict,
    /// What was on the wire.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) seen: Vec<String>,
    /// The way out, where there is one.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) hint: &'static str,
}

impl Finding {
    pub(super) fn not_tried(id: &'static str, what: &str, why: &str) -> Finding {
        Finding {
            id,
            what: what.to_owned(),
            owed: String::new(),
            got: why.to_owned(),
            verdict: Verdict::NotTried,
            seen: Vec::new(),
            hint: "",
        }
    }
}

/// Everything that was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    tested: String,
    passed: usize,
    failed: usize,
    not_tried: usize,
    checks: Vec<Finding>,
}

impl Report {
    pub(super) fn new(tested: &str, mut checks: Vec<Finding>) -> Report {
        let number = |each: &Finding| each.id.trim_start_matches('A').parse::<u8>().ok();
        checks.sort_by_key(number);
        let count = |verdicts: &[Verdict]| {
            let counted = checks
                .iter()
                .filter(|each| verdicts.contains(&each.verdict));
            counted.count()
        };
        Report {
            tested: tested.to_owned(),
            passed: count(&[Verdict::Pass]),
            failed: count(&[Verdict::Leak, Verdict::Fail]),
            not_tried: count(&[Verdict::NotTried]),
            checks,
        }
    }

    /// Whether nothing leaked, and everything that was tried came out as owed.
    pub fn passed(&self) -> bool {
        self.failed == 0 && self.passed > 0
    }

    /// The report in this form, with the end of its last line.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn render(&self, format: Format) -> serde_json::Result<String> {
        match format {
            Format::Table => Ok(self.to_string()),
            Format::Json => Ok(serde_json::to_string_pretty(self)? + "\n"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: fn(&Finding) -> &str| {
            let widths = self.checks.iter().map(|each| column(each).chars().count());
            widths.max().unwrap_or_default()
        };
        let (what, owed) = (width(|each| &each.what), width(|each| &each.owed));
        writeln!(f, "tested: {}\n", self.tested)?;
        for each in &self.checks {
            let verdict = match each.verdict {
                Verdict::Pass => "pass",
                Verdict::Leak => "LEAK",
                Verdict::Fail => "FAIL",
                Verdict::NotTried => "-",
            };
            let mut line = format!(
                "{verdict:<4}  {:<3}  {:<what$}  {:<owed$}  {}",
                each.id, each.what, each.owed, each.got
            );
            for seen in &each.seen {
                write!(line, "; on the wire: {seen}")?;
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        for each in self.checks.iter().filter(|each| !each.hint.is_empty()) {
            write!(f, "\n{}, {}: {}\n", each.id, each.what, each.hint)?;
        }
        let (passed, failed, not_tried) = (self.passed, self.failed, self.not_tried);
        writeln!(
            f,
            "\n{passed} passed, {failed} failed, {not_tried} not tried"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(verdict: Verdict, seen: &[&str]) -> Finding {
        Finding {
            id: "A7",
            what: "raw socket".to_owned(),
            owed: "nothing leaves".to_owned(),
            got: "it went".to_owned(),
            verdict,
            seen: seen.iter().map(ToString::to_string).collect(),
            hint: if seen.is_empty() { "" } else { "mend it" },
        }
    }

    #[test]
    fn one_leak_is_a_failure_and_nothing_is_no_pass() {
        let pass = || finding(Verdict::Pass, &[]);
        assert!(Report::new("", vec![pass(), pass()]).passed());
        let leak = finding(Verdict::Leak, &["protocol 6 to 192.0.2.1 port 443"]);
        assert!(!Report::new("", vec![pass(), leak]).passed());
        assert!(!Report::new("", vec![pass(), finding(Verdict::Fail, &[])]).passed());
        assert!(!Report::new("", Vec::new()).passed());
    }

    #[test]
    fn a_line_a_check() {
        let leak = finding(Verdict::Leak, &["protocol 6 to 192.0.2.1 port 443"]);
        let report = Report::new("something", vec![finding(Verdict::Pass, &[]), leak]);
        let text = report.render(Format::Table).unwrap();
        assert!(
            text.contains("pass  A7   raw socket  nothing leaves  it went\n"),
            "{text}"
        );
        assert!(text.contains("LEAK  A7   raw socket  nothing leaves  it went; on the wire: "));
        assert!(
            text.ends_with("\nA7, raw socket: mend it\n\n1 passed, 1 failed, 0 not tried\n"),
            "{text}"
        );
        let json = report.render(Format::Json).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["failed"], 1);
        assert_eq!(json["checks"][1]["verdict"], "leak");
    }
}
