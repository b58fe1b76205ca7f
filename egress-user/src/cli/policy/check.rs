//! `egress policy check`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{CODES, FOUND, Output, Stop, label, read_text, write_json};
use crate::document::Mistake;
use crate::policy::{Digest, Policy};

/// Tells every mistake of policy files, and what is probably not meant
///
/// Warnings: rules and hosts that never decide anything, duplicates, wildcards over a public
/// suffix or over shared hosting such as *.github.io, and denied wildcards that leave their apex
/// reachable.
#[derive(Args)]
#[command(after_help = format!("\
Examples:
  egress policy check policy.yaml
  egress policy check --strict --output json policies/*.yaml
  egress policy learn --everyone records.jsonl | egress policy check -

{CODES}"))]
pub(super) struct CheckArgs {
    /// Policy document; - for standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Takes warnings for mistakes
    #[arg(long)]
    strict: bool,

    /// Form of the output
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// What `check` says of one file.
#[derive(Serialize)]
struct Checked {
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
    rules: usize,
    mistakes: Vec<Mistake>,
    warnings: Vec<Mistake>,
}

impl CheckArgs {
    pub(super) fn run(self) -> Result<ExitCode, Stop> {
        let checked: Vec<Checked> = self.files.iter().map(|file| check(file)).collect();
        match self.output {
            Output::Json => write_json(&checked)?,
            Output::Text => checked.iter().try_for_each(write_checked)?,
        }
        let found = checked.iter().any(|checked| {
            !checked.mistakes.is_empty() || self.strict && !checked.warnings.is_empty()
        });
        Ok(ExitCode::from(if found { FOUND } else { 0 }))
    }
}

fn check(path: &Path) -> Checked {
    let file = label(path);
    let loaded = read_text(path).and_then(|text| Policy::check(&text, &file));
    match loaded {
        Ok(loaded) => Checked {
            file,
            digest: Some(*loaded.policy.digest()),
            rules: loaded.policy.rule_count(),
            mistakes: Vec::new(),
            warnings: loaded.warnings,
        },
        Err(mistakes) => Checked {
            file,
            digest: None,
            rules: 0,
            mistakes: mistakes.iter().cloned().collect(),
            warnings: Vec::new(),
        },
    }
}

fn write_checked(checked: &Checked) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let Checked {
        file,
        rules,
        mistakes,
        warnings,
        ..
    } = checked;
    for mistake in mistakes {
        writeln!(out, "{mistake}")?;
    }
    for warning in warnings {
        writeln!(out, "warning: {warning}")?;
    }
    match &checked.digest {
        Some(digest) => writeln!(
            out,
            "{file}: {}, {}, digest {digest}",
            counted(*rules, "rule"),
            counted(warnings.len(), "warning")
        ),
        None => writeln!(out, "{file}: {}", counted(mistakes.len(), "mistake")),
    }
}

fn counted(number: usize, word: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {word}{plural}")
}
