//! `egress pki`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::values;
use crate::pki::{self, InitOptions};

const EXAMPLES: &str = "\
Examples:
  egress pki init certs
  egress pki init certs --trust-domain prod.example.org --days 7

Then:
  egress gateway --certificate certs/gateway.pem --key certs/gateway-key.pem --bundle certs/ca.pem …
  egress agent   --certificate certs/agent.pem   --key certs/agent-key.pem   --bundle certs/ca.pem …";

/// Makes certificates for trying it out
#[derive(Args)]
pub(super) struct PkiArgs {
    #[command(subcommand)]
    command: PkiCommand,
}

#[derive(Subcommand)]
enum PkiCommand {
    Init(InitArgs),
}

/// Makes a CA, and certificates with SPIFFE IDs for an agent and a gateway
///
/// For production, let SPIRE, cert-manager or your own CA issue them; only the SPIFFE ID in the
/// certificate matters.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
struct InitArgs {
    /// Folder for the files; made when it is not there
    dir: PathBuf,

    /// Trust domain of the SPIFFE IDs
    #[arg(long, default_value = "egress.local", value_name = "NAME")]
    trust_domain: String,

    /// Days that the certificates are good for
    #[arg(long, default_value_t = 30, value_name = "DAYS", value_parser = values::days)]
    days: u32,
}

impl PkiArgs {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            PkiCommand::Init(args) => args.run(),
        }
    }
}

impl InitArgs {
    fn run(self) -> anyhow::Result<ExitCode> {
        let options = InitOptions {
            trust_domain: self.trust_domain.parse()?,
            days: self.days,
            ..InitOptions::default()
        };
        for file in pki::init(&self.dir, &options)? {
            super::say(format_args!("{:<32} {}", file.path.display(), file.what));
        }
        Ok(ExitCode::SUCCESS)
    }
}
