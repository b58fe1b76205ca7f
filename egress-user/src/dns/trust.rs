//! Whom to believe that a name server is the one that was named.

use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, pem};
use rustls::{ClientConfig, RootCertStore};

/// Why name servers cannot be asked by TLS.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file of CA certificates cannot be used.
    #[error("cannot read the CA certificates in {path}: {cause}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: pem::Error,
    },
    /// The file has no certificate that can be used.
    #[error("{0} has no CA certificate, PEM section CERTIFICATE, that can be used")]
    NoneInFile(PathBuf),
    /// The system has none.
    #[error(
        "this system has no CA certificates to know a name server by: name a file of them with `dns.ca`"
    )]
    NoneInSystem,
    /// rustls refused.
    #[error("TLS configuration: {0}")]
    Tls(#[from] rustls::Error),
}

/// How name servers are asked by TLS: 1.3, and a certificate of a CA in the file, or of one that the
/// system trusts.
pub(super) fn client_config(ca: Option<&Path>) -> Result<ClientConfig, TrustError> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            let file = |cause| TrustError::File {
                path: path.to_owned(),
                cause,
            };
            let found = CertificateDer::pem_file_iter(path).map_err(file)?;
            let found: Vec<_> = found.collect::<Result<_, _>>().map_err(file)?;
            if roots.add_parsable_certificates(found).0 == 0 {
                return Err(TrustError::NoneInFile(path.to_owned()));
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs().certs;
            if roots.add_parsable_certificates(found).0 == 0 {
                return Err(TrustError::NoneInSystem);
            }
        }
    }
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let config = ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}
