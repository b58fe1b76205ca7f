//! Certificate, key and trust bundle: read, checked, and held ready for both ends of a tunnel.

mod error;
mod read;

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error};

pub use self::error::{CredentialsError, CredentialsWarning};
use self::error::{Place, Position};
use self::read::Pem;
use super::provider;
use crate::tunnel::identity::{Certificate, Moment, SpiffeId};

/// Credentials in memory, as PEM.
#[derive(Clone)]
pub struct CredentialPem {
    /// The own certificate, then the intermediate ones that lead to the trust bundle.
    pub certificates: String,
    /// The private key of the own certificate: PKCS #8, PKCS #1 or SEC 1, not encrypted.
    pub key: String,
    /// The certificates of the trust domain's CAs.
    pub trust_bundle: String,
}

/// Checked credentials. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Credentials {
    id: SpiffeId,
    key: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
    valid_until: Moment,
    warnings: Vec<CredentialsWarning>,
}

impl Credentials {
    /// Reads and checks three PEM files, which contain what [`CredentialPem`] says.
    ///
    /// # Errors
    /// A [`CredentialsError`] for each way in which a file can be wrong.
    pub fn load(
        certificates: &Path,
        key: &Path,
        trust_bundle: &Path,
        now: UnixTime,
    ) -> Result<Credentials, CredentialsError> {
        let key = Pem::read(key)?;
        let mut credentials = Credentials::check(
            &Pem::read(certificates)?,
            &key,
            &Pem::read(trust_bundle)?,
            now,
        )?;
        credentials.warnings.extend(key.readable_by_others());
        Ok(credentials)
    }

    /// Checks credentials that never were in a file.
    ///
    /// # Errors
    /// As [`Credentials::load`].
    pub fn from_pem(pem: &CredentialPem, now: UnixTime) -> Result<Credentials, CredentialsError> {
        Credentials::check(
            &Pem::in_memory("the certificate in memory", &pem.certificates),
            &Pem::in_memory("the key in memory", &pem.key),
            &Pem::in_memory("the trust bundle in memory", &pem.trust_bundle),
            now,
        )
    }

    /// Who these credentials speak for.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The last moment at which the own certificate and its intermediate ones are valid.
    pub fn valid_until(&self) -> Moment {
        self.valid_until
    }

    /// What does not keep the credentials from being used but should be known.
    pub fn warnings(&self) -> &[CredentialsWarning] {
        &self.warnings
    }

    pub(super) fn key(&self) -> Arc<CertifiedKey> {
        self.key.clone()
    }

    pub(super) fn roots(&self) -> Arc<RootCertStore> {
        self.roots.clone()
    }

    fn check(
        certificates: &Pem,
        key: &Pem,
        trust_bundle: &Pem,
        now: UnixTime,
    ) -> Result<Credentials, CredentialsError> {
        let chain = certificates.certificates()?;
        let (id, valid_until) = check_chain(certificates.place(), &chain, now)?;
        let key = check_key(certificates.place(), chain, key)?;
        let (roots, mut warnings) = check_bundle(trust_bundle, now)?;
        if !is_signed_by(&roots, &key.cert, now) {
            warnings.push(CredentialsWarning::NotSignedByBundle {
                certificates: certificates.place().clone(),
                trust_bundle: trust_bundle.place().clone(),
            });
        }
        Ok(Credentials {
            id,
            key: Arc::new(key),
            roots: Arc::new(roots),
            valid_until,
            warnings,
        })
    }
}

/// Checks the own certificate and the intermediate ones; gives the own ID and the earliest end.
fn check_chain(
    place: &Place,
    chain: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(SpiffeId, Moment), CredentialsError> {
    let mut ends = Vec::with_capacity(chain.len());
    let mut id = None;
    for (index, der) in chain.iter().enumerate() {
        let at = Position::new(place, index);
        let certificate = parse(&at, der)?;
        if certificate.not_before().is_after(now) {
            return Err(CredentialsError::NotYetValid {
                from: certificate.not_before(),
                at,
            });
        }
        if certificate.not_after().is_before(now) {
            return Err(CredentialsError::Expired {
                since: certificate.not_after(),
                at,
            });
        }
        if index == 0 {
            let own = certificate.spiffe_id();
            id = Some(own.map_err(|cause| CredentialsError::Certificate { at, cause })?);
        }
        ends.push(certificate.not_after());
    }
    let found = id.zip(ends.into_iter().min());
    found.ok_or_else(|| CredentialsError::NoCertificate(place.clone()))
}

fn check_key(
    certificates: &Place,
    chain: Vec<CertificateDer<'static>>,
    key: &Pem,
) -> Result<CertifiedKey, CredentialsError> {
    let place = key.place().clone();
    CertifiedKey::from_der(chain, key.key()?, &provider()).map_err(|error| match error {
        Error::InconsistentKeys(_) => CredentialsError::KeyMismatch {
            key: place,
            certificates: certificates.clone(),
        },
        cause => CredentialsError::KeyUnusable { key: place, cause },
    })
}

/// Takes every CA of the bundle that has not expired.
fn check_bundle(
    bundle: &Pem,
    now: UnixTime,
) -> Result<(RootCertStore, Vec<CredentialsWarning>), CredentialsError> {
    let mut roots = RootCertStore::empty();
    let mut expired = Vec::new();
    for (index, der) in bundle.certificates()?.into_iter().enumerate() {
        let at = Position::new(bundle.place(), index);
        let certificate = parse(&at, &der)?;
        let since = certificate.not_after();
        let is_ca = certificate.is_ca();
        if !is_ca.map_err(|cause| CredentialsError::Certificate {
            at: at.clone(),
            cause,
        })? {
            return Err(CredentialsError::NotCa(at));
        }
        if since.is_before(now) {
            expired.push(CredentialsWarning::CaExpired { at, since });
            continue;
        }
        let added = roots.add(der);
        added.map_err(|cause| CredentialsError::CaUnusable { at, cause })?;
    }
    if roots.is_empty() {
        return Err(CredentialsError::EveryCaExpired(bundle.place().clone()));
    }
    Ok((roots, expired))
}

fn parse<'a>(at: &Position, der: &'a [u8]) -> Result<Certificate<'a>, CredentialsError> {
    Certificate::parse(der).map_err(|cause| CredentialsError::Certificate {
        at: at.clone(),
        cause,
    })
}

/// Whether a peer with the same bundle would find an issuer. Other faults are for the peer to judge:
/// it depends on the side which purposes a certificate must have.
fn is_signed_by(roots: &RootCertStore, chain: &[CertificateDer<'_>], now: UnixTime) -> bool {
    let Some((leaf, intermediates)) = chain.split_first() else {
        return false;
    };
    let algorithms = provider().signature_verification_algorithms.all;
    let verified = ParsedCertificate::try_from(leaf).and_then(|leaf| {
        verify_server_cert_signed_by_trust_anchor(&leaf, roots, intermediates, now, algorithms)
    });
    // The second is what rustls says of an issuer with the right name and another key.
    !matches!(
        verified,
        Err(Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature
        ))
    )
}

impl Pem {
    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
        let certificates: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(self.bytes()).collect();
        let certificates = certificates.map_err(|cause| self.broken(&cause))?;
        if certificates.is_empty() {
            return Err(CredentialsError::NoCertificate(self.place().clone()));
        }
        Ok(certificates)
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, CredentialsError> {
        let mut keys = PrivateKeyDer::pem_slice_iter(self.bytes());
        match keys.next() {
            Some(Ok(key)) => Ok(key),
            _ if self.has_encrypted_key() => {
                Err(CredentialsError::KeyEncrypted(self.place().clone()))
            }
            Some(Err(cause)) => Err(self.broken(&cause)),
            None => Err(CredentialsError::NoKey(self.place().clone())),
        }
    }
}

#[cfg(test)]
mod tests;
