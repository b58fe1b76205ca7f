//! What the program says to somebody who gets something wrong: the thing, the cause, and the way
//! out, once.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails by panicking, as the test does"
)]

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use egress_lab::process;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use tempfile::TempDir;

const POLICY: &str = "version: 1\nrules: [{name: all, hosts: [example.org]}]\n";

const GATEWAY: &str = "gateway --listen 127.0.0.1:0 --policy policy.yaml \
                       --certificate pki/gateway.pem --key pki/gateway-key.pem --bundle pki/ca.pem";

const AGENT: &str = "agent --gateways 127.0.0.1:1 --policy policy.yaml \
                     --certificate pki/agent.pem --key pki/agent-key.pem --bundle pki/ca.pem";

/// The exit codes of a wrong command line, and of a failure of ours.
const USAGE: i32 = 2;
const FAILED: i32 = 125;

/// A folder with a policy and certificates.
fn files() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (_, code) = egress(dir.path(), "pki init pki");
    assert_eq!(code, 0);
    fs::write(dir.path().join("policy.yaml"), POLICY).unwrap();
    dir
}

/// What the program writes to standard error, and its exit code.
fn egress(dir: &Path, arguments: &str) -> (String, i32) {
    let mut command = process::command(env!("CARGO_BIN_EXE_egress"));
    // Only what is wrong.
    command.env("EGRESS_TRACE", "error");
    let output = command.current_dir(dir).args(arguments.split_whitespace());
    let output = output.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (said, output.status.code().unwrap())
}

#[track_caller]
fn says(dir: &Path, arguments: &str, code: i32, wanted: &str) {
    let (said, exit) = egress(dir, arguments);
    assert_eq!(exit, code, "{arguments}: {said}");
    assert_eq!(said.matches(wanted).count(), 1, "{arguments}: {said}");
    // What the system says of an error is said once.
    let words = said.match_indices("(os error").count();
    assert!(words <= 1, "{arguments}: {said}");
}

#[test]
fn addresses_and_ports_of_flags() {
    let dir = files();
    for (arguments, wanted) in [
        (
            "gateway --listen 8443",
            "a port needs an address in front: 0.0.0.0:8443 for everybody, 127.0.0.1:8443 for this \
             machine alone",
        ),
        ("gateway --listen :8443", "a port needs an address in front"),
        (
            "gateway --listen 0.0.0.0",
            "an address needs a port behind it, such as 0.0.0.0:8443",
        ),
        ("gateway --listen [::1]", "such as [::1]:8443"),
        ("gateway --listen ::1", "such as [::1]:8443"),
        (
            "gateway --listen localhost:8443",
            "not an IP address with a port, such as 127.0.0.1:8443",
        ),
        ("agent --admin 9901", "0.0.0.0:9901 for everybody"),
        (
            "agent --ports https",
            "a number from 1 to 65535, such as 443",
        ),
        (
            "run --port 0 -- true",
            "a number from 1 to 65535, such as 443",
        ),
        (
            "agent --resolvers ns.example.org",
            "not an IP address, such as 192.0.2.53",
        ),
        (
            "gateway --allow-addresses 10.0.0.1/33",
            "not a range of addresses, such as 10.20.0.0/16",
        ),
        ("pki init certs --days 0", "a number of days from 1 to 3650"),
        (
            "gateway --workload-api /run/spire/agent.sock",
            "a path without its scheme: write unix:///run/spire/agent.sock",
        ),
        (
            "gateway --workload-api tcp://127.0.0.1:1",
            "not a Unix socket such as unix:///run/spire/agent.sock",
        ),
    ] {
        says(dir.path(), arguments, USAGE, wanted);
    }
}

/// An address alone is a range, as in the file.
#[test]
fn an_address_alone_is_a_range() {
    let dir = files();
    let arguments = format!("{GATEWAY} --check --allow-addresses 10.0.0.1");
    let (said, code) = egress(dir.path(), &arguments);
    assert_eq!(code, 0, "{said}");
}

#[test]
fn a_command_without_dashes() {
    let dir = files();
    let tip = "the command stands behind `--`, as in `egress run --allow";
    for arguments in [
        "run curl",
        "run --allow example.org curl -s https://example.org/",
        "-v run --allow example.org curl",
        "run --silent",
    ] {
        says(dir.path(), arguments, USAGE, tip);
    }
    for other in [
        "run --alow example.org curl",
        "gateway curl",
        "run --x -- curl",
    ] {
        let (said, code) = egress(dir.path(), other);
        assert_eq!(code, USAGE, "{said}");
        assert!(!said.contains(tip), "{said}");
    }
    let similar = "a similar argument exists: '--allow'";
    says(dir.path(), "run --alow example.org curl", USAGE, similar);
}

#[test]
fn addresses_that_are_taken() {
    let dir = files();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    // The last one counts.
    let arguments = GATEWAY.replace("127.0.0.1:0", &taken.to_string());
    let wanted = format!(
        "egress: cannot listen on {taken}: Address already in use (os error 98); choose another \
         address with `listen` or --listen\n"
    );
    says(dir.path(), &arguments, FAILED, &wanted);
    let arguments = format!("{GATEWAY} --admin {taken}");
    let wanted = format!(
        "egress: cannot listen on the admin address {taken}: Address already in use (os error 98); \
         choose another with `admin` or --admin\n"
    );
    says(dir.path(), &arguments, FAILED, &wanted);
}

#[test]
fn files_that_are_not_what_they_should_be() {
    let dir = files();
    fs::write(dir.path().join("empty.yaml"), "").unwrap();
    fs::write(dir.path().join("tab.yaml"), "rules:\n\t- x\n").unwrap();
    fs::write(dir.path().join("nobody.yaml"), "version: 1\nrules: []\n").unwrap();
    for (from, to, wanted) in [
        (
            "policy.yaml",
            "nope.yaml",
            "nope.yaml: cannot be read: No such file",
        ),
        (
            "policy.yaml",
            "empty.yaml",
            "empty.yaml:1:1: the document is empty",
        ),
        (
            "policy.yaml",
            "tab.yaml",
            "tab.yaml:2:2: this is not YAML: tabs",
        ),
        ("policy.yaml", "pki", "pki: cannot be read: Is a directory"),
        ("pki/gateway.pem", "nope.pem", "nope.pem does not exist"),
        (
            "pki/gateway.pem",
            "pki/gateway-key.pem",
            "pki/gateway-key.pem has no certificate: no PEM section CERTIFICATE",
        ),
        (
            "pki/gateway.pem",
            "pki/agent.pem",
            "pki/gateway-key.pem is not that of the first certificate in pki/agent.pem",
        ),
        ("pki/ca.pem", "policy.yaml", "policy.yaml is not PEM"),
        (
            "pki/ca.pem",
            "pki/gateway.pem",
            "a trust bundle has CA certificates only",
        ),
    ] {
        let arguments = GATEWAY.replacen(from, to, 1);
        says(dir.path(), &arguments, FAILED, wanted);
    }
    let arguments = format!("{GATEWAY} --config nope.yaml");
    says(
        dir.path(),
        &arguments,
        FAILED,
        "nope.yaml: cannot be read: No such file",
    );
    let arguments = format!("{GATEWAY} --check").replacen("policy.yaml", "nobody.yaml", 1);
    let (_, code) = egress(dir.path(), &arguments);
    assert_eq!(code, 0);
    let policy = "policy check --strict nobody.yaml";
    let (_, code) = egress(dir.path(), policy);
    assert_eq!(code, 1);
}

#[test]
fn a_certificate_that_has_expired() {
    let dir = files();
    let read = |name: &str| fs::read_to_string(dir.path().join("pki").join(name)).unwrap();
    let ca = KeyPair::from_pem(&read("ca-key.pem")).unwrap();
    let ca = Issuer::from_ca_cert_pem(&read("ca.pem"), ca).unwrap();
    let mut params = CertificateParams::default();
    let id = "spiffe://egress.local/gateway/default";
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 2, 3);
    let key = KeyPair::from_pem(&read("gateway-key.pem")).unwrap();
    let certificate = params.signed_by(&key, &ca).unwrap();
    fs::write(dir.path().join("old.pem"), certificate.pem()).unwrap();
    let arguments = GATEWAY.replace("pki/gateway.pem", "old.pem");
    let wanted = "egress: certificate 1 of old.pem expired at 2021-02-03T00:00:00Z";
    says(dir.path(), &arguments, FAILED, wanted);
}

#[test]
fn what_is_missing_is_said_with_its_flag() {
    let dir = files();
    let (said, code) = egress(dir.path(), "gateway");
    assert_eq!(code, FAILED);
    for flag in ["--certificate", "--key", "--bundle", "--policy", "--listen"] {
        assert!(said.contains(flag), "{said}");
    }
    let wanted =
        "`capture.cgroup` is missing: set it in the file, with --cgroup or with EGRESS_CGROUP";
    says(dir.path(), AGENT, FAILED, wanted);
}

#[test]
fn where_the_policy_is_may_be_said_as_everywhere() {
    let dir = files();
    fs::rename(
        dir.path().join("policy.yaml"),
        dir.path().join("other.yaml"),
    )
    .unwrap();
    let (said, code) = egress(dir.path(), "policy explain example.org --policy other.yaml");
    assert_eq!(code, 0, "{said}");
}
