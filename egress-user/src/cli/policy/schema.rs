//! `egress policy schema`.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;

use super::Stop;

/// The form of policy documents, for editors and other programs.
const SCHEMA: &str = include_str!("../../../../docs/policy.schema.json");

/// Prints the JSON schema of policy documents
///
/// For editors: put `# yaml-language-server: $schema=policy.schema.json` on the first line of a
/// policy. The schema knows the form; `egress policy check` knows more.
#[derive(Args)]
#[command(after_help = "\
Examples:
  egress policy schema > policy.schema.json
  egress policy schema | less")]
pub(super) struct SchemaArgs {}

impl SchemaArgs {
    pub(super) fn run(self) -> Result<ExitCode, Stop> {
        io::stdout().lock().write_all(SCHEMA.as_bytes())?;
        Ok(ExitCode::SUCCESS)
    }
}
