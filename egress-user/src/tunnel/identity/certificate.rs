//! What the tunnel needs to know of an X.509 certificate. The only room with an X.509 parser.

use std::time::Duration;

use rustls::pki_types::UnixTime;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::asn1_rs::Any;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::{SpiffeId, SpiffeIdError, TrustDomain};

/// The SPIFFE ID of a leaf certificate (X509-SVID §5.2). Says nothing about who signed it.
///
/// # Errors
/// Any [`IdentityError`].
pub fn spiffe_id_of(der: &[u8]) -> Result<SpiffeId, IdentityError> {
    Certificate::parse(der)?.spiffe_id()
}

/// A parsed certificate.
#[derive(Debug)]
pub struct Certificate<'a>(X509Certificate<'a>);

impl<'a> Certificate<'a> {
    /// Parses one certificate in DER.
    ///
    /// # Errors
    /// [`IdentityError::Malformed`].
    pub fn parse(der: &'a [u8]) -> Result<Certificate<'a>, IdentityError> {
        match X509Certificate::from_der(der) {
            Ok(([], certificate)) => Ok(Certificate(certificate)),
            _ => Err(IdentityError::Malformed),
        }
    }

    /// The SPIFFE ID, which only a leaf certificate with exactly one URI name has.
    ///
    /// # Errors
    /// Any [`IdentityError`].
    pub fn spiffe_id(&self) -> Result<SpiffeId, IdentityError> {
        if self.may_sign()? {
            return Err(IdentityError::SigningCertificate);
        }
        let mut uris = self.uris()?.into_iter();
        let id: SpiffeId = match (uris.next(), uris.next()) {
            (Some(uri), None) => uri.parse()?,
            (None, _) => return Err(IdentityError::NoUri),
            (Some(_), Some(_)) => return Err(IdentityError::SeveralUris),
        };
        if id.path().is_empty() {
            return Err(IdentityError::NoPath);
        }
        Ok(id)
    }

    /// Whether it is marked as a certificate authority's (RFC 5280 §4.2.1.9).
    ///
    /// # Errors
    /// [`IdentityError::Malformed`] when the extension is malformed or given twice.
    pub fn is_ca(&self) -> Result<bool, IdentityError> {
        let constraints = self.0.basic_constraints();
        let constraints = constraints.map_err(|_| IdentityError::Malformed)?;
        Ok(constraints.is_some_and(|extension| extension.value.ca))
    }

    /// The trust domain that a CA's certificate names, if it names one: its SPIFFE ID has no path
    /// (X509-SVID §3.1).
    ///
    /// # Errors
    /// [`IdentityError::Malformed`].
    pub fn ca_trust_domain(&self) -> Result<Option<TrustDomain>, IdentityError> {
        let mut ids = self.uris()?.into_iter().flat_map(str::parse::<SpiffeId>);
        Ok(ids.next().map(|id| id.trust_domain().clone()))
    }

    /// The first moment at which it is valid.
    pub fn not_before(&self) -> Moment {
        Moment(self.0.validity().not_before.to_datetime())
    }

    /// The last moment at which it is valid.
    pub fn not_after(&self) -> Moment {
        Moment(self.0.validity().not_after.to_datetime())
    }

    /// The URIs among its names.
    fn uris(&self) -> Result<Vec<&'a str>, IdentityError> {
        let names = self.0.subject_alternative_name();
        let names = names.map_err(|_| IdentityError::Malformed)?;
        let names = names.map(|extension| extension.value.general_names.as_slice());
        let uris = names.unwrap_or_default().iter();
        Ok(uris
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            })
            .collect())
    }

    /// Whether it is a CA's, or its key may sign certificates or revocation lists.
    fn may_sign(&self) -> Result<bool, IdentityError> {
        let usage = self.0.key_usage().map_err(|_| IdentityError::Malformed)?;
        let signs =
            usage.is_some_and(|usage| usage.value.key_cert_sign() || usage.value.crl_sign());
        Ok(signs || self.is_ca()?)
    }
}

/// The DER values, such as certificates, that stand one after the other.
///
/// # Errors
/// [`IdentityError::Malformed`].
pub fn der_values(mut bytes: &[u8]) -> Result<impl Iterator<Item = &[u8]>, IdentityError> {
    let mut values = Vec::new();
    while !bytes.is_empty() {
        let (rest, _) = Any::from_der(bytes).map_err(|_| IdentityError::Malformed)?;
        let length = bytes.len() - rest.len();
        values.extend(bytes.get(..length));
        bytes = rest;
    }
    Ok(values.into_iter())
}

/// When the next edition of a revocation list in DER is due (RFC 5280 §5.1.2.5), if it says so.
pub fn next_update(der: &[u8]) -> Option<Moment> {
    let (_, list) = CertificateRevocationList::from_der(der).ok()?;
    Some(Moment(list.next_update()?.to_datetime()))
}

/// A moment in a certificate; displayed as RFC 3339 does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Moment(OffsetDateTime);

impl Moment {
    /// Whether it is later than `time`.
    pub fn is_after(self, time: UnixTime) -> bool {
        i128::from(self.0.unix_timestamp()) > i128::from(time.as_secs())
    }

    /// Whether it is earlier than `time`.
    pub fn is_before(self, time: UnixTime) -> bool {
        i128::from(self.0.unix_timestamp()) < i128::from(time.as_secs())
    }

    /// The same moment as rustls has it; nothing before 1970.
    pub fn unix_time(self) -> UnixTime {
        let seconds = u64::try_from(self.0.unix_timestamp()).unwrap_or_default();
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    /// Seconds since 1970-01-01T00:00:00Z.
    pub fn unix_seconds(self) -> i64 {
        self.0.unix_timestamp()
    }
}

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = self.0.format(&Rfc3339).map_err(|_| std::fmt::Error)?;
        f.write_str(&text)
    }
}

/// Why a certificate speaks for nobody.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IdentityError {
    /// Not an X.509 certificate, or one with a broken or doubled extension.
    #[error("malformed certificate")]
    Malformed,
    /// A CA's certificate, which must not be used for authentication.
    #[error("a CA's certificate, not one of an agent or gateway")]
    SigningCertificate,
    /// No URI among its names.
    #[error("no SPIFFE ID: the certificate has no URI in its subject alternative names")]
    NoUri,
    /// More than one URI among its names.
    #[error("more than one URI in the certificate's subject alternative names")]
    SeveralUris,
    /// The one URI is no SPIFFE ID.
    #[error("the certificate's URI is no SPIFFE ID: {0}")]
    NotSpiffe(#[from] SpiffeIdError),
    /// The ID is that of a trust domain, not of something in it.
    #[error("the certificate's SPIFFE ID has no path")]
    NoPath,
}
