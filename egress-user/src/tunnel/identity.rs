//! Who a certificate speaks for: SPIFFE IDs (the SPIFFE-ID standard, §2) and where in an X.509
//! certificate they are (the X509-SVID standard, §2 and §5.2).

mod certificate;

use std::fmt;
use std::str::FromStr;

pub use self::certificate::{
    Certificate, IdentityError, Moment, der_values, next_update, spiffe_id_of,
};

const SCHEME: &str = "spiffe://";
/// SPIFFE-ID §2.3.
const MAX_ID: usize = 2048;
/// SPIFFE-ID §2.3.
const MAX_TRUST_DOMAIN: usize = 255;

/// The name of a trust domain: the authority part of every SPIFFE ID that its CA may issue.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TrustDomain(String);

impl TrustDomain {
    /// `egress.local`, the trust domain of a trial that names none.
    pub fn trial() -> TrustDomain {
        TrustDomain("egress.local".to_owned())
    }

    /// The name alone.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The SPIFFE ID with this path, which begins with `/`; an empty path names the domain itself.
    ///
    /// # Errors
    /// Any [`SpiffeIdError`] about the path.
    pub fn id(&self, path: &str) -> Result<SpiffeId, SpiffeIdError> {
        SpiffeId::from_str(&format!("{SCHEME}{self}{path}"))
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(name: &str) -> Result<TrustDomain, SpiffeIdError> {
        if name.is_empty() {
            return Err(SpiffeIdError::NoTrustDomain);
        }
        if name.len() > MAX_TRUST_DOMAIN {
            return Err(SpiffeIdError::TrustDomainTooLong);
        }
        match name.chars().find(|&char| !is_trust_domain_char(char)) {
            Some(char) => Err(SpiffeIdError::TrustDomainChar(char)),
            None => Ok(TrustDomain(name.to_owned())),
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A SPIFFE ID: `spiffe://`, a trust domain, and a path that may be empty.
///
/// Only the one spelling that the standard allows is accepted, so that comparing bytes is comparing
/// identities.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    path: String,
}

impl SpiffeId {
    /// The trust domain that vouches for the ID.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path with its leading `/`, or nothing.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(id: &str) -> Result<SpiffeId, SpiffeIdError> {
        if id.len() > MAX_ID {
            return Err(SpiffeIdError::TooLong);
        }
        let rest = id.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let slash = rest.find('/').unwrap_or(rest.len());
        let (trust_domain, path) = rest.split_at_checked(slash).unwrap_or((rest, ""));
        check_path(path)?;
        Ok(SpiffeId {
            trust_domain: trust_domain.parse()?,
            path: path.to_owned(),
        })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}{}", self.trust_domain, self.path)
    }
}

/// Which SPIFFE IDs are meant: one, or all that lie below one.
///
/// Written as `spiffe://example.org/gateway/a` or `spiffe://example.org/gateway/*`. The star stands
/// for one or more whole segments: neither `/gateway` itself nor `/gateway-b` is meant.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum IdPattern {
    /// This ID alone.
    Exactly(SpiffeId),
    /// Every ID whose path continues this one's.
    Below(SpiffeId),
}

impl IdPattern {
    /// Whether `id` is meant.
    pub fn matches(&self, id: &SpiffeId) -> bool {
        match self {
            IdPattern::Exactly(expected) => id == expected,
            IdPattern::Below(base) => {
                let below = id.path.strip_prefix(base.path.as_str());
                base.trust_domain == id.trust_domain
                    && below.is_some_and(|rest| rest.starts_with('/'))
            }
        }
    }

    /// The trust domain of every ID that can match.
    pub fn trust_domain(&self) -> &TrustDomain {
        match self {
            IdPattern::Exactly(id) | IdPattern::Below(id) => &id.trust_domain,
        }
    }
}

impl FromStr for IdPattern {
    type Err = SpiffeIdError;

    fn from_str(pattern: &str) -> Result<IdPattern, SpiffeIdError> {
        match pattern.strip_suffix("/*") {
            Some(base) => Ok(IdPattern::Below(base.parse()?)),
            None => Ok(IdPattern::Exactly(pattern.parse()?)),
        }
    }
}

impl fmt::Display for IdPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IdPattern::Exactly(id) => id.fmt(f),
            IdPattern::Below(base) => write!(f, "{base}/*"),
        }
    }
}

/// Why a text is not a SPIFFE ID.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SpiffeIdError {
    /// Something else than `spiffe://` at its beginning.
    #[error("a SPIFFE ID begins with spiffe://")]
    Scheme,
    /// More than 2048 bytes.
    #[error("a SPIFFE ID is at most {MAX_ID} bytes")]
    TooLong,
    /// Nothing between `spiffe://` and the path.
    #[error("the trust domain is empty")]
    NoTrustDomain,
    /// A trust domain of more than 255 bytes.
    #[error("a trust domain is at most {MAX_TRUST_DOMAIN} bytes")]
    TrustDomainTooLong,
    /// A character that no trust domain has. A port, a user and upper case are such.
    #[error("a trust domain has only a-z, 0-9, '.', '-' and '_', not {0:?}")]
    TrustDomainChar(char),
    /// A path that ends in `/` or has `//`.
    #[error("a SPIFFE ID's path has no empty segment and no '/' at its end")]
    EmptySegment,
    /// A segment `.` or `..`.
    #[error("a SPIFFE ID's path has no segment '.' or '..'")]
    RelativeSegment,
    /// A character that no path has. Query, fragment and percent-encoding are such.
    #[error("a SPIFFE ID's path has only a-z, A-Z, 0-9, '.', '-', '_' and '/', not {0:?}")]
    PathChar(char),
}

/// SPIFFE-ID §2.1.
fn is_trust_domain_char(char: char) -> bool {
    matches!(char, 'a'..='z' | '0'..='9' | '.' | '-' | '_')
}

/// SPIFFE-ID §2.2.
fn check_path(path: &str) -> Result<(), SpiffeIdError> {
    // What is before the first slash is the trust domain, and empty here.
    for segment in path.split('/').skip(1) {
        if segment.is_empty() {
            return Err(SpiffeIdError::EmptySegment);
        }
        if matches!(segment, "." | "..") {
            return Err(SpiffeIdError::RelativeSegment);
        }
        let is_path_char = |char: char| char.is_ascii_uppercase() || is_trust_domain_char(char);
        if let Some(char) = segment.chars().find(|&char| !is_path_char(char)) {
            return Err(SpiffeIdError::PathChar(char));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
