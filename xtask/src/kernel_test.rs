//! `cargo xtask kernel-test`: the kernel tests on other kernels than this machine's.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::{build_ebpf, process, workspace};

mod guest;

/// Run the kernel tests on Debian's kernels, in a virtual machine that is all software.
///
/// Kernels, QEMU and busybox are unpacked below target/tools; nothing is installed. The guest is an
/// initramfs with the test binary in it, made on the spot. Needs no root and no /dev/kvm.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask kernel-test                  6.1 and 6.12
  cargo xtask kernel-test --kernel 6.1     one of them
  cargo xtask kernel-test --kernel host    the machine's own, as root")]
pub(crate) struct Args {
    /// The kernels to test on.
    #[arg(long = "kernel", value_enum, default_values = ["6.1", "6.12"])]
    kernels: Vec<Kernel>,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            kernels: vec![Kernel::V6_1, Kernel::V6_12],
        }
    }
}

/// A kernel that the programs are tested on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kernel {
    /// Debian 12's.
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13's.
    #[value(name = "6.12")]
    V6_12,
    /// The one that runs.
    Host,
}

/// What a kernel made of the tests.
pub(crate) struct Outcome {
    release: String,
    /// libtest's closing line.
    result: String,
    passed: bool,
}

/// Runs the tests on each kernel and prints a line for each.
///
/// # Errors
///
/// Fails when the tests do not compile, a kernel cannot be had or started, or a test fails on one.
pub(crate) fn run(args: &Args) -> Result<()> {
    build_ebpf::build()?;
    let binary = test_binary()?;
    let mut failed = Vec::new();
    let mut lines = Vec::new();
    for kernel in &args.kernels {
        let started = Instant::now();
        let outcome = match kernel {
            Kernel::Host => on_host(&binary),
            Kernel::V6_1 | Kernel::V6_12 => guest::boot(*kernel, &binary),
        };
        let outcome = outcome.with_context(|| format!("kernel {}", kernel.name()))?;
        lines.push(format!(
            "{:<28} {}  ({:.0} s)",
            outcome.release,
            outcome.result,
            started.elapsed().as_secs_f64()
        ));
        if !outcome.passed {
            failed.push(kernel.name());
        }
    }
    println!();
    for line in lines {
        println!("{line}");
    }
    if !failed.is_empty() {
        bail!("the kernel tests failed on {}", failed.join(", "));
    }
    Ok(())
}

impl Kernel {
    fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }
}

impl Outcome {
    /// Reads what libtest printed.
    fn of(release: String, output: &str) -> Self {
        let result = output
            .lines()
            .rev()
            .find(|line| line.contains("test result: "));
        let result = result.and_then(|line| Some(line.split_once("test result: ")?.1.trim()));
        Self {
            release,
            passed: result.is_some_and(|result| result.starts_with("ok.")),
            result: result
                .unwrap_or("no result: the tests did not finish")
                .to_owned(),
        }
    }
}

/// Compiles the kernel tests and asks cargo where they are.
fn test_binary() -> Result<PathBuf> {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--package", "egress-user", "--test", "root_kernel"]);
    cargo.args(["--no-run", "--message-format=json-render-diagnostics"]);
    let messages = cargo.stderr(std::process::Stdio::inherit()).output();
    let messages = messages.context("cannot run cargo")?;
    let messages = String::from_utf8_lossy(&messages.stdout).into_owned();
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message.pointer("/target/name") == Some(&"root_kernel".into()))
        .find_map(|message| message.get("executable")?.as_str().map(PathBuf::from))
        .context("the kernel tests do not compile")
}

fn on_host(binary: &PathBuf) -> Result<Outcome> {
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new(binary)
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg(binary);
        sudo
    };
    let output = command.output().context("cannot run the tests")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let release = process::output(Command::new("uname").arg("-r")).unwrap_or_default();
    let outcome = Outcome::of(release, &text);
    if !outcome.passed {
        println!("{text}");
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_libtests_word_is_a_pass() {
        let outcome = |text: &str| Outcome::of("6.1".to_owned(), text).passed;
        assert!(outcome(
            "test a ... ok\n\ntest result: ok. 2 passed; 0 failed\n"
        ));
        assert!(!outcome("test result: FAILED. 1 passed; 1 failed\n"));
        assert!(!outcome("Kernel panic - not syncing\n"));
        assert!(!outcome(""));
    }
}
