//! The workspace's own commands: `cargo xtask --help`.

use std::process::ExitCode;

use clap::Parser as _;

mod build;
mod build_ebpf;
mod ci;
mod demo;
mod fuzz;
mod image;
mod kernel_test;
mod process;
mod test;
mod tool;
mod versions;
mod workspace;

/// Builds, tests and demonstrates the workspace.
#[derive(Debug, clap::Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Build(build::Args),
    BuildEbpf(build_ebpf::Args),
    Ci(ci::Args),
    Demo(demo::Args),
    Fuzz(fuzz::Args),
    Image(image::Args),
    KernelTest(kernel_test::Args),
    Test(test::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Build(args) => build::run(&args),
        Command::BuildEbpf(args) => build_ebpf::run(&args),
        Command::Ci(args) => ci::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Image(args) => image::run(&args),
        Command::KernelTest(args) => kernel_test::run(&args),
        Command::Test(args) => test::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
