//! Certificate, key and trust bundle: read, checked, and held ready for both ends of a tunnel.

mod check;
mod error;
mod read;
mod revocation;

use std::path::PathBuf;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::UnixTime;
use rustls::sign::CertifiedKey;

use self::check::{OwnChain, about_own, check_bundle, check_key, take};
pub use self::error::{CredentialsError, CredentialsFaults, CredentialsWarning};
use self::read::{Form, Part};
use self::revocation::Revoked;
use crate::tunnel::identity::{Moment, SpiffeId};

/// Credentials in memory, as PEM.
#[derive(Clone)]
pub struct CredentialPem {
    /// The own certificate, then the intermediate ones that lead to the trust bundle.
    pub certificates: String,
    /// The private key of the own certificate: PKCS #8, PKCS #1 or SEC 1, not encrypted.
    pub key: String,
    /// The certificates of the trust domain's CAs.
    pub trust_bundle: String,
    /// Revocation lists of those CAs, if there are any.
    pub crl: Option<String>,
}

/// Credentials in memory, as DER: one value after the other.
#[derive(Clone)]
pub struct CredentialDer {
    /// Who gave them, for sentences.
    pub giver: String,
    /// The own certificate, then the intermediate ones that lead to the trust bundle.
    pub certificates: Vec<u8>,
    /// The private key of the own certificate: PKCS #8, not encrypted.
    pub key: Vec<u8>,
    /// The certificates of the trust domain's CAs.
    pub trust_bundle: Vec<u8>,
    /// Revocation lists of those CAs; empty when there are none.
    pub crl: Vec<u8>,
}

/// Where credentials are, as PEM files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CredentialFiles {
    /// The own certificate and the intermediate ones.
    pub certificate: PathBuf,
    /// The private key of the own certificate.
    pub key: PathBuf,
    /// The certificates of the trust domain's CAs.
    pub bundle: PathBuf,
    /// Revocation lists of those CAs, if there are any.
    pub crl: Option<PathBuf>,
}

impl CredentialFiles {
    /// Every file.
    pub fn paths(&self) -> Vec<PathBuf> {
        let files = [&self.certificate, &self.key, &self.bundle];
        files.into_iter().chain(&self.crl).cloned().collect()
    }
}

/// Checked credentials. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Credentials {
    id: SpiffeId,
    key: Arc<CertifiedKey>,
    trust: Arc<Trust>,
    validity: Validity,
    warnings: Vec<CredentialsWarning>,
}

/// Whom a trust bundle vouches for.
#[derive(Debug)]
pub(super) struct Trust {
    pub(super) roots: Arc<RootCertStore>,
    revoked: Revoked,
    /// The end of the CA that ends first.
    until: Moment,
}

/// From when until when something can be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Validity {
    /// The first moment.
    pub from: Moment,
    /// The last moment.
    pub until: Moment,
}

impl Credentials {
    /// Reads and checks PEM files, which contain what [`CredentialPem`] says.
    ///
    /// # Errors
    /// Everything that is wrong with the files, at once.
    pub fn load(files: &CredentialFiles, now: UnixTime) -> Result<Credentials, CredentialsFaults> {
        let key = Part::read(&files.key);
        let warning = key.as_ref().ok().and_then(Part::readable_by_others);
        let mut credentials = Credentials::check(
            Part::read(&files.certificate),
            key,
            Part::read(&files.bundle),
            files.crl.as_deref().map(Part::read),
            now,
        )?;
        credentials.warnings.extend(warning);
        Ok(credentials)
    }

    /// Checks credentials that never were in a file.
    ///
    /// # Errors
    /// As [`Credentials::load`].
    pub fn from_pem(pem: &CredentialPem, now: UnixTime) -> Result<Credentials, CredentialsFaults> {
        let in_memory = |name, text: &str| Ok(Part::in_memory(name, Form::Pem, text.as_bytes()));
        let crl = pem.crl.as_ref();
        Credentials::check(
            in_memory("the certificate in memory", &pem.certificates),
            in_memory("the key in memory", &pem.key),
            in_memory("the trust bundle in memory", &pem.trust_bundle),
            crl.map(|crl| in_memory("the revocation list in memory", crl)),
            now,
        )
    }

    /// Checks credentials that somebody gave as DER.
    ///
    /// # Errors
    /// As [`Credentials::load`].
    pub fn from_der(der: &CredentialDer, now: UnixTime) -> Result<Credentials, CredentialsFaults> {
        let part = |what: &str, bytes: &[u8]| {
            let name = format!("{what} from {}", der.giver);
            Ok(Part::in_memory(&name, Form::Der, bytes))
        };
        let has_crl = !der.crl.is_empty();
        Credentials::check(
            part("the certificate", &der.certificates),
            part("the key", &der.key),
            part("the trust bundle", &der.trust_bundle),
            has_crl.then(|| part("the revocation list", &der.crl)),
            now,
        )
    }

    /// Who these credentials speak for.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// When the own certificate and its intermediate ones are valid: the times of the one that ends
    /// first.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// The last moment at which every CA of the bundle is valid that is so now.
    pub fn bundle_valid_until(&self) -> Moment {
        self.trust.until
    }

    /// The moment by which a newer revocation list should be here, where one says so.
    pub fn crl_valid_until(&self) -> Option<Moment> {
        self.trust.revoked.until()
    }

    /// What does not keep the credentials from being used but should be known.
    pub fn warnings(&self) -> &[CredentialsWarning] {
        &self.warnings
    }

    pub(super) fn key(&self) -> Arc<CertifiedKey> {
        self.key.clone()
    }

    pub(super) fn trust(&self) -> Arc<Trust> {
        self.trust.clone()
    }

    fn check(
        certificates: Result<Part, CredentialsError>,
        key: Result<Part, CredentialsError>,
        bundle: Result<Part, CredentialsError>,
        crl: Option<Result<Part, CredentialsError>>,
        now: UnixTime,
    ) -> Result<Credentials, CredentialsFaults> {
        let mut faults = Vec::new();
        let own = take(certificates.and_then(OwnChain::read), &mut faults);
        let identity = own.as_ref().and_then(|own| own.check(now, &mut faults));
        let key = take(
            key.and_then(|key| check_key(own.as_ref(), &key)),
            &mut faults,
        );
        let domain = identity.as_ref().map(|(id, _)| id.trust_domain());
        let bundle = take(bundle, &mut faults);
        let trusted = bundle
            .as_ref()
            .and_then(|bundle| check_bundle(bundle, domain, now, &mut faults));
        let revoked = crl.map(|crl| crl.and_then(|crl| Revoked::read(&crl)));
        let revoked = match revoked {
            None => Some(Revoked::default()),
            Some(revoked) => take(revoked, &mut faults),
        };
        let complete = (own.zip(identity))
            .zip(key.flatten())
            .zip(bundle.zip(trusted.zip(revoked)));
        let Some((((own, (id, validity)), key), (bundle, (bundled, revoked)))) =
            complete.filter(|_| faults.is_empty())
        else {
            return Err(CredentialsFaults(faults));
        };
        let trust = Trust {
            roots: Arc::new(bundled.roots),
            revoked,
            until: bundled.until,
        };
        let mut warnings = bundled.warnings;
        warnings.extend(trust.revoked.warnings(&trust.roots, bundle.place(), now));
        warnings.extend(about_own(&trust, &own, &bundle, now)?);
        Ok(Credentials {
            id,
            key: Arc::new(key),
            trust: Arc::new(trust),
            validity,
            warnings,
        })
    }
}

#[cfg(test)]
mod tests;
