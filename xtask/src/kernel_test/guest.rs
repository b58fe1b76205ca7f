//! The virtual machine: QEMU without KVM, and what comes back over its serial line.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use egress_lab::debian::Tree;
use egress_lab::{Process, tools};

use super::reading::Reading;
use super::{Tests, initramfs, print};
use crate::{versions, workspace};

/// Two processors, because races are what the tests look for, but emulated in turn by one thread:
/// with a thread each, a processor may run an `int3` that the other has already patched away
/// again, and the kernel, which does that to its own text, dies of it. No device but the serial
/// line.
const MACHINE: &str = "-accel tcg,thread=single -cpu max -smp 2 -m 2048 -nodefaults -no-reboot \
                       -display none -serial stdio";

/// An oops ends the guest, as a panic does. What protects processors from each other's speculation, and
/// a fifth level of page tables, cost an emulated one a tenth of its time.
const COMMAND_LINE: &str =
    "console=ttyS0 quiet oops=panic panic=-1 mitigations=off no5lvl rdinit=/init";

/// How often the serial line is looked at.
const PAUSE: Duration = Duration::from_millis(100);

/// Boots Debian's kernel of the `series` and runs the tests in it.
///
/// # Errors
///
/// Fails when the packages cannot be had, or the guest cannot be made. A guest that does not come
/// up or to an end is a reading that did not pass.
pub(super) fn run(series: &str, tests: &Tests, limit: Duration) -> Result<Reading> {
    tools::provide(&["ip"])?;
    let tree = tools::tree();
    let (prefix, suffix) = versions::DEBIAN_KERNEL;
    let package = tree.newest(&format!("{prefix}{series}."), suffix)?;
    let mut packages = versions::DEBIAN_QEMU.to_vec();
    packages.push(&package);
    tree.install(&packages, "to boot another kernel")?;

    let release = package.trim_start_matches(prefix);
    let home = workspace::root().join("target/kernel-test").join(series);
    fs::create_dir_all(&home).with_context(|| format!("cannot create {}", home.display()))?;
    let _lock = lock(&home)?;
    let initramfs = initramfs::make(&tree, release, tests, &home)?;
    let qemu = qemu(&tree, release, &initramfs)?;
    let mut guest = Process::start(qemu, "guest", &home)?;
    let reading = follow(series, &mut guest, limit)?;
    if reading.release().is_empty() {
        print(series, "the guest did not come up; it said:");
        for line in guest.output().lines() {
            print(series, &line.escape_debug().to_string());
        }
    }
    Ok(reading)
}

/// Waits for another run that uses the same files.
fn lock(home: &Path) -> Result<File> {
    let path = home.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    file.lock()
        .with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

fn qemu(tree: &Tree, release: &str, initramfs: &PathBuf) -> Result<Command> {
    let mut command = Command::new(tree.file("usr/bin/qemu-system-x86_64")?);
    command.env("LD_LIBRARY_PATH", tree.library_path());
    for firmware in ["usr/share/qemu", "usr/share/seabios"] {
        command.arg("-L").arg(tree.file(firmware)?);
    }
    let kernel = tree.file(&format!("boot/vmlinuz-{release}"))?;
    command
        .args(MACHINE.split_whitespace())
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", COMMAND_LINE]);
    Ok(command)
}

/// Shows what the guest prints from its first own line on, to its end or until the time is over.
fn follow(series: &str, guest: &mut Process, limit: Duration) -> Result<Reading> {
    let started = Instant::now();
    let mut reading = Reading::default();
    let mut seen = 0;
    loop {
        // Asked first, so that nothing is printed after the output is read for the last time.
        let ended = guest.status()?.is_some();
        let output = guest.output();
        // A line is complete when the next one has begun.
        let complete = output.matches('\n').count();
        let lines = if ended { usize::MAX } else { complete };
        for line in output.lines().take(lines).skip(seen) {
            reading.read(line);
            // Before it there is the firmware, with its escape sequences.
            if !reading.release().is_empty() {
                print(series, line.trim_end());
            }
        }
        seen = complete;
        if ended {
            return Ok(reading);
        }
        if started.elapsed() > limit {
            reading.trouble(format!("still running after {} s", limit.as_secs()));
            return Ok(reading);
        }
        sleep(PAUSE);
    }
}
