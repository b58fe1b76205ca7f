//! `egress policy diff`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::{CODES, FOUND, Output, Stop, label, read_text, write};
use crate::document::Mistakes;
use crate::policy::{Difference, Policy};

/// Says which names another policy opens and closes, for whom
///
/// Policies are compared by what they decide: every name, port and workload that they tell apart is
/// put to both. Rules that are moved, split or renamed make no difference. In a line, *.NAME stands
/// for the names below NAME that no other line is about.
#[derive(Args)]
#[command(after_help = format!("\
Examples:
  egress policy diff policy.yaml policy.new.yaml
  git show main:policy.yaml | egress policy diff --fail-on-widening - policy.yaml

{CODES}"))]
pub(super) struct DiffArgs {
    /// Policy that is in force; - for standard input
    old: PathBuf,

    /// Policy that would take its place; - for standard input
    new: PathBuf,

    /// Ends with 1 if the new policy allows something that the old one refuses
    #[arg(long)]
    fail_on_widening: bool,

    /// Form of the output
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl DiffArgs {
    pub(super) fn run(self) -> Result<ExitCode, Stop> {
        let (old, new) = match (load(&self.old), load(&self.new)) {
            (Ok(old), Ok(new)) => (old, new),
            (Err(old), Err(new)) => return Err(old.and(new).into()),
            (Err(mistakes), Ok(_)) | (Ok(_), Err(mistakes)) => return Err(mistakes.into()),
        };
        let difference = Difference::between(&old, &new);
        write(self.output, &difference)?;
        let fails = self.fail_on_widening && difference.widens();
        Ok(ExitCode::from(if fails { FOUND } else { 0 }))
    }
}

fn load(path: &Path) -> Result<Policy, Mistakes> {
    Ok(Policy::parse(&read_text(path)?, &label(path))?.policy)
}
