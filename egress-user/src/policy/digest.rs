//! A short name for the content of a policy.

use std::fmt;

use serde::{Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// The first 8 bytes of the SHA-256 of a policy's text: enough to tell the policies of one
/// fleet apart, and short enough to stand in every record and in the tunnel's header.
///
/// Agent and gateway show the same digest exactly when they read the same bytes, and so does
/// `sha256sum FILE | cut -c-16`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 8]);

impl Digest {
    /// The digest of several texts, one after the other.
    pub(super) fn of(parts: &[&str]) -> Digest {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(part);
        }
        let [a, b, c, d, e, f, g, h, ..] = hash.finalize().0;
        Digest([a, b, c, d, e, f, g, h])
    }

    /// The digest that a peer sent.
    pub fn from_bytes(bytes: [u8; 8]) -> Digest {
        Digest(bytes)
    }

    /// The form in the tunnel's header.
    pub fn to_bytes(self) -> [u8; 8] {
        self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
