use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;

use super::*;
use crate::pki::{TrialCa, Validity};
use crate::tunnel::tls::{CredentialPem, Credentials, gateway_end};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A gateway's end that can be renewed, and an agent that passed its handshake.
struct Scene {
    ca: TrialCa,
    gateway: CredentialPem,
    agent: CredentialPem,
    renewer: Renewer<ServerConfig>,
    in_use: InUse<ServerConfig>,
}

fn validity(start: SystemTime, lifetime: Duration) -> Validity {
    Validity::starting(start, lifetime).unwrap()
}

fn ca() -> TrialCa {
    let validity = validity(SystemTime::now() - 10 * DAY, 20 * DAY);
    TrialCa::new("e.test".parse().unwrap(), validity).unwrap()
}

fn end(pem: &CredentialPem) -> End<ServerConfig> {
    gateway_end(&Credentials::from_pem(pem, UnixTime::now()).unwrap()).unwrap()
}

impl Scene {
    fn new(agent_lifetime: Validity) -> Scene {
        let ca = ca();
        let gateway = "spiffe://e.test/gateway/a".parse().unwrap();
        let gateway = ca
            .issue(&gateway, validity(SystemTime::now(), DAY))
            .unwrap();
        let agent = "spiffe://e.test/agent/a".parse().unwrap();
        let agent = ca.issue(&agent, agent_lifetime).unwrap();
        let (renewer, in_use) = in_use(end(&gateway));
        Scene {
            ca,
            gateway,
            agent,
            renewer,
            in_use,
        }
    }

    fn peer(&self) -> Peer<ServerConfig> {
        let der = CertificateDer::from_pem_slice(self.agent.certificates.as_bytes()).unwrap();
        self.in_use.now().shown(&[der], false).unwrap()
    }

    fn renew(&self, change: impl FnOnce(&mut CredentialPem)) {
        let mut pem = self.gateway.clone();
        change(&mut pem);
        self.renewer.replace(end(&pem));
    }

    fn revoke(&self, certificates: &[&str]) {
        let crl = self
            .ca
            .revoke(certificates, validity(SystemTime::now(), DAY));
        self.renew(|pem| pem.crl = Some(crl));
    }
}

fn today() -> Validity {
    validity(SystemTime::now(), DAY)
}

async fn is_pending(future: impl Future) -> bool {
    tokio::time::timeout(Duration::from_millis(1), future)
        .await
        .is_err()
}

#[tokio::test(start_paused = true)]
async fn a_revoked_peer_is_rejected_and_others_are_not() {
    let scene = Scene::new(today());
    let mut peer = scene.peer();
    scene.revoke(&[&scene.gateway.certificates]);
    assert!(is_pending(peer.rejected()).await);
    scene.revoke(&[&scene.agent.certificates]);
    assert_eq!(peer.rejected().await, "peer_certificate_revoked");
}

#[tokio::test(start_paused = true)]
async fn a_peer_whose_ca_leaves_the_bundle_is_rejected() {
    let scene = Scene::new(today());
    let (mut peer, other) = (scene.peer(), ca().certificate_pem());
    scene.renew(|pem| pem.trust_bundle.push_str(&other));
    assert!(is_pending(peer.rejected()).await);
    scene.renew(|pem| pem.trust_bundle = other);
    assert_eq!(
        peer.ended().await,
        Ended::Rejected("peer_certificate_unknown_issuer")
    );
}

/// The change comes between the handshake and the question.
#[tokio::test(start_paused = true)]
async fn a_change_during_the_handshake_is_not_missed() {
    let scene = Scene::new(today());
    let handshake = scene.in_use.now();
    scene.revoke(&[&scene.agent.certificates]);
    let der = CertificateDer::from_pem_slice(scene.agent.certificates.as_bytes()).unwrap();
    let mut peer = handshake.shown(&[der], false).unwrap();
    assert!(!peer.is_current());
    assert_eq!(peer.rejected().await, "peer_certificate_revoked");
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_has_ended_begins_nothing_and_cuts_nothing() {
    let yesterday = validity(SystemTime::now() - 2 * DAY, DAY);
    let scene = Scene::new(yesterday);
    let mut peer = scene.peer();
    assert!(!peer.is_current());
    assert_eq!(peer.ended().await, Ended::Expired);
    scene.renew(|_| {});
    assert!(is_pending(peer.rejected()).await);
    scene.revoke(&[&scene.agent.certificates]);
    assert_eq!(peer.rejected().await, "peer_certificate_revoked");
}

#[tokio::test(start_paused = true)]
async fn a_valid_peer_stays_for_as_long_as_nobody_changes_anything() {
    let scene = Scene::new(today());
    let mut peer = scene.peer();
    assert!(peer.is_current());
    let Scene { renewer, .. } = scene;
    drop(renewer);
    assert!(peer.is_current());
    assert!(is_pending(peer.ended()).await);
}

/// What was good in an earlier handshake is judged as it is now.
#[test]
fn a_resumed_peer_is_judged_again() {
    let resumed = |scene: &Scene| {
        let der = CertificateDer::from_pem_slice(scene.agent.certificates.as_bytes()).unwrap();
        let peer = scene.in_use.now().shown(&[der], true);
        peer.map(|peer| peer.id().to_string())
            .map_err(|error| error.reason())
    };
    let scene = Scene::new(today());
    assert_eq!(resumed(&scene), Ok("spiffe://e.test/agent/a".to_owned()));
    scene.revoke(&[&scene.agent.certificates]);
    assert_eq!(resumed(&scene), Err("peer_certificate_revoked"));
    scene.renew(|pem| pem.trust_bundle = ca().certificate_pem());
    assert_eq!(resumed(&scene), Err("peer_certificate_unknown_issuer"));
    let expired = Scene::new(validity(SystemTime::now() - 2 * DAY, DAY));
    assert_eq!(resumed(&expired), Err("peer_certificate_expired"));
}
