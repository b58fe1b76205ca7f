//! `cargo xtask ci`: what has to hold before a change is taken.

use std::time::Instant;

use anyhow::{Result, anyhow};
use clap::ValueEnum;

use crate::{build_ebpf, demo, fuzz, image, kernel_test, process, test, workspace};

mod deny;

/// Check everything: format, lints, documentation, dependencies, tests, image, demo.
///
/// Stops at the first step that fails and says how to repeat it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask ci               every step
  cargo xtask ci clippy docs   these two")]
pub(crate) struct Args {
    /// The steps to take; all of them if none is named.
    steps: Vec<Step>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Step {
    /// rustfmt has nothing to change.
    Format,
    /// The kernel programs compile without a warning, clippy's included.
    Kernel,
    /// Everything else compiles without a warning, clippy's included.
    Clippy,
    /// The documentation builds without a warning.
    Docs,
    /// Licences, sources and advisories of the dependencies are acceptable; one TLS stack.
    Deny,
    /// `cargo xtask test`.
    Test,
    /// `cargo xtask fuzz`, ten seconds for each target.
    Fuzz,
    /// The container image builds, and what is in it runs where nothing else is.
    Image,
    /// `cargo xtask kernel-test`.
    Kernels,
    /// `cargo xtask demo`.
    Demo,
}

/// Takes the steps in their order.
///
/// # Errors
///
/// Fails with the first step that fails.
pub(crate) fn run(args: &Args) -> Result<()> {
    let started = Instant::now();
    let all = Step::value_variants();
    let steps = if args.steps.is_empty() {
        all
    } else {
        &args.steps
    };
    let mut left_out = Vec::new();
    for step in steps {
        println!("\n==> {}", step.name());
        let step_started = Instant::now();
        step.take(&mut left_out).map_err(|error| {
            anyhow!(
                "{error:#}\nto repeat this step: cargo xtask ci {}",
                step.name()
            )
        })?;
        println!(
            "==> {} took {:.1} s",
            step.name(),
            step_started.elapsed().as_secs_f64()
        );
    }
    println!(
        "\n{} steps passed, {:.0} s",
        steps.len(),
        started.elapsed().as_secs_f64()
    );
    for what in left_out {
        println!("{what}");
    }
    Ok(())
}

impl Step {
    fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// Takes the step. What of it cannot be done here, without being a failure, is added to
    /// `left_out`.
    fn take(self, left_out: &mut Vec<String>) -> Result<()> {
        match self {
            Self::Format => process::run(workspace::cargo().args(["fmt", "--all", "--check"])),
            Self::Kernel => {
                build_ebpf::lint()?;
                build_ebpf::run(&build_ebpf::Args::default())
            }
            Self::Clippy => clippy(),
            Self::Docs => docs(),
            Self::Deny => deny::run(left_out),
            Self::Test => test::run(&test::Args::default()),
            Self::Fuzz => fuzz::run(&fuzz::Args::of(10)),
            Self::Image => match image::impossible() {
                Some(why) => leave_out("image not built", why, left_out),
                None => image::prove(),
            },
            Self::Kernels => match kernel_test::impossible() {
                Some(why) => leave_out("kernels not tested", why, left_out),
                None => kernel_test::run(&kernel_test::Args::default()),
            },
            Self::Demo => demo::run(&demo::Args::default()),
        }
    }
}

/// Says what cannot be done here, and why, and adds it to `left_out`.
fn leave_out(what: &str, why: &str, left_out: &mut Vec<String>) -> Result<()> {
    let what = format!("{what}: {why}");
    println!("{what}");
    left_out.push(what);
    Ok(())
}

/// The kernel programs are not for this machine, and linted by [`build_ebpf::lint`].
fn clippy() -> Result<()> {
    build_ebpf::build()?;
    process::run(
        workspace::cargo()
            .args(["clippy", "--workspace", "--exclude", build_ebpf::PACKAGE])
            .args(["--all-targets", "--", "--deny=warnings"]),
    )?;
    // Without what can be left out.
    process::run(
        workspace::cargo()
            .args([
                "clippy",
                "--package",
                "egress-user",
                "--no-default-features",
            ])
            .args(["--", "--deny=warnings"]),
    )
}

fn docs() -> Result<()> {
    build_ebpf::build()?;
    process::run(
        workspace::cargo()
            .args(["doc", "--workspace", "--exclude", build_ebpf::PACKAGE])
            .args(["--no-deps", "--document-private-items"])
            .env("RUSTDOCFLAGS", "--deny=warnings"),
    )
}
