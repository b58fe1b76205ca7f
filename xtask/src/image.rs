//! `cargo xtask image`: the container image of the binary, with nothing else in it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use object::{Object as _, ObjectKind};

use crate::{build, build_ebpf, workspace};

mod archive;
mod engine;
mod proof;

pub(crate) use proof::{impossible, prove};

use engine::{Builder, Engine};

/// Build a static `egress` and, with buildah, podman or docker, the container image of it.
///
/// The binary is linked statically with glibc, which every Rust toolchain on a glibc machine can do;
/// it needs /etc/resolv.conf, and /dev, which runtimes mount. Nothing else has to be in the image.
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

/// Builds the binary and the image, and prints the image's name.
///
/// # Errors
///
/// Fails when something does not compile, the binary turns out to need libraries, or no image can
/// be built; the binary is there then.
pub(crate) fn run(args: &Args) -> Result<()> {
    build_ebpf::build()?;
    let context = workspace::root().join("target/image");
    fill(&context, &build::static_binary()?)?;
    let tag = args.tag.clone().unwrap_or_else(usual_tag);
    let engine = Engine::find(args.with, &context)?;
    let image = engine.build(&context, &tag)?;
    if let Some(archive) = &args.archive {
        engine.save(&image, archive)?;
    }
    println!("{tag}");
    Ok(())
}

fn usual_tag() -> String {
    format!("egress:{}", env!("CARGO_PKG_VERSION"))
}

/// Puts the Containerfile, and what it copies, into the folder `context`.
fn fill(context: &Path, binary: &Path) -> Result<()> {
    check_static(binary)?;
    fs::create_dir_all(context).with_context(|| format!("cannot make {}", context.display()))?;
    let containerfile = workspace::root().join("deploy/Containerfile");
    for (from, name) in [(&*containerfile, "Containerfile"), (binary, build::BINARY)] {
        fs::copy(from, context.join(name))
            .with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(())
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
