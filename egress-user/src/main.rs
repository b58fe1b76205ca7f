//! The `egress` program: parse, start tracing, dispatch, exit.

use std::process::ExitCode;

use clap::Parser;
use egress_user::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
