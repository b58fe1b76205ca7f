//! `cargo xtask ci image`: the image is built from deploy/Containerfile, and what is in it runs
//! where nothing else is.
//!
//! Only the binary is another one: linked in the same way, but not optimised, which would take
//! minutes.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use egress_lab::debian::Tree;
use egress_lab::tools;

use super::archive::{self, Unpacked};
use super::engine::{Builder, Engine};
use crate::{build, build_ebpf, process, workspace};

/// Where it is unpacked from when the machine does not have it.
const BUILDAH: &str = "buildah";

/// A name that only the image's own /etc/hosts knows.
const GATEWAY: &str = "gateway.example.org";

/// Where [`GATEWAY`] is. Nobody connects.
const ADDRESS: &str = "192.0.2.7";

const NO_ROOT: &str = "it takes root, and this user gets no user namespace to be root of (unshare \
                       --map-root-user): run this as root";

/// Runtimes mount /dev into containers; a static binary gets its random numbers from there.
const ENTER: &str = r#"mount --rbind /dev "$0/dev" && exec chroot "$0" "$@""#;

/// What is tried in the image, and what it must print.
const TRIALS: &[(&str, &str)] = &[
    ("--version", concat!("egress ", env!("CARGO_PKG_VERSION"))),
    ("policy check /policy.yaml", "policy.yaml: "),
    ("pki init /certs", "/certs/gateway.pem"),
    (
        "gateway --check --listen 127.0.0.1:8443 --policy /policy.yaml --bundle /certs/ca.pem \
         --certificate /certs/gateway.pem --key /certs/gateway-key.pem",
        "spiffe://egress.local/gateway/default",
    ),
    (
        "agent --check --gateways gateway.example.org:8443 --policy /policy.yaml \
         --bundle /certs/ca.pem --certificate /certs/agent.pem --key /certs/agent-key.pem \
         --cgroup /sys/fs/cgroup/workloads.slice",
        "gateway.example.org:8443, now at 192.0.2.7",
    ),
];

/// Why no image can be built on this machine, if so.
pub(crate) fn impossible() -> Option<&'static str> {
    if tools::locate(BUILDAH).is_err() && !Tree::is_possible() {
        return Some(
            "there is no buildah, and no apt-get and dpkg-deb to unpack Debian's: install buildah",
        );
    }
    if as_root().is_none() {
        return Some(NO_ROOT);
    }
    None
}

/// Builds the image and tries what is in it.
///
/// # Errors
///
/// Fails when something does not compile, the image cannot be built, or what is in it does not do
/// what it should.
pub(crate) fn prove() -> Result<()> {
    build_ebpf::build()?;
    let binary = build::static_dev_binary()?;
    let home = workspace::root().join("target/image-proof");
    if home.exists() {
        fs::remove_dir_all(&home).with_context(|| format!("cannot remove {}", home.display()))?;
    }
    let context = home.join("context");
    super::fill(&context, &binary)?;
    let engine = buildah(&home)?;
    let image = engine.build(&context, &super::usual_tag())?;
    let archive = home.join("image.tar");
    engine.save(&image, &archive)?;
    let image = archive::unpack(&archive, &home.join("unpacked"))?;
    furnish(&image.root)?;
    for (arguments, wanted) in TRIALS {
        attempt(&image, arguments, wanted)?;
    }
    // It is as large as all that was compiled into it, four times.
    fs::remove_dir_all(&home).with_context(|| format!("cannot remove {}", home.display()))
}

/// Puts in what is mounted into containers.
fn furnish(root: &Path) -> Result<()> {
    let etc = root.join("etc");
    let dev = root.join("dev");
    for folder in [&etc, &dev] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let policy = workspace::root().join("deploy/policy.yaml");
    let policy =
        fs::read_to_string(&policy).with_context(|| format!("cannot read {}", policy.display()))?;
    for (name, text) in [
        ("policy.yaml", policy),
        ("etc/hosts", format!("{ADDRESS} {GATEWAY}\n")),
        ("etc/resolv.conf", "nameserver 192.0.2.53\n".to_owned()),
    ] {
        let path = root.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Runs what the image runs, in its root and with these arguments, and reads what it prints.
fn attempt(image: &Unpacked, arguments: &str, wanted: &str) -> Result<()> {
    let output = Command::new("unshare")
        .args(as_root().context(NO_ROOT)?)
        .args(["sh", "-c", ENTER])
        .arg(&image.root)
        .args(&image.entrypoint)
        .args(arguments.split(' '))
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .output()
        .context("cannot run unshare")?;
    let (said, complained) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let what = format!("{} {arguments}", image.entrypoint.join(" "));
    ensure!(
        output.status.success(),
        "in the image, `{what}` failed ({}): {said}{complained}",
        output.status
    );
    ensure!(
        said.contains(wanted),
        "in the image, `{what}` does not say `{wanted}`: {said}{complained}"
    );
    println!("in the image: {what}");
    Ok(())
}

/// The machine's own or Debian's, with images below `home`, where nothing of the user's or the
/// machine's is touched.
fn buildah(home: &Path) -> Result<Engine> {
    if tools::locate(BUILDAH).is_err() {
        tools::tree().install(&[BUILDAH], "no buildah on this machine")?;
    }
    let tool = tools::locate(BUILDAH)?;
    let settings = home.join(".config/containers");
    fs::create_dir_all(&settings).with_context(|| format!("cannot make {}", settings.display()))?;
    // Nothing is pulled; without the file nothing can be saved.
    let policy = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
    fs::write(settings.join("policy.json"), policy)?;
    // Other drivers need the kernel's help, or another program's.
    let storage = format!(
        "[storage]\ndriver = \"vfs\"\ngraphroot = \"{0}/images\"\nrunroot = \"{0}/run\"\n",
        home.display()
    );
    let storage_conf = home.join("storage.conf");
    fs::write(&storage_conf, storage)?;
    let mut command = vec![OsString::from("unshare")];
    command.extend(as_root().context(NO_ROOT)?.iter().map(OsString::from));
    command.push(tool.path.into());
    let mut environment: Vec<(&'static str, OsString)> = vec![
        ("HOME", home.into()),
        ("CONTAINERS_STORAGE_CONF", storage_conf.into()),
        ("BUILDAH_ISOLATION", "chroot".into()),
    ];
    environment.extend(tool.library_path.map(|path| ("LD_LIBRARY_PATH", path)));
    Ok(Engine {
        builder: Builder::Buildah,
        command,
        environment,
    })
}

/// How `unshare` makes a command root, if only of a user namespace, with mounts of its own.
fn as_root() -> Option<&'static [&'static str]> {
    const WAYS: &[&[&str]] = &[&["--mount", "--map-root-user"], &["--mount"]];
    let works = |flags: &&&[&str]| {
        let mut command = Command::new("unshare");
        process::output(command.args(**flags).arg("true")).is_some()
    };
    WAYS.iter().find(works).copied()
}
