//! Certificates that are renewed, wrong, revoked or over while the product works.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use egress_lab::deployment::{ADMIN, Hop};
use egress_lab::{http, wait};
use rcgen::{
    CertificateParams, CertificateRevocationListParams, ExtendedKeyUsagePurpose, Issuer,
    KeyIdMethod, KeyPair, RevokedCertParams, SanType,
};
use time::OffsetDateTime;

use crate::clients::{INTERNAL_ERROR, curl};
use crate::drain::{client_in_two_halves, origin_in_two_halves, process};
use crate::reload::until_metric;
use crate::world::{EN, RAW, Wish, World};

pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The authority that `egress pki init` made, taken up from its files.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub(crate) fn of(pki: &Path) -> Ca {
        let read = |name: &str| fs::read_to_string(pki.join(name)).unwrap();
        let key = KeyPair::from_pem(&read("ca-key.pem")).unwrap();
        Ca {
            issuer: Issuer::from_ca_cert_pem(&read("ca.pem"), key).unwrap(),
        }
    }

    /// A certificate with a SPIFFE ID below the trust domain, and its key; and when it ends, in
    /// seconds of Unix time.
    pub(crate) fn issue(&self, path: &str, lifetime: Duration) -> (String, String, i64) {
        let mut params = CertificateParams::default();
        let uri = format!("spiffe://egress.local/{path}");
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.not_before = OffsetDateTime::now_utc() - DAY;
        params.not_after = OffsetDateTime::now_utc() + lifetime;
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let end = params.not_after.unix_timestamp();
        (certificate.pem(), key.serialize_pem(), end)
    }

    /// Writes a revocation list with the certificates that these files begin with.
    pub(crate) fn revoke(&self, certificates: &[PathBuf], list: &Path) {
        let now = OffsetDateTime::now_utc();
        let revoked = certificates.iter().map(|path| {
            let text = fs::read(path).unwrap();
            let (_, pem) = x509_parser::pem::parse_x509_pem(&text).unwrap();
            RevokedCertParams {
                serial_number: pem.parse_x509().unwrap().raw_serial().to_vec().into(),
                revocation_time: now,
                reason_code: None,
                invalidity_date: None,
            }
        });
        let params = CertificateRevocationListParams {
            this_update: now,
            next_update: now + DAY,
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        replace(
            list,
            &params.signed_by(&self.issuer).unwrap().pem().unwrap(),
        );
    }
}

/// Puts another file in the old one's place.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(new, path).unwrap();
}

pub(crate) fn valid_until(end: i64) -> String {
    format!("egress_credentials_valid_until_seconds{{what=\"certificate\"}} {end}")
}

/// Gives a process another certificate, and waits until it is in use.
fn renew(world: &World, hop: Hop, name: &str) {
    let (certificate, key, end) = Ca::of(&world.pki()).issue(&format!("{hop}/{name}"), 2 * DAY);
    replace(&world.pki().join(format!("{hop}.pem")), &certificate);
    replace(&world.pki().join(format!("{hop}-key.pem")), &key);
    until_metric(world, hop, &valid_until(end));
    until_metric(world, hop, "egress_credentials_reload_failed 0");
}

#[test]
fn renewed_certificates_are_used_and_nothing_is_dropped() {
    let world = World::new();
    let (origin, proceed) = origin_in_two_halves(&world);
    let mut client = client_in_two_halves(&world);
    client.says("half").unwrap();

    renew(&world, Hop::Gateway, "renewed");
    renew(&world, Hop::Agent, "renewed");
    curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);

    proceed.send(()).unwrap();
    assert!(client.ended().unwrap().success(), "{}", client.output());
    assert!(
        client.output().contains("all 2097152"),
        "{}",
        client.output()
    );
    origin.join().unwrap();

    let records = world.finish();
    for (records, peer) in [(&records.agent, "gateway"), (&records.gateway, "agent")] {
        for (site, name) in [(EN, "renewed"), (RAW, "default")] {
            let mut of_site = records
                .iter()
                .filter(|record| record.text("sni") == site.name);
            let record = of_site.next().unwrap();
            let id = format!("spiffe://egress.local/{peer}/{name}");
            assert_eq!(record.text("peer"), id, "{record}");
            assert_eq!(record.text("verdict"), "allowed", "{record}");
        }
    }
}

#[test]
fn files_that_are_wrong_change_nothing_and_raise_an_alarm() {
    let mut world = World::new();
    let ca = Ca::of(&world.pki());
    for hop in [Hop::Agent, Hop::Gateway] {
        let key = world.pki().join(format!("{hop}-key.pem"));
        let good = fs::read_to_string(&key).unwrap();
        let (_, other, _) = ca.issue(&format!("{hop}/other"), DAY);
        for (bad, said) in [
            ("", "-key.pem is not PEM"),
            (&other, "is not that of the first certificate"),
        ] {
            replace(&key, bad);
            process(&mut world, hop).says(said).unwrap();
            until_metric(&world, hop, "egress_credentials_reload_failed 1");
        }
        fs::remove_file(&key).unwrap();
        curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);
        replace(&key, &good);
        until_metric(&world, hop, "egress_credentials_reload_failed 0");
    }
    curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);
    world.finish();
}

#[test]
fn a_revoked_agent_is_cut_off_and_does_not_come_back() {
    let world = World::with(&Wish {
        crl: true,
        ..Wish::default()
    });
    let (origin, proceed) = origin_in_two_halves(&world);
    let mut client = client_in_two_halves(&world);
    client.says("half").unwrap();

    let pki = world.pki();
    Ca::of(&pki).revoke(&[pki.join("agent.pem")], &pki.join("crl.pem"));
    client.ended().unwrap();
    assert!(
        !client.output().contains("all 2097152"),
        "{}",
        client.output()
    );
    let _ = proceed.send(());
    origin.join().unwrap();

    curl(&world, EN.name, EN.v4.into()).assert_alert(INTERNAL_ERROR);
    world.assert_nothing_arrived(EN);

    let records = world.finish();
    let of_raw = |record: &&_| egress_lab::deployment::Record::text(record, "sni") == RAW.name;
    let record = records.gateway.iter().find(of_raw).unwrap();
    assert_eq!(record.text("verdict"), "refused", "{record}");
    assert_eq!(
        record.text("reason"),
        "peer_certificate_revoked",
        "{record}"
    );
    let record = records.agent.iter().find(of_raw).unwrap();
    assert_eq!(record.text("verdict"), "failed", "{record}");
    let late = records
        .agent
        .iter()
        .find(|record| record.text("sni") == EN.name);
    let late = late.unwrap();
    assert_eq!(late.text("reason"), "own_certificate_revoked", "{late}");
}

#[test]
fn a_revoked_gateway_is_left() {
    let world = World::with(&Wish {
        crl: true,
        ..Wish::default()
    });
    curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);
    let arrived = world.origins.arrived(&world.lab, EN.name).unwrap();
    let pki = world.pki();
    Ca::of(&pki).revoke(&[pki.join("gateway.pem")], &pki.join("crl.pem"));
    wait::until("the agent leaves the gateway", || {
        let answer = http::get(&world.lab.node.namespace, ADMIN, "/metrics").unwrap();
        let failed = "egress_tunnels_total{event=\"failed\"}";
        curl(&world, EN.name, EN.v4.into());
        answer
            .body
            .lines()
            .any(|line| line.starts_with(failed))
            .then_some(())
    })
    .unwrap();
    let arrived_since = world.origins.arrived(&world.lab, EN.name).unwrap();
    curl(&world, EN.name, EN.v4.into()).assert_alert(INTERNAL_ERROR);
    assert_eq!(
        world.origins.arrived(&world.lab, EN.name).unwrap(),
        arrived_since
    );
    assert!(arrived_since.len() >= arrived.len());

    let records = world.finish();
    let last = records.agent.last().unwrap();
    assert_eq!(last.text("reason"), "peer_certificate_revoked", "{last}");
}

/// The agent's certificate ends while a tunnel that was made with it waits for the next stream.
#[test]
fn a_tunnel_does_not_outlive_its_certificate() {
    let mut world = World::new();
    let ca = Ca::of(&world.pki());
    let file = |name: &str| world.pki().join(name);
    // On a slow machine a short life may be over before it is in use.
    let mut lifetime = Duration::from_secs(5);
    loop {
        let (certificate, key, end) = ca.issue("agent/short", lifetime);
        replace(&file("agent-key.pem"), &key);
        replace(&file("agent.pem"), &certificate);
        let (line, over) = (valid_until(end), || {
            OffsetDateTime::now_utc().unix_timestamp() > end
        });
        let in_use = wait::until("the certificate is in use or over", || {
            let answer = http::get(&world.lab.node.namespace, ADMIN, "/metrics").unwrap();
            let in_use = answer.body.lines().any(|found| found == line);
            (in_use || over()).then_some(in_use)
        });
        let carried = in_use.unwrap() && curl(&world, EN.name, EN.v4.into()).success;
        wait::until("the certificate is over", || over().then_some(())).unwrap();
        if carried {
            break;
        }
        lifetime *= 2;
    }
    let before = world.origins.arrived(&world.lab, EN.name).unwrap();
    curl(&world, EN.name, EN.v4.into()).assert_alert(INTERNAL_ERROR);
    assert_eq!(world.origins.arrived(&world.lab, EN.name).unwrap(), before);

    world
        .deployment
        .agent
        .says("no peer takes it any more")
        .unwrap();
    let records = world.finish().gateway;
    let refused = |record: &egress_lab::deployment::Record| {
        record.text("reason") == "peer_certificate_expired"
    };
    assert!(records.iter().any(refused), "{records:?}");
}
