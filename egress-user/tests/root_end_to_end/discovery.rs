//! Network namespaces that nobody named: the agent finds them by the cgroup of their processes.

use std::process::Command;

use egress_lab::{Namespace, Process, process, tools, wait};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};

use super::clients::run;
use super::world::{EN, IBM, Wish, World};

/// Fetches a page as soon as the kernel lets it, and says so. Until its namespace has been
/// found the kernel refuses (EPERM, 1): never does it get through in another way.
pub(crate) const SCRIPT: &str = r#"
import errno, socket, ssl, sys, time
address, name, authority = sys.argv[1:]
# While it is not captured: refused, or with no way out where that passes.
uncaptured = (errno.EPERM, errno.ENETUNREACH)
deadline = time.monotonic() + 60
while True:
    try:
        raw = socket.create_connection((address, 443))
        break
    except OSError as error:
        if error.errno not in uncaptured or time.monotonic() > deadline: raise
        time.sleep(0.001)
tls = ssl.create_default_context(cafile=authority).wrap_socket(raw, server_hostname=name)
tls.sendall(f"GET / HTTP/1.0\r\nHost: {name}\r\n\r\n".encode())
page = b""
while part := tls.recv(65536): page += part
print(page.decode().split("<title>")[1].split("</title>")[0])
"#;

fn elsewhere(world: &World, namespace: &Namespace, name: &str, address: &str) -> Command {
    let mut python = tools::locate("python3").unwrap().command();
    world.cgroup.enter(&mut python).unwrap();
    namespace.enter(&mut python).unwrap();
    python
        .args(["-c", SCRIPT, address, name])
        .arg(world.authority.certificate());
    python
}

#[test]
fn a_namespace_that_comes_later_is_captured() {
    let world = World::with(&Wish {
        capture: &["discover: [CGROUP]"],
        ..Wish::default()
    });
    let namespace = Namespace::new().unwrap();
    let address = EN.v4.to_string();
    let answer = run(&mut elsewhere(&world, &namespace, EN.name, &address));
    assert_eq!(answer.stdout, format!("{}\n", EN.name), "{answer:#?}");

    let records = world.finish();
    let (agent, gateway) = records.one_each();
    assert_eq!(agent.text("verdict"), "allowed");
    assert_eq!(gateway.text("verdict"), "allowed");
}

/// An agent that cannot look for processes does not take them for gone: where unregistered
/// namespaces pass, that would set them free.
#[test]
fn what_cannot_be_looked_for_stays_captured() {
    let world = World::with(&Wish {
        capture: &["discover: [CGROUP]", "unregistered: pass"],
        ..Wish::default()
    });
    let namespace = Namespace::new().unwrap();
    let mut sleep = process::command("sleep");
    sleep.arg("600");
    world.cgroup.enter(&mut sleep).unwrap();
    namespace.enter(&mut sleep).unwrap();
    let _sleep = Process::start(sleep, "sleep", world.lab.directory()).unwrap();
    let address = EN.v4.to_string();
    let fetch = || run(&mut elsewhere(&world, &namespace, EN.name, &address));
    // There is no way out of this namespace but the agent's.
    wait::until("the namespace is captured", || {
        fetch().success.then_some(())
    })
    .unwrap();

    let agent = &world.deployment.agent;
    let pid = Pid::from_raw(agent.id().try_into().unwrap());
    let none = Rlimit {
        current: Some(1),
        ..getrlimit(Resource::Nofile)
    };
    let before = prlimit(pid, Resource::Nofile, none).unwrap();
    wait::until("the agent sees nothing any more", || {
        agent.output().contains("none is released").then_some(())
    })
    .unwrap();
    prlimit(pid, Resource::Nofile, before).unwrap();
    let answer = fetch();
    assert!(answer.success, "{answer:#?}");
}

/// Connects once it is told to, from a namespace in which its first thread is not any more: that one
/// has ended, or has left for another and kept a socket.
const LEFT: &str = r#"
import ctypes, os, platform, socket, sys, threading
how, address = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
def connect(kept):
    sys.stdin.readline()
    try:
        kept = kept or socket.socket()
        kept.settimeout(60)
        kept.connect((address, 443))
        print("connected", flush=True)
    except OSError as error:
        print("failed", error, flush=True)
    os._exit(0)
print("begun", flush=True)
sys.stdin.readline()
if how == "thread":
    threading.Thread(target=connect, args=(None,)).start()
    print("left", flush=True)
    libc.syscall({"x86_64": 60, "aarch64": 93}[platform.machine()], 0)
kept = socket.socket()
assert libc.unshare(0x40000000) == 0, ctypes.get_errno()
print("left", flush=True)
connect(kept)
"#;

/// Where unregistered namespaces pass, a namespace that is released too early is free. Nothing but
/// loopback is in these, so that only a captured connection gets anywhere.
#[test]
fn nobody_leaves_a_namespace_to_be_released_from_capture() {
    let world = World::with(&Wish {
        capture: &["discover: [CGROUP]", "unregistered: pass"],
        ..Wish::default()
    });
    let start = |how: &str| {
        let namespace = Namespace::new().unwrap();
        let mut python = tools::locate("python3").unwrap().command();
        world.cgroup.enter(&mut python).unwrap();
        namespace.enter(&mut python).unwrap();
        python.args(["-c", LEFT, how, &EN.v4.to_string()]);
        let process = Process::start_with_input(python, how, world.lab.directory());
        (process.unwrap(), namespace)
    };
    let released = || {
        world
            .deployment
            .agent
            .output()
            .matches("released a network namespace")
            .count()
    };
    let mut processes = ["thread", "socket", "ends"].map(start);
    for (process, namespace) in &mut processes {
        process.says("begun").unwrap();
        wait::until("the namespace is captured", || {
            let mut python = tools::locate("python3").unwrap().command();
            world.cgroup.enter(&mut python).unwrap();
            namespace.enter(&mut python).unwrap();
            run(python.args(["-c", CONNECT, &EN.v4.to_string()]))
                .success
                .then_some(())
        })
        .unwrap();
    }
    let [(thread, _), (socket, _), (ends, _)] = &mut processes;
    for process in [&mut *thread, &mut *socket] {
        process.input(b"\n").unwrap();
        process.says("left").unwrap();
    }
    ends.signal(Signal::KILL).unwrap();
    // The third is found to be gone, and whoever was missed as long would be too.
    wait::until("a namespace is released", || (released() > 0).then_some(())).unwrap();
    for process in [&mut *thread, &mut *socket] {
        process.input(b"\n").unwrap();
        process.says("connected").unwrap();
    }
    assert_eq!(released(), 1);
}

/// The agent's own namespace is captured when a process of the cgroup is in it, but has no guard, which
/// would hold whoever else lives there, the agent's way to its gateways included.
#[test]
fn others_in_the_agents_own_namespace_are_left_alone() {
    let world = World::with(&Wish {
        capture: &["discover: [CGROUP]"],
        ..Wish::default()
    });
    let node = &world.lab.node.namespace;
    let address = EN.v4.to_string();
    let captured = run(&mut elsewhere(&world, node, EN.name, &address));
    assert_eq!(captured.stdout, format!("{}\n", EN.name), "{captured:#?}");

    let mut python = tools::locate("python3").unwrap().command();
    node.enter(&mut python).unwrap();
    python.args(["-c", SCRIPT, &address, EN.name]);
    python.arg(world.authority.certificate());
    let other = run(&mut python);
    assert_eq!(other.stdout, format!("{}\n", EN.name), "{other:#?}");

    // The gateway connected for the first, and the other came by itself.
    let from: Vec<_> = world.origins.arrived(&world.lab, EN.name).unwrap();
    assert_eq!(from.len(), 2, "{from:?}");
    world.finish().one_each();
}

/// Succeeds when the address can be connected to.
const CONNECT: &str = "
import socket, sys
socket.create_connection((sys.argv[1], 443)).close()
";

#[test]
fn what_is_discovered_is_judged_like_the_rest() {
    let world = World::with(&Wish {
        capture: &["discover: [CGROUP]"],
        ..Wish::default()
    });
    let namespace = Namespace::new().unwrap();
    let address = IBM.v4.to_string();
    let answer = run(&mut elsewhere(&world, &namespace, IBM.name, &address));
    assert!(answer.stderr.contains("ACCESS_DENIED"), "{answer:#?}");
    world.assert_nothing_arrived(IBM);
    assert_eq!(world.finish().agent_alone().text("reason"), "no_rule");
}

/// The self-test brings a namespace of its own, which the agent finds by its processes.
#[test]
fn the_self_test_passes_below_a_running_agent() {
    let world = World::with(&Wish {
        capture: &["discover: [CGROUP]"],
        ..Wish::default()
    });
    let output = process::command(crate::world::egress())
        .args(["selftest", "--output", "json", "--cgroup"])
        .arg(world.cgroup.path())
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap().iter();
    let wrong =
        checks.filter(|check| check["verdict"] != "pass" && check["verdict"] != "not_tried");
    let wrong: Vec<_> = wrong.map(|check| check["what"].as_str().unwrap()).collect();
    // Of what its kernel does not ask about an agent warns.
    let warning = "nothing is asked at the kernel's security hooks";
    let unasked = world.deployment.agent.output().contains(warning);
    let expected = ["packet socket past it, 32 bits"]
        .into_iter()
        .filter(|_| unasked);
    assert_eq!(wrong, expected.collect::<Vec<_>>(), "{report:#}");
    assert_eq!(output.status.code(), Some(unasked.into()), "{output:?}");
    assert!(report["passed"].as_u64().unwrap() > 30, "{report:#}");

    let records = world.finish();
    let redirected = records.agent.iter();
    let meant = redirected.filter(|record| record.text("original_dst") == "192.0.2.1:443");
    assert!(meant.count() > 5, "{:?}", records.agent);
    let reasons: Vec<&str> = records
        .kernel
        .iter()
        .map(|record| record.text("reason"))
        .collect();
    assert!(reasons.contains(&"refuse_udp"), "{reasons:?}");
}
