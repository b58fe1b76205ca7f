//! What can be wrong with credentials, in sentences for whoever has to put it right.

use std::fmt;
use std::io;
use std::path::Path;

use crate::tunnel::identity::{IdentityError, Moment, TrustDomain};

/// A file, or the name of something in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place(String);

impl Place {
    pub(super) fn file(path: &Path) -> Place {
        Place(path.display().to_string())
    }

    pub(super) fn memory(name: &str) -> Place {
        Place(name.to_owned())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One certificate of several in a place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Position {
    place: Place,
    index: usize,
}

impl Position {
    pub(super) fn new(place: &Place, index: usize) -> Position {
        Position {
            place: place.clone(),
            index,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "certificate {} of {}", self.index + 1, self.place)
    }
}

/// Why credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// No such file.
    #[error("{0} does not exist")]
    Missing(Place),
    /// The file cannot be read.
    #[error("cannot read {place}: {error}")]
    Unreadable {
        /// The file.
        place: Place,
        /// What the system said.
        error: io::Error,
    },
    /// No PEM section in it.
    #[error("{0} is not PEM: it has no line that begins with -----BEGIN")]
    NotPem(Place),
    /// A PEM section that does not end, or is not base64.
    #[error("{place} is broken PEM: {cause}")]
    BrokenPem {
        /// The file.
        place: Place,
        /// What the PEM parser said.
        cause: String,
    },
    /// Not one DER value after the other.
    #[error("{place}: {cause}")]
    MalformedDer {
        /// Where it came from.
        place: Place,
        /// What is wrong.
        cause: IdentityError,
    },
    /// PEM, but no certificate.
    #[error("{0} has no certificate: no PEM section CERTIFICATE")]
    NoCertificate(Place),
    /// PEM, but no private key.
    #[error(
        "{0} has no private key: no PEM section PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY"
    )]
    NoKey(Place),
    /// A private key behind a password.
    #[error("the private key in {0} is encrypted: store it without a password")]
    KeyEncrypted(Place),
    /// A private key of a kind that cannot sign here.
    #[error("the private key in {key} cannot be used: {cause}")]
    KeyUnusable {
        /// The key's file.
        key: Place,
        /// What rustls said.
        cause: rustls::Error,
    },
    /// A private key of another certificate.
    #[error("the private key in {key} is not that of the first certificate in {certificates}")]
    KeyMismatch {
        /// The key's file.
        key: Place,
        /// The certificate's file.
        certificates: Place,
    },
    /// A certificate that cannot be parsed, or the own one without a usable SPIFFE ID.
    #[error("{at}: {cause}")]
    Certificate {
        /// Which certificate.
        at: Position,
        /// What is wrong with it.
        cause: IdentityError,
    },
    /// A certificate of the own chain that was valid.
    #[error("{at} expired at {since}")]
    Expired {
        /// Which certificate.
        at: Position,
        /// The last moment of its validity.
        since: Moment,
    },
    /// A certificate of the own chain that will be valid.
    #[error("{at} is not valid before {from}: is this machine's clock right?")]
    NotYetValid {
        /// Which certificate.
        at: Position,
        /// The first moment of its validity.
        from: Moment,
    },
    /// A certificate in the bundle that is not a CA's. Trusted as one, its holder could make
    /// certificates for any identity.
    #[error("{0} is not a CA's: a trust bundle has CA certificates only")]
    NotCa(Position),
    /// A CA certificate that rustls does not take.
    #[error("{at} cannot be used as a CA's: {cause}")]
    CaUnusable {
        /// Which certificate.
        at: Position,
        /// What rustls said.
        cause: rustls::Error,
    },
    /// A CA of another trust domain, by its own SPIFFE ID.
    #[error("{at} is the CA of trust domain {domain}, and the own certificate is of {own}")]
    ForeignCa {
        /// Which certificate.
        at: Position,
        /// The trust domain of the CA.
        domain: TrustDomain,
        /// The trust domain of the own certificate.
        own: TrustDomain,
    },
    /// PEM, but no revocation list.
    #[error("{0} has no revocation list: no PEM section X509 CRL")]
    NoCrl(Place),
    /// A revocation list that cannot be parsed, or that its CA did not sign.
    #[error("a revocation list in {crl} cannot be used: {cause}")]
    CrlUnusable {
        /// The list's file.
        crl: Place,
        /// What webpki said.
        cause: webpki::Error,
    },
    /// A bundle without a valid CA.
    #[error("every CA certificate in {0} has expired")]
    EveryCaExpired(Place),
}

/// Everything that is wrong with credentials, one sentence a line.
#[derive(Debug)]
pub struct CredentialsFaults(pub(super) Vec<CredentialsError>);

impl fmt::Display for CredentialsFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for CredentialsFaults {}

/// What does not keep credentials from being used but should be known.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CredentialsWarning {
    /// The key's file mode lets more than its owner read it.
    #[error("the private key {key} can be read by others than its owner (mode {mode:04o})")]
    KeyReadableByOthers {
        /// The key's file.
        key: Place,
        /// Its permission bits.
        mode: u32,
    },
    /// A CA in the bundle is not trusted any more.
    #[error("{at} expired at {since} and is not trusted")]
    CaExpired {
        /// Which certificate.
        at: Position,
        /// The last moment of its validity.
        since: Moment,
    },
    /// A newer revocation list should be here.
    #[error("a revocation list in {crl} is overdue since {since}; what it lists stays revoked")]
    CrlOverdue {
        /// The list's file.
        crl: Place,
        /// When a newer one was due.
        since: Moment,
    },
    /// A revocation list of a CA that nobody trusts, or an intermediate one's.
    #[error("no CA in {trust_bundle} issued a revocation list in {crl}")]
    CrlOfAnother {
        /// The list's file.
        crl: Place,
        /// The bundle's file.
        trust_bundle: Place,
    },
    /// The own certificate was taken back.
    #[error("{certificates} is revoked: peers with the same revocation list refuse it")]
    OwnRevoked {
        /// The certificate's file.
        certificates: Place,
    },
    /// The own certificate comes from a CA that is not in the own bundle.
    #[error("no CA in {trust_bundle} signed {certificates}: peers with the same bundle refuse it")]
    NotSignedByBundle {
        /// The certificate's file.
        certificates: Place,
        /// The bundle's file.
        trust_bundle: Place,
    },
}
