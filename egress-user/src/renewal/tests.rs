use std::fs;
use std::path::Path;
use std::time::{Instant, SystemTime};

use super::*;
use crate::pki::{TrialCa, Validity as Lifetime};
use crate::tunnel::tls::{AgentEnd, CredentialFiles, CredentialPem, InUse, agent_end, in_use};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn issue(domain: &str, days: u32) -> CredentialPem {
    let lifetime = Lifetime::starting(SystemTime::now(), days * DAY).unwrap();
    let domain: TrustDomain = domain.parse().unwrap();
    let ca = TrialCa::new(domain.clone(), lifetime).unwrap();
    ca.issue(&domain.id("/agent/a").unwrap(), lifetime).unwrap()
}

fn write(dir: &Path, pem: &CredentialPem) {
    for (name, text) in [
        ("agent.pem", &pem.certificates),
        ("agent-key.pem", &pem.key),
        ("ca.pem", &pem.trust_bundle),
    ] {
        // Another file each time: the length is the same, and the clock of a file system may not have
        // gone on.
        let new = dir.join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, dir.join(name)).unwrap();
    }
}

struct Fixture {
    dir: tempfile::TempDir,
    renewal: Renewal<rustls::ClientConfig>,
    in_use: InUse<rustls::ClientConfig>,
    metrics: Arc<Metrics>,
}

impl Fixture {
    fn new(days: u32) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &issue("e.test", days));
        let files = CredentialFiles {
            certificate: dir.path().join("agent.pem"),
            key: dir.path().join("agent-key.pem"),
            bundle: dir.path().join("ca.pem"),
            crl: None,
        };
        Fixture::from(Source::Files(files), dir)
    }

    fn from(source: Source, dir: tempfile::TempDir) -> Fixture {
        let (credentials, followed) = source.load(Duration::from_secs(60)).unwrap();
        let build = |credentials: &Credentials| -> Result<AgentEnd, ConfigError> {
            agent_end(credentials, &["spiffe://e.test/gateway/*".parse().unwrap()])
        };
        let (renewer, in_use) = in_use(build(&credentials).unwrap());
        let metrics = Arc::new(Metrics::default());
        let build = Box::new(build);
        let renewal = Renewal::new(followed, &credentials, build, renewer, metrics.clone());
        Fixture {
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
        let Followed::Files { files, watched } = &mut self.renewal.followed else {
            panic!("files");
        };
        assert!(source::read_changed(files, watched, now).is_none());
        let read = source::read_changed(files, watched, now + Duration::from_secs(60));
        self.renewal.renew(read.unwrap());
        !Arc::ptr_eq(&before, &self.in_use.now().config())
    }

    fn has_metric(&self, line: &str) -> bool {
        self.metrics.encode().lines().any(|found| found == line)
    }
}

#[test]
fn good_files_are_put_into_use_and_bad_ones_are_not() {
    let mut followed = Fixture::new(1);
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
    let mut followed = Fixture::new(10);
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

#[cfg(feature = "spiffe")]
#[test]
fn a_workload_api_is_followed_and_may_go_away() {
    use crate::workload_api::tests::served::answer;
    use egress_lab::workload_api::WorkloadApi;

    let dir = egress_lab::lab::scratch().unwrap();
    let path = dir.path().join("agent.sock");
    let (first, second) = (issue("e.test", 1), issue("e.test", 2));
    let server = WorkloadApi::serve(&path, answer(&first)).unwrap();
    let socket = format!("unix://{}", path.display()).parse().unwrap();
    let mut fixture = Fixture::from(Source::WorkloadApi(socket), dir);
    let in_force = |fixture: &Fixture| fixture.in_use.now().config();
    let next = |fixture: &mut Fixture| {
        let before = in_force(fixture);
        let loaded = fixture.renewal.followed.next().unwrap();
        fixture.renewal.renew(loaded);
        !Arc::ptr_eq(&before, &in_force(fixture))
    };

    server.give(answer(&second));
    assert!(next(&mut fixture));
    let until = fixture.renewal.validity.until.unix_seconds();
    let line = format!("egress_credentials_valid_until_seconds{{what=\"certificate\"}} {until}");
    assert!(fixture.has_metric(&line));

    let mixed = CredentialPem {
        key: first.key.clone(),
        ..second.clone()
    };
    for wrong in [mixed, issue("other.test", 1)] {
        server.give(answer(&wrong));
        assert!(!next(&mut fixture));
        assert!(fixture.has_metric("egress_credentials_reload_failed 1"));
        server.give(answer(&second));
        assert!(next(&mut fixture));
        assert!(fixture.has_metric("egress_credentials_reload_failed 0"));
    }

    drop(server);
    assert!(!next(&mut fixture));
    assert!(fixture.has_metric("egress_credentials_reload_failed 1"));
    let _server = WorkloadApi::serve(&path, answer(&first)).unwrap();
    while !next(&mut fixture) {}
    assert!(fixture.has_metric("egress_credentials_reload_failed 0"));
}
