//! Finding a `bpf-linker` that understands the compiler's LLVM.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use egress_lab::debian::Tree;
use egress_lab::tools;

use super::toolchain::{Source, Toolchain};
use crate::{tool, versions, workspace};

const PROGRAM: &str = "bpf-linker";

/// The linker that was built for this LLVM, else the installed one, else one that is built now.
///
/// # Errors
///
/// Fails when none is there and none can be built.
pub(super) fn find(toolchain: &Toolchain) -> Result<PathBuf> {
    let llvm = toolchain.llvm;
    let home = workspace::tools().join(format!("{PROGRAM}-{}-llvm-{llvm}", versions::BPF_LINKER));
    let built = home.join("bin").join(PROGRAM);
    if built.exists() {
        return Ok(built);
    }
    // A linker does not tell its LLVM. Who installed one and a nightly installed a pair; to
    // Debian's compiler it need not fit.
    let installed = tools::on_path(PROGRAM).filter(|_| toolchain.source == Source::Rustup);
    if let Some(installed) = installed {
        return Ok(installed);
    }
    if !versions::BPF_LINKER_LLVM.contains(&llvm) {
        bail!(
            "{PROGRAM} {} does not know LLVM {llvm}, the one of {}; install a {PROGRAM} that does",
            versions::BPF_LINKER,
            toolchain.rustc.display()
        );
    }
    install(&home, llvm)?;
    Ok(built)
}

fn install(home: &Path, llvm: u32) -> Result<()> {
    let prefix = llvm_prefix(llvm)?;
    let why = format!("no {PROGRAM} for LLVM {llvm} here");
    tool::install(PROGRAM, versions::BPF_LINKER, home, &why, |cargo| {
        cargo
            .args(["--no-default-features", "--features"])
            .arg(format!("llvm-{llvm}"))
            .env("LLVM_PREFIX", prefix)
            .env("LD_LIBRARY_PATH", tools::tree().library_path());
    })
}

/// The directory with LLVM's headers and libraries.
fn llvm_prefix(llvm: u32) -> Result<PathBuf> {
    let directory = format!("usr/lib/llvm-{llvm}");
    let installed = Path::new("/").join(&directory);
    if installed.join("include/llvm-c").exists() {
        return Ok(installed);
    }
    if !Tree::is_possible() {
        bail!(
            "no {PROGRAM} here, and no LLVM {llvm} to build it against; \
             `cargo binstall {PROGRAM}` brings one"
        );
    }
    let tree = tools::tree();
    let packages = versions::debian_llvm(llvm);
    let packages = packages.each_ref().map(String::as_str);
    tree.install(
        &packages,
        &format!("{PROGRAM} is built against LLVM {llvm}"),
    )?;
    Ok(tree.root().join(directory))
}
