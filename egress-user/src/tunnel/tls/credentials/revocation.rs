//! Certificates that their CA took back: revocation lists (RFC 5280 §5).
//!
//! A list that is overdue still revokes what it lists: to refuse everybody because no newer list came
//! would make a stop of the list's distribution a stop of the tunnels. A CA without a list revokes
//! nobody.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::{CertRevocationListError, CertificateError, OtherError, RootCertStore};
use webpki::{
    CertRevocationList, EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter,
    OwnedCertRevocationList, RevocationOptionsBuilder, UnknownStatusPolicy,
};

use super::Trust;
use super::error::{CredentialsError, CredentialsWarning, Place};
use super::read::{Form, Part};
use crate::tunnel::identity::{Moment, der_values, next_update};
use crate::tunnel::tls::provider;

/// Every revocation list of a file; none when there is no file.
#[derive(Debug, Default)]
pub(super) struct Revoked {
    place: Option<Place>,
    lists: Vec<List>,
}

#[derive(Debug)]
struct List {
    list: CertRevocationList<'static>,
    next: Option<Moment>,
}

impl Revoked {
    pub(super) fn read(part: &Part) -> Result<Revoked, CredentialsError> {
        let unusable = |cause| CredentialsError::CrlUnusable {
            crl: part.place().clone(),
            cause,
        };
        let mut lists = Vec::new();
        for der in part.revocation_lists()? {
            let list = OwnedCertRevocationList::from_der(&der).map_err(unusable)?;
            lists.push(List {
                list: list.into(),
                next: next_update(&der),
            });
        }
        if lists.is_empty() {
            return Err(CredentialsError::NoCrl(part.place().clone()));
        }
        Ok(Revoked {
            place: Some(part.place().clone()),
            lists,
        })
    }

    /// The first moment at which a newer list is due.
    pub(super) fn until(&self) -> Option<Moment> {
        self.lists.iter().filter_map(|list| list.next).min()
    }

    pub(super) fn place(&self) -> Place {
        let none = || Place::memory("no revocation list");
        self.place.clone().unwrap_or_else(none)
    }

    /// Lists that are overdue, and lists that revoke nobody.
    pub(super) fn warnings(
        &self,
        roots: &RootCertStore,
        bundle: &Place,
        now: UnixTime,
    ) -> Vec<CredentialsWarning> {
        let mut warnings = Vec::new();
        for list in &self.lists {
            if let Some(since) = list.next.filter(|next| next.is_before(now)) {
                let crl = self.place();
                warnings.push(CredentialsWarning::CrlOverdue { crl, since });
            }
            let issuer = list.list.issuer();
            if !roots
                .roots
                .iter()
                .any(|root| root.subject.as_ref() == issuer)
            {
                warnings.push(CredentialsWarning::CrlOfAnother {
                    crl: self.place(),
                    trust_bundle: bundle.clone(),
                });
            }
        }
        warnings
    }
}

impl Part {
    fn revocation_lists(
        &self,
    ) -> Result<Vec<CertificateRevocationListDer<'static>>, CredentialsError> {
        match self.form() {
            Form::Pem => CertificateRevocationListDer::pem_slice_iter(self.bytes())
                .collect::<Result<_, _>>()
                .map_err(|cause| self.broken(&cause)),
            Form::Der => {
                let values = der_values(self.bytes()).map_err(|cause| self.malformed(cause))?;
                Ok(values.map(|der| der.to_vec().into()).collect())
            }
        }
    }
}

impl Trust {
    /// Whether a certificate of the chain, whose purpose and names were checked already, was taken
    /// back.
    pub(in crate::tunnel::tls) fn check_revocation(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        if self.revoked.lists.is_empty() {
            return Ok(());
        }
        self.check(leaf, intermediates, now).map_err(as_rustls)
    }

    /// Whether the bundle vouches for a chain, for whatever purpose.
    pub(super) fn check_any_usage(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        match chain.split_first() {
            Some((leaf, intermediates)) => self.check(leaf, intermediates, now),
            None => Err(webpki::Error::UnknownIssuer),
        }
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        let lists: Vec<&CertRevocationList<'_>> =
            self.revoked.lists.iter().map(|list| &list.list).collect();
        // No list is no option.
        let options = RevocationOptionsBuilder::new(&lists).ok();
        let options = options.map(|options| {
            options
                .with_status_policy(UnknownStatusPolicy::Allow)
                .build()
        });
        EndEntityCert::try_from(leaf)?.verify_for_usage(
            provider().signature_verification_algorithms.all,
            &self.roots.roots,
            intermediates,
            now,
            AnyUsage,
            options,
            None,
        )?;
        Ok(())
    }
}

/// Whether it is the list that is wrong, and not the certificate.
pub(super) fn is_about_list(error: &webpki::Error) -> bool {
    matches!(
        error,
        webpki::Error::InvalidCrlSignatureForPublicKey
            | webpki::Error::IssuerNotCrlSigner
            | webpki::Error::InvalidCrlNumber
            | webpki::Error::UnsupportedCrlSignatureAlgorithmContext(_)
            | webpki::Error::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_)
    )
}

fn as_rustls(error: webpki::Error) -> rustls::Error {
    if matches!(error, webpki::Error::CertRevoked) {
        return CertificateError::Revoked.into();
    }
    let error = OtherError(Arc::new(error));
    rustls::Error::InvalidCertRevocationList(CertRevocationListError::Other(error))
}

struct AnyUsage;

impl ExtendedKeyUsageValidator for AnyUsage {
    fn validate(&self, _: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}
