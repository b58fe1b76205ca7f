//! Which certificates each end of a tunnel accepts: the chain as rustls verifies it, then the SPIFFE ID
//! instead of a DNS name.

use std::fmt::Debug;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};

use super::credentials::Trust;
use super::{Credentials, PeerError};
use crate::tunnel::identity::{IdPattern, SpiffeId, TrustDomain, spiffe_id_of};

/// Judges a peer's certificates as in a handshake, at any later time.
pub(super) trait Judge: Debug + Send + Sync {
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error>;
}

impl Judge for GatewayVerifier {
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(leaf)?,
            &self.trust.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        self.trust.check_revocation(leaf, intermediates, now)?;
        self.check_identity(leaf).map_err(as_rustls)
    }
}

impl Judge for AgentVerifier {
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        self.chain.verify_client_cert(leaf, intermediates, now)?;
        self.trust.check_revocation(leaf, intermediates, now)?;
        id_in(&self.trust_domain, leaf).map_err(as_rustls)?;
        Ok(())
    }
}

/// What an agent asks of a gateway's certificate.
#[derive(Debug)]
pub(super) struct GatewayVerifier {
    trust: Arc<Trust>,
    algorithms: WebPkiSupportedAlgorithms,
    trust_domain: TrustDomain,
    gateways: Vec<IdPattern>,
}

impl GatewayVerifier {
    pub(super) fn new(
        credentials: &Credentials,
        gateways: &[IdPattern],
        provider: &CryptoProvider,
    ) -> GatewayVerifier {
        GatewayVerifier {
            trust: credentials.trust(),
            algorithms: provider.signature_verification_algorithms,
            trust_domain: credentials.id().trust_domain().clone(),
            gateways: gateways.to_vec(),
        }
    }

    fn check_identity(&self, leaf: &CertificateDer<'_>) -> Result<(), PeerError> {
        let id = id_in(&self.trust_domain, leaf)?;
        if !self.gateways.iter().any(|gateway| gateway.matches(&id)) {
            return Err(PeerError::UnexpectedGateway(id));
        }
        Ok(())
    }
}

impl ServerCertVerifier for GatewayVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// What a gateway asks of an agent's certificate.
#[derive(Debug)]
pub(super) struct AgentVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    trust: Arc<Trust>,
    trust_domain: TrustDomain,
}

impl AgentVerifier {
    pub(super) fn new(
        credentials: &Credentials,
        provider: &Arc<CryptoProvider>,
    ) -> Result<AgentVerifier, VerifierBuilderError> {
        let trust = credentials.trust();
        let roots = trust.roots.clone();
        let chain = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            // An agent has one certificate and needs no hint which to show.
            .clear_root_hint_subjects()
            .build()?;
        Ok(AgentVerifier {
            chain,
            trust,
            trust_domain: credentials.id().trust_domain().clone(),
        })
    }
}

impl ClientCertVerifier for AgentVerifier {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(end_entity, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// The SPIFFE ID of a certificate. The bundle vouches for one trust domain and no other.
fn id_in(trust_domain: &TrustDomain, leaf: &CertificateDer<'_>) -> Result<SpiffeId, PeerError> {
    let id = spiffe_id_of(leaf)?;
    if id.trust_domain() != trust_domain {
        return Err(PeerError::ForeignTrustDomain {
            id,
            expected: trust_domain.clone(),
        });
    }
    Ok(id)
}

fn as_rustls(error: PeerError) -> Error {
    CertificateError::Other(OtherError(Arc::new(error))).into()
}

/// Never reached: the configurations allow TLS 1.3 alone.
fn tls12() -> Error {
    Error::General("TLS 1.2 is not spoken in the tunnel".to_owned())
}
