//! `egress policy import`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::{CODES, Output, Stop, label, read_text, write};
use crate::policy::import::{self, Importer};

/// Makes rules of the allow-lists of other programs
///
/// The rules never allow more than the files do, unless --widen asks for it. What cannot be carried
/// over is listed line by line, with why: as comments behind the rules, or in `not_carried_over`.
/// A Squid file without `acl` lines is taken for a list of what is allowed.
#[derive(Args)]
#[command(after_help = format!("\
Examples:
  egress policy import istio serviceentries.yaml sidecars.yaml > policy.yaml
  kubectl get cnp,ccnp -A -o yaml | egress policy import cilium -
  egress policy import squid /etc/squid/squid.conf
  egress policy import squid --output json allowed-domains.txt

{CODES}"))]
pub(super) struct ImportArgs {
    /// What the files are for
    #[arg(value_enum)]
    origin: Origin,

    /// File to read; - for standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Carries over what a rule can only say more widely, and says so
    ///
    /// One namespace for the pods with certain labels in it, any depth of names for one label, a
    /// list without the condition that it has there.
    #[arg(long)]
    widen: bool,

    /// Form of the output
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Origin {
    /// ServiceEntry, and what narrows it: Sidecar, Gateway, AuthorizationPolicy
    Istio,
    /// CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy
    Cilium,
    /// squid.conf, or a list of dstdomain
    Squid,
}

impl ImportArgs {
    pub(super) fn run(self) -> Result<ExitCode, Stop> {
        let origin = match self.origin {
            Origin::Istio => import::Origin::Istio,
            Origin::Cilium => import::Origin::Cilium,
            Origin::Squid => import::Origin::Squid,
        };
        let options = import::Options { widen: self.widen };
        let mut importer = Importer::new(origin, options);
        for file in &self.files {
            importer.read(&read_text(file)?, &label(file))?;
        }
        write(self.output, &importer.finish())?;
        Ok(ExitCode::SUCCESS)
    }
}
