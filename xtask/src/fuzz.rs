//! `cargo xtask fuzz`: throws bytes at everything that reads a peer's.

use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::{process, workspace};

/// Tells the compiler to note which branches an input takes, as libFuzzer wants it. These are
/// flags of LLVM's that the stable compiler passes on.
const COVERAGE: &str = "--cfg fuzzing -C debug-assertions -C codegen-units=1 -C passes=sancov-module \
    -C llvm-args=-sanitizer-coverage-level=4 -C llvm-args=-sanitizer-coverage-inline-8bit-counters \
    -C llvm-args=-sanitizer-coverage-pc-table -C llvm-args=-sanitizer-coverage-trace-compares";

/// The targets, each with the directories of its seeds.
const TARGETS: [(&str, &[&str]); 6] = [
    ("hello", &["egress-user/tests/hellos"]),
    ("hello_rustls", &["egress-user/tests/hellos"]),
    ("flight", &[]),
    ("frame", &[]),
    ("header", &["fuzz/seeds/header"]),
    ("policy", &["deploy"]),
];

/// Throw bytes at everything that reads a peer's.
///
/// Each target first reads its seeds, which are in the repository, then changes them. What it
/// finds on the way is kept in target/fuzz/corpus, and what breaks it in target/fuzz/artifacts.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask fuzz                          every target for 10 seconds
  cargo xtask fuzz --seconds 600 hello      one of them for 10 minutes
  cargo xtask fuzz --seconds 0              the seeds alone")]
pub(crate) struct Args {
    /// Seconds for each target.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// The targets; all of them if none is named.
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(TARGETS.map(|(name, _)| name)))]
    targets: Vec<String>,
}

impl Args {
    /// Every target for as long.
    pub(crate) fn of(seconds: u64) -> Args {
        Args {
            seconds,
            targets: Vec::new(),
        }
    }
}

/// Builds the targets and runs as many at once as there are processors.
///
/// # Errors
///
/// Fails when one does not compile, or an input breaks it.
pub(crate) fn run(args: &Args) -> Result<()> {
    let directory = build()?;
    let wanted = |name: &str| args.targets.is_empty() || args.targets.iter().any(|t| t == name);
    let targets = TARGETS.into_iter().filter(|(name, _)| wanted(name));
    let left = Mutex::new(targets);
    let take = || locked(&left).next();
    let broken = Mutex::new(Vec::new());
    let work = || {
        while let Some((name, seeds)) = take() {
            let started = Instant::now();
            match fuzz(&directory.join(name), name, seeds, args.seconds) {
                Ok(()) => println!("{name:<14} ok, {:.0} s", started.elapsed().as_secs_f64()),
                Err(error) => locked(&broken).push(format!("{error:#}")),
            }
        }
    };
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        for _ in 0..processors {
            scope.spawn(work);
        }
    });
    let broken = locked(&broken);
    if !broken.is_empty() {
        bail!("{}", broken.join("\n"));
    }
    Ok(())
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives the directory with the programs.
fn build() -> Result<PathBuf> {
    let host = workspace::host_triple()?;
    let target = workspace::root().join("target/fuzz");
    println!("building the fuzz targets");
    process::run(
        workspace::cargo()
            .args(["build", "--locked", "--profile=fuzz", "--bins"])
            .arg("--manifest-path=fuzz/Cargo.toml")
            // Named, so that build scripts and macros are built without the flags.
            .args(["--target", &host, "--target-dir"])
            .arg(&target)
            .env("RUSTFLAGS", COVERAGE),
    )?;
    Ok(target.join(host).join("fuzz"))
}

fn fuzz(program: &Path, name: &str, seeds: &[&str], seconds: u64) -> Result<()> {
    let home = workspace::root().join("target/fuzz");
    let corpus = home.join("corpus").join(name);
    let artifacts = home.join("artifacts").join(name);
    for directory in [&corpus, &artifacts] {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
    }
    let log = home.join(format!("{name}.log"));
    let output =
        fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new(program);
    command
        .current_dir(workspace::root())
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args(["-print_final_stats=1", "-rss_limit_mb=2048", "-timeout=10"])
        .arg(&corpus)
        .args(seeds)
        .stdout(output.try_clone()?)
        .stderr(output);
    if seconds == 0 {
        command.arg("-runs=0");
    } else {
        command.arg(format!("-max_total_time={seconds}"));
    }
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !status.success() {
        let said = fs::read_to_string(&log).unwrap_or_default();
        let mut last: Vec<&str> = said.lines().rev().take(40).collect();
        last.reverse();
        bail!(
            "{name} broke, see {}\n{}",
            workspace::relative(&log).display(),
            last.join("\n")
        );
    }
    Ok(())
}
