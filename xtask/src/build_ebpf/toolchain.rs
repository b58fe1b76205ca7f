//! Finding a compiler that has the source of its library, from which `core` is built for BPF.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};
use egress_lab::debian::Tree;
use egress_lab::tools;

use crate::{process, versions, workspace};

/// What a person can do where no compiler was found.
const WAYS: &str = "`rustup toolchain install nightly --component rust-src` and \
     `cargo binstall bpf-linker` bring what the kernel programs are built with";

/// A compiler with library source.
#[derive(Debug)]
pub(super) struct Toolchain {
    pub(super) source: Source,
    pub(super) cargo: PathBuf,
    pub(super) rustc: PathBuf,
    /// The major version of the compiler's LLVM, which the linker has to understand.
    pub(super) llvm: u32,
}

/// Where a compiler came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Rustup,
    Debian,
}

/// Looks at rustup's toolchains first, then at Debian's packages, which are unpacked if need be.
///
/// # Errors
///
/// Fails when neither way is open, naming the commands that would open one.
pub(super) fn find() -> Result<Toolchain> {
    let installed = [None, Some("nightly")].into_iter().find_map(from_rustup);
    if let Some(toolchain) = installed {
        return Ok(toolchain);
    }
    if !Tree::is_possible() {
        bail!(
            "no Rust toolchain here has the source of its library, and there is no apt-get; {WAYS}"
        );
    }
    from_debian().map_err(|error| {
        anyhow!(
            "no Rust toolchain here has the source of its library, and Debian's cannot be had \
             ({error:#}); {WAYS}"
        )
    })
}

impl Toolchain {
    /// The clippy that belongs to the compiler.
    ///
    /// # Errors
    ///
    /// Fails when it is not installed and cannot be had.
    pub(super) fn clippy(&self) -> Result<PathBuf> {
        let clippy = self.rustc.with_file_name("cargo-clippy");
        if self.source == Source::Debian && !clippy.exists() {
            tools::tree().install(
                &[versions::DEBIAN_CLIPPY],
                "the kernel programs are linted by the clippy of their compiler",
            )?;
        }
        if !clippy.exists() {
            bail!(
                "{} has no clippy: `rustup component add clippy` for that toolchain brings it",
                self.rustc.display()
            );
        }
        Ok(clippy)
    }
}

fn from_rustup(name: Option<&str>) -> Option<Toolchain> {
    let mut command = Command::new("rustc");
    command.args(name.map(|name| format!("+{name}")));
    let sysroot = PathBuf::from(process::output(command.args(["--print", "sysroot"]))?);
    in_sysroot(&sysroot, Source::Rustup)
}

fn from_debian() -> Result<Toolchain> {
    if let Some(installed) = in_sysroot(Path::new("/usr"), Source::Debian) {
        return Ok(installed);
    }
    let tree = tools::tree();
    tree.install(
        &versions::DEBIAN_RUST,
        "the kernel programs need a compiler with the source of its library",
    )?;
    let sysroot = tree.root().join("usr");
    in_sysroot(&sysroot, Source::Debian)
        .with_context(|| format!("the compiler in {} does not run", sysroot.display()))
}

fn in_sysroot(sysroot: &Path, source: Source) -> Option<Toolchain> {
    let library = sysroot.join("lib/rustlib/src/rust/library/Cargo.lock");
    let rustc = sysroot.join("bin/rustc");
    if !library.exists() || !rustc.exists() {
        return None;
    }
    let version = process::output(
        Command::new(&rustc)
            .arg("-vV")
            .env("LD_LIBRARY_PATH", tools::tree().library_path()),
    )?;
    // A nightly's library wants the nightly's cargo; Debian's compiler comes without one.
    let own_cargo = sysroot.join("bin/cargo");
    let cargo = if own_cargo.exists() {
        own_cargo
    } else {
        workspace::cargo_path()
    };
    Some(Toolchain {
        source,
        cargo,
        rustc,
        llvm: llvm_major(&version)?,
    })
}

fn llvm_major(version: &str) -> Option<u32> {
    let number = version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    number.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::llvm_major;

    #[test]
    fn reads_the_major_of_llvm() {
        let version = "rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8";
        assert_eq!(llvm_major(version), Some(22));
        assert_eq!(llvm_major("rustc 1.96.0"), None);
    }
}
