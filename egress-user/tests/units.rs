//! The systemd units in deploy: what they start finds its files, and tells when it is ready.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails by panicking, as the test does"
)]

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use egress_lab::{lab, process};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn deploy(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    fs::read_to_string(path.join(name)).unwrap()
}

fn setting<'a>(unit: &'a str, key: &str) -> &'a str {
    let mut lines = unit.lines();
    lines
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .unwrap()
}

/// `/etc/egress` as deploy/README.md says to fill it.
fn etc() -> tempfile::TempDir {
    let dir = lab::scratch().unwrap();
    for name in ["policy.yaml", "agent.yaml", "gateway.yaml"] {
        fs::write(dir.path().join(name), deploy(name)).unwrap();
    }
    let mut pki = process::command(env!("CARGO_BIN_EXE_egress"));
    let pki = pki.args(["pki", "init"]).arg(dir.path().join("certs"));
    assert!(pki.output().unwrap().status.success());
    dir
}

/// What a unit starts, with this folder for `/etc/egress`.
fn started(unit: &str, etc: &Path) -> Command {
    let line = setting(unit, "ExecStart").replace("/etc/egress", etc.to_str().unwrap());
    let mut words = line.split(' ');
    assert_eq!(words.next(), Some("/usr/local/bin/egress"));
    let mut command = process::command(env!("CARGO_BIN_EXE_egress"));
    command.args(words);
    command
}

#[test]
fn what_they_start_finds_its_files() {
    let etc = etc();
    for name in ["egress-agent.service", "egress-gateway.service"] {
        let output = started(&deploy(name), etc.path())
            .arg("--check")
            .output()
            .unwrap();
        assert!(output.status.success(), "{name}: {output:?}");
    }
}

#[test]
fn the_slice_is_there_and_is_what_the_agent_captures() {
    let agent = deploy("egress-agent.service");
    assert_eq!(setting(&agent, "Requires"), "workloads.slice");
    assert!(setting(&agent, "After").contains("workloads.slice"));
    assert!(deploy("workloads.slice").contains("[Install]"));
    assert!(deploy("agent.yaml").contains("cgroup: /sys/fs/cgroup/workloads.slice\n"));
}

#[test]
fn a_service_manager_is_told_when_the_gateway_serves() {
    let etc = etc();
    let unit = deploy("egress-gateway.service");
    assert_eq!(setting(&unit, "Type"), "notify");
    let socket: PathBuf = etc.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let mut gateway = started(&unit, etc.path())
        .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .env("NOTIFY_SOCKET", &socket)
        .spawn()
        .unwrap();
    let mut said = [0; 64];
    let length = manager.recv(&mut said).unwrap();
    assert_eq!(&said[..length], b"READY=1");
    kill(Pid::from_raw(gateway.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(gateway.wait().unwrap().success());
}
