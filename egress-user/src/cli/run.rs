//! `egress run`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Error};
use egress_common::Fallback;
use ipnet::IpNet;

use super::values;
use crate::config::{self, agent::fallback};
use crate::dns::NameServer;
use crate::gateway::forbidden::Forbidden;
use crate::gateway::resolve::ResolveOptions;
use crate::pins::{self, Pin};
use crate::policy::{DEFAULT_PORT, Flags, Loaded, Mode, Policy};
use crate::record::{LogFormat, Target};
use crate::run::{self, RunOptions};

const EXAMPLES: &str = "\
Examples:
  sudo egress run --allow '*.wikipedia.org' -- curl https://en.wikipedia.org/
  sudo egress run --allow pypi.org --allow files.pythonhosted.org -- pip install requests
  sudo egress run --policy policy.yaml --log connections.jsonl -- ./untrusted-job
  sudo egress run --audit --log - --log-format text -- ./what-does-it-connect-to

TCP to the captured ports must carry TLS with an allowed server name. UDP to them is refused, so
that QUIC falls back to TCP; other ports are refused, but the name servers in /etc/resolv.conf can
be asked. Loopback always passes.

The exit code is the command's, or 128 + the signal that ended it; 125 when egress itself failed,
126 and 127 when the command cannot be run or found.";

/// Runs a command that can reach only the names on the list
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RunArgs {
    /// Name that may be reached: exact, *.SUFFIX for every name below it, or * for all
    #[arg(long, value_name = "PATTERN")]
    allow: Vec<String>,

    /// Name that may not be reached, whatever is allowed
    #[arg(long, value_name = "PATTERN")]
    deny: Vec<String>,

    /// Policy document (YAML); --allow and --deny are added to it
    #[arg(long, env = "EGRESS_POLICY", value_name = "FILE")]
    policy: Option<PathBuf>,

    /// Port that is captured; may be given several times [default: 443]
    #[arg(long = "port", env = "EGRESS_PORTS", value_name = "N", value_delimiter = ',',
          value_parser = values::port)]
    ports: Vec<u16>,

    /// What happens to TCP and UDP on other ports: pass or refuse
    #[arg(long, env = "EGRESS_OTHER_PORTS", value_name = "pass|refuse", default_value = "refuse",
          value_parser = fallback)]
    other_ports: Fallback,

    /// Pins a name and port to an address, past DNS and the forbidden ranges
    #[arg(long, value_name = "NAME:PORT:ADDR")]
    resolve: Vec<Pin>,

    /// Name server, such as 192.0.2.53:53, tcp://192.0.2.53 or tls://192.0.2.53#dns.example.org
    /// [default: the system's own]
    #[arg(long, env = "EGRESS_DNS", value_name = "SERVER", value_delimiter = ',')]
    dns: Vec<NameServer>,

    /// CA certificates (PEM) by which name servers are known that are asked by TLS
    /// [default: the system's own]
    #[arg(long, env = "EGRESS_DNS_CA", value_name = "FILE")]
    dns_ca: Option<PathBuf>,

    /// Range that may be dialled although it is private or otherwise special
    #[arg(
        long,
        env = "EGRESS_ALLOW_ADDRESSES",
        value_name = "PREFIX",
        value_delimiter = ',',
        value_parser = values::prefix
    )]
    allow_addresses: Vec<IpNet>,

    /// Writes a record per connection and hop: to a file, or - for standard error
    #[arg(long, env = "EGRESS_LOG", value_name = "FILE|-")]
    log: Option<PathBuf>,

    /// Form of the records: json or text
    #[arg(
        long,
        env = "EGRESS_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "json"
    )]
    log_format: LogFormat,

    /// Lets through what the policy refuses, and records it as would_refuse
    #[arg(long)]
    audit: bool,

    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Whoever forgets the `--` has the command, or a flag of it, taken for one of ours.
pub(super) fn point_to_dashes(mut error: Error) -> Error {
    let mut words = std::env::args_os().skip(1);
    let is_run = words.find(|word| !word.as_encoded_bytes().starts_with(b"-"));
    let is_forgotten = error.kind() == ErrorKind::UnknownArgument
        && is_run.is_some_and(|word| word == "run")
        && !words.any(|word| word == "--")
        // One that is nearly ours is likelier to be mistyped.
        && error.get(ContextKind::SuggestedArg).is_none();
    if is_forgotten {
        let tip = "the command stands behind `--`, as in `egress run --allow en.wikipedia.org -- \
                   curl https://en.wikipedia.org/`";
        let tip = ContextValue::StyledStrs(vec![tip.into()]);
        error.insert(ContextKind::Suggested, tip);
    }
    error
}

impl RunArgs {
    pub(super) fn run(self, verbose: bool) -> anyhow::Result<ExitCode> {
        let ports = if self.ports.is_empty() {
            vec![DEFAULT_PORT]
        } else {
            self.ports.clone()
        };
        let loaded = self.policy(&ports)?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let code = run::run(RunOptions {
            policy: loaded.policy,
            ports,
            other_ports: self.other_ports,
            resolve: ResolveOptions {
                servers: self.dns,
                ca: self.dns_ca,
                pins: pins::table(self.resolve),
                forbidden: Forbidden::except(self.allow_addresses),
            },
            log: self.log.as_deref().map_or(Target::Nowhere, target),
            log_format: self.log_format,
            verbose,
            command: self.command,
        })?;
        Ok(ExitCode::from(code))
    }

    fn policy(&self, ports: &[u16]) -> anyhow::Result<Loaded> {
        let flags = Flags {
            allow: &self.allow,
            deny: &self.deny,
            ports,
            mode: self.audit.then_some(Mode::Audit),
        };
        let Some(path) = &self.policy else {
            return Ok(Policy::from_flags(&flags)?);
        };
        let text = config::read_text(path)?;
        Ok(Policy::parse_with_flags(
            &text,
            &path.display().to_string(),
            &flags,
        )?)
    }
}

/// Standard output belongs to the command.
fn target(path: &Path) -> Target {
    match Target::from_path(path) {
        Target::Stdout => Target::Stderr,
        other => other,
    }
}
