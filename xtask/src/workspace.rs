//! Where things are in the workspace.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::process;

/// The directory that holds the workspace's `Cargo.toml`.
pub(crate) fn root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// Tools that the build fetched for itself.
pub(crate) fn tools() -> PathBuf {
    root().join("target/tools")
}

/// The object with the kernel programs; egress-user embeds it.
pub(crate) fn ebpf_object() -> PathBuf {
    root().join("target/ebpf/egress-ebpf.o")
}

/// `path` as a person in the workspace's directory would type it.
pub(crate) fn relative(path: &Path) -> &Path {
    path.strip_prefix(root()).unwrap_or(path)
}

/// The target that rustc compiles for when it is told none: this machine.
///
/// # Errors
///
/// Fails when rustc does not say.
pub(crate) fn host_triple() -> Result<String> {
    let version = process::output(Command::new("rustc").arg("-vV")).context("cannot run rustc")?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc did not name its host")?.to_owned())
}

/// The cargo that runs this program, in the workspace's directory.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(cargo_path());
    command.current_dir(root());
    command
}

/// The executable of [`cargo`].
pub(crate) fn cargo_path() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

/// What cargo knows about the workspace.
pub(crate) struct Metadata(Value);

impl Metadata {
    /// Asks cargo.
    ///
    /// # Errors
    ///
    /// Fails when a manifest cannot be read.
    pub(crate) fn read() -> Result<Self> {
        let json = process::output(cargo().args(["metadata", "--no-deps", "--format-version=1"]))
            .context("`cargo metadata` failed")?;
        Ok(Self(serde_json::from_str(&json)?))
    }

    /// Where cargo puts what it builds for this machine.
    ///
    /// # Errors
    ///
    /// Fails when cargo did not say.
    pub(crate) fn target_directory(&self) -> Result<PathBuf> {
        let path = self.0.get("target_directory").and_then(Value::as_str);
        Ok(path.context("cargo named no target directory")?.into())
    }

    /// The names of the integration tests of the packages that are built for this machine, in
    /// alphabetical order.
    pub(crate) fn integration_tests(&self) -> BTreeSet<String> {
        let members: Vec<&Value> = array(&self.0, "workspace_default_members").collect();
        array(&self.0, "packages")
            .filter(|package| package.get("id").is_some_and(|id| members.contains(&id)))
            .flat_map(|package| array(package, "targets"))
            .filter(|target| array(target, "kind").any(|kind| kind == "test"))
            .filter_map(|target| target.get("name").and_then(Value::as_str))
            .map(str::to_owned)
            .collect()
    }
}

fn array<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value
        .get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}
