//! A throw-away certificate authority for the origins.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};

/// Signs certificates for origin names. Its own certificate is what clients are told to trust.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: PathBuf,
}

/// A certificate and its key, as PEM files.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

impl Authority {
    /// Makes an authority whose certificate is `origins-ca.pem` in `directory`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn new(directory: &Path) -> anyhow::Result<Authority> {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "egress lab origins");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let authority = Authority {
            issuer,
            directory: directory.to_owned(),
        };
        fs::write(authority.certificate(), authority.issuer.pem())?;
        // For clients of every user, whatever the umask.
        let readable = Permissions::from_mode(0o644);
        fs::set_permissions(authority.certificate(), readable)?;
        Ok(authority)
    }

    /// The authority's own certificate.
    pub fn certificate(&self) -> PathBuf {
        self.directory.join("origins-ca.pem")
    }

    /// A certificate for one name, valid for a server.
    ///
    /// # Errors
    /// When the name cannot be in a certificate or a file cannot be written.
    pub fn issue(&self, name: &str) -> anyhow::Result<Certificate> {
        let mut params = CertificateParams::new([name.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        // Clients that verify strictly, as Python does since 3.13, ask for it.
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let paths = Certificate {
            certificate: self.directory.join(format!("{name}.pem")),
            key: self.directory.join(format!("{name}-key.pem")),
        };
        fs::write(&paths.certificate, certificate.pem())?;
        fs::write(&paths.key, key.serialize_pem())?;
        Ok(paths)
    }
}
