//! `egress selftest`: it passes where the capture holds, and fails where something of it is
//! missing. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper of a test fails by panicking, as the test does"
)]

use std::process::Output;

use egress_lab::{Cgroup, Namespace, process};
use egress_user::agent::capture::{Capture, CaptureOptions, Fallback, Scope};
use egress_user::netns::{Listeners, Netns, cookie_of_current, listen_on_loopback};
use serde_json::Value;

fn selftest(arguments: &[&str]) -> Output {
    process::command(env!("CARGO_BIN_EXE_egress"))
        .arg("selftest")
        .args(arguments)
        .output()
        .unwrap()
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// The checks with this verdict, each as its id and what it tries.
fn with_verdict(report: &Value, verdict: &str) -> Vec<String> {
    let checks = report["checks"].as_array().unwrap();
    let those = checks.iter().filter(|check| check["verdict"] == verdict);
    let text = |check: &Value, field: &str| check[field].as_str().unwrap().to_owned();
    those
        .map(|check| format!("{} {}", text(check, "id"), text(check, "what")))
        .collect()
}

#[test]
fn the_programs_of_this_binary_pass() {
    let output = selftest(&[]);
    let table = String::from_utf8_lossy(&output.stdout);
    let leaks: Vec<&str> = table.lines().filter(|line| is_leak(line)).collect();
    // What this kernel does not ask about, as the table says then.
    let unasked = leaks.len() == 1 && !asks_at_security_hooks();
    if unasked {
        assert!(leaks[0].contains(BY_32_BITS), "{table}");
        assert!(
            table.contains("started with `bpf` among its security modules"),
            "{table}"
        );
    }
    assert_eq!(output.status.code(), Some(unasked.into()), "{output:?}");
    assert!(table.contains("pass  A3   io_uring "), "{table}");
    let failed = if unasked {
        " passed, 1 failed, "
    } else {
        " passed, 0 failed, "
    };
    assert!(table.contains(failed), "{table}");
    let checks = table.lines().filter(|line| line.starts_with("pass  A"));
    assert!(checks.count() >= 35, "{table}");
}

/// What only a kernel holds that asks at its security hooks.
const BY_32_BITS: &str = "packet socket past it, 32 bits";

fn is_leak(line: &str) -> bool {
    line.starts_with("LEAK") || line.starts_with("FAIL")
}

fn asks_at_security_hooks() -> bool {
    let capture = Capture::load(&options()).unwrap();
    capture.security_hooks().is_ok()
}

fn options() -> CaptureOptions {
    CaptureOptions {
        unregistered: Fallback::Pass,
        exempt_cgroup: None,
        resolvers: Vec::new(),
        heartbeat: None,
        pins: None,
        security_hooks: true,
        log: false,
    }
}

/// A captured place, as an agent makes it, but for what is left out.
struct Weakened {
    capture: Capture,
    netns: Netns,
    _listeners: Listeners,
    cgroup: Cgroup,
    _namespace: Namespace,
}

impl Weakened {
    fn new(make: impl FnOnce(&mut Capture, &Netns)) -> Weakened {
        let namespace = Namespace::new().unwrap();
        let netns = Netns::at(namespace.path()).unwrap();
        let listeners = netns.on_thread(|| listen_on_loopback(16)).unwrap().unwrap();
        let cgroup = Cgroup::new().unwrap();
        let mut capture = Capture::load(&options()).unwrap();
        make(&mut capture, &netns);
        capture.attach(cgroup.path()).unwrap();
        Weakened {
            capture,
            netns,
            _listeners: listeners,
            cgroup,
            _namespace: namespace,
        }
    }

    fn test(&self) -> (Option<i32>, Value) {
        let cgroup = self.cgroup.path().display().to_string();
        let netns = self.netns.path().display().to_string();
        let place = ["--cgroup", &cgroup, "--netns", &netns];
        let output = selftest(&[&place[..], &["--settle", "0", "--output", "json"]].concat());
        (output.status.code(), report(&output))
    }
}

fn scope(netns: &Netns) -> (egress_user::netns::NetnsCookie, Scope) {
    let cookie = netns.on_thread(cookie_of_current).unwrap().unwrap();
    let scope = Scope {
        listen_v4: 1,
        listen_v6: Some(1),
        ports: vec![443],
        other_ports: Fallback::Refuse,
        strict: false,
    };
    (cookie, scope)
}

#[test]
fn a_namespace_without_a_scope_leaks() {
    let place = Weakened::new(|_, _| {});
    let (code, report) = place.test();
    assert_eq!(code, Some(1), "{report:#}");
    let leaks = with_verdict(&report, "leak");
    for check in [
        "A0 TCP, IPv4",
        "A2 MPTCP, IPv6",
        "A3 io_uring",
        "A5 UDP sendto, IPv4",
        "A7 raw socket, IPv4",
        "A8 packet socket",
        "A12 a socket from outside",
    ] {
        assert!(leaks.iter().any(|leak| leak == check), "{check}: {leaks:?}");
    }
}

/// What is held whether or not a scope is there leaks where nothing is attached at all.
#[test]
fn a_cgroup_without_an_agent_leaks() {
    let cgroup = Cgroup::new().unwrap();
    let path = cgroup.path().to_str().unwrap();
    let output = selftest(&["--output", "json", "--settle", "0", "--cgroup", path]);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    let leaks = with_verdict(&report, "leak");
    for check in [
        "A0 TCP, IPv4",
        "A5 UDP by a routing header",
        "A5 UDP to loopback, by a device",
        "A5 UDP to loopback, bound to a device",
    ] {
        assert!(leaks.iter().any(|leak| leak == check), "{check}: {leaks:?}");
    }
}

/// Nothing but the guard on the device sees frames, and sockets of other cgroups.
#[test]
fn a_device_without_a_guard_leaks_frames() {
    let place = Weakened::new(|capture, netns| {
        let (cookie, scope) = scope(netns);
        capture.add_scope(cookie, &scope).unwrap();
    });
    let (code, report) = place.test();
    assert_eq!(code, Some(1), "{report:#}");
    let mut leaks = with_verdict(&report, "leak");
    leaks.sort_unstable();
    let by_32_bits = format!("A8 {BY_32_BITS}");
    if place.capture.security_hooks().is_err() {
        leaks.retain(|leak| *leak != by_32_bits);
    }
    assert_eq!(leaks, ["A12 a socket from outside", "A8 packet socket"]);
}
