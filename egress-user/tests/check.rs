//! `--check` as a process: what it prints, what it exits with, and that it serves nothing.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails by panicking, as the test does"
)]

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;

use egress_lab::process;
use serde_json::Value;

const POLICY: &str = "version: 1\nrules: [{name: all, hosts: [example.org]}]\n";
const TLS: &str = "certificate: pki/HOP.pem, key: pki/HOP-key.pem, bundle: pki/ca.pem";

fn egress(dir: &Path, args: &[&str]) -> Output {
    let mut command = process::command(env!("CARGO_BIN_EXE_egress"));
    command.current_dir(dir).args(args).output().unwrap()
}

/// A folder with a policy, certificates, and both configurations.
fn files() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    assert!(egress(dir.path(), &["pki", "init", "pki"]).status.success());
    fs::write(dir.path().join("policy.yaml"), POLICY).unwrap();
    let gateway = "agents:\n  - spiffe://egress.local/agent/*\n  \
                   - {id: spiffe://egress.local/node/a, workloads: [{namespace: web}, {uid: 7}]}\n\
                   dns: {servers: [192.0.2.53, tls://192.0.2.54#dns.example.org], ca: pki/ca.pem}\n";
    write(
        dir.path(),
        "gateway",
        &format!("listen: 127.0.0.1:0\n{gateway}"),
    );
    let agent = "gateways: [\"127.0.0.1:8443\"]\ncapture: {cgroup: /sys/fs/cgroup/none}\n\
                 workloads: [{cgroup: '/jobs/*', namespace: jobs, labels: {app: a}}]\n";
    write(dir.path(), "agent", agent);
    dir
}

fn write(dir: &Path, hop: &str, rest: &str) {
    let tls = TLS.replace("HOP", hop);
    let text = format!("policy: policy.yaml\ntls: {{{tls}}}\n{rest}");
    fs::write(dir.join(format!("{hop}.yaml")), text).unwrap();
}

fn check(dir: &Path, hop: &str, more: &[&str]) -> (String, i32) {
    let config = format!("{hop}.yaml");
    let mut args = vec![hop, "--config", &config, "--check"];
    args.extend(more);
    let output = egress(dir, &args);
    let text = String::from_utf8(output.stdout).unwrap();
    (text, output.status.code().unwrap())
}

fn check_json(dir: &Path, hop: &str) -> (Value, i32) {
    let (text, code) = check(dir, hop, &["--output", "json"]);
    (serde_json::from_str(&text).unwrap(), code)
}

/// What is wrong for good is a fault; what may come yet is a warning.
#[test]
fn what_an_agent_names_is_looked_at() {
    let dir = files();
    let (text, code) = check(dir.path(), "agent", &["--cgroup", "."]);
    assert_eq!(code, 1);
    assert!(
        text.contains(". is not a directory of a cgroup v2 hierarchy"),
        "{text}"
    );
    for (flag, what, said) in [
        (
            "--cgroup",
            "/nonexistent",
            "cannot open the cgroup /nonexistent",
        ),
        (
            "--namespaces",
            "/nonexistent",
            "cannot open the network namespace /nonexistent",
        ),
        (
            "--discover",
            "/nonexistent",
            "nothing is at /nonexistent now",
        ),
        ("--pin", "/proc/pin", "/proc/pin"),
        (
            "--certificate",
            "pki/gateway.pem",
            "spiffe://egress.local/gateway/default is not below",
        ),
    ] {
        let mut more = vec![flag, what];
        if flag == "--certificate" {
            more.extend(["--key", "pki/gateway-key.pem"]);
        }
        let (text, code) = check(dir.path(), "agent", &more);
        assert_eq!(code, 0, "{text}");
        let warning = text
            .lines()
            .find(|line| line.contains("warning") && line.contains(said));
        assert!(warning.is_some(), "{flag}: {text}");
    }
}

/// The value of a line, and what stands below it.
fn value<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    let mut lines = text
        .lines()
        .skip_while(|line| line.split_whitespace().next() != Some(key));
    let first = lines.next().unwrap().strip_prefix(key).unwrap().trim();
    let below = lines.take_while(|line| line.starts_with(' '));
    std::iter::once(first).chain(below.map(str::trim)).collect()
}

#[test]
fn what_is_in_effect_is_shown() {
    let dir = files();
    let (text, code) = check(dir.path(), "gateway", &[]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(
        value(&text, "identity"),
        ["spiffe://egress.local/gateway/default"]
    );
    assert_eq!(value(&text, "policy.rules"), ["1"]);
    assert_eq!(
        value(&text, "dns.servers"),
        ["192.0.2.53:53", "tls://192.0.2.54:853#dns.example.org"]
    );
    assert_eq!(value(&text, "dns.ca"), ["pki/ca.pem"]);
    assert_eq!(
        value(&text, "agents"),
        [
            "spiffe://egress.local/agent/*",
            "spiffe://egress.local/node/a for namespace web or uid 7"
        ]
    );
    assert_eq!(value(&text, "limits.agent.tunnels"), ["4096"]);

    let (text, code) = check(dir.path(), "agent", &[]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(
        value(&text, "workloads"),
        ["/jobs/* is namespace jobs, label app=a"]
    );
    assert_eq!(
        value(&text, "gateway_id"),
        ["spiffe://egress.local/gateway/*"]
    );
    assert_eq!(
        value(&text, "gateways"),
        ["127.0.0.1:8443, now at 127.0.0.1"]
    );
    assert_eq!(value(&text, "zone"), ["none"]);
    assert_eq!(value(&text, "capture.other_ports"), ["refuse"]);
}

#[test]
fn flags_say_what_is_spoken() {
    let dir = files();
    let shown = |flags: &[&str]| {
        let (text, code) = check(dir.path(), "agent", flags);
        assert_eq!(code, 0, "{text}");
        value(&text, "protocol").join(" ")
    };
    assert_eq!(shown(&[]), "egress/1");
    assert_eq!(shown(&["--protocol", "raw"]), "raw, without a PROXY header");
    assert_eq!(
        shown(&["--protocol", "raw", "--proxy-header", "--alpn", "x"]),
        "raw, with a PROXY header, ALPN x"
    );
    for wrong in [
        &["--protocol", "egress/1", "--alpn", "x"][..],
        &["--proxy-header"],
        &["--protocol", "raw", "--alpn", "egress/2"],
        &["--protocol", "tcp"],
    ] {
        let args = [&["agent", "--config", "agent.yaml", "--check"][..], wrong].concat();
        let output = egress(dir.path(), &args);
        assert!(!output.status.success(), "{wrong:?}");
        assert!(output.stdout.is_empty(), "{wrong:?}");
    }
}

#[test]
fn programs_can_read_it() {
    let dir = files();
    let (json, code) = check_json(dir.path(), "gateway");
    assert_eq!(code, 0);
    assert_eq!(json["ok"], true);
    assert_eq!(json["settings"]["listen"], "127.0.0.1:0");
    assert_eq!(
        json["settings"]["agents"][0],
        "spiffe://egress.local/agent/*"
    );
    assert_eq!(json["faults"], Value::Array(Vec::new()));
}

/// The policy, the key and the bundle are wrong in three ways.
#[test]
fn everything_that_is_wrong_is_said_at_once() {
    for hop in ["agent", "gateway"] {
        let dir = files();
        fs::write(dir.path().join("policy.yaml"), "version: 2\nrules: []\n").unwrap();
        fs::write(dir.path().join(format!("pki/{hop}-key.pem")), "hello").unwrap();
        fs::remove_file(dir.path().join("pki/ca.pem")).unwrap();
        let (json, code) = check_json(dir.path(), hop);
        assert_eq!(code, 1);
        assert_eq!(json["ok"], false);
        let faults: Vec<&str> = json["faults"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(Value::as_str)
            .collect();
        for part in ["version 2", "is not PEM", "ca.pem does not exist"] {
            assert!(
                faults.iter().any(|fault| fault.contains(part)),
                "{part}: {faults:?}"
            );
        }
        let (text, code) = check(dir.path(), hop, &[]);
        assert_eq!(code, 1);
        assert!(text.contains("wrong: pki/ca.pem does not exist"), "{text}");
    }
}

#[test]
fn a_configuration_that_cannot_be_read_is_wrong() {
    let dir = files();
    write(dir.path(), "gateway", "listn: 127.0.0.1:0\n");
    let (json, code) = check_json(dir.path(), "gateway");
    assert_eq!(code, 1);
    let fault = json["faults"][0].as_str().unwrap();
    assert!(fault.contains("did you mean `listen`"), "{json:#}");
}

#[test]
fn what_cannot_be_meant_is_warned_of() {
    let dir = files();
    let foreign = "listen: 127.0.0.1:0\nagents: [spiffe://other.test/agent/*]\n";
    write(dir.path(), "gateway", foreign);
    let (json, code) = check_json(dir.path(), "gateway");
    assert_eq!(code, 0);
    let warning = json["warnings"][0].as_str().unwrap();
    assert!(warning.contains("spiffe://other.test/agent/*"), "{warning}");

    let gone = "gateways: [\"gateway.invalid:8443\"]\ncapture: {cgroup: /sys/fs/cgroup/none}\n";
    write(dir.path(), "agent", gone);
    let (json, code) = check_json(dir.path(), "agent");
    assert_eq!(code, 0);
    let warning = json["warnings"][0].as_str().unwrap();
    assert!(
        warning.contains("gateway.invalid:8443 cannot be resolved now: there is no such name"),
        "{warning}"
    );

    let never = gone.replace(
        "gateway.invalid:8443",
        "localhost:1\", \"gateway..test:8443",
    );
    write(dir.path(), "agent", &never);
    let (json, code) = check_json(dir.path(), "agent");
    assert_eq!(code, 1);
    let shown = json["settings"]["gateways"][0].as_str().unwrap();
    assert!(shown.starts_with("localhost:1, now at "), "{shown}");
    let fault = json["faults"][0].as_str().unwrap();
    assert!(
        fault.contains("gateway..test:8443 can never be resolved"),
        "{fault}"
    );

    for (zone, sentence) in [
        ("zone: b\n", "no gateway is in the agent's zone, b"),
        ("", "gateways have a zone and the agent has none"),
    ] {
        let zoned = format!(
            "{zone}gateways: [{{address: \"127.0.0.1:8443\", zone: a}}]\n\
             capture: {{cgroup: /sys/fs/cgroup/none}}\n"
        );
        write(dir.path(), "agent", &zoned);
        let (json, _) = check_json(dir.path(), "agent");
        let warning = json["warnings"][0].as_str().unwrap();
        assert!(warning.contains(sentence), "{warning}");
    }
}

/// What runs already can be checked: nothing is taken from it, and nothing is written.
#[test]
fn nothing_is_served() {
    let dir = files();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!(
        "listen: {}\nlog: {{file: log.jsonl}}\n",
        taken.local_addr().unwrap()
    );
    write(dir.path(), "gateway", &listen);
    let (text, code) = check(dir.path(), "gateway", &[]);
    assert_eq!(code, 0, "{text}");
    assert!(!dir.path().join("log.jsonl").exists());
}

#[test]
fn a_workload_api_that_is_away_is_named() {
    let dir = files();
    let text = fs::read_to_string(dir.path().join("gateway.yaml")).unwrap();
    let tls = TLS.replace("HOP", "gateway");
    let socket = format!("unix://{}/agent.sock", dir.path().display());
    let text = text.replace(&tls, &format!("workload_api: \"{socket}\""));
    fs::write(dir.path().join("gateway.yaml"), text).unwrap();
    let (json, code) = check_json(dir.path(), "gateway");
    assert_eq!(code, 1, "{json}");
    assert_eq!(json["settings"]["workload_api"], socket);
    let fault = json["faults"][0].as_str().unwrap();
    let wanted = format!("no certificates within 3s: cannot connect to {socket}: No such file");
    assert!(fault.starts_with(&wanted), "{fault}");
}
