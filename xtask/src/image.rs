//! `cargo xtask image`: the container image of the binary, with nothing else in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use egress_lab::tools;
use object::{Object as _, ObjectKind};

use crate::{build, build_ebpf, process, workspace};

/// Build a static `egress` and, with buildah, podman or docker, the container image of it.
///
/// The binary is linked statically with glibc, which every Rust toolchain on a glibc machine can do;
/// it needs no file of the image but /etc/resolv.conf.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask image                  with whichever of buildah, podman and docker is there
  cargo xtask image --with podman    with this one
  cargo xtask image --archive egress.tar    to a file too, for machines without a registry")]
pub(crate) struct Args {
    /// The program that builds the image [default: the first that is there].
    #[arg(long)]
    with: Option<Builder>,
    /// Name of the image [default: egress:VERSION, as in deploy/kubernetes].
    #[arg(long)]
    tag: Option<String>,
    /// Write the image to this file, as `docker save` does.
    #[arg(long, value_name = "FILE")]
    archive: Option<PathBuf>,
}

/// A program that builds images from a Containerfile.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Builder {
    Buildah,
    Podman,
    Docker,
}

/// Builds the binary and the image, and prints the image's name.
///
/// # Errors
///
/// Fails when something does not compile, the binary turns out to need libraries, or no image can
/// be built; the binary is there then.
pub(crate) fn run(args: &Args) -> Result<()> {
    build_ebpf::build()?;
    let context = context()?;
    let tag = match &args.tag {
        Some(tag) => tag.clone(),
        None => format!("egress:{}", env!("CARGO_PKG_VERSION")),
    };
    let (builder, program) = builder(args.with, &context)?;
    let mut command = Command::new(&program);
    command.args(["build", "--tag", &tag, "--file"]);
    command.arg(context.join("Containerfile")).arg(&context);
    process::run(&mut command)?;
    if let Some(archive) = &args.archive {
        save(builder, &program, &tag, archive)?;
    }
    println!("{tag}");
    Ok(())
}

/// A folder with the Containerfile and what it copies.
fn context() -> Result<PathBuf> {
    let binary = build::static_binary()?;
    check_static(&binary)?;
    let context = workspace::root().join("target/image");
    fs::create_dir_all(&context).with_context(|| format!("cannot make {}", context.display()))?;
    let containerfile = workspace::root().join("deploy/Containerfile");
    for (from, name) in [(&containerfile, "Containerfile"), (&binary, build::BINARY)] {
        fs::copy(from, context.join(name))
            .with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(context)
}

/// Whoever links something that is not there statically finds out here, not on a node.
fn check_static(binary: &Path) -> Result<()> {
    let bytes = fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?;
    let elf = object::File::parse(&*bytes)?;
    let libraries = elf.imports()?;
    let is_program = matches!(elf.kind(), ObjectKind::Dynamic | ObjectKind::Executable);
    let interpreted = elf.section_by_name(".interp").is_some();
    if !is_program || interpreted || !libraries.is_empty() {
        bail!("{} is not static", binary.display());
    }
    Ok(())
}

/// The program that was asked for, or the first that is there.
fn builder(wanted: Option<Builder>, context: &Path) -> Result<(Builder, PathBuf)> {
    let candidates = match &wanted {
        Some(builder) => std::slice::from_ref(builder),
        None => Builder::value_variants(),
    };
    let found = candidates
        .iter()
        .find_map(|builder| Some((*builder, tools::on_path(builder.name())?)));
    let names: Vec<_> = candidates.iter().map(|builder| builder.name()).collect();
    found.with_context(|| {
        format!(
            "no image was built, because there is no {}; {} has all that one is made of",
            names.join(", no "),
            workspace::relative(context).display()
        )
    })
}

/// Writes the image to a file that each of the three programs, and containerd, can load.
fn save(builder: Builder, program: &Path, tag: &str, archive: &Path) -> Result<()> {
    let mut command = Command::new(program);
    match builder {
        Builder::Buildah => {
            let to = format!("docker-archive:{}:{tag}", archive.display());
            command.args(["push", tag, &to])
        }
        Builder::Podman | Builder::Docker => {
            command.args(["save", "--output"]).arg(archive).arg(tag)
        }
    };
    process::run(&mut command)
}

impl Builder {
    fn name(self) -> &'static str {
        match self {
            Self::Buildah => "buildah",
            Self::Podman => "podman",
            Self::Docker => "docker",
        }
    }
}
