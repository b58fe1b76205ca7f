use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use egress_lab::tools;
use rustls::pki_types::UnixTime;
use tempfile::TempDir;

use super::*;
use crate::tunnel::tls::{CredentialFiles, Credentials};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    let named = entries.map(|entry| {
        let name = entry.file_name().into_string().unwrap();
        (name, fs::read(entry.path()).unwrap_or_default())
    });
    named.collect()
}

fn openssl(dir: &TempDir, arguments: &str) -> (bool, String) {
    let output = tools::locate("openssl")
        .unwrap()
        .command()
        .args(arguments.split_whitespace())
        .current_dir(dir)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn init_writes_what_it_says() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("new/pki");
    let written = init(&dir, &InitOptions::default()).unwrap();

    let names: Vec<_> = contents(&dir).into_keys().collect();
    let expected = [
        "agent-key.pem",
        "agent.pem",
        "ca-key.pem",
        "ca.pem",
        "gateway-key.pem",
        "gateway.pem",
    ];
    assert_eq!(names, expected);
    assert_eq!(written.len(), expected.len());
    for file in written {
        let mode = fs::metadata(&file.path).unwrap().permissions().mode() & 0o777;
        let is_key = fs::read_to_string(&file.path)
            .unwrap()
            .contains("PRIVATE KEY");
        assert_eq!(file.secret, is_key, "{file:?}");
        assert_eq!(mode & 0o077 == 0, is_key, "{file:?}");
    }
}

#[test]
fn what_init_writes_can_be_loaded() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path(), &InitOptions::default()).unwrap();
    for (kind, id) in [
        ("agent", "spiffe://egress.local/agent/default"),
        ("gateway", "spiffe://egress.local/gateway/default"),
    ] {
        let path = |name: &str| dir.path().join(name);
        let files = CredentialFiles {
            certificate: path(&format!("{kind}.pem")),
            key: path(&format!("{kind}-key.pem")),
            bundle: path("ca.pem"),
            crl: None,
        };
        let loaded = Credentials::load(&files, UnixTime::now());
        let loaded = loaded.unwrap();
        assert_eq!(loaded.id().to_string(), id);
        assert_eq!(loaded.warnings(), []);
    }
}

#[test]
fn openssl_accepts_the_chain_for_both_purposes() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path(), &InitOptions::default()).unwrap();
    for purpose in ["sslserver", "sslclient"] {
        for leaf in ["agent.pem", "gateway.pem"] {
            let verify = format!("verify -x509_strict -purpose {purpose} -CAfile ca.pem {leaf}");
            assert_eq!(openssl(&dir, &verify), (true, format!("{leaf}: OK\n")));
        }
    }
    let (verified, text) = openssl(&dir, "verify -x509_strict -CAfile agent.pem gateway.pem");
    assert!(!verified, "{text}");
}

#[test]
fn openssl_reads_the_extensions_of_the_standard() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path(), &InitOptions::default()).unwrap();
    let of = |file: &str| {
        let extensions = "basicConstraints,keyUsage,extendedKeyUsage,subjectAltName";
        let (_, text) = openssl(&dir, &format!("x509 -in {file} -noout -ext {extensions}"));
        let lines: Vec<_> = text.lines().map(|line| line.trim().to_owned()).collect();
        lines.join("\n")
    };
    let leaf = of("agent.pem");
    for part in [
        "X509v3 Basic Constraints: critical\nCA:FALSE",
        "X509v3 Key Usage: critical\nDigital Signature\n",
        "X509v3 Extended Key Usage:\nTLS Web Server Authentication, TLS Web Client Authentication",
        "X509v3 Subject Alternative Name:\nURI:spiffe://egress.local/agent/default",
    ] {
        assert!(
            format!("{leaf}\n").replace(": \n", ":\n").contains(part),
            "{part}\nin\n{leaf}"
        );
    }
    let ca = of("ca.pem");
    for part in [
        "X509v3 Basic Constraints: critical\nCA:TRUE, pathlen:0",
        "X509v3 Key Usage: critical\nCertificate Sign, CRL Sign",
        "URI:spiffe://egress.local",
    ] {
        assert!(ca.contains(part), "{part}\nin\n{ca}");
    }
    let (_, text) = openssl(&dir, "x509 -in agent.pem -noout -text");
    assert!(text.contains("NIST CURVE: P-256"), "{text}");
}

#[test]
fn nothing_is_overwritten_and_nothing_is_left() {
    for present in ["ca.pem", "gateway-key.pem"] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(present), "mine").unwrap();
        let error = init(dir.path(), &InitOptions::default())
            .unwrap_err()
            .to_string();
        let path = dir.path().join(present);
        assert_eq!(
            error,
            format!(
                "{} exists and is not overwritten: choose another directory, or remove it first",
                path.display()
            )
        );
        let left = BTreeMap::from([(present.to_owned(), b"mine".to_vec())]);
        assert_eq!(contents(dir.path()), left);
    }
}

#[test]
fn a_dangling_link_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = dir.path().join("elsewhere");
    std::os::unix::fs::symlink(&elsewhere, dir.path().join("ca-key.pem")).unwrap();
    assert!(matches!(
        init(dir.path(), &InitOptions::default()),
        Err(InitError::Exists(_))
    ));
    assert!(!elsewhere.exists());
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = init(&file.join("pki"), &InitOptions::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with(&format!("cannot make the directory {}", file.display())),
        "{error}"
    );
}

#[test]
fn several_of_a_kind_have_their_names_in_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let options = InitOptions {
        agents: vec!["a".to_owned(), "b".to_owned()],
        gateways: Vec::new(),
        ..InitOptions::default()
    };
    init(dir.path(), &options).unwrap();
    let names: Vec<_> = contents(dir.path()).into_keys().collect();
    let expected = [
        "agent-a-key.pem",
        "agent-a.pem",
        "agent-b-key.pem",
        "agent-b.pem",
        "ca-key.pem",
        "ca.pem",
    ];
    assert_eq!(names, expected);
}

#[test]
fn names_that_cannot_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let complaint = |agents: &[&str]| {
        let agents = agents.iter().map(ToString::to_string).collect();
        let options = InitOptions {
            agents,
            ..InitOptions::default()
        };
        let error = init(dir.path(), &options).unwrap_err().to_string();
        assert!(contents(dir.path()).is_empty());
        error
    };
    assert_eq!(
        complaint(&["a", "a"]),
        "two of the agents and gateways would be written to agent-a.pem: choose other names"
    );
    assert_eq!(
        complaint(&["a", "a-key"]),
        "two of the agents and gateways would be written to agent-a-key.pem: choose other names"
    );
    assert_eq!(
        complaint(&["../a"]),
        "\"../a\" cannot name an agent or gateway: it has a '/'"
    );
    assert_eq!(
        complaint(&[".."]),
        "\"..\" cannot name an agent or gateway: \
         a SPIFFE ID's path has no segment '.' or '..'"
    );
    assert!(complaint(&[""]).starts_with("\"\" cannot name an agent or gateway: "));
    assert!(complaint(&["a b"]).starts_with("\"a b\" cannot name an agent or gateway: "));
}

#[test]
fn the_ca_issues_for_its_own_domain_alone() {
    let validity = Validity::starting(SystemTime::now(), DAY).unwrap();
    let ca = TrialCa::new("e.test".parse().unwrap(), validity).unwrap();
    for id in ["spiffe://f.test/agent/default", "spiffe://e.test"] {
        let result = ca.issue(&id.parse().unwrap(), validity);
        assert!(matches!(result, Err(PkiError::NotIssuable { .. })), "{id}");
    }
}

#[test]
fn no_certificate_outlives_its_ca() {
    let now = SystemTime::now();
    let ca_validity = Validity::starting(now, DAY).unwrap();
    let ca = TrialCa::new("e.test".parse().unwrap(), ca_validity).unwrap();
    let id = "spiffe://e.test/agent/default".parse().unwrap();
    let longer = Validity::starting(now - 2 * DAY, 9 * DAY).unwrap();
    let pem = ca.issue(&id, longer).unwrap();
    let loaded = Credentials::from_pem(&pem, UnixTime::now()).unwrap();
    let end = now + DAY;
    let end = end
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    assert_eq!(
        loaded.validity().until.unix_seconds(),
        i64::try_from(end).unwrap()
    );
}

#[test]
fn a_lifetime_without_an_end_is_refused() {
    for lifetime in [Duration::MAX, 9000 * 365 * DAY] {
        let result = Validity::starting(SystemTime::now(), lifetime);
        assert!(matches!(result, Err(PkiError::Lifetime)));
    }
}
