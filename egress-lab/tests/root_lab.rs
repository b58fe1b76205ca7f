//! The laboratory itself, before anything is tested in it. Needs root.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of a test fails by panicking, as the test does"
)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use egress_lab::cgroup::mount_point;
use egress_lab::{
    Authority, Cgroup, Lab, Names, Namespace, Origins, Process, Site, Wire, process, wait,
};
use rustix::process::{Pid, Signal, kill_process};

const EN: Site = Site::new("en.wikipedia.org", 10);
const DE: Site = Site::new("de.wikipedia.org", 20);

fn curl(lab: &Lab, authority: &Authority, address: IpAddr, path: &str) -> Command {
    let mut curl = lab.app.namespace.command("curl").unwrap();
    curl.args([
        "--disable",
        "--silent",
        "--show-error",
        "--max-time",
        "60",
        "--cacert",
    ])
    .arg(authority.certificate())
    .args(["--resolve", &format!("{}:443:{address}", EN.name)])
    .arg(format!("https://{}{path}", EN.name));
    curl
}

#[test]
fn a_namespace_has_loopback_alone_and_a_path_that_others_can_open() {
    let namespace = Namespace::new().unwrap();
    let mut ip = namespace.command("ip").unwrap();
    let links = ip.args(["-o", "link"]).output().unwrap().stdout;
    let links = String::from_utf8(links).unwrap();
    assert!(
        links
            .lines()
            .all(|line| line.contains("lo:") || line.contains("NOARP")),
        "{links}"
    );
    assert!(links.contains("lo: <LOOPBACK,UP"), "{links}");

    let other = process::command("readlink")
        .arg(namespace.path())
        .output()
        .unwrap();
    let other = String::from_utf8(other.stdout).unwrap();
    let here = fs::read_link("/proc/self/ns/net").unwrap();
    assert!(other.starts_with("net:["), "{other}");
    assert_ne!(Path::new(other.trim()), here);
}

#[test]
fn the_application_reaches_origins_directly_and_everybody_sees_it() {
    let lab = Lab::new().unwrap();
    let authority = Authority::new(lab.directory()).unwrap();
    let origins = Origins::start(&lab, &authority, &[EN, DE]).unwrap();
    let wire = Wire::watch(&lab, &lab.app).unwrap();

    for address in EN.addresses() {
        let output = curl(&lab, &authority, address, "/").output().unwrap();
        let page = String::from_utf8_lossy(&output.stdout);
        assert!(
            page.contains("<title>en.wikipedia.org</title>"),
            "{output:?}"
        );
        let [(target, count)] = wire.sent_to(&lab.app, address).unwrap()[..] else {
            panic!("one target");
        };
        assert_eq!((target.port, count.syns), (443, 1));
    }

    let arrived = origins.arrived(&lab, EN.name).unwrap();
    let clients: Vec<_> = arrived.iter().map(|arrival| arrival.client.ip()).collect();
    assert_eq!(clients, lab.app.addresses());
    assert_eq!(origins.requests(EN.name), ["GET / 200", "GET / 200"]);

    assert_eq!(origins.arrived(&lab, DE.name).unwrap(), []);
    for address in DE.addresses() {
        assert_eq!(wire.sent_to(&lab.app, address).unwrap(), []);
    }
}

#[test]
fn origins_serve_files_and_keep_what_is_uploaded() {
    let lab = Lab::new().unwrap();
    let authority = Authority::new(lab.directory()).unwrap();
    let origins = Origins::start(&lab, &authority, &[EN]).unwrap();
    fs::write(origins.files().join("note"), "a note").unwrap();

    let address = EN.v4.into();
    let mut get = curl(&lab, &authority, address, "/files/note");
    assert_eq!(get.output().unwrap().stdout, b"a note");

    let mut put = curl(&lab, &authority, address, "/upload/copy");
    put.arg("--upload-file").arg(origins.files().join("note"));
    assert!(put.status().unwrap().success());
    assert_eq!(fs::read(origins.uploads().join("copy")).unwrap(), b"a note");
}

#[test]
fn an_origin_s_address_without_an_origin_refuses_connections() {
    let lab = Lab::new().unwrap();
    let authority = Authority::new(lab.directory()).unwrap();
    let output = curl(&lab, &authority, EN.v4.into(), "/").output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
}

#[test]
fn names_are_those_given_and_no_others() {
    let lab = Lab::new().unwrap();
    let names = Names::start(&lab, &[(EN.name, EN.addresses())]).unwrap();
    let ask = |name: &str| {
        let script = "import socket, struct, sys\n\
            question = b''.join(bytes([len(l)]) + l.encode() for l in sys.argv[1].split('.'))\n\
            message = struct.pack('!6H', 7, 256, 1, 0, 0, 0) + question + b'\\0\\0\\1\\0\\1'\n\
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
            s.settimeout(60)\n\
            s.sendto(message, ('203.0.113.53', 53))\n\
            answer = s.recv(512)\n\
            print(answer[3] & 15, *answer[-4:])";
        let mut python = lab.gateway.namespace.command("python3").unwrap();
        let output = python.args(["-c", script, name]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(ask(EN.name), "0 203 0 113 10\n");
    assert!(ask("de.wikipedia.org").starts_with("3 "));
    assert_eq!(
        names.queries(),
        ["A en.wikipedia.org", "A de.wikipedia.org"]
    );
}

#[test]
fn a_cgroup_holds_its_process_and_ends_it() {
    let lab = Lab::new().unwrap();
    let cgroup = Cgroup::new().unwrap();
    let mut sleep = process::command("sleep");
    sleep.arg("600");
    lab.app.namespace.enter(&mut sleep).unwrap();
    cgroup.enter(&mut sleep).unwrap();
    let mut sleep = Process::start(sleep, "sleep", lab.directory()).unwrap();

    assert_eq!(cgroup.processes(), [sleep.id()]);
    let membership = fs::read_to_string(format!("/proc/{}/cgroup", sleep.id())).unwrap();
    let below = cgroup.path().strip_prefix(mount_point().unwrap()).unwrap();
    assert!(
        membership.contains(&format!("0::/{}\n", below.display())),
        "{membership}"
    );

    let path = cgroup.path().to_owned();
    drop(cgroup);
    assert!(!path.exists());
    assert!(!sleep.ended().unwrap().success());
}

#[test]
fn a_process_ends_with_its_owner() {
    let lab = Lab::new().unwrap();
    let mut sleep = process::command("sleep");
    sleep.arg("600");
    let process = Process::start(sleep, "sleep", lab.directory()).unwrap();
    let directory = format!("/proc/{}", process.id());
    assert!(Path::new(&directory).exists());
    drop(process);
    assert!(!Path::new(&directory).exists());
}

/// Starts the lab of `main.rs` and gives what it says its cgroup and directory are.
fn lab_program() -> (Child, [String; 2]) {
    let mut child = process::command(env!("CARGO_BIN_EXE_egress-lab"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let lines: Vec<String> = lines
        .by_ref()
        .map(Result::unwrap)
        .take_while(|line| !line.starts_with("press Ctrl-C"))
        .collect();
    let value = |label: &str| {
        let line = lines.iter().find_map(|line| line.strip_prefix(label));
        line.unwrap().trim().to_owned()
    };
    (child, [value("cgroup"), value("directory")])
}

/// The processes that were started with `directory` among their arguments.
fn processes_of(directory: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let commands =
        entries.filter_map(|entry| fs::read_to_string(entry.path().join("cmdline")).ok());
    commands
        .filter(|command| command.contains(directory))
        .collect()
}

#[test]
fn a_signal_leaves_nothing_behind() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let (mut child, [cgroup, directory]) = lab_program();
        assert!(Path::new(&cgroup).exists() && Path::new(&directory).exists());
        assert!(!processes_of(&directory).is_empty());

        // Its end would be a reason of its own to stop, and waiting closes it.
        let _stdin = child.stdin.take();
        kill_process(Pid::from_child(&child), signal).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(128 + signal.as_raw()));
        assert!(!Path::new(&cgroup).exists() && !Path::new(&directory).exists());
        wait::until("its processes are gone", || {
            processes_of(&directory).is_empty().then_some(())
        })
        .unwrap();
    }
}

#[test]
fn a_kill_leaves_no_process_behind_and_the_next_lab_tidies_up() {
    let (mut child, [cgroup, directory]) = lab_program();
    child.kill().unwrap();
    child.wait().unwrap();
    wait::until("its processes are gone", || {
        processes_of(&directory).is_empty().then_some(())
    })
    .unwrap();
    drop(Cgroup::new().unwrap());
    assert!(!Path::new(&cgroup).exists());
    fs::remove_dir_all(directory).unwrap();
}
