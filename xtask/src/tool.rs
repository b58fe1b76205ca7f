//! Tools from crates.io that the build fetches for itself.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{process, workspace};

/// Compiles version `version` of `package` into `home/bin`, after saying that and `why`.
/// `configure` adds what that package needs.
///
/// # Errors
///
/// Fails when it cannot be downloaded or does not compile.
pub(crate) fn install(
    package: &str,
    version: &str,
    home: &Path,
    why: &str,
    configure: impl FnOnce(&mut Command),
) -> Result<()> {
    let _lock = lock(home)?;
    let bin = home.join("bin");
    // Another process compiled it while this one waited for the lock.
    if bin.join(package).exists() {
        return Ok(());
    }
    eprintln!(
        "{why}: compiling {package} {version} into {}, once",
        workspace::relative(home).display()
    );
    let build_dir = home.join("build");
    let mut cargo = workspace::cargo();
    cargo
        .args(["install", "--locked", package, "--version", version])
        .arg("--root")
        .arg(home)
        .arg("--target-dir")
        .arg(&build_dir)
        // They work for a second or two, and take minutes to be optimised.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "256")
        // Otherwise cargo ends with the advice to do this.
        .env("PATH", process::path_with(&bin)?);
    configure(&mut cargo);
    process::run(&mut cargo)?;
    fs::remove_dir_all(&build_dir).with_context(|| format!("cannot remove {}", build_dir.display()))
}

/// Waits for another process that is about the same tool.
fn lock(home: &Path) -> Result<File> {
    fs::create_dir_all(home).with_context(|| format!("cannot create {}", home.display()))?;
    let path = home.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    file.lock()
        .with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}
