//! `cargo xtask build-ebpf`: the kernel programs, as an object that egress-user embeds.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use egress_lab::tools;

use crate::{process, workspace};

mod linker;
mod object;
mod toolchain;

use toolchain::Toolchain;

/// The package of the kernel programs.
pub(crate) const PACKAGE: &str = "egress-ebpf";

/// Separates the flags in `CARGO_ENCODED_RUSTFLAGS`.
const FLAG_SEPARATOR: &str = "\x1f";

/// Build the kernel programs into target/ebpf/egress-ebpf.o.
///
/// Takes a Rust toolchain that has rust-src and an installed bpf-linker if there are any.
/// Otherwise unpacks Debian's compiler and builds bpf-linker, both below target/tools and after
/// saying so; nothing is installed on the machine.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask build-ebpf")]
pub(crate) struct Args {
    /// Accepted for symmetry with `build`: the programs are always optimised, since the kernel's
    /// verifier refuses them otherwise.
    #[arg(long)]
    release: bool,
}

/// Builds the object and prints what is in it.
///
/// # Errors
///
/// Fails when no toolchain can be had, the programs do not compile, or the object is not one that
/// the agent could load.
pub(crate) fn run(_args: &Args) -> Result<()> {
    let object = build()?;
    let bytes = fs::read(&object).with_context(|| format!("cannot read {}", object.display()))?;
    print!(
        "{}",
        object::describe(workspace::relative(&object), &bytes)?
    );
    Ok(())
}

/// Builds the object, unless it is up to date, and returns where it is.
///
/// # Errors
///
/// Fails when no toolchain can be had or the programs do not compile.
pub(crate) fn build() -> Result<PathBuf> {
    let toolchain = toolchain::find()?;
    let linker = linker::find(&toolchain)?;
    process::run(
        cargo(&toolchain, &linker)
            .args(["build", "--release"])
            .args(selection()),
    )?;
    let built = target_dir().join(target()).join("release").join(PACKAGE);
    let object = workspace::ebpf_object();
    let linked = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    replace_if_different(&object::strip(&linked)?, &object)?;
    Ok(object)
}

/// Lints the kernel programs as they are compiled for the kernel, by the clippy of their compiler.
///
/// # Errors
///
/// As [`build`], and when the compiler or clippy has a warning.
pub(crate) fn lint() -> Result<()> {
    let toolchain = toolchain::find()?;
    let linker = linker::find(&toolchain)?;
    let clippy = toolchain.clippy()?;
    process::run(
        cargo(&toolchain, &linker)
            .env(
                "RUSTC_WORKSPACE_WRAPPER",
                clippy.with_file_name("clippy-driver"),
            )
            .env("CLIPPY_ARGS", "--deny=warnings__CLIPPY_HACKERY__")
            .args(["check", "--release"])
            .args(selection()),
    )
}

/// The compiler's cargo with everything set but the subcommand.
fn cargo(toolchain: &Toolchain, linker: &Path) -> Command {
    let mut command = Command::new(&toolchain.cargo);
    command
        .current_dir(workspace::root())
        .env("RUSTC", &toolchain.rustc)
        // The flags -Z are for nightly compilers only, unless this is set.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(linker))
        .env("LD_LIBRARY_PATH", tools::tree().library_path())
        // Both would bring back the toolchain that runs this program.
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTC_WRAPPER");
    command
}

fn selection() -> Vec<OsString> {
    let mut arguments: Vec<OsString> = ["--package", PACKAGE, "--target", target()]
        .map(OsString::from)
        .into();
    arguments.push("-Zbuild-std=core".into());
    arguments.push("--target-dir".into());
    arguments.push(target_dir().into());
    arguments
}

fn flags(linker: &Path) -> OsString {
    let mut linked_by = OsString::from("-Clinker=");
    linked_by.push(linker);
    let architecture = format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH);
    // BTF is made from full debug information.
    let flags = [
        OsStr::new(&architecture),
        OsStr::new("-Cdebuginfo=2"),
        &linked_by,
        OsStr::new("-Clink-arg=--btf"),
    ];
    flags.join(OsStr::new(FLAG_SEPARATOR))
}

/// A directory of its own, so that it never waits for a build for this machine.
fn target_dir() -> PathBuf {
    workspace::root().join("target/ebpf-build")
}

/// The kernel reads programs in the machine's byte order.
fn target() -> &'static str {
    if cfg!(target_endian = "big") {
        "bpfeb-unknown-none"
    } else {
        "bpfel-unknown-none"
    }
}

/// Keeps the time stamp of an object that did not change, so that nothing is built again for it.
fn replace_if_different(new: &[u8], object: &Path) -> Result<()> {
    if fs::read(object).is_ok_and(|old| old == new) {
        return Ok(());
    }
    if let Some(parent) = object.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(object, new).with_context(|| format!("cannot write {}", object.display()))
}
