//! Tools from crates.io that the build fetches for itself.

use std::fs;
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
    eprintln!(
        "{why}: compiling {package} {version} into {}, once",
        workspace::relative(home).display()
    );
    let build_dir = workspace::tools().join("build");
    // Otherwise cargo ends with the advice to do this.
    let path = process::path_with(&home.join("bin"))?;
    let mut cargo = workspace::cargo();
    cargo
        .args(["install", "--locked", package, "--version", version])
        .arg("--root")
        .arg(home)
        .arg("--target-dir")
        .arg(&build_dir)
        .env("PATH", path);
    configure(&mut cargo);
    process::run(&mut cargo)?;
    fs::remove_dir_all(&build_dir).with_context(|| format!("cannot remove {}", build_dir.display()))
}
