//! `egress selftest`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::selftest::{self, Format, Options};

const EXAMPLES: &str = "\
Examples:
  sudo egress selftest                       the programs of this binary, in a capture of their own
  sudo egress selftest --output json
  sudo egress selftest --cgroup /sys/fs/cgroup/workloads.slice
                                             a running agent that discovers this cgroup
  sudo egress selftest --cgroup /sys/fs/cgroup/workloads.slice --netns /run/netns/job
                                             a namespace that it serves

The checks expect that port 443 is captured and that other ports are refused. Each is tried by a
process of its own, as root. A tun device in the namespace is the wire; whatever comes along it is a
leak. The exit code is 1 when something leaks or is not as it should be.";

/// Tries the known ways round the capture and says what became of each
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct SelftestArgs {
    /// Cgroup that a running agent captures; the attempts are made in a new one below it
    #[arg(long, value_name = "DIR")]
    cgroup: Option<PathBuf>,

    /// Network namespace that the agent serves [default: a new one, for it to discover]
    #[arg(long, value_name = "FILE", requires = "cgroup")]
    netns: Option<PathBuf>,

    /// Seconds that the agent may take to see a new namespace or device
    #[arg(long, value_name = "SECONDS", default_value_t = 15)]
    settle: u64,

    /// The form of the report
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,

    /// What one process is to try; for the self-test itself
    #[arg(long, hide = true, value_name = "JSON")]
    attempt: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// An aligned table
    Table,
    /// One JSON object
    Json,
}

impl SelftestArgs {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        if let Some(order) = self.attempt {
            selftest::attempt(&order)?;
            return Ok(ExitCode::SUCCESS);
        }
        let report = selftest::run(&Options {
            cgroup: self.cgroup,
            netns: self.netns,
            settle: Duration::from_secs(self.settle),
        })?;
        let format = match self.output {
            Output::Table => Format::Table,
            Output::Json => Format::Json,
        };
        print!("{}", report.render(format)?);
        Ok(if report.passed() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}
