use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tempfile::TempDir;

use super::*;
use crate::pki::{TrialCa, Validity};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// 2024-02-29T12:00:00Z.
const NOON: Duration = Duration::from_secs(1_709_208_000);

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(NOON)
}

fn ca_of(start: Duration, days: u32) -> TrialCa {
    let validity = Validity::starting(SystemTime::UNIX_EPOCH + start, days * DAY).unwrap();
    TrialCa::new("e.test".parse().unwrap(), validity).unwrap()
}

fn issue(ca: &TrialCa, start: Duration, days: u32) -> CredentialPem {
    let validity = Validity::starting(SystemTime::UNIX_EPOCH + start, days * DAY).unwrap();
    ca.issue(&"spiffe://e.test/agent/a".parse().unwrap(), validity)
        .unwrap()
}

fn good() -> CredentialPem {
    issue(&ca_of(NOON, 30), NOON, 10)
}

/// What is said first about credentials that are good but for `change`.
fn complaint(change: impl FnOnce(&mut CredentialPem)) -> String {
    let mut pem = good();
    change(&mut pem);
    let faults = Credentials::from_pem(&pem, now()).unwrap_err().to_string();
    faults.lines().next().unwrap().to_owned()
}

struct Files {
    dir: TempDir,
    files: CredentialFiles,
}

impl Files {
    fn new(pem: &CredentialPem) -> Files {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            path
        };
        let files = CredentialFiles {
            certificate: write("agent.pem", &pem.certificates),
            key: write("agent-key.pem", &pem.key),
            bundle: write("ca.pem", &pem.trust_bundle),
            crl: pem.crl.as_deref().map(|crl| write("crl.pem", crl)),
        };
        Files { dir, files }
    }

    fn load(&self) -> Result<Credentials, CredentialsFaults> {
        Credentials::load(&self.files, now())
    }

    /// What is said about the files, with the directory left out.
    fn complaint(&self) -> String {
        let dir = format!("{}/", self.dir.path().display());
        self.load().unwrap_err().to_string().replace(&dir, "")
    }
}

#[test]
fn good_files_are_loaded_without_a_warning() {
    let loaded = Files::new(&good()).load().unwrap();
    assert_eq!(loaded.id().to_string(), "spiffe://e.test/agent/a");
    assert_eq!(loaded.validity().until.to_string(), "2024-03-10T12:00:00Z");
    assert_eq!(loaded.warnings(), []);
}

#[test]
fn files_that_cannot_be_read() {
    let files = Files::new(&good());
    let key = &files.files.key;
    fs::remove_file(key).unwrap();
    assert_eq!(files.complaint(), "agent-key.pem does not exist");
    fs::create_dir(key).unwrap();
    assert_eq!(
        files.complaint(),
        "cannot read agent-key.pem: is a directory"
    );
    fs::remove_dir(key).unwrap();
    fs::write(key, vec![b'\n'; (1 << 20) + 1]).unwrap();
    assert_eq!(
        files.complaint(),
        "cannot read agent-key.pem: file too large"
    );
}

#[test]
fn files_that_are_not_pem() {
    let files = Files::new(&good());
    let der = CertificateDer::from_pem_slice(good().certificates.as_bytes()).unwrap();
    for content in [&b""[..], b"hello\n", &der] {
        fs::write(&files.files.certificate, content).unwrap();
        assert_eq!(
            files.complaint(),
            "agent.pem is not PEM: it has no line that begins with -----BEGIN"
        );
    }
}

#[test]
fn broken_pem() {
    let cut = complaint(|pem| pem.certificates.truncate(200));
    assert!(
        cut.starts_with("the certificate in memory is broken PEM: "),
        "{cut}"
    );
    let garbled = complaint(|pem| pem.key.insert_str(40, "!!"));
    assert!(
        garbled.starts_with("the key in memory is broken PEM: "),
        "{garbled}"
    );
    let second = complaint(|pem| {
        pem.trust_bundle
            .push_str("-----BEGIN CERTIFICATE-----\nAAAA\n")
    });
    assert!(
        second.starts_with("the trust bundle in memory is broken PEM: "),
        "{second}"
    );
}

#[test]
fn files_that_were_swapped() {
    assert_eq!(
        complaint(|pem| pem.certificates = pem.key.clone()),
        "the certificate in memory has no certificate: no PEM section CERTIFICATE"
    );
    assert_eq!(
        complaint(|pem| pem.trust_bundle = pem.key.clone()),
        "the trust bundle in memory has no certificate: no PEM section CERTIFICATE"
    );
    assert_eq!(
        complaint(|pem| pem.key = pem.certificates.clone()),
        "the key in memory has no private key: \
         no PEM section PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY"
    );
    assert_eq!(
        complaint(|pem| pem.certificates = pem.trust_bundle.clone()),
        "certificate 1 of the certificate in memory: \
         a CA's certificate, not one of an agent or gateway"
    );
    assert_eq!(
        complaint(|pem| pem.trust_bundle.push_str(&pem.certificates)),
        "certificate 2 of the trust bundle in memory is not a CA's: \
         a trust bundle has CA certificates only"
    );
}

#[test]
fn keys_that_do_not_serve() {
    assert_eq!(
        complaint(|pem| pem.key = good().key),
        "the private key in the key in memory is not that of the first certificate \
         in the certificate in memory"
    );
    let pkcs8 =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    assert_eq!(
        complaint(|pem| pem.key = pkcs8.to_owned()),
        "the private key in the key in memory is encrypted: store it without a password"
    );
    let empty = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let unusable = complaint(|pem| pem.key = empty.to_owned());
    assert!(unusable.starts_with("the private key in the key in memory cannot be used: "));
}

/// What `openssl ec -aes256 -traditional` writes: a name of its own in PEM is only the newer form's.
#[test]
fn a_traditional_encrypted_key_is_told_as_such() {
    let traditional = "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\
                       DEK-Info: AES-256-CBC,00112233445566778899AABBCCDDEEFF\n\n\
                       AAAA\n-----END EC PRIVATE KEY-----\n";
    assert_eq!(
        complaint(|pem| pem.key = traditional.to_owned()),
        "the private key in the key in memory is encrypted: store it without a password"
    );
}

#[test]
fn certificates_out_of_their_time() {
    let ca = ca_of(NOON - 10 * DAY, 30);
    assert_eq!(
        complaint(|pem| *pem = issue(&ca, NOON - 3 * DAY, 2)),
        "certificate 1 of the certificate in memory expired at 2024-02-28T12:00:00Z"
    );
    assert_eq!(
        complaint(|pem| *pem = issue(&ca, NOON + DAY, 2)),
        "certificate 1 of the certificate in memory is not valid before 2024-03-01T11:55:00Z: \
         is this machine's clock right?"
    );
    // The last moment still counts.
    let ends_now = issue(&ca, NOON - DAY, 1);
    assert!(Credentials::from_pem(&ends_now, now()).is_ok());
}

#[test]
fn a_certificate_without_a_spiffe_id() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["a.test".to_owned()]).unwrap();
    let without = params.self_signed(&key).unwrap().pem();
    assert_eq!(
        complaint(|pem| pem.certificates = without),
        "certificate 1 of the certificate in memory: no SPIFFE ID: \
         the certificate has no URI in its subject alternative names"
    );
    params.subject_alt_names = vec![SanType::URI("spiffe://e.test/a/".try_into().unwrap())];
    let wrong = params.self_signed(&key).unwrap().pem();
    assert_eq!(
        complaint(|pem| pem.certificates = wrong),
        "certificate 1 of the certificate in memory: the certificate's URI is no SPIFFE ID: \
         a SPIFFE ID's path has no empty segment and no '/' at its end"
    );
}

#[test]
fn something_that_is_no_certificate() {
    let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert_eq!(
        complaint(|pem| pem.certificates.push_str(nonsense)),
        "certificate 2 of the certificate in memory: malformed certificate"
    );
    assert_eq!(
        complaint(|pem| pem.trust_bundle = nonsense.to_owned()),
        "certificate 1 of the trust bundle in memory: malformed certificate"
    );
}

#[test]
fn expired_cas_are_left_out_of_the_bundle() {
    let old = ca_of(NOON - 30 * DAY, 29).certificate_pem();
    assert_eq!(
        complaint(|pem| pem.trust_bundle.clone_from(&old)),
        "every CA certificate in the trust bundle in memory has expired"
    );
    let mut pem = good();
    pem.trust_bundle.insert_str(0, &old);
    let credentials = Credentials::from_pem(&pem, now()).unwrap();
    assert_eq!(credentials.trust().roots.len(), 1);
    let [warning] = credentials.warnings() else {
        panic!("{:?}", credentials.warnings());
    };
    assert_eq!(
        warning.to_string(),
        "certificate 1 of the trust bundle in memory expired at 2024-02-28T12:00:00Z \
         and is not trusted"
    );
}

#[test]
fn a_bundle_that_does_not_vouch_for_the_own_certificate_is_told() {
    let mut pem = good();
    pem.trust_bundle = good().trust_bundle;
    let credentials = Credentials::from_pem(&pem, now()).unwrap();
    let [warning] = credentials.warnings() else {
        panic!("{:?}", credentials.warnings());
    };
    assert_eq!(
        warning.to_string(),
        "no CA in the trust bundle in memory signed the certificate in memory: \
         peers with the same bundle refuse it"
    );
}

#[test]
fn a_key_that_others_can_read_is_told() {
    let files = Files::new(&good());
    for (mode, told) in [(0o400, false), (0o600, false), (0o640, true), (0o604, true)] {
        fs::set_permissions(&files.files.key, fs::Permissions::from_mode(mode)).unwrap();
        let loaded = files.load().unwrap();
        let warnings: Vec<_> = loaded.warnings().iter().map(ToString::to_string).collect();
        assert_eq!(!warnings.is_empty(), told, "{mode:o}");
        assert!(
            warnings
                .iter()
                .all(|warning| warning.ends_with(&format!("(mode {mode:04o})")))
        );
    }
}

#[test]
fn everything_is_told_at_once() {
    let files = Files::new(&good());
    fs::remove_file(&files.files.bundle).unwrap();
    fs::write(&files.files.key, "hello").unwrap();
    let expired = issue(&ca_of(NOON - 10 * DAY, 30), NOON - 3 * DAY, 2);
    fs::write(&files.files.certificate, expired.certificates).unwrap();
    assert_eq!(
        files.complaint(),
        "certificate 1 of agent.pem expired at 2024-02-28T12:00:00Z\n\
         agent-key.pem is not PEM: it has no line that begins with -----BEGIN\n\
         ca.pem does not exist"
    );
}

#[test]
fn a_ca_of_another_trust_domain_is_told() {
    let validity = Validity::starting(SystemTime::UNIX_EPOCH + NOON, DAY).unwrap();
    let other = TrialCa::new("other.test".parse().unwrap(), validity).unwrap();
    assert_eq!(
        complaint(|pem| pem.trust_bundle.push_str(&other.certificate_pem())),
        "certificate 2 of the trust bundle in memory is the CA of trust domain other.test, \
         and the own certificate is of e.test"
    );
}

fn list(ca: &TrialCa, certificates: &[&str], start: Duration) -> String {
    let validity = Validity::starting(SystemTime::UNIX_EPOCH + start, DAY).unwrap();
    ca.revoke(certificates, validity)
}

/// Credentials of a CA, with a revocation list that `revoke` makes of it.
fn listed(revoke: impl FnOnce(&TrialCa, &CredentialPem) -> String) -> CredentialPem {
    let ca = ca_of(NOON - 20 * DAY, 60);
    let pem = issue(&ca, NOON, 10);
    let crl = Some(revoke(&ca, &pem));
    CredentialPem { crl, ..pem }
}

fn warnings(pem: &CredentialPem) -> Vec<String> {
    let loaded = Files::new(pem).load().unwrap();
    loaded.warnings().iter().map(ToString::to_string).collect()
}

#[test]
fn a_revocation_list_says_until_when_it_is_good() {
    let pem = listed(|ca, _| list(ca, &[], NOON));
    assert_eq!(warnings(&pem), Vec::<String>::new());
    let loaded = Files::new(&pem).load().unwrap();
    let until = loaded.crl_valid_until().unwrap();
    assert_eq!(until.to_string(), "2024-03-01T12:00:00Z");
}

#[test]
fn revocation_lists_that_do_not_serve() {
    let files = Files::new(&listed(|_, pem| pem.certificates.clone()));
    assert_eq!(
        files.complaint(),
        "crl.pem has no revocation list: no PEM section X509 CRL"
    );
    let nonsense = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
    let files = Files::new(&listed(|_, _| nonsense.to_owned()));
    let complaint = files.complaint();
    assert!(
        complaint.starts_with("a revocation list in crl.pem cannot be used: "),
        "{complaint}"
    );
    fs::remove_file(files.files.crl.as_ref().unwrap()).unwrap();
    assert_eq!(files.complaint(), "crl.pem does not exist");
}

#[test]
fn what_should_be_known_of_a_revocation_list_is_told() {
    let overdue = listed(|ca, _| list(ca, &[], NOON - 3 * DAY));
    let [told] = &warnings(&overdue)[..] else {
        panic!("one warning");
    };
    assert!(told.ends_with("is overdue since 2024-02-27T12:00:00Z; what it lists stays revoked"));
    let foreign = listed(|_, _| list(&ca_of(NOON, 30), &[], NOON));
    let [told] = &warnings(&foreign)[..] else {
        panic!("one warning");
    };
    assert!(
        told.contains("ca.pem issued a revocation list in"),
        "{told}"
    );
    let own = listed(|ca, pem| list(ca, &[&pem.certificates], NOON));
    let [told] = &warnings(&own)[..] else {
        panic!("one warning");
    };
    assert!(
        told.ends_with("agent.pem is revoked: peers with the same revocation list refuse it"),
        "{told}"
    );
}

#[test]
fn der_is_checked_as_pem_is() {
    let (ca, other) = (ca_of(NOON, 30), good());
    let mut pem = issue(&ca, NOON, 10);
    let lifetime = Validity::starting(SystemTime::UNIX_EPOCH + NOON, DAY).unwrap();
    pem.crl = Some(ca.revoke(&[&pem.certificates], lifetime));
    let der = |pem: &str| {
        CertificateDer::from_pem_slice(pem.as_bytes())
            .unwrap()
            .to_vec()
    };
    let key = |pem: &str| {
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes());
        key.unwrap().secret_pkcs8_der().to_vec()
    };
    let list = pem.crl.as_deref().unwrap().as_bytes();
    let list = rustls::pki_types::CertificateRevocationListDer::from_pem_slice(list).unwrap();
    let good = CredentialDer {
        giver: "there".to_owned(),
        certificates: der(&pem.certificates),
        key: key(&pem.key),
        trust_bundle: [der(&other.trust_bundle), der(&pem.trust_bundle)].concat(),
        crl: list.to_vec(),
    };
    let load = |change: fn(&mut CredentialDer)| {
        let mut der = good.clone();
        change(&mut der);
        Credentials::from_der(&der, now())
    };
    let credentials = load(|_| {}).unwrap();
    assert_eq!(credentials.id().to_string(), "spiffe://e.test/agent/a");
    assert_eq!(credentials.trust.roots.len(), 2);
    let revoked = credentials.warnings().first().unwrap().to_string();
    assert!(
        revoked.starts_with("the certificate from there is revoked"),
        "{revoked}"
    );

    let complaint = |change| load(change).unwrap_err().to_string();
    for (change, sentence) in [
        (
            (|der| der.certificates.truncate(40)) as fn(&mut CredentialDer),
            "the certificate from there: malformed certificate",
        ),
        (
            |der| der.trust_bundle.push(0x30),
            "the trust bundle from there: malformed",
        ),
        (
            |der| der.crl.push(0),
            "the revocation list from there: malformed",
        ),
        (
            |der| der.key.clear(),
            "the private key in the key from there cannot be used",
        ),
    ] {
        assert!(
            complaint(change).contains(sentence),
            "{}",
            complaint(change)
        );
    }
}
