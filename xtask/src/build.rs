//! `cargo xtask build`: the kernel programs and the binary that embeds them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{build_ebpf, process, workspace};

/// The name of the binary.
pub(crate) const BINARY: &str = "egress";

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
    let mut cargo = cargo();
    let profile = if args.dev {
        "debug"
    } else {
        cargo.arg("--release");
        "release"
    };
    process::run(&mut cargo)?;
    let directory = workspace::Metadata::read()?.target_directory()?;
    show(&directory.join(profile).join(BINARY))
}

/// Builds the binary that needs no library, optimised and without debugging information, and prints
/// where it is. The kernel programs must be built before.
///
/// # Errors
///
/// Fails when something does not compile.
pub(crate) fn static_binary() -> Result<PathBuf> {
    // With a target named, the flags are not those of build scripts and macros.
    let target = workspace::host_triple()?;
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    let mut cargo = cargo();
    cargo
        .args(["--release", "--target", &target])
        .args(["--config", "profile.release.strip = 'debuginfo'"])
        .env(
            "RUSTFLAGS",
            format!("{flags} -C target-feature=+crt-static"),
        );
    process::run(&mut cargo)?;
    let directory = workspace::Metadata::read()?.target_directory()?;
    let binary = directory.join(target).join("release").join(BINARY);
    show(&binary)?;
    Ok(binary)
}

/// Builds a binary that needs no library, with the profile of the tests and what of these was
/// compiled, our own library excepted, and prints where it is. The kernel programs must be built
/// before.
///
/// # Errors
///
/// Fails when something does not compile.
pub(crate) fn static_dev_binary() -> Result<PathBuf> {
    let wrapper = workspace::root().join("xtask/src/image/static-rustc");
    let mut cargo = workspace::cargo();
    // Naming the package would choose other features of its dependencies than the tests have.
    cargo.args(["build", "--bin", BINARY]);
    process::run(cargo.env("RUSTC_WORKSPACE_WRAPPER", wrapper))?;
    let directory = workspace::Metadata::read()?.target_directory()?;
    let binary = directory.join("debug").join(BINARY);
    show(&binary)?;
    Ok(binary)
}

fn cargo() -> Command {
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--package", "egress-user", "--bin", BINARY]);
    cargo
}

fn show(binary: &Path) -> Result<()> {
    let size = fs::metadata(binary)
        .with_context(|| format!("cannot read {}", binary.display()))?
        .len();
    let mib = size.div_ceil(1024 * 1024);
    println!("{}  {mib} MiB", workspace::relative(binary).display());
    Ok(())
}
