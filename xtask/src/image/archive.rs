//! An image in a file, as `docker save` writes it, and each of the three programs and containerd
//! load it: a tar with `manifest.json`, a configuration, and a tar for each layer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::process;

/// What an image is run from.
pub(super) struct Unpacked {
    /// The folder that is its `/`.
    pub(super) root: PathBuf,
    /// The program and its first arguments.
    pub(super) entrypoint: Vec<String>,
}

/// Unpacks the image in `archive` below `home`, a folder that is not there yet.
pub(super) fn unpack(archive: &Path, home: &Path) -> Result<Unpacked> {
    let parts = home.join("parts");
    let root = home.join("root");
    extract(archive, &parts)?;
    let manifest = json(&parts.join("manifest.json"))?;
    let name = manifest.pointer("/0/Config").and_then(Value::as_str);
    let config = json(&parts.join(name.context("the image has no configuration")?))?;
    for layer in strings(manifest.pointer("/0/Layers")).context("the image has no layers")? {
        extract(&parts.join(layer), &root)?;
    }
    let entrypoint = strings(config.pointer("/config/Entrypoint"));
    Ok(Unpacked {
        root,
        entrypoint: entrypoint.context("the image does not say what it runs")?,
    })
}

fn extract(archive: &Path, into: &Path) -> Result<()> {
    fs::create_dir_all(into).with_context(|| format!("cannot make {}", into.display()))?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--no-same-owner", "--file"]);
    process::run(tar.arg(archive).arg("--directory").arg(into))
}

fn json(path: &Path) -> Result<Value> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", path.display()))
}

fn strings(value: Option<&Value>) -> Option<Vec<String>> {
    let texts = value?.as_array()?.iter();
    texts.map(|text| Some(text.as_str()?.to_owned())).collect()
}
