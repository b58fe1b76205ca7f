//! Sessions that are resumed, and those that are not.

use super::*;

/// How the handshake went at both ends, and whom the gateway sees.
fn handshake(agent: &ClientConfig, gateway: &ServerConfig) -> (HandshakeKind, String) {
    let mut pair = Pair::new(agent.clone(), gateway.clone());
    assert!(pair.agent.early_data().is_none());
    pair.pump().unwrap();
    let kind = pair.agent.handshake_kind().unwrap();
    assert_eq!(pair.gateway.handshake_kind(), Some(kind));
    let seen = pair.agent_sees().unwrap().to_string();
    assert_eq!(seen, "spiffe://e.test/gateway/a");
    (kind, pair.gateway_sees().unwrap().to_string())
}

fn crl(ca: &TrialCa, revoked: &CredentialPem) -> String {
    let validity = Validity::starting(SystemTime::now(), DAY).unwrap();
    ca.revoke(&[&revoked.certificates], validity)
}

#[test]
fn the_same_two_resume_without_early_data() {
    let (agent_pem, gateway_pem) = good();
    let (agent, gateway) = (agent(&agent_pem), gateway(&gateway_pem));
    assert!(!agent.enable_early_data);
    assert_eq!(gateway.max_early_data_size, 0);
    let a = "spiffe://e.test/agent/a".to_owned();
    assert_eq!(
        handshake(&agent, &gateway),
        (HandshakeKind::Full, a.clone())
    );
    for _ in 0..3 {
        assert_eq!(
            handshake(&agent, &gateway),
            (HandshakeKind::Resumed, a.clone())
        );
    }
}

/// Whatever is loaded anew, be it the same, at whichever end.
#[test]
fn nothing_is_resumed_across_a_reload() {
    let (agent_pem, gateway_pem) = good();
    let (agent_end, gateway_end) = (agent(&agent_pem), gateway(&gateway_pem));
    handshake(&agent_end, &gateway_end);
    let reloaded = gateway(&gateway_pem);
    assert_eq!(handshake(&agent_end, &reloaded).0, HandshakeKind::Full);
    let reloaded = agent(&agent_pem);
    assert_eq!(handshake(&reloaded, &gateway_end).0, HandshakeKind::Full);
}

#[test]
fn who_was_revoked_since_does_not_resume() {
    let ca = ca("e.test");
    let agent_pem = pem(&ca, "spiffe://e.test/agent/a");
    let mut gateway_pem = pem(&ca, "spiffe://e.test/gateway/a");
    let agent = agent(&agent_pem);
    let before = gateway(&gateway_pem);
    handshake(&agent, &before);
    assert_eq!(handshake(&agent, &before).0, HandshakeKind::Resumed);
    gateway_pem.crl = Some(crl(&ca, &agent_pem));
    let revoked = ("gateway", "peer_certificate_revoked");
    assert_eq!(failure(agent.clone(), gateway(&gateway_pem)), revoked);
    // Nor when it still has a session of before.
    assert_eq!(failure(agent, gateway(&gateway_pem)), revoked);
}

/// Even if it had the other's sessions, which lie in that one's memory.
#[test]
fn another_identity_does_not_resume() {
    let ca = ca("e.test");
    let gateway = gateway(&pem(&ca, "spiffe://e.test/gateway/a"));
    let one = agent(&pem(&ca, "spiffe://e.test/agent/a"));
    let mut other = agent(&pem(&ca, "spiffe://e.test/agent/b"));
    other.resumption = one.resumption.clone();
    handshake(&one, &gateway);
    let (kind, seen) = handshake(&other, &gateway);
    assert_eq!(kind, HandshakeKind::Full);
    assert_eq!(seen, "spiffe://e.test/agent/b");
}

/// The gateway at an address is another one than before.
#[test]
fn another_gateway_does_not_resume() {
    let ca = ca("e.test");
    let agent = agent(&pem(&ca, "spiffe://e.test/agent/a"));
    let before = gateway(&pem(&ca, "spiffe://e.test/gateway/a"));
    handshake(&agent, &before);
    let mut pair = Pair::new(agent, gateway(&pem(&ca, "spiffe://e.test/gateway/b")));
    pair.pump().unwrap();
    assert_eq!(pair.agent.handshake_kind(), Some(HandshakeKind::Full));
    let seen = pair.agent_sees().unwrap().to_string();
    assert_eq!(seen, "spiffe://e.test/gateway/b");
}
