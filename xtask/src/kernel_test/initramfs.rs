//! The guest's file system: busybox, `ip`, the tests and what they need, in memory.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use egress_lab::debian::Tree;
use egress_lab::tools;

use super::Tests;
use super::modules::Modules;
use super::reading::MARK;
use crate::process;

const DIRECTORIES: [&str; 9] = [
    "bin", "dev", "lib", "lib64", "proc", "run", "sbin", "sys", "tmp",
];

/// Tells the tests that this kernel has every protocol that they try, so that one which it lacks is a
/// failure and not a reason to be content.
const EVERY_PROTOCOL: &str = "EGRESS_TEST_EVERY_PROTOCOL";

/// What the tests and the guest's init call.
const APPLETS: [&str; 7] = ["cat", "insmod", "mount", "poweroff", "sh", "sleep", "uname"];

/// Writes the initramfs for the kernel `release` below `home`.
///
/// # Errors
///
/// Fails when something that belongs into it is missing, or the disk is full.
pub(super) fn make(tree: &Tree, release: &str, tests: &Tests, home: &Path) -> Result<PathBuf> {
    let root = home.join("root");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    for directory in DIRECTORIES {
        fs::create_dir_all(root.join(directory))?;
    }
    let busybox = tree.file("bin/busybox")?;
    copy(&busybox, &root.join("bin/busybox"))?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    let kernel = tree.file(&format!("lib/modules/{release}"))?;
    let modules = Modules::install(&busybox, &kernel, &root.join("modules"))?;
    add_program(
        &tools::locate("ip")?.command(),
        &root.join("sbin/ip"),
        &root,
    )?;
    add_program(&Command::new(&tests.binary), &root.join("test"), &root)?;
    write_init(&root.join("init"), &modules, &tests.names)?;
    pack(&busybox, &root, &home.join("initramfs.cpio"))
}

/// The guest's first process: file systems, modules, loopback, the tests, off. A warning of the
/// kernel while they run, such as a failed assertion, is printed and ends the guest. Modules are
/// loaded beforehand: busybox does not wait for one that another process is loading.
fn write_init(path: &Path, modules: &[String], names: &[String]) -> Result<()> {
    let (modules, names) = (modules.join(" "), names.join(" "));
    let script = format!(
        r#"#!/bin/sh
export PATH=/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs tmp /tmp
for module in {modules}; do
    insmod /modules/$module.ko || {{ echo "{MARK} cannot load $module"; poweroff -f; }}
done
ip link set lo up
echo 5 > /proc/sys/kernel/printk
echo 1 > /proc/sys/kernel/panic_on_warn
echo "{MARK} release $(uname -r)"
{EVERY_PROTOCOL}=1 /test {names} 2>&1
echo "{MARK} exit $?"
poweroff -f
"#
    );
    fs::write(path, script)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Copies the program of `command` to `to`, and its shared libraries to where the guest's loader
/// looks for them.
fn add_program(command: &Command, to: &Path, root: &Path) -> Result<()> {
    let program = Path::new(command.get_program());
    let program = program
        .canonicalize()
        .with_context(|| format!("cannot find {}", program.display()))?;
    copy(&program, to)?;
    for library in libraries(&program, command)? {
        let name = library.file_name().context("a library has a name")?;
        // The loader is the one that programs name by its path.
        let is_loader = library.starts_with("/lib64") || library.starts_with("/usr/lib64");
        let directory = root.join(if is_loader { "lib64" } else { "lib" });
        copy(&library, &directory.join(name))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// The shared libraries of `program` and its loader, as found with the environment of `command`.
fn libraries(program: &Path, command: &Command) -> Result<BTreeSet<PathBuf>> {
    let mut ldd = Command::new("ldd");
    ldd.arg(program);
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            ldd.env(key, value);
        }
    }
    let listed = process::output(&mut ldd)
        .with_context(|| format!("ldd cannot read {}", program.display()))?;
    if let Some(missing) = listed.lines().find(|line| line.contains("not found")) {
        bail!("{} lacks a library: {}", program.display(), missing.trim());
    }
    Ok(listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect())
}

/// Writes `root` as a newc archive, the form that the kernel reads, with everything owned by root.
fn pack(busybox: &Path, root: &Path, archive: &Path) -> Result<PathBuf> {
    let mut names = String::new();
    list(root, Path::new("."), &mut names)?;
    let mut cpio = Command::new(busybox)
        .args(["cpio", "-o", "-H", "newc", "-R", "0:0"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(File::create(archive)?)
        .stderr(Stdio::null())
        .spawn()
        .context("cannot run busybox")?;
    let mut stdin = cpio.stdin.take().context("busybox has no input")?;
    stdin.write_all(names.as_bytes())?;
    drop(stdin);
    if !cpio.wait()?.success() {
        bail!("cannot pack {}", archive.display());
    }
    Ok(archive.to_owned())
}

fn list(root: &Path, below: &Path, names: &mut String) -> Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let name = below.join(entry.file_name());
        names.push_str(&format!("{}\n", name.display()));
        if entry.file_type()?.is_dir() {
            list(root, &name, names)?;
        }
    }
    Ok(())
}
