//! `cargo xtask test`: every test of the workspace, those that need the kernel as root.

use std::env;
use std::io::{BufRead as _, BufReader, IsTerminal as _};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use egress_lab::tools;

use crate::{build_ebpf, process, workspace};

mod tally;

use tally::Tally;

/// How the integration tests are named that need root: they attach programs to cgroups and make
/// network namespaces.
const ROOT_PREFIX: &str = "root_";

/// Sets how many tests run at once.
const THREADS: &str = "RUST_TEST_THREADS";

/// What a test run as root gets to see of the user's environment.
const KEPT_BY_SUDO: &str = "--preserve-env=CARGO_MANIFEST_DIR,CARGO_PKG_NAME,PROPTEST_CASES,\
     RUST_BACKTRACE,RUST_LOG,RUST_TEST_THREADS";

/// Build everything and run every test.
///
/// Everything is compiled by the user who calls. Only the tests in tests/root_*.rs run as root,
/// through sudo where the user is not root.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask test                 all tests
  cargo xtask test wildcard        those with `wildcard` in their name
  cargo xtask test --no-root       leave out those that need root, and say which")]
pub(crate) struct Args {
    /// Leave out the tests that need root.
    #[arg(long)]
    no_root: bool,
    /// Run the tests whose name contains this.
    filter: Option<String>,
}

/// Runs the tests and prints a summary.
///
/// # Errors
///
/// Fails when something does not compile, a test fails, no test matches the filter, or tests
/// that need root cannot get it.
pub(crate) fn run(args: &Args) -> Result<()> {
    let started = Instant::now();
    let runner = if args.no_root {
        None
    } else {
        Some(Runner::find()?)
    };
    build_ebpf::build()?;
    tools::provide(&tools::known())?;

    let (root, plain): (Vec<String>, Vec<String>) = workspace::Metadata::read()?
        .integration_tests()
        .into_iter()
        .partition(|name| name.starts_with(ROOT_PREFIX));
    let mut tally = Tally::default();
    let mut unit_and_plain = vec!["--lib".to_owned(), "--bins".to_owned()];
    unit_and_plain.extend(selected(&plain));
    cargo_test(&unit_and_plain, args, &Runner::User, &mut tally)?;
    cargo_test(&["--doc".to_owned()], args, &Runner::User, &mut tally)?;
    if let Some(runner) = runner.filter(|_| !root.is_empty()) {
        cargo_test(&selected(&root), args, &runner, &mut tally)?;
    }

    println!("\n{tally}, {:.0} s", started.elapsed().as_secs_f64());
    if args.no_root && !root.is_empty() {
        println!("not run, since they need root: {}", root.join(", "));
    }
    tally.verdict()
}

/// Who runs the test binaries.
enum Runner {
    User,
    Sudo,
}

impl Runner {
    /// The way to root from here.
    fn find() -> Result<Self> {
        if rustix::process::geteuid().is_root() {
            return Ok(Self::User);
        }
        if tools::on_path("sudo").is_none() {
            bail!(
                "some tests need root, and there is no sudo: run this as root, or leave them out \
                 with --no-root"
            );
        }
        eprintln!("some tests need root: asking sudo now, so that it does not ask in the middle");
        process::run(Command::new("sudo").arg("--validate"))
            .context("some tests need root and sudo does not give it; --no-root leaves them out")?;
        Ok(Self::Sudo)
    }

    /// Lets cargo, which stays with the user, start what it built through sudo.
    fn apply(&self, cargo: &mut Command) -> Result<()> {
        match self {
            Self::User => {}
            Self::Sudo => {
                cargo.env(runner_variable()?, format!("sudo {KEPT_BY_SUDO} --"));
            }
        }
        Ok(())
    }
}

fn runner_variable() -> Result<String> {
    let host = workspace::host_triple()?.to_uppercase().replace('-', "_");
    Ok(format!("CARGO_TARGET_{host}_RUNNER"))
}

fn selected(tests: &[String]) -> Vec<String> {
    tests
        .iter()
        .flat_map(|name| ["--test".to_owned(), name.clone()])
        .collect()
}

/// Runs `cargo test` for the selected targets, shows what it prints and adds up its results.
fn cargo_test(selection: &[String], args: &Args, runner: &Runner, tally: &mut Tally) -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo
        .args(["test", "--no-fail-fast"])
        .args(selection)
        .args(&args.filter)
        .stdout(Stdio::piped());
    if std::io::stdout().is_terminal() {
        cargo.args(["--", "--color=always"]);
    }
    runner.apply(&mut cargo)?;
    if selection.iter().any(|name| name.starts_with(ROOT_PREFIX)) && env::var_os(THREADS).is_none()
    {
        // Half of their time they wait for processes, clocks and the kernel.
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let threads = processors + processors.div_ceil(2);
        cargo.env(THREADS, threads.to_string());
    }
    let mut child = cargo.spawn().context("cannot run cargo")?;
    let output = child.stdout.take().context("cargo has no output")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        println!("{line}");
        tally.read(&line);
    }
    tally.finish(child.wait()?.success());
    Ok(())
}
