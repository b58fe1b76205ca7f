//! PEM files, bounded.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustls::pki_types::pem;

use super::error::{CredentialsError, CredentialsWarning, Place};

/// A bundle of some hundred CAs is smaller.
const MAX_FILE: u64 = 1 << 20;

/// The PEM text of one file, or of a place in memory.
pub(super) struct Pem {
    place: Place,
    bytes: Vec<u8>,
    mode: Option<u32>,
}

impl Pem {
    pub(super) fn read(path: &Path) -> Result<Pem, CredentialsError> {
        let place = Place::file(path);
        let (bytes, mode) = match read_bounded(path) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(CredentialsError::Missing(place));
            }
            Err(error) => return Err(CredentialsError::Unreadable { place, error }),
        };
        let pem = Pem {
            place,
            bytes,
            mode: Some(mode),
        };
        if !pem.contains(b"-----BEGIN ") {
            return Err(CredentialsError::NotPem(pem.place));
        }
        Ok(pem)
    }

    pub(super) fn in_memory(name: &str, text: &str) -> Pem {
        Pem {
            place: Place::memory(name),
            bytes: text.as_bytes().to_vec(),
            mode: None,
        }
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Both the PKCS #8 form and the older one with a `Proc-Type` line.
    pub(super) fn has_encrypted_key(&self) -> bool {
        self.contains(b"ENCRYPTED")
    }

    pub(super) fn broken(&self, cause: &pem::Error) -> CredentialsError {
        CredentialsError::BrokenPem {
            place: self.place.clone(),
            cause: cause.to_string(),
        }
    }

    pub(super) fn readable_by_others(&self) -> Option<CredentialsWarning> {
        let mode = self.mode? & 0o7777;
        (mode & 0o044 != 0).then(|| CredentialsWarning::KeyReadableByOthers {
            key: self.place.clone(),
            mode,
        })
    }

    fn contains(&self, needle: &[u8]) -> bool {
        self.bytes
            .windows(needle.len())
            .any(|window| window == needle)
    }
}

/// Reads the file and its mode through one descriptor, so that both are of the same file.
fn read_bounded(path: &Path) -> io::Result<(Vec<u8>, u32)> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len <= MAX_FILE) {
        Ok((bytes, metadata.permissions().mode()))
    } else {
        Err(io::ErrorKind::FileTooLarge.into())
    }
}
