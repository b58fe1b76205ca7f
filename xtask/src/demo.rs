//! `cargo xtask demo`: the whole product at work on one machine, without the internet.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use egress_lab::{sweep, tools};

use crate::{build_ebpf, process, workspace};

mod attempt;
mod paint;
mod play;
mod stage;
mod table;

/// Programs that the demo shows at work.
const PEERS: [&str; 4] = ["curl", "dnsmasq", "ip", "nginx"];

/// Show agent and gateway at work with real traffic, without the internet.
///
/// In network namespaces of their own: an application, the agent's node, the gateway, and an
/// internet with origins and a name server. Builds as the user who calls; the rest needs root and
/// asks sudo for it. Everything is removed at the end, also after Ctrl-C.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask demo")]
pub(crate) struct Args {
    /// Do not build: show this `egress` program.
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Be the captured application that tries QUIC.
    #[arg(long, value_name = "ADDR", hide = true)]
    quic: Option<SocketAddr>,
}

/// Builds what is needed and shows it.
///
/// # Errors
///
/// Fails when something cannot be built or started, or when anything of what the demo promises
/// was not really seen.
pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(address) = args.quic {
        return attempt::quic(address);
    }
    let program = match &args.program {
        Some(program) => program.clone(),
        None => build()?,
    };
    if rustix::process::geteuid().is_root() {
        sweep::on_signals()?;
        play::show(&program)
    } else {
        as_root(&program)
    }
}

/// Compiles with the profile of the tests, so that a fresh clone compiles once for both.
fn build() -> Result<PathBuf> {
    build_ebpf::build()?;
    tools::provide(&PEERS)?;
    let mut cargo = workspace::cargo();
    // Naming the package would choose other features of its dependencies than the tests have.
    process::run(cargo.args(["build", "--bin", "egress"]))?;
    let target = workspace::Metadata::read()?.target_directory()?;
    Ok(target.join("debug/egress"))
}

/// Shows it in this same program, started once more through sudo.
fn as_root(program: &Path) -> Result<()> {
    let Some(sudo) = tools::on_path("sudo") else {
        bail!("namespaces and kernel programs need root, and there is no sudo: run this as root");
    };
    eprintln!("namespaces and kernel programs need root: asking sudo");
    let this = std::env::current_exe().context("cannot find this program")?;
    let status = Command::new(sudo)
        .arg("--")
        .arg(this)
        .args([
            OsStr::new("demo"),
            OsStr::new("--program"),
            program.as_os_str(),
        ])
        .stdin(Stdio::inherit())
        .status()
        .context("cannot run sudo")?;
    match status.code() {
        Some(0) => Ok(()),
        // The program behind sudo has said what was wrong.
        Some(code) => std::process::exit(code),
        None => bail!("sudo was ended by a signal"),
    }
}
