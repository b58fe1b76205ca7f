//! One check for each way in which a file can be wrong.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{Error, RootCertStore};

use super::error::{CredentialsError, CredentialsFaults, CredentialsWarning, Place, Position};
use super::read::{Form, Part};
use super::{Trust, Validity, revocation};
use crate::tunnel::identity::{Certificate, Moment, SpiffeId, TrustDomain, der_values};
use crate::tunnel::tls::provider;

pub(super) fn take<T>(
    result: Result<T, CredentialsError>,
    faults: &mut Vec<CredentialsError>,
) -> Option<T> {
    result.map_err(|fault| faults.push(fault)).ok()
}

/// The own certificate and the intermediate ones, not yet judged.
pub(super) struct OwnChain {
    place: Place,
    chain: Vec<CertificateDer<'static>>,
}

impl OwnChain {
    pub(super) fn read(part: Part) -> Result<OwnChain, CredentialsError> {
        Ok(OwnChain {
            chain: part.certificates()?,
            place: part.place().clone(),
        })
    }

    /// Checks each certificate; gives the own ID and the times of the one that ends first.
    pub(super) fn check(
        &self,
        now: UnixTime,
        faults: &mut Vec<CredentialsError>,
    ) -> Option<(SpiffeId, Validity)> {
        let mut id = None;
        let mut ends = Vec::with_capacity(self.chain.len());
        for (index, der) in self.chain.iter().enumerate() {
            let at = Position::new(&self.place, index);
            let Some(certificate) = take(parse(&at, der), faults) else {
                continue;
            };
            let validity = Validity {
                from: certificate.not_before(),
                until: certificate.not_after(),
            };
            take(is_valid(&at, validity, now), faults);
            if index == 0 {
                let own = certificate.spiffe_id();
                let own = own.map_err(|cause| CredentialsError::Certificate { at, cause });
                id = take(own, faults);
            }
            ends.push(validity);
        }
        id.zip(ends.into_iter().min_by_key(|validity| validity.until))
    }
}

fn is_valid(at: &Position, validity: Validity, now: UnixTime) -> Result<(), CredentialsError> {
    let at = at.clone();
    if validity.from.is_after(now) {
        return Err(CredentialsError::NotYetValid {
            from: validity.from,
            at,
        });
    }
    if validity.until.is_before(now) {
        return Err(CredentialsError::Expired {
            since: validity.until,
            at,
        });
    }
    Ok(())
}

/// Checks the key, and where there is a certificate that it is this one's.
pub(super) fn check_key(
    own: Option<&OwnChain>,
    key: &Part,
) -> Result<Option<CertifiedKey>, CredentialsError> {
    let place = key.place().clone();
    let der = key.key()?;
    let Some(own) = own else {
        let loaded = provider().key_provider.load_private_key(der);
        return match loaded {
            Ok(_) => Ok(None),
            Err(cause) => Err(CredentialsError::KeyUnusable { key: place, cause }),
        };
    };
    let key = CertifiedKey::from_der(own.chain.clone(), der, &provider());
    key.map(Some).map_err(|error| match error {
        Error::InconsistentKeys(_) => CredentialsError::KeyMismatch {
            key: place,
            certificates: own.place.clone(),
        },
        cause => CredentialsError::KeyUnusable { key: place, cause },
    })
}

/// A bundle as far as it is valid.
pub(super) struct Bundled {
    pub(super) roots: RootCertStore,
    pub(super) until: Moment,
    pub(super) warnings: Vec<CredentialsWarning>,
}

/// Takes every CA of the bundle that has not expired.
pub(super) fn check_bundle(
    bundle: &Part,
    domain: Option<&TrustDomain>,
    now: UnixTime,
    faults: &mut Vec<CredentialsError>,
) -> Option<Bundled> {
    let mut roots = RootCertStore::empty();
    let mut warnings = Vec::new();
    let mut until: Option<Moment> = None;
    let before = faults.len();
    let certificates = take(bundle.certificates(), faults)?;
    for (index, der) in certificates.into_iter().enumerate() {
        let at = Position::new(bundle.place(), index);
        let Some(end) = take(check_ca(&at, &der, domain), faults) else {
            continue;
        };
        if end.is_before(now) {
            warnings.push(CredentialsWarning::CaExpired { at, since: end });
            continue;
        }
        let added = roots.add(der);
        take(
            added.map_err(|cause| CredentialsError::CaUnusable { at, cause }),
            faults,
        );
        until = Some(until.map_or(end, |until| until.min(end)));
    }
    if until.is_none() && faults.len() == before {
        faults.push(CredentialsError::EveryCaExpired(bundle.place().clone()));
    }
    Some(Bundled {
        roots,
        until: until?,
        warnings,
    })
}

/// Checks that a certificate is one that a bundle may have; gives its end.
fn check_ca(
    at: &Position,
    der: &CertificateDer<'_>,
    own: Option<&TrustDomain>,
) -> Result<Moment, CredentialsError> {
    let wrong = |cause| CredentialsError::Certificate {
        at: at.clone(),
        cause,
    };
    let certificate = parse(at, der)?;
    if !certificate.is_ca().map_err(wrong)? {
        return Err(CredentialsError::NotCa(at.clone()));
    }
    match (certificate.ca_trust_domain().map_err(wrong)?, own) {
        (Some(domain), Some(own)) if domain != *own => Err(CredentialsError::ForeignCa {
            at: at.clone(),
            domain,
            own: own.clone(),
        }),
        _ => Ok(certificate.not_after()),
    }
}

fn parse<'a>(at: &Position, der: &'a [u8]) -> Result<Certificate<'a>, CredentialsError> {
    Certificate::parse(der).map_err(|cause| CredentialsError::Certificate {
        at: at.clone(),
        cause,
    })
}

/// What a peer with the same files would say of the own certificate. Which purposes a certificate must
/// have depends on the side, and is for the peer to judge.
pub(super) fn about_own(
    trust: &Trust,
    own: &OwnChain,
    bundle: &Part,
    now: UnixTime,
) -> Result<Option<CredentialsWarning>, CredentialsFaults> {
    let (certificates, trust_bundle) = (own.place.clone(), bundle.place().clone());
    match trust.check_any_usage(&own.chain, now) {
        Err(webpki::Error::CertRevoked) => {
            Ok(Some(CredentialsWarning::OwnRevoked { certificates }))
        }
        Err(cause) if revocation::is_about_list(&cause) => {
            Err(CredentialsFaults(vec![CredentialsError::CrlUnusable {
                crl: trust.revoked.place(),
                cause,
            }]))
        }
        // The second is what is said of an issuer with the right name and another key.
        Err(webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey) => {
            Ok(Some(CredentialsWarning::NotSignedByBundle {
                certificates,
                trust_bundle,
            }))
        }
        _ => Ok(None),
    }
}

impl Part {
    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
        let certificates: Vec<_> = match self.form() {
            Form::Pem => CertificateDer::pem_slice_iter(self.bytes())
                .collect::<Result<_, _>>()
                .map_err(|cause| self.broken(&cause))?,
            Form::Der => {
                let values = der_values(self.bytes()).map_err(|cause| self.malformed(cause))?;
                values.map(|der| der.to_vec().into()).collect()
            }
        };
        if certificates.is_empty() {
            return Err(CredentialsError::NoCertificate(self.place().clone()));
        }
        Ok(certificates)
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, CredentialsError> {
        if self.form() == Form::Der {
            return Ok(PrivatePkcs8KeyDer::from(self.bytes().to_vec()).into());
        }
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
