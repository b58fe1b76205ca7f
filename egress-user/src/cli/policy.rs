//! `egress policy`: what people do with policies before they are in force.

mod check;
mod diff;
mod explain;
mod import;
mod learn;
mod schema;

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use crate::config;
use crate::document::{Mistake, Mistakes};

/// The exit code when a file has mistakes, or a policy widens.
const FOUND: u8 = 1;

const CODES: &str = "\
Exit codes:
  0  done
  1  a file cannot be read or has mistakes; for check --strict also warnings, for
     diff --fail-on-widening also a widening
  2  the command line is wrong";

/// Checks, explains, compares, learns and imports policies
#[derive(Args)]
#[command(after_help = CODES)]
pub(super) struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Subcommand)]
enum PolicyCommand {
    Check(check::CheckArgs),
    Explain(explain::ExplainArgs),
    Diff(diff::DiffArgs),
    Learn(learn::LearnArgs),
    Import(import::ImportArgs),
    Schema(schema::SchemaArgs),
}

/// Form of the output
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Text,
    /// For programs: one JSON object
    Json,
}

impl PolicyArgs {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let done = match self.command {
            PolicyCommand::Check(args) => args.run(),
            PolicyCommand::Explain(args) => args.run(),
            PolicyCommand::Diff(args) => args.run(),
            PolicyCommand::Learn(args) => args.run(),
            PolicyCommand::Import(args) => args.run(),
            PolicyCommand::Schema(args) => args.run(),
        };
        match done {
            Ok(code) => Ok(code),
            Err(Stop::Mistakes(mistakes)) => {
                eprintln!("{mistakes}");
                Ok(ExitCode::from(FOUND))
            }
            // Whoever reads our output has seen enough.
            Err(Stop::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                Ok(ExitCode::SUCCESS)
            }
            Err(Stop::Output(error)) => Err(error.into()),
        }
    }
}

/// Why a command ended early.
enum Stop {
    Mistakes(Mistakes),
    Output(io::Error),
}

impl From<Mistakes> for Stop {
    fn from(mistakes: Mistakes) -> Stop {
        Stop::Mistakes(mistakes)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::Output(error)
    }
}

/// What a path is called in mistakes.
fn label(path: &Path) -> String {
    match is_stdin(path) {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    }
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

fn read_text(path: &Path) -> Result<String, Mistakes> {
    if !is_stdin(path) {
        return config::read_text(path);
    }
    let mut text = String::new();
    match io::stdin().read_to_string(&mut text) {
        Ok(_) => Ok(text),
        Err(error) => Err(Mistake::new(label(path), format!("cannot be read: {error}")).into()),
    }
}

fn write(output: Output, value: &(impl Serialize + std::fmt::Display)) -> io::Result<()> {
    match output {
        Output::Text => write!(io::stdout().lock(), "{value}"),
        Output::Json => write_json(value),
    }
}

fn write_json(value: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)
}
