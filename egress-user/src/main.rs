//! The `egress` program: parse, start tracing, dispatch, exit.

use std::process::ExitCode;

use egress_user::cli::Cli;

fn main() -> ExitCode {
    Cli::of_this_process().run()
}
