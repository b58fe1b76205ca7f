//! A certificate authority for trying the program out: for `egress pki init`, and thrown away after
//! each `egress run`. Certificates follow the X509-SVID standard (§3 and §4).

mod init;

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use time::OffsetDateTime;

pub use self::init::{InitError, InitOptions, WrittenFile, init};
use crate::tunnel::identity::{SpiffeId, TrustDomain};
use crate::tunnel::tls::CredentialPem;

/// How far certificates reach into the past: the hosts of a trial may disagree about the time.
const BACKDATED: time::Duration = time::Duration::minutes(5);

/// From when until when a certificate is valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Validity {
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

impl Validity {
    /// From five minutes before `now` for `lifetime` after it.
    ///
    /// # Errors
    /// [`PkiError::Lifetime`] when it ends after the year 9999, beyond which X.509 has no dates.
    pub fn starting(now: SystemTime, lifetime: Duration) -> Result<Validity, PkiError> {
        let now = OffsetDateTime::from(now);
        let lifetime = time::Duration::try_from(lifetime).map_err(|_| PkiError::Lifetime)?;
        let not_before = now.checked_sub(BACKDATED).ok_or(PkiError::Lifetime)?;
        let not_after = now.checked_add(lifetime).ok_or(PkiError::Lifetime)?;
        Ok(Validity {
            not_before,
            not_after,
        })
    }

    /// No longer than the issuer's.
    fn within(self, issuer: Validity) -> Validity {
        Validity {
            not_before: self.not_before.max(issuer.not_before),
            not_after: self.not_after.min(issuer.not_after),
        }
    }
}

/// A CA with its key in memory.
pub struct TrialCa {
    trust_domain: TrustDomain,
    validity: Validity,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl TrialCa {
    /// Makes a CA for a trust domain.
    ///
    /// # Errors
    /// [`PkiError::Generate`].
    pub fn new(trust_domain: TrustDomain, validity: Validity) -> Result<TrialCa, PkiError> {
        let key = new_key()?;
        let mut params = params(
            &format!("spiffe://{trust_domain}"),
            "egress trial CA",
            validity,
        )?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // Told apart by name, a certificate of another trial's CA is one of an unknown issuer, not
        // one with a bad signature.
        let key_id: String = params
            .key_identifier(&key)
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        params.distinguished_name.push(DnType::CommonName, key_id);
        let issuer = CertifiedIssuer::self_signed(params, key)?;
        Ok(TrialCa {
            trust_domain,
            validity,
            issuer,
        })
    }

    /// Issues a certificate that serves both ends of a tunnel. It does not outlive the CA's.
    ///
    /// # Errors
    /// [`PkiError::NotIssuable`] for an ID of another trust domain or without a path.
    pub fn issue(&self, id: &SpiffeId, validity: Validity) -> Result<CredentialPem, PkiError> {
        if *id.trust_domain() != self.trust_domain || id.path().is_empty() {
            return Err(PkiError::NotIssuable {
                id: id.clone(),
                trust_domain: self.trust_domain.clone(),
            });
        }
        let mut params = params(
            &id.to_string(),
            "egress trial",
            validity.within(self.validity),
        )?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let key = new_key()?;
        Ok(CredentialPem {
            certificates: params.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
            trust_bundle: self.certificate_pem(),
            crl: None,
        })
    }

    /// A revocation list with these certificates, PEM; a newer one is due at the end of `validity`.
    #[cfg(test)]
    pub(crate) fn revoke(&self, certificates: &[&str], validity: Validity) -> String {
        let revoked = certificates.iter().map(|certificate| {
            let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).unwrap();
            let serial = pem.parse_x509().unwrap().raw_serial().to_vec();
            rcgen::RevokedCertParams {
                serial_number: serial.into(),
                revocation_time: validity.not_before,
                reason_code: None,
                invalidity_date: None,
            }
        });
        let list = rcgen::CertificateRevocationListParams {
            this_update: validity.not_before,
            next_update: validity.not_after,
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// The CA's certificate: the trust bundle of its domain.
    pub fn certificate_pem(&self) -> String {
        self.issuer.pem()
    }

    fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }
}

fn params(uri: &str, name: &str, validity: Validity) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, name);
    params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    params.not_before = validity.not_before;
    params.not_after = validity.not_after;
    Ok(params)
}

fn new_key() -> Result<KeyPair, PkiError> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// rcgen failed.
    #[error("cannot make a certificate: {0}")]
    Generate(#[from] rcgen::Error),
    /// The validity has no end that a certificate can name.
    #[error("a certificate cannot be valid beyond the year 9999: choose a shorter lifetime")]
    Lifetime,
    /// This CA does not issue for that ID.
    #[error("{id} is not something in trust domain {trust_domain}")]
    NotIssuable {
        /// The ID asked for.
        id: SpiffeId,
        /// The CA's trust domain.
        trust_domain: TrustDomain,
    },
}

#[cfg(test)]
mod tests;
