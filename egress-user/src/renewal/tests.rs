use std::fs;
use std::path::Path;
use std::time::SystemTime;

use super::*;
use crate::pki::{TrialCa, Validity as Lifetime};
use crate::tunnel::tls::{AgentEnd, CredentialPem, InUse, agent_end, in_use};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn issue(domain: &str, days: u32) -> CredentialPem {
    let lifetime = Lifetime::starting(SystemTime::now(), days * DAY).unwrap();
    let domain: TrustDomain = domain.parse().unwrap();
    let ca = TrialCa::new(domain.clone(), lifetime).unwrap();
    ca.issue(&domain.id("/agent/a").unwrap(), lifetime).unwrap()
}

fn write(dir: &Path, pem: &CredentialPem) {
    fs::write(dir.join("agent.pem"), &pem.certificates).unwrap();
    fs::write(dir.join("agent-key.pem"), &pem.key).unwrap();
    fs::write(dir.join("ca.pem"), &pem.trust_bundle).unwrap();
}

struct Followed {
    dir: tempfile::TempDir,
    renewal: Renewal<rustls::ClientConfig>,
    in_use: InUse<rustls::ClientConfig>,
    metrics: Arc<Metrics>,
}

impl Followed {
    fn new(days: u32) -> Followed {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &issue("e.test", days));
        let files = CredentialFiles {
            certificate: dir.path().join("agent.pem"),
            key: dir.path().join("agent-key.pem"),
            bundle: dir.path().join("ca.pem"),
            crl: None,
        };
        let seen = State::of(&files.paths());
        let credentials = Credentials::load(&files, UnixTime::now()).unwrap();
        let build = |credentials: &Credentials| -> Result<AgentEnd, ConfigError> {
            agent_end(credentials, &["spiffe://e.test/gateway/*".parse().unwrap()])
        };
        let (renewer, in_use) = in_use(build(&credentials).unwrap());
        let metrics = Arc::new(Metrics::default());
        let build = Box::new(build);
        let renewal =
            Renewal::new(files, seen, &credentials, build, renewer, metrics.clone()).unwrap();
        Followed {
            dir,
            renewal,
            in_use,
            metrics,
        }
    }

    /// Writes new files and has them read; whether they are in use then.
    fn renewed_by(&mut self, pem: &CredentialPem) -> bool {
        let before = self.in_use.now().config();
        write(self.dir.path(), pem);
        let now = Instant::now();
        self.renewal.watched.changed(now);
        assert!(self.renewal.watched.changed(now + Duration::from_secs(60)));
        self.renewal.renew(UnixTime::now());
        !Arc::ptr_eq(&before, &self.in_use.now().config())
    }

    fn has_metric(&self, line: &str) -> bool {
        self.metrics.encode().lines().any(|found| found == line)
    }
}

#[test]
fn good_files_are_put_into_use_and_bad_ones_are_not() {
    let mut followed = Followed::new(1);
    let (first, second) = (issue("e.test", 2), issue("e.test", 3));
    assert!(followed.renewed_by(&first));
    assert!(followed.has_metric("egress_credentials_reload_failed 0"));

    let mixed = CredentialPem {
        key: second.key.clone(),
        ..first
    };
    assert!(!followed.renewed_by(&mixed));
    assert!(followed.has_metric("egress_credentials_reload_failed 1"));
    assert!(!followed.renewed_by(&issue("other.test", 2)));
    assert!(followed.has_metric("egress_credentials_reload_failed 1"));

    assert!(followed.renewed_by(&second));
    assert!(followed.has_metric("egress_credentials_reload_failed 0"));
    let until = followed.renewal.validity.until.unix_seconds();
    let line = format!("egress_credentials_valid_until_seconds{{what=\"certificate\"}} {until}");
    assert!(followed.has_metric(&line), "{line}");
}

#[test]
fn the_end_of_a_certificate_is_announced() {
    let mut followed = Followed::new(10);
    let validity = followed.renewal.validity;
    let now = UnixTime::now();
    let at =
        |days: u32| UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + days * DAY);
    for (days, left) in [
        (0, TimeLeft::Enough),
        (7, TimeLeft::Enough),
        (9, TimeLeft::Little),
        (11, TimeLeft::Over),
    ] {
        assert_eq!(TimeLeft::of(validity, at(days)), left, "{days}");
        followed.renewal.remind(at(days));
        assert_eq!(followed.renewal.said, left);
    }
    // A renewed one has time again.
    assert!(followed.renewed_by(&issue("e.test", 10)));
    assert_eq!(followed.renewal.said, TimeLeft::Enough);
}
