//! The kernel's modules that the guest loads before the tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use object::{Object as _, ObjectSection as _};

use crate::process;

/// What the tests and the product may ask the kernel for, and the cloud kernels do not have built
/// in: the tests' network devices, what a guard hangs on where there is no tcx, and the protocols
/// that nothing redirects.
const WANTED: [&str; 8] = [
    "veth",
    "bridge",
    "tun",
    "sch_ingress",
    "cls_bpf",
    "sctp",
    "dccp_ipv4",
    "dccp_ipv6",
];

/// The modules of one kernel, on their way into the guest.
pub(super) struct Modules<'a> {
    busybox: &'a Path,
    /// By name.
    available: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
    to: PathBuf,
    /// In the order in which they can be loaded.
    installed: Vec<String>,
}

impl<'a> Modules<'a> {
    /// Puts the modules of the `kernel`, a directory like `/lib/modules/6.1.0`, and those that they
    /// need into the directory `to`. Returns their names, each after those that it needs.
    ///
    /// # Errors
    ///
    /// Fails when the kernel has no such module, or one cannot be read.
    pub(super) fn install(busybox: &'a Path, kernel: &Path, to: &Path) -> Result<Vec<String>> {
        let mut available = BTreeMap::new();
        find(&kernel.join("kernel"), &mut available)?;
        let built_in = fs::read_to_string(kernel.join("modules.builtin"))
            .with_context(|| format!("cannot read what {} has built in", kernel.display()))?;
        let built_in = built_in.lines().map(Path::new).filter_map(name_of);
        let mut modules = Self {
            busybox,
            available,
            built_in: built_in.collect(),
            to: to.to_owned(),
            installed: Vec::new(),
        };
        fs::create_dir_all(to)?;
        for name in WANTED {
            modules.add(name)?;
        }
        Ok(modules.installed)
    }

    /// The kernel's build refuses modules that need each other in a circle.
    fn add(&mut self, name: &str) -> Result<()> {
        if self.built_in.contains(name) || self.installed.iter().any(|other| other == name) {
            return Ok(());
        }
        let module = self.available.get(name);
        let module = module.with_context(|| format!("the kernel has no module {name}"))?;
        let plain = self.to.join(format!("{name}.ko"));
        unpack(self.busybox, module, &plain)?;
        let needed = dependencies(&plain)
            .with_context(|| format!("cannot read the module {}", module.display()))?;
        for name in needed {
            self.add(&name)?;
        }
        self.installed.push(name.to_owned());
        Ok(())
    }
}

/// Collects the modules below `directory` by name.
fn find(directory: &Path, modules: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            find(&entry.path(), modules)?;
        } else if let Some(name) = name_of(&entry.path()) {
            modules.insert(name, entry.path());
        }
    }
    Ok(())
}

/// `cls_bpf` for `…/cls_bpf.ko.xz`. A dash and an underscore are the same to the kernel.
fn name_of(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (name, _) = file.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

fn unpack(busybox: &Path, module: &Path, to: &Path) -> Result<()> {
    let extension = module.extension().unwrap_or_default().to_string_lossy();
    match extension.as_ref() {
        "ko" => {
            fs::copy(module, to)?;
            Ok(())
        }
        "xz" => process::run(
            Command::new(busybox)
                .arg("unxz")
                .stdin(File::open(module)?)
                .stdout(File::create(to)?),
        ),
        other => bail!(
            "cannot unpack {}: unknown compression {other}",
            module.display()
        ),
    }
}

/// What the module says that it needs: `depends=a,b` in its section `.modinfo`, a list of strings
/// that end with a zero byte.
fn dependencies(module: &Path) -> Result<Vec<String>> {
    let bytes = fs::read(module)?;
    let file = object::File::parse(bytes.as_slice())?;
    let section = file.section_by_name(".modinfo");
    let information = section.context("it has no .modinfo")?.data()?;
    Ok(information
        .split(|byte| *byte == 0)
        .filter_map(|entry| entry.strip_prefix(b"depends="))
        .flat_map(|names| names.split(|byte| *byte == b','))
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).replace('-', "_"))
        .collect())
}
