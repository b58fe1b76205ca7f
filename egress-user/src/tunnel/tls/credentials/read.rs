//! The parts of credentials as they come: PEM files, bounded, or DER in memory.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustls::pki_types::pem;

use super::error::{CredentialsError, CredentialsWarning, Place};
use crate::tunnel::identity::IdentityError;

/// A bundle of some hundred CAs is smaller.
const MAX_FILE: u64 = 1 << 20;

/// One file, or what stands for one in memory.
pub(super) struct Part {
    place: Place,
    form: Form,
    bytes: Vec<u8>,
    mode: Option<u32>,
}

/// The form of a part.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Pem,
    /// One value after the other.
    Der,
}

impl Part {
    pub(super) fn read(path: &Path) -> Result<Part, CredentialsError> {
        let place = Place::file(path);
        let (bytes, mode) = match read_bounded(path) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(CredentialsError::Missing(place));
            }
            Err(error) => return Err(CredentialsError::Unreadable { place, error }),
        };
        let part = Part {
            place,
            form: Form::Pem,
            bytes,
            mode: Some(mode),
        };
        if !part.contains(b"-----BEGIN ") {
            return Err(CredentialsError::NotPem(part.place));
        }
        Ok(part)
    }

    pub(super) fn in_memory(name: &str, form: Form, bytes: &[u8]) -> Part {
        Part {
            place: Place::memory(name),
            form,
            bytes: bytes.to_vec(),
            mode: None,
        }
    }

    pub(super) fn form(&self) -> Form {
        self.form
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

    pub(super) fn malformed(&self, cause: IdentityError) -> CredentialsError {
        CredentialsError::MalformedDer {
            place: self.place.clone(),
            cause,
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
