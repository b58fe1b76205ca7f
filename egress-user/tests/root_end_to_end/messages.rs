//! What is said about things that take root to get wrong.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};

use egress_lab::{Cgroup, Namespace, process};

use crate::world::egress;

const HIDDEN: &str = "the cgroup v2 hierarchy cannot be seen from here, as under `ip netns exec`, \
                      which hides /sys: enter the namespace with `nsenter --net=/run/netns/NAME` \
                      instead";

fn said(mut command: Command) -> (String, Output) {
    let output = command.output().unwrap();
    let said = [&*output.stdout, &*output.stderr].concat();
    (String::from_utf8(said).unwrap(), output)
}

/// As `ip netns exec` has it.
const IN_ITS_PLACE: &str = "umount --lazy /sys && mount -t sysfs sysfs /sys";

const OVER_IT: &str = "mount -t sysfs sysfs /sys";

/// In a network namespace, and with a /sys of it.
fn with_another_sys(how: &str, arguments: &[&str]) -> (String, Output) {
    let namespace = Namespace::new().unwrap();
    let mut command = namespace.command("unshare").unwrap();
    let script = format!("{how} && exec \"$0\" \"$@\"");
    command.args(["--mount", "sh", "-c", &script]).arg(egress());
    command.args(arguments);
    said(command)
}

#[test]
fn cgroups_that_cannot_be_seen() {
    let run = ["run", "--allow", "example.org", "--", "true"];
    for how in [IN_ITS_PLACE, OVER_IT] {
        for arguments in [&run[..], &["selftest"]] {
            let (said, output) = with_another_sys(how, arguments);
            assert_eq!(output.status.code(), Some(125), "{said}");
            assert_eq!(said, format!("egress: {HIDDEN}\n"));
        }
    }
}

#[test]
fn the_check_of_an_agent_that_cannot_see_cgroups() {
    let dir = tempfile::tempdir().unwrap();
    let pki = dir.path().join("pki");
    let (said_of_pki, output) = {
        let mut command = process::command(egress());
        command.args(["pki", "init"]).arg(&pki);
        said(command)
    };
    assert!(output.status.success(), "{said_of_pki}");
    let policy = dir.path().join("policy.yaml");
    fs::write(&policy, "version: 1\nrules: []\n").unwrap();
    let file = |name: &str| pki.join(name).to_str().unwrap().to_owned();
    let (certificate, key, bundle) = (file("agent.pem"), file("agent-key.pem"), file("ca.pem"));
    let (said, _) = with_another_sys(
        IN_ITS_PLACE,
        &[
            "agent",
            "--check",
            "--gateways=127.0.0.1:1",
            "--cgroup=/sys/fs/cgroup/jobs",
            "--policy",
            policy.to_str().unwrap(),
            "--certificate",
            &certificate,
            "--key",
            &key,
            "--bundle",
            &bundle,
        ],
    );
    assert!(said.contains(&format!("warning: {HIDDEN}\n")), "{said}");
}

/// A name in the place of a path, and a file that is none of a namespace.
#[test]
fn namespaces_that_are_none() {
    let cgroup = Cgroup::new().unwrap();
    let start = |namespace: &str| {
        let mut command = process::command(egress());
        command.args(["selftest", "--cgroup"]).arg(cgroup.path());
        command.args(["--netns", namespace]).current_dir("/");
        said(command).0
    };
    assert_eq!(
        start("job"),
        "egress: cannot open the network namespace job (is /run/netns/job meant?): No such file or \
         directory (os error 2)\n"
    );
    assert_eq!(
        start("/etc/hosts"),
        "egress: /etc/hosts is not the file of a network namespace\n"
    );
}

#[test]
fn the_self_test_without_root() {
    let mut command = process::command(egress());
    command
        .arg("selftest")
        .uid(65534)
        .gid(65534)
        .current_dir("/");
    let (said, output) = said(command);
    assert_eq!(output.status.code(), Some(125), "{said}");
    let wanted = "egress: the self-test takes root, for instance by sudo: cannot make the cgroup";
    assert!(said.starts_with(wanted), "{said}");
}
