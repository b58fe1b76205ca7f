//! Whole handshakes between both ends, in memory.

use std::io::{Read, Write};
use std::time::{Duration, SystemTime};

use rustls::client::ResolvesClientCert;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConnection, HandshakeKind, NamedGroup, ServerConnection, SignatureScheme};

use super::*;
use crate::pki::{TrialCa, Validity};
use crate::tunnel::frame::{HEADER_LEN, MAX_DATA};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn ca(trust_domain: &str) -> TrialCa {
    let validity = Validity::starting(SystemTime::now() - 10 * DAY, 20 * DAY).unwrap();
    TrialCa::new(trust_domain.parse().unwrap(), validity).unwrap()
}

fn pem(ca: &TrialCa, id: &str) -> CredentialPem {
    let validity = Validity::starting(SystemTime::now(), DAY).unwrap();
    ca.issue(&id.parse().unwrap(), validity).unwrap()
}

fn credentials(pem: &CredentialPem) -> Credentials {
    Credentials::from_pem(pem, UnixTime::now()).unwrap()
}

fn config<C: Clone>(end: Result<End<C>, ConfigError>) -> C {
    Arc::unwrap_or_clone(end.unwrap().config())
}

fn agent(pem: &CredentialPem) -> ClientConfig {
    let gateways = ["spiffe://e.test/gateway/*".parse().unwrap()];
    config(agent_end(&credentials(pem), &gateways))
}

fn gateway(pem: &CredentialPem) -> ServerConfig {
    config(gateway_end(&credentials(pem)))
}

/// An agent and a gateway of one CA.
fn good() -> (CredentialPem, CredentialPem) {
    let ca = ca("e.test");
    (
        pem(&ca, "spiffe://e.test/agent/a"),
        pem(&ca, "spiffe://e.test/gateway/a"),
    )
}

struct Pair {
    agent: ClientConnection,
    gateway: ServerConnection,
}

/// Who failed, and why.
#[derive(Debug)]
enum Failed {
    Agent(Error),
    Gateway(Error),
}

impl Failed {
    fn reason(&self) -> (&'static str, &'static str) {
        match self {
            Failed::Agent(error) => ("agent", handshake_reason(error)),
            Failed::Gateway(error) => ("gateway", handshake_reason(error)),
        }
    }
}

impl Pair {
    fn new(agent: ClientConfig, gateway: ServerConfig) -> Pair {
        let name = ServerName::try_from("ignored.test").unwrap();
        Pair {
            agent: ClientConnection::new(Arc::new(agent), name).unwrap(),
            gateway: ServerConnection::new(Arc::new(gateway)).unwrap(),
        }
    }

    fn agent_sees(&self) -> Result<SpiffeId, PeerError> {
        peer_identity(self.agent.peer_certificates().unwrap_or_default())
    }

    fn gateway_sees(&self) -> Result<SpiffeId, PeerError> {
        peer_identity(self.gateway.peer_certificates().unwrap_or_default())
    }

    /// Moves bytes between both ends until nothing is left to move.
    fn pump(&mut self) -> Result<(), Failed> {
        loop {
            let (mut up, mut down) = (Vec::new(), Vec::new());
            while self.agent.wants_write() {
                self.agent.write_tls(&mut up).unwrap();
            }
            feed(&mut self.gateway, &up).map_err(Failed::Gateway)?;
            while self.gateway.wants_write() {
                self.gateway.write_tls(&mut down).unwrap();
            }
            feed(&mut self.agent, &down).map_err(Failed::Agent)?;
            if up.is_empty() && down.is_empty() {
                return Ok(());
            }
        }
    }
}

fn feed<Data>(
    connection: &mut rustls::ConnectionCommon<Data>,
    mut bytes: &[u8],
) -> Result<(), Error> {
    while !bytes.is_empty() {
        connection.read_tls(&mut bytes).unwrap();
        connection.process_new_packets()?;
    }
    Ok(())
}

fn failure(agent: ClientConfig, gateway: ServerConfig) -> (&'static str, &'static str) {
    Pair::new(agent, gateway).pump().unwrap_err().reason()
}

#[test]
fn both_learn_who_the_other_is() {
    let (agent_pem, gateway_pem) = good();
    let mut pair = Pair::new(agent(&agent_pem), gateway(&gateway_pem));
    pair.pump().unwrap();

    assert_eq!(
        pair.agent_sees().unwrap().to_string(),
        "spiffe://e.test/gateway/a"
    );
    assert_eq!(
        pair.gateway_sees().unwrap().to_string(),
        "spiffe://e.test/agent/a"
    );
    assert_eq!(pair.gateway.server_name(), None);
    assert_eq!(pair.agent.alpn_protocol(), Some(ALPN));
    assert_eq!(pair.gateway.alpn_protocol(), Some(ALPN));
    let version = rustls::ProtocolVersion::TLSv1_3;
    assert_eq!(pair.agent.protocol_version(), Some(version));
    let group = pair.agent.negotiated_key_exchange_group().unwrap();
    assert_eq!(group.name(), NamedGroup::X25519MLKEM768);
}

#[test]
fn nobody_is_known_before_the_handshake() {
    let (agent_pem, gateway_pem) = good();
    let pair = Pair::new(agent(&agent_pem), gateway(&gateway_pem));
    assert_eq!(pair.agent_sees(), Err(PeerError::NoCertificate));
    assert_eq!(pair.gateway_sees(), Err(PeerError::NoCertificate));
}

#[test]
fn the_default_peers_are_those_of_the_own_trust_domain() {
    let credentials = credentials(&good().0);
    let gateways = default_gateways(&credentials).unwrap();
    assert_eq!(gateways.to_string(), "spiffe://e.test/gateway/*");
    let agents = default_agents(&credentials).unwrap();
    assert_eq!(agents.to_string(), "spiffe://e.test/agent/*");
}

#[test]
fn the_largest_data_frame_is_one_record() {
    let (agent_pem, gateway_pem) = good();
    let mut pair = Pair::new(agent(&agent_pem), gateway(&gateway_pem));
    pair.pump().unwrap();
    let frame = vec![7; HEADER_LEN + MAX_DATA];
    pair.agent.writer().write_all(&frame).unwrap();
    let mut records = Vec::new();
    pair.agent.write_tls(&mut records).unwrap();

    // RFC 8446 §5.2: header, plaintext, content type, tag.
    assert_eq!(records.len(), 5 + frame.len() + 1 + 16);
    let length = u16::from_be_bytes([records[3], records[4]]);
    assert_eq!(usize::from(length), records.len() - 5);
    feed(&mut pair.gateway, &records).unwrap();
    let mut received = vec![0; frame.len()];
    pair.gateway.reader().read_exact(&mut received).unwrap();
    assert_eq!(received, frame);
}

#[derive(Debug)]
struct NoCertificate;

impl ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[test]
fn an_agent_without_a_certificate_is_refused() {
    let (agent_pem, gateway_pem) = good();
    let mut nobody = agent(&agent_pem);
    nobody.client_auth_cert_resolver = Arc::new(NoCertificate);
    let gateway = gateway(&gateway_pem);
    assert_eq!(failure(nobody, gateway), ("gateway", "no_peer_certificate"));
}

#[test]
fn certificates_of_a_foreign_ca_are_refused() {
    let (agent_pem, gateway_pem) = good();
    let foreign = ca("e.test");
    let mut foreign_agent = pem(&foreign, "spiffe://e.test/agent/a");
    foreign_agent
        .trust_bundle
        .clone_from(&agent_pem.trust_bundle);
    let refused = failure(agent(&foreign_agent), gateway(&gateway_pem));
    assert_eq!(refused, ("gateway", "peer_certificate_unknown_issuer"));

    let foreign_gateway = pem(&foreign, "spiffe://e.test/gateway/a");
    let refused = failure(agent(&agent_pem), gateway(&foreign_gateway));
    assert_eq!(refused, ("agent", "peer_certificate_unknown_issuer"));
}

/// A CA that was made anew under its old name.
#[test]
fn a_foreign_ca_of_the_same_name_is_refused() {
    let (key, mut name) = (
        rcgen::KeyPair::generate().unwrap(),
        rcgen::CertificateParams::default(),
    );
    name.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let old = name.self_signed(&key).unwrap().pem();
    let issuer = rcgen::Issuer::from_params(&name, rcgen::KeyPair::generate().unwrap());
    let mut leaf = rcgen::CertificateParams::default();
    let id = "spiffe://e.test/gateway/a".try_into().unwrap();
    leaf.subject_alt_names = vec![rcgen::SanType::URI(id)];
    let key = rcgen::KeyPair::generate().unwrap();
    let credentials = credentials(&CredentialPem {
        certificates: leaf.signed_by(&key, &issuer).unwrap().pem(),
        key: key.serialize_pem(),
        trust_bundle: old,
        crl: None,
    });
    assert_eq!(credentials.warnings().len(), 1);
    let gateways = ["spiffe://e.test/gateway/*".parse().unwrap()];
    let agent = config(agent_end(&credentials, &gateways));
    let refused = failure(agent, config(gateway_end(&credentials)));
    assert_eq!(refused, ("agent", "peer_certificate_bad_signature"));
}

/// A CA that names no trust domain, as those of others may be, and that signs for two.
#[test]
fn certificates_of_a_foreign_trust_domain_are_refused() {
    let ca = nameless_ca("a CA");
    let issue = |id: &str| {
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = vec![rcgen::SanType::URI(id.try_into().unwrap())];
        let key = rcgen::KeyPair::generate().unwrap();
        CredentialPem {
            certificates: params.signed_by(&key, &ca).unwrap().pem(),
            key: key.serialize_pem(),
            trust_bundle: ca.pem(),
            crl: None,
        }
    };
    let agent_pem = issue("spiffe://e.test/agent/a");
    let gateway_pem = issue("spiffe://e.test/gateway/a");
    Pair::new(agent(&agent_pem), gateway(&gateway_pem))
        .pump()
        .unwrap();

    let foreign_gateway = issue("spiffe://f.test/gateway/a");
    let refused = failure(agent(&agent_pem), gateway(&foreign_gateway));
    assert_eq!(refused, ("agent", "peer_foreign_trust_domain"));

    let mut foreign_agent = agent(&agent_pem);
    let foreign = credentials(&issue("spiffe://f.test/agent/a"));
    foreign_agent.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(foreign.key()));
    let refused = failure(foreign_agent, gateway(&gateway_pem));
    assert_eq!(refused, ("gateway", "peer_foreign_trust_domain"));
}

fn nameless_ca(name: &str) -> rcgen::CertifiedIssuer<'static, rcgen::KeyPair> {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let common_name = rcgen::DnType::CommonName;
    params.distinguished_name.push(common_name, name);
    let key = rcgen::KeyPair::generate().unwrap();
    rcgen::CertifiedIssuer::self_signed(params, key).unwrap()
}

#[test]
fn expired_and_future_certificates_are_refused() {
    let ca = ca("e.test");
    let agent_pem = pem(&ca, "spiffe://e.test/agent/a");
    let gateway_pem = pem(&ca, "spiffe://e.test/gateway/a");
    let now = SystemTime::now();
    let cases = [
        (now - 2 * DAY, "peer_certificate_expired"),
        (now + 2 * DAY, "peer_certificate_not_yet_valid"),
    ];
    for (start, reason) in cases {
        let validity = Validity::starting(start, DAY).unwrap();
        let since_epoch = start.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let then = UnixTime::since_unix_epoch(since_epoch);
        let loaded_then = |id: &str| {
            let pem = ca.issue(&id.parse().unwrap(), validity).unwrap();
            Credentials::from_pem(&pem, then).unwrap()
        };

        let other_gateway = config(gateway_end(&loaded_then("spiffe://e.test/gateway/b")));
        assert_eq!(failure(agent(&agent_pem), other_gateway), ("agent", reason));

        let gateways = ["spiffe://e.test/gateway/*".parse().unwrap()];
        let other_agent = config(agent_end(
            &loaded_then("spiffe://e.test/agent/b"),
            &gateways,
        ));
        assert_eq!(
            failure(other_agent, gateway(&gateway_pem)),
            ("gateway", reason)
        );
    }
}

#[test]
fn only_a_configured_gateway_is_trusted() {
    let (agent_pem, gateway_pem) = good();
    let other = ["spiffe://e.test/gateway/b".parse().unwrap()];
    let config = config(agent_end(&credentials(&agent_pem), &other));
    let refused = failure(config, gateway(&gateway_pem));
    assert_eq!(refused, ("agent", "peer_unexpected_gateway"));

    // Another agent that plays gateway.
    let refused = failure(agent(&agent_pem), gateway(&agent_pem));
    assert_eq!(refused, ("agent", "peer_unexpected_gateway"));
}

#[test]
fn the_error_says_who_the_peer_is() {
    let (agent_pem, _) = good();
    let failed = Pair::new(agent(&agent_pem), gateway(&agent_pem)).pump();
    let Err(Failed::Agent(error)) = failed else {
        panic!("{failed:?}");
    };
    assert_eq!(
        explain(&error),
        "peer spiffe://e.test/agent/a is not one of the configured gateways"
    );
    assert_eq!(
        explain(&Error::DecryptError),
        Error::DecryptError.to_string()
    );
}

#[test]
fn only_egress_1_is_spoken() {
    let (agent_pem, gateway_pem) = good();
    let mut other = agent(&agent_pem);
    other.alpn_protocols = vec![b"egress/2".to_vec()];
    assert_eq!(
        failure(other, gateway(&gateway_pem)),
        ("gateway", "alpn_mismatch")
    );

    let mut none = agent(&agent_pem);
    none.alpn_protocols.clear();
    let mut pair = Pair::new(none, gateway(&gateway_pem));
    pair.pump().unwrap();
    assert_eq!(pair.gateway.alpn_protocol(), None);
}

/// RFC 5246 §7.4.1.2, without the extension that offers TLS 1.3.
#[test]
fn tls_1_2_is_refused() {
    let mut hello = vec![3, 3];
    hello.extend([7; 32]); // random
    hello.push(0); // session_id
    hello.extend([0, 2, 0xC0, 0x2B]); // TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
    hello.extend([1, 0]); // compression_methods
    hello.extend([0, 24]); // extensions
    hello.extend([0, 10, 0, 4, 0, 2, 0, 23]); // supported_groups: secp256r1
    hello.extend([0, 11, 0, 2, 1, 0]); // ec_point_formats
    hello.extend([0, 13, 0, 6, 0, 4, 4, 3, 8, 4]); // signature_algorithms
    let length = u8::try_from(hello.len()).unwrap();
    let record = [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &hello].concat();

    let (_, gateway_pem) = good();
    let mut gateway = ServerConnection::new(Arc::new(gateway(&gateway_pem))).unwrap();
    let error = feed(&mut gateway, &record).unwrap_err();
    assert_eq!(handshake_reason(&error), "tls_incompatible", "{error:?}");
}

#[test]
fn what_is_not_tls_is_refused() {
    let (_, gateway_pem) = good();
    let mut gateway = ServerConnection::new(Arc::new(gateway(&gateway_pem))).unwrap();
    let error = feed(&mut gateway, b"GET / HTTP/1.1\r\n\r\n").unwrap_err();
    assert_eq!(handshake_reason(&error), "not_tls", "{error:?}");
}

#[test]
fn an_agent_that_can_trust_nobody_is_not_configured() {
    let (agent_pem, _) = good();
    let credentials = credentials(&agent_pem);
    assert!(matches!(
        agent_end(&credentials, &[]),
        Err(ConfigError::NoGateways)
    ));
    let foreign = ["spiffe://f.test/*".parse().unwrap()];
    let error = agent_end(&credentials, &foreign).unwrap_err();
    assert_eq!(
        error.to_string(),
        "gateway identity spiffe://f.test/* is not in the own trust domain, e.test"
    );
}

#[test]
fn revoked_certificates_are_refused_at_either_end() {
    let ca = ca("e.test");
    let (agent_pem, gateway_pem) = (
        pem(&ca, "spiffe://e.test/agent/a"),
        pem(&ca, "spiffe://e.test/gateway/a"),
    );
    let validity = Validity::starting(SystemTime::now(), DAY).unwrap();
    let with_list = |pem: &CredentialPem, revoked: &CredentialPem| CredentialPem {
        crl: Some(ca.revoke(&[&revoked.certificates], validity)),
        ..pem.clone()
    };
    let other = pem(&ca, "spiffe://e.test/agent/b");

    let knows_of_other = gateway(&with_list(&gateway_pem, &other));
    Pair::new(agent(&agent_pem), knows_of_other).pump().unwrap();
    assert_eq!(
        failure(
            agent(&agent_pem),
            gateway(&with_list(&gateway_pem, &agent_pem))
        ),
        ("gateway", "peer_certificate_revoked")
    );
    assert_eq!(
        failure(
            agent(&with_list(&agent_pem, &gateway_pem)),
            gateway(&gateway_pem)
        ),
        ("agent", "peer_certificate_revoked")
    );
}

/// A list that another key signed under the CA's name proves nothing, and is no reason to let
/// somebody in whom the true list may name.
#[test]
fn a_forged_revocation_list_is_not_taken() {
    let (real, forger) = (nameless_ca("the CA"), nameless_ca("the CA"));
    let mut params = rcgen::CertificateParams::default();
    let uri = "spiffe://e.test/agent/a".try_into().unwrap();
    params.subject_alt_names = vec![rcgen::SanType::URI(uri)];
    let key = rcgen::KeyPair::generate().unwrap();
    let now = time::OffsetDateTime::now_utc();
    let list = rcgen::CertificateRevocationListParams {
        this_update: now,
        next_update: now + time::Duration::days(1),
        crl_number: 1.into(),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    let mut pem = CredentialPem {
        certificates: params.signed_by(&key, &real).unwrap().pem(),
        key: key.serialize_pem(),
        trust_bundle: real.pem(),
        crl: Some(list.signed_by(&forger).unwrap().pem().unwrap()),
    };
    let faults = Credentials::from_pem(&pem, UnixTime::now()).unwrap_err();
    assert!(
        faults.to_string().contains("a revocation list in"),
        "{faults}"
    );
    pem.crl = Some(list.signed_by(&real).unwrap().pem().unwrap());
    credentials(&pem);
}

mod resumption;
