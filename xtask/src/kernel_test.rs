//! `cargo xtask kernel-test`: the kernel tests on other kernels than this machine's.

use std::path::PathBuf;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use egress_lab::debian::Tree;
use egress_lab::sweep;

use crate::{build_ebpf, workspace};

mod guest;
mod host;
mod initramfs;
mod modules;
mod reading;

/// Seconds. Software emulation on an idle core takes a fifth of it.
const LIMIT: u64 = 900;

/// Run the kernel tests on Debian's kernels, in a virtual machine that is all software.
///
/// Kernels, QEMU and busybox are unpacked below target/tools; nothing is installed. The guest is an
/// initramfs with the test binary in it, made on the spot. Needs no root and no /dev/kvm.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask kernel-test                  6.1 and 6.12
  cargo xtask kernel-test --kernel 6.1     one of them
  cargo xtask kernel-test strict guard     only tests with one of these in their names
  cargo xtask kernel-test --kernel host    the machine's own, as root")]
pub(crate) struct Args {
    /// The kernels to test on; may be given more than once.
    #[arg(long = "kernel", value_enum, default_values_t = [Kernel::V6_1, Kernel::V6_12])]
    kernels: Vec<Kernel>,
    /// Seconds after which a kernel has failed.
    #[arg(long, default_value_t = LIMIT)]
    limit: u64,
    /// Run only tests whose names contain one of these.
    #[arg(value_parser = part_of_a_name)]
    tests: Vec<String>,
}

/// What may stand in the name of a test, and needs no quotes in a guest's shell.
fn part_of_a_name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
    match text.chars().all(fits) {
        true => Ok(text.to_owned()),
        false => Err("names of tests have letters, digits, `_` and `:`".to_owned()),
    }
}

impl Default for Args {
    fn default() -> Self {
        Self {
            kernels: vec![Kernel::V6_1, Kernel::V6_12],
            limit: LIMIT,
            tests: Vec::new(),
        }
    }
}

/// What is run.
struct Tests {
    binary: PathBuf,
    /// Parts of the names of those that are run; of all when empty.
    names: Vec<String>,
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

/// Runs the tests on all kernels at once, since each keeps one core busy, and prints a line for
/// each. One that fails does not keep the others from their end.
///
/// # Errors
///
/// Fails when the tests do not compile, a kernel cannot be had or started, or a test fails on one.
pub(crate) fn run(args: &Args) -> Result<()> {
    let in_guest = args.kernels.iter().any(|kernel| *kernel != Kernel::Host);
    if let Some(why) = impossible().filter(|_| in_guest) {
        bail!("{why}; `--kernel host` tests on this machine's kernel");
    }
    sweep::on_signals()?;
    build_ebpf::build()?;
    let tests = Tests {
        binary: test_binary()?,
        names: args.tests.clone(),
    };
    let limit = Duration::from_secs(args.limit);
    let results: Vec<_> = thread::scope(|scope| {
        let start = |kernel: &Kernel| {
            let (kernel, tests) = (*kernel, &tests);
            scope.spawn(move || kernel.test(tests, limit))
        };
        let running: Vec<_> = args.kernels.iter().map(start).collect();
        running.into_iter().map(|thread| thread.join()).collect()
    });
    println!();
    let mut failed = Vec::new();
    for (kernel, result) in args.kernels.iter().zip(results) {
        let passed = result.is_ok_and(|(passed, line)| {
            println!("{line}");
            passed
        });
        if !passed {
            failed.push(kernel.name());
        }
    }
    if !failed.is_empty() {
        bail!("the kernel tests did not pass on {}", failed.join(", "));
    }
    Ok(())
}

/// Shows a line of what is said about or by one of several kernels.
fn print(kernel: &str, line: &str) {
    println!("{kernel:<4} | {line}");
}

/// Why no kernel can be booted on this machine, if so.
pub(crate) fn impossible() -> Option<&'static str> {
    if std::env::consts::ARCH != "x86_64" {
        return Some("kernels are booted on x86_64 only");
    }
    if !Tree::is_possible() {
        return Some("the kernels are Debian's, and this machine has no apt-get and dpkg-deb");
    }
    None
}

impl Kernel {
    /// Whether the tests pass, and the line that says so.
    fn test(self, tests: &Tests, limit: Duration) -> (bool, String) {
        let name = self.name();
        let started = Instant::now();
        let reading = match self {
            Self::Host => host::run(&name, tests, limit),
            Self::V6_1 | Self::V6_12 => guest::run(&name, tests, limit),
        };
        let (release, passed, result) = match reading {
            Ok(reading) => (
                reading.release().to_owned(),
                reading.passed(),
                reading.to_string(),
            ),
            Err(error) => (String::new(), false, format!("not tested: {error:#}")),
        };
        let seconds = started.elapsed().as_secs();
        (
            passed,
            format!("{name:<5} {release:<28} {seconds:>4} s  {result}"),
        )
    }

    fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }
}

/// Compiles the kernel tests, with the features that `cargo xtask test` gives them, and asks cargo
/// where they are.
fn test_binary() -> Result<PathBuf> {
    const TESTS: &str = "root_kernel";
    let output = workspace::cargo()
        .args(["test", "--no-run", "--test", TESTS])
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("the kernel tests do not compile");
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message.pointer("/target/name") == Some(&TESTS.into()))
        .find_map(|message| message.get("executable")?.as_str().map(PathBuf::from))
        .with_context(|| format!("cargo did not say where it put {TESTS}"))
}
