//! The tests on the kernel that runs.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use egress_lab::tools;

use super::reading::Reading;
use super::{Tests, print};
use crate::process;

/// What `timeout` exits with when it had to end the command.
const TIMED_OUT: i32 = 124;

/// Runs the tests as root, through sudo where the user is not root.
///
/// # Errors
///
/// Fails when root cannot be had or the tests cannot be started.
pub(super) fn run(name: &str, tests: &Tests, limit: Duration) -> Result<Reading> {
    let mut command = as_root()?;
    // A process of root's cannot be ended from here. The terminal's Ctrl-C still reaches it.
    command.args(["timeout", "--foreground", "--kill-after=10"]);
    command.arg(limit.as_secs().to_string());
    command.arg(&tests.binary).args(&tests.names);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run the tests")?;
    let mut reading = Reading::default();
    let release = process::output(Command::new("uname").arg("-r"));
    reading.set_release(&release.context("cannot run uname")?);
    let output = child.stdout.take().context("the tests have no output")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        print(name, &line);
        reading.read(&line);
    }
    let status = child.wait()?;
    match status.code() {
        Some(TIMED_OUT) => {
            reading.trouble(format!("still running after {} s", limit.as_secs()));
        }
        Some(code) => reading.set_exit(code),
        None => reading.trouble(format!(
            "ended by signal {}",
            status.signal().unwrap_or_default()
        )),
    }
    Ok(reading)
}

/// The beginning of a command that runs as root.
fn as_root() -> Result<Command> {
    if rustix::process::geteuid().is_root() {
        return Ok(Command::new("env"));
    }
    let Some(sudo) = tools::on_path("sudo") else {
        bail!("the kernel tests need root, and there is no sudo: run this as root");
    };
    eprintln!("the kernel tests need root: asking sudo");
    process::run(Command::new(&sudo).arg("--validate"))?;
    let mut command = Command::new(sudo);
    command.arg("--");
    Ok(command)
}
