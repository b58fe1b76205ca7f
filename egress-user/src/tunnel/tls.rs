//! rustls configurations of both ends of a tunnel: TLS 1.3 only, both sides authenticated by SPIFFE
//! certificates, ALPN `egress/1`.
//!
//! Sessions are resumed as long as neither side's certificates, bundle or revocation lists change: what
//! can be resumed lies in the configuration that it was made with, at both ends, and goes with it. A
//! resumed handshake takes the peer's certificate from the earlier one without looking at it, so that
//! it is [judged again](Handshake::peer) afterwards. The gateway keeps the sessions and gives out their
//! names, each good for one use; there is no early data.

mod credentials;
mod standing;
mod verifier;

use std::sync::Arc;

use rustls::client::{Resumption, Tls12Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::server::ServerSessionMemoryCache;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{AlertDescription, CertificateError, ClientConfig, Error, ServerConfig};

use self::verifier::{AgentVerifier, GatewayVerifier, Judge};
use crate::tunnel::ALPN;
use crate::tunnel::identity::{
    IdPattern, IdentityError, Moment, SpiffeId, SpiffeIdError, TrustDomain, spiffe_id_of,
};
use crate::tunnel::raw::{AlpnName, Protocol, RawAccess};

pub use self::credentials::{
    CredentialDer, CredentialFiles, CredentialPem, Credentials, CredentialsError,
    CredentialsFaults, CredentialsWarning, Validity,
};
pub use self::standing::{Ended, Handshake, InUse, Peer, Renewer, in_use};

/// Sessions that a gateway keeps, one or two kilobytes each; an older one makes room. Agents keep a few
/// tunnels warm, and make others when they have more to carry than lately.
const SESSIONS: usize = 4096;

/// Gateways of which an agent keeps sessions, eight of each.
const GATEWAYS: usize = 256;

/// One end of a tunnel: the rustls configuration, and what judges the other end's certificates.
#[derive(Debug)]
pub struct End<C> {
    config: Arc<C>,
    judge: Arc<dyn Judge>,
    /// The end of the own certificate.
    until: Moment,
}

/// How an agent connects.
pub type AgentEnd = End<ClientConfig>;

/// How a gateway accepts.
pub type GatewayEnd = End<ServerConfig>;

impl<C> End<C> {
    /// The rustls configuration.
    pub fn config(&self) -> Arc<C> {
        self.config.clone()
    }
}

impl AgentEnd {
    /// Offers what this protocol goes by instead of `egress/1`.
    #[must_use]
    pub fn speaking(mut self, protocol: &Protocol) -> AgentEnd {
        Arc::make_mut(&mut self.config).alpn_protocols = protocol.alpn();
        self
    }
}

impl GatewayEnd {
    /// Takes those who speak raw by one of these names too, and not by `egress/1` alone.
    #[must_use]
    pub fn taking(mut self, raw: Option<&RawAccess>) -> GatewayEnd {
        let names = raw.into_iter().flat_map(|raw| &raw.alpn);
        let names = names.map(AlpnName::to_vec);
        Arc::make_mut(&mut self.config).alpn_protocols.extend(names);
        self
    }
}

/// The agent's end: trusts gateways whose certificate the bundle vouches for and whose SPIFFE ID is
/// one of `gateways`.
///
/// No server name is sent, and whichever is given to the connection is not looked at: SPIFFE
/// certificates carry none.
///
/// # Errors
/// [`ConfigError::NoGateways`], and [`ConfigError::ForeignGateway`] for a pattern that nothing in the
/// own trust domain can match.
pub fn agent_end(
    credentials: &Credentials,
    gateways: &[IdPattern],
) -> Result<AgentEnd, ConfigError> {
    let own = credentials.id().trust_domain();
    if gateways.is_empty() {
        return Err(ConfigError::NoGateways);
    }
    if let Some(foreign) = gateways.iter().find(|id| id.trust_domain() != own) {
        return Err(ConfigError::ForeignGateway {
            pattern: foreign.clone(),
            own: own.clone(),
        });
    }
    let provider = provider();
    let verifier = Arc::new(GatewayVerifier::new(credentials, gateways, &provider));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(credentials.key())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_sni = false;
    config.resumption =
        Resumption::in_memory_sessions(GATEWAYS).tls12_resumption(Tls12Resumption::Disabled);
    Ok(End {
        config: Arc::new(config),
        judge: verifier,
        until: credentials.validity().until,
    })
}

/// The gateway's end: lets in whoever has a certificate that the bundle vouches for and a SPIFFE ID of
/// the gateway's own trust domain. What such a peer may do is decided by its ID, see
/// [`peer_identity`].
///
/// # Errors
/// [`ConfigError::Tls`] when rustls does not take the bundle.
pub fn gateway_end(credentials: &Credentials) -> Result<GatewayEnd, ConfigError> {
    let provider = provider();
    let verifier = Arc::new(AgentVerifier::new(credentials, &provider)?);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier.clone())
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(credentials.key())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
    config.send_tls13_tickets = 1;
    Ok(End {
        config: Arc::new(config),
        judge: verifier,
        until: credentials.validity().until,
    })
}

/// Who a peer is, by the certificates that it showed in a handshake that succeeded.
///
/// A peer that offers no ALPN protocol at all passes the handshake too (RFC 7301 §3.2): whether
/// `egress/1` was agreed is the caller's to check.
///
/// # Errors
/// [`PeerError::NoCertificate`] and [`PeerError::Identity`], neither of which a handshake made with the
/// configurations of this room lets through.
pub fn peer_identity(certificates: &[CertificateDer<'_>]) -> Result<SpiffeId, PeerError> {
    let leaf = certificates.first().ok_or(PeerError::NoCertificate)?;
    Ok(spiffe_id_of(leaf)?)
}

/// Whom an agent takes for a gateway when nothing else is configured: every
/// `spiffe://<own trust domain>/gateway/*`.
///
/// # Errors
/// [`SpiffeIdError`] when the trust domain's name leaves no room for the path.
pub fn default_gateways(credentials: &Credentials) -> Result<IdPattern, SpiffeIdError> {
    let base = credentials.id().trust_domain().id("/gateway")?;
    Ok(IdPattern::Below(base))
}

/// Whom a gateway takes for an agent when nothing else is configured: every
/// `spiffe://<own trust domain>/agent/*`.
///
/// # Errors
/// [`SpiffeIdError`] when the trust domain's name leaves no room for the path.
pub fn default_agents(credentials: &Credentials) -> Result<IdPattern, SpiffeIdError> {
    let base = credentials.id().trust_domain().id("/agent")?;
    Ok(IdPattern::Below(base))
}

/// One word for why a handshake failed, for records and counters.
pub fn handshake_reason(error: &Error) -> &'static str {
    match error {
        Error::InvalidCertificate(error) => certificate_reason(error),
        Error::NoCertificatesPresented => PeerError::NoCertificate.reason(),
        Error::NoApplicationProtocol => "alpn_mismatch",
        Error::PeerIncompatible(_) => "tls_incompatible",
        Error::InvalidMessage(_) => "not_tls",
        Error::InvalidCertRevocationList(_) => "revocation_list_invalid",
        Error::AlertReceived(alert) => alert_reason(*alert),
        _ => "tls_failed",
    }
}

/// What happened in a handshake that failed, in words. rustls shows a [`PeerError`] in its debug form
/// only.
pub fn explain(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(CertificateError::Other(other)) => other.0.to_string(),
        other => other.to_string(),
    }
}

/// What the other side's alert says of the own certificate (RFC 8446 §6.2).
fn alert_reason(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::CertificateExpired => "own_certificate_expired",
        AlertDescription::CertificateRevoked => "own_certificate_revoked",
        AlertDescription::UnknownCA => "own_certificate_unknown_issuer",
        AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::CertificateRequired
        | AlertDescription::UnsupportedCertificate => "own_certificate_refused",
        _ => "tls_alert_received",
    }
}

fn certificate_reason(error: &CertificateError) -> &'static str {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "peer_certificate_expired"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "peer_certificate_not_yet_valid"
        }
        CertificateError::Revoked => "peer_certificate_revoked",
        CertificateError::UnknownIssuer => "peer_certificate_unknown_issuer",
        CertificateError::BadSignature => "peer_certificate_bad_signature",
        CertificateError::Other(error) => match error.0.downcast_ref::<PeerError>() {
            Some(error) => error.reason(),
            None => "peer_certificate_invalid",
        },
        _ => "peer_certificate_invalid",
    }
}

/// A configuration that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// An agent that would trust no gateway.
    #[error("no gateway identity is configured: name the SPIFFE IDs of the gateways to trust")]
    NoGateways,
    /// A gateway that the own trust bundle cannot vouch for.
    #[error("gateway identity {pattern} is not in the own trust domain, {own}")]
    ForeignGateway {
        /// The configured identity.
        pattern: IdPattern,
        /// The trust domain of the own certificate.
        own: TrustDomain,
    },
    /// rustls refused.
    #[error("TLS configuration: {0}")]
    Tls(#[from] Error),
    /// rustls refused the trust bundle.
    #[error("trust bundle: {0}")]
    Bundle(#[from] rustls::server::VerifierBuilderError),
}

/// Why a peer is not one that this side talks to.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PeerError {
    /// The peer showed no certificate.
    #[error("the peer presented no certificate")]
    NoCertificate,
    /// The certificate names nobody.
    #[error("the peer's certificate: {0}")]
    Identity(#[from] IdentityError),
    /// The certificate is of another trust domain.
    #[error("peer {id} is not in trust domain {expected}")]
    ForeignTrustDomain {
        /// The peer's ID.
        id: SpiffeId,
        /// The own trust domain.
        expected: TrustDomain,
    },
    /// The certificate that was good in an earlier handshake is so no more.
    #[error("the peer's certificate of an earlier handshake is not taken any more: {0}")]
    NoMore(&'static str),
    /// The certificate is good, but not that of a gateway to trust.
    #[error("peer {0} is not one of the configured gateways")]
    UnexpectedGateway(SpiffeId),
}

impl PeerError {
    /// One word per cause, for records and counters.
    pub fn reason(&self) -> &'static str {
        match self {
            PeerError::NoCertificate => "no_peer_certificate",
            PeerError::Identity(_) => "peer_identity_invalid",
            PeerError::NoMore(reason) => reason,
            PeerError::ForeignTrustDomain { .. } => "peer_foreign_trust_domain",
            PeerError::UnexpectedGateway(_) => "peer_unexpected_gateway",
        }
    }
}

/// The cryptography of both ends, given to every configuration so that no process-wide default is
/// asked.
///
/// The hybrid key exchange comes first: a recorded tunnel tells which workload went where, which is
/// worth keeping from whoever records it now and breaks X25519 later.
fn provider() -> Arc<CryptoProvider> {
    use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};

    Arc::new(CryptoProvider {
        kx_groups: vec![X25519MLKEM768, X25519, SECP256R1, SECP384R1],
        ..aws_lc_rs::default_provider()
    })
}

#[cfg(test)]
mod tests;
