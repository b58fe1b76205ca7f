//! The program that builds the image.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use egress_lab::tools;

use crate::{process, workspace};

/// A program that builds images from a Containerfile.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Builder {
    Buildah,
    Podman,
    Docker,
}

/// A [`Builder`], and how it is run here.
pub(super) struct Engine {
    pub(super) builder: Builder,
    /// The program, and what stands in front of its arguments.
    pub(super) command: Vec<OsString>,
    pub(super) environment: Vec<(&'static str, OsString)>,
}

/// An image that an [`Engine`] holds.
pub(super) struct Image {
    id: String,
    tag: String,
}

impl Engine {
    /// The program that was asked for, or the first that is there.
    pub(super) fn find(wanted: Option<Builder>, context: &Path) -> Result<Engine> {
        let candidates = match &wanted {
            Some(builder) => std::slice::from_ref(builder),
            None => Builder::value_variants(),
        };
        let found = candidates
            .iter()
            .find_map(|builder| Some((*builder, tools::on_path(builder.name())?)));
        let names: Vec<_> = candidates.iter().map(|builder| builder.name()).collect();
        let (builder, program) = found.with_context(|| {
            format!(
                "no image was built, because there is no {}; {} has all that one is made of",
                names.join(", no "),
                workspace::relative(context).display()
            )
        })?;
        Ok(Engine {
            builder,
            command: vec![program.into()],
            environment: Vec::new(),
        })
    }

    /// Builds the image of what is in `context`.
    pub(super) fn build(&self, context: &Path, tag: &str) -> Result<Image> {
        let id = context.join("image-id");
        let mut command = self.command()?;
        command.args(["build", "--tag", tag, "--iidfile"]).arg(&id);
        command.arg("--file").arg(context.join("Containerfile"));
        process::run(command.arg(context))?;
        let read = fs::read_to_string(&id);
        let id = read.with_context(|| format!("cannot read {}", id.display()))?;
        Ok(Image {
            id: id.trim().to_owned(),
            tag: tag.to_owned(),
        })
    }

    /// Writes the image to a file that each of the three programs, and containerd, can load.
    pub(super) fn save(&self, image: &Image, archive: &Path) -> Result<()> {
        let mut command = self.command()?;
        match self.builder {
            Builder::Buildah => {
                let to = format!("docker-archive:{}:{}", archive.display(), image.tag);
                command.args(["push", &image.id, &to])
            }
            Builder::Podman | Builder::Docker => {
                let to = command.args(["save", "--output"]).arg(archive);
                to.arg(&image.tag)
            }
        };
        process::run(&mut command)
    }

    fn command(&self) -> Result<Command> {
        let (program, arguments) = self.command.split_first().context("no program to run")?;
        let mut command = Command::new(program);
        command.args(arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }
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
