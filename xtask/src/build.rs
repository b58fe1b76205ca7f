//! `cargo xtask build`: the kernel programs and the binary that embeds them.

use std::fs;

use anyhow::{Context as _, Result};

use crate::{build_ebpf, process, workspace};

const BINARY: &str = "egress";

/// Build the kernel programs and the `egress` binary that embeds them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask build          target/release/egress
  cargo xtask build --dev    target/debug/egress, compiled faster and not optimised")]
pub(crate) struct Args {
    /// Compile without optimisation.
    #[arg(long)]
    dev: bool,
}

/// Builds, and prints where the binary is.
///
/// # Errors
///
/// Fails when something does not compile.
pub(crate) fn run(args: &Args) -> Result<()> {
    build_ebpf::build()?;
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--package", "egress-user", "--bin", BINARY]);
    let profile = if args.dev {
        "debug"
    } else {
        cargo.arg("--release");
        "release"
    };
    process::run(&mut cargo)?;
    let directory = workspace::Metadata::read()?.target_directory()?;
    let binary = directory.join(profile).join(BINARY);
    let size = fs::metadata(&binary)
        .with_context(|| format!("cannot read {}", binary.display()))?
        .len();
    let mib = size.div_ceil(1024 * 1024);
    println!("{}  {mib} MiB", workspace::relative(&binary).display());
    Ok(())
}
