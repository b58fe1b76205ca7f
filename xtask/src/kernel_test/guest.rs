//! The virtual machine: an initramfs with busybox, `ip` and the tests, and QEMU without KVM.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use egress_lab::debian::Tree;
use egress_lab::tools;

use super::{Kernel, Outcome};
use crate::{process, versions, workspace};

/// Software emulation on a busy machine of two cores; an idle one takes half a minute for each kernel.
const LIMIT: Duration = Duration::from_secs(900);

/// The guest's first process: file systems, loopback, the tests, off.
const INIT: &str = "#!/bin/sh
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t tmpfs tmp /tmp
for module in veth tun sch_ingress cls_bpf; do insmod /$module.ko; done
ip link set lo up
echo RELEASE $(uname -r)
/test 2>&1
poweroff -f
";

/// Stands before the kernel's release in the guest's first line.
const RELEASE: &str = "RELEASE ";

/// Drivers of the tests' network devices, and what a guard hangs on where there is no tcx; init
/// loads them.
const MODULES: [&str; 4] = [
    "drivers/net/veth",
    "drivers/net/tun",
    "net/sched/sch_ingress",
    "net/sched/cls_bpf",
];

/// What the tests and the guest's init call.
const APPLETS: [&str; 8] = [
    "sh", "mount", "insmod", "poweroff", "uname", "echo", "cat", "sleep",
];

/// Boots `kernel` and runs the tests in it.
///
/// # Errors
///
/// Fails when the packages cannot be had, or QEMU cannot be started. A guest that says nothing of the
/// tests, or not in time, is an outcome that did not pass.
pub(super) fn boot(kernel: Kernel, tests: &Path) -> Result<Outcome> {
    let (package, prefix) = match kernel {
        Kernel::V6_1 => (versions::DEBIAN_KERNEL_6_1, "vmlinuz-6.1."),
        Kernel::V6_12 => (versions::DEBIAN_KERNEL_6_12, "vmlinuz-6.12."),
        Kernel::Host => bail!("the machine's own kernel needs no guest"),
    };
    let tree = tools::tree();
    let mut packages = versions::DEBIAN_QEMU.to_vec();
    packages.push(package);
    tree.install(&packages, "to boot another kernel")?;
    let image = newest(&tree.root().join("boot"), prefix)?;
    let initramfs = initramfs(&tree, &image, tests)?;
    println!("booting {}", workspace::relative(&image).display());
    run(&qemu(&tree, &image, &initramfs))
}

/// The kernel image with this prefix that was made last.
fn newest(boot: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(boot).with_context(|| format!("cannot read {}", boot.display()))?;
    let mut images: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect();
    images.sort_by_key(|path| fs::metadata(path).and_then(|meta| meta.modified()).ok());
    images.pop().with_context(|| {
        format!("the Debian packages of this machine's apt have no kernel {prefix}*")
    })
}

/// Packs everything that the guest needs.
fn initramfs(tree: &Tree, image: &Path, tests: &Path) -> Result<PathBuf> {
    let release = image.file_name().unwrap_or_default().to_string_lossy();
    let release = release.trim_start_matches("vmlinuz-").to_owned();
    let home = workspace::root().join("target/kernel-test");
    let root = home.join(&release);
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    for directory in ["bin", "sbin", "proc", "sys", "dev", "tmp", "run"] {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::copy(tree.root().join("bin/busybox"), root.join("bin/busybox"))
        .context("busybox was not unpacked")?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    let ip = tools::locate("ip")?.path.canonicalize()?;
    fs::copy(&ip, root.join("sbin/ip"))?;
    fs::copy(tests, root.join("test"))?;
    for library in libraries(&[tests, &ip])? {
        let to = root.join(library.strip_prefix("/")?);
        fs::create_dir_all(to.parent().context("a library has a folder")?)?;
        fs::copy(&library, to)?;
    }
    for path in MODULES {
        module(tree, &release, path, &root)?;
    }
    fs::write(root.join("init"), INIT)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    pack(tree, &root, &home.join(format!("{release}.cpio")))
}

/// A driver, which Debian's newer kernels keep compressed.
fn module(tree: &Tree, release: &str, path: &str, root: &Path) -> Result<()> {
    let modules = tree.root().join("lib/modules").join(release).join("kernel");
    let plain = modules.join(path).with_extension("ko");
    let to = root.join(plain.file_name().context("a driver has a name")?);
    if plain.exists() {
        fs::copy(plain, to)?;
        return Ok(());
    }
    let compressed = File::open(plain.with_extension("ko.xz"))
        .with_context(|| format!("the kernel {release} has no {path}"))?;
    process::run(
        Command::new(tree.root().join("bin/busybox"))
            .arg("unxz")
            .stdin(compressed)
            .stdout(File::create(to)?),
    )
}

/// The shared libraries of `programs` and the loader, as the machine's loader finds them.
fn libraries(programs: &[&Path]) -> Result<BTreeSet<PathBuf>> {
    let mut libraries = BTreeSet::new();
    for program in programs {
        let listed = process::output(Command::new("ldd").arg(program))
            .with_context(|| format!("ldd cannot read {}", program.display()))?;
        let paths = listed
            .split_whitespace()
            .filter(|word| word.starts_with('/'));
        libraries.extend(paths.map(PathBuf::from));
    }
    Ok(libraries)
}

/// Writes `root` as a newc archive, the form that the kernel reads.
fn pack(tree: &Tree, root: &Path, archive: &Path) -> Result<PathBuf> {
    let mut names = String::new();
    list(root, Path::new("."), &mut names)?;
    let mut cpio = Command::new(tree.root().join("bin/busybox"))
        .args(["cpio", "-o", "-H", "newc"])
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

fn qemu(tree: &Tree, image: &Path, initramfs: &Path) -> Vec<std::ffi::OsString> {
    let root = tree.root();
    let mut words: Vec<std::ffi::OsString> = vec![root.join("usr/bin/qemu-system-x86_64").into()];
    for firmware in ["usr/share/qemu", "usr/share/seabios"] {
        words.extend(["-L".into(), root.join(firmware).into()]);
    }
    let machine = "-accel tcg -cpu max -m 3000 -smp 2 -nographic -no-reboot -nic none";
    words.extend(machine.split(' ').map(Into::into));
    words.extend([
        "-kernel".into(),
        image.into(),
        "-initrd".into(),
        initramfs.into(),
    ]);
    words.extend(["-append", "console=ttyS0 quiet panic=1 rdinit=/init"].map(Into::into));
    words
}

/// Runs the guest to its end, shows what it prints, and reads the outcome from it.
fn run(words: &[std::ffi::OsString]) -> Result<Outcome> {
    let (program, args) = words.split_first().context("nothing to run")?;
    let mut guest = Command::new(program)
        .args(args)
        .env("LD_LIBRARY_PATH", tools::tree().library_path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start QEMU")?;
    let console = guest.stdout.take().context("QEMU has no output")?;
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            // The receiver is gone when the time is over.
            let _ = sender.send(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
    });
    let deadline = Instant::now() + LIMIT;
    let mut output = String::new();
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                // Before the guest speaks there is the firmware, with its escape sequences.
                if output.contains(RELEASE) {
                    println!("  {line}");
                }
                output.push_str(&line);
                output.push('\n');
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                guest.kill()?;
                println!("  ended by us: the limit of {} s is over", LIMIT.as_secs());
                break;
            }
        }
    }
    guest.wait()?;
    let release = output.lines().find_map(|line| line.split_once(RELEASE));
    let Some((_, release)) = release else {
        bail!(
            "the guest did not boot; it said:\n{}",
            output.escape_debug()
        );
    };
    Ok(Outcome::of(release.to_owned(), &output))
}
