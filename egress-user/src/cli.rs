//! The command line. The only room that knows clap.

mod agent;
mod check;
mod common;
mod gateway;
mod pki;
mod policy;
mod run;
mod selftest;
mod service;
mod values;

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

/// Lets programs reach exactly the outside names they may reach, and records it.
///
/// Kernel programs hand the TCP/443 sockets of captured processes to an agent. The agent reads the
/// server name from the encrypted stream, asks the policy, and carries the stream in mTLS to a
/// gateway, which reads and asks again, resolves the name and dials it. TLS is never opened.
#[derive(Parser)]
#[command(
    name = "egress",
    version,
    propagate_version = true,
    max_term_width = 100
)]
pub struct Cli {
    /// More diagnostics on standard error: -v debug, -vv trace.
    ///
    /// EGRESS_TRACE takes a filter such as `info,egress_user::agent=debug`.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::RunArgs),
    Agent(agent::AgentArgs),
    Gateway(gateway::GatewayArgs),
    Policy(policy::PolicyArgs),
    Pki(pki::PkiArgs),
    Selftest(selftest::SelftestArgs),
}

impl Cli {
    /// What the command line says. Ends the process where it says nothing that makes sense.
    pub fn of_this_process() -> Cli {
        Cli::try_parse().unwrap_or_else(|error| run::point_to_dashes(error).exit())
    }

    /// Does what was asked and gives the exit code.
    pub fn run(self) -> ExitCode {
        let quiet = matches!(self.command, Command::Run(_));
        start_tracing(self.verbose, quiet);
        let done = match self.command {
            Command::Run(args) => args.run(self.verbose > 0),
            Command::Agent(args) => args.run(self.verbose > 0),
            Command::Gateway(args) => args.run(),
            Command::Policy(args) => args.run(),
            Command::Pki(args) => args.run(),
            Command::Selftest(args) => args.run(),
        };
        done.unwrap_or_else(|error| {
            let text = sentence(&error);
            // Several mistakes of a file stand below each other, each with its place.
            let separator = if text.contains('\n') { '\n' } else { ' ' };
            // Whoever closed it does not want to read it; the exit code says the same.
            let _ = writeln!(io::stderr(), "egress:{separator}{text}");
            ExitCode::from(FAILED)
        })
    }
}

/// The exit code of our own failures; `egress run` passes on the command's otherwise.
const FAILED: u8 = 125;

/// The error with its causes, as one sentence.
fn sentence(error: &anyhow::Error) -> String {
    let mut sentence = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        // Some errors repeat their source; a reader wants it once.
        if sentence.ends_with(&cause) {
            continue;
        }
        if !sentence.is_empty() {
            sentence.push_str(": ");
        }
        sentence.push_str(&cause);
    }
    sentence
}

/// Diagnostics go to standard error. `egress run` shares it with its command and
/// so says only what needs somebody's attention.
fn start_tracing(verbose: u8, quiet: bool) {
    let level = match (verbose, quiet) {
        (0, true) => LevelFilter::WARN,
        (0, false) => LevelFilter::INFO,
        (1, _) => LevelFilter::DEBUG,
        (2.., _) => LevelFilter::TRACE,
    };
    let filter = EnvFilter::builder()
        .with_env_var("EGRESS_TRACE")
        .with_default_directive(level.into())
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        // It would say on standard error that standard error is closed, and panic.
        .log_internal_errors(false)
        .with_env_filter(filter)
        .init();
}

/// A line for whoever reads standard output; one that nobody reads is no failure.
fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
