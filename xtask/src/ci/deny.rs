//! The dependencies, by the rules in `deny.toml`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use egress_lab::tools;

use crate::{process, tool, versions, workspace};

const PROGRAM: &str = "cargo-deny";

/// Checks licences, sources and banned crates, and advisories where their database can be had.
/// Where it cannot, says so and adds it to `left_out`.
///
/// # Errors
///
/// Fails when a dependency breaks a rule.
pub(super) fn run(left_out: &mut Vec<String>) -> Result<()> {
    let program = find()?;
    process::run(deny(&program).args(["check", "bans", "licenses", "sources"]))?;
    match fetch_advisories(&program)? {
        Ok(()) => process::run(deny(&program).args(["check", "advisories"])),
        Err(why) => {
            let what = format!("advisories not checked: {why}");
            println!("{what}");
            left_out.push(what);
            Ok(())
        }
    }
}

/// The installed `cargo-deny` if it has the right version, else one of ours.
fn find() -> Result<PathBuf> {
    let home = workspace::tools().join(format!("{PROGRAM}-{}", versions::CARGO_DENY));
    let ours = home.join("bin").join(PROGRAM);
    if ours.exists() {
        return Ok(ours);
    }
    let wanted = format!("{PROGRAM} {}", versions::CARGO_DENY);
    let installed = tools::on_path(PROGRAM).filter(|installed| {
        process::output(Command::new(installed).arg("--version")).as_ref() == Some(&wanted)
    });
    if let Some(installed) = installed {
        return Ok(installed);
    }
    tool::install(
        PROGRAM,
        versions::CARGO_DENY,
        &home,
        &format!("no {wanted} here to check the dependencies with"),
        |_| {},
    )?;
    Ok(ours)
}

/// The inner result is the reason for which the database cannot be had.
fn fetch_advisories(program: &Path) -> Result<Result<(), String>> {
    let output = deny(program)
        .args(["fetch", "db"])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {PROGRAM}"))?;
    if output.status.success() {
        return Ok(Ok(()));
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let last = errors.lines().rfind(|line| !line.trim().is_empty());
    Ok(Err(last
        .unwrap_or("the database cannot be fetched")
        .trim()
        .to_owned()))
}

fn deny(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(workspace::root())
        .args(["--workspace", "--log-level", "error"]);
    command
}
