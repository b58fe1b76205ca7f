//! The user and password that a proxy wants: a file of one line, `user:password`.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// The longest user, and the longest password, that SOCKS can say (RFC 1929 §2).
const MAX_SOCKS: usize = 255;

/// A user and a password, each of many times that length.
const MAX_FILE: u64 = 4096;

/// A user and a password. Neither is ever shown.
pub struct Credentials {
    user: String,
    password: String,
}

/// Why credentials cannot be used. Never with what they are.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("the proxy's credentials {} cannot be read: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// Everybody on the machine can read or write the file.
    #[error(
        "the proxy's credentials {} are open to everybody (mode {mode:04o}): chmod 600 them",
        path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file is not one line `user:password`.
    #[error("the proxy's credentials {} are not one line, user:password", path.display())]
    Form {
        /// The file.
        path: PathBuf,
    },
    /// SOCKS has one byte for the length of each.
    #[error("the proxy's user and password must have 1 to {MAX_SOCKS} bytes each for SOCKS")]
    TooLong,
}

impl Credentials {
    /// Reads a file that nobody but its owner, and at most its group, may read.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn read(path: &Path) -> Result<Credentials, CredentialsError> {
        let unreadable = |error| CredentialsError::Unreadable {
            path: path.to_owned(),
            error,
        };
        let (text, mode) = read_bounded(path).map_err(unreadable)?;
        if mode & 0o007 != 0 {
            return Err(CredentialsError::Open {
                path: path.to_owned(),
                mode,
            });
        }
        if mode & 0o070 != 0 {
            let path = path.display();
            tracing::warn!(%path, "the proxy's credentials are open to a group: chmod 600 them");
        }
        Credentials::parse(&text).ok_or_else(|| CredentialsError::Form {
            path: path.to_owned(),
        })
    }

    pub(super) fn parse(text: &str) -> Option<Credentials> {
        let line = text.strip_suffix('\n').unwrap_or(text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        // RFC 7617 §2: a user has no colon, and neither has control characters.
        let (user, password) = line.split_once(':')?;
        if user.is_empty() || line.contains(char::is_control) {
            return None;
        }
        Some(Credentials {
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }

    pub(super) fn user(&self) -> &str {
        &self.user
    }

    pub(super) fn password(&self) -> &str {
        &self.password
    }

    pub(super) fn fits_socks(&self) -> Result<(), CredentialsError> {
        let fits = |text: &str| (1..=MAX_SOCKS).contains(&text.len());
        if fits(&self.user) && fits(&self.password) {
            Ok(())
        } else {
            Err(CredentialsError::TooLong)
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(hidden)")
    }
}

/// Reads the file and its mode through one descriptor, so that both are of the same file.
fn read_bounded(path: &Path) -> io::Result<(String, u32)> {
    let file = File::open(path)?;
    let mode = file.metadata()?.permissions().mode() & 0o7777;
    let mut text = String::new();
    let read = file.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if u64::try_from(read).is_ok_and(|read| read <= MAX_FILE) {
        Ok((text, mode))
    } else {
        Err(io::ErrorKind::FileTooLarge.into())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    fn written(text: &str, mode: u32) -> Result<Credentials, CredentialsError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("proxy");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        Credentials::read(&path)
    }

    #[test]
    fn one_line_with_a_colon() {
        for (text, password) in [("ann:a b:c", "a b:c"), ("ann:pw\n", "pw"), ("ann:\r\n", "")] {
            let read = written(text, 0o600).unwrap();
            assert_eq!((read.user(), read.password()), ("ann", password));
        }
        for text in [
            "",
            "ann",
            ":pw",
            "ann:pw\nbob:pw",
            "ann:p\tw",
            "ann:pw\r\nX: y",
        ] {
            let error = written(text, 0o600).unwrap_err();
            assert!(matches!(error, CredentialsError::Form { .. }), "{text:?}");
        }
        let error = written(&format!("ann:{}", "x".repeat(5000)), 0o600).unwrap_err();
        assert!(matches!(error, CredentialsError::Unreadable { .. }));
    }

    #[test]
    fn not_open_to_everybody() {
        for mode in [0o604, 0o644, 0o602] {
            let error = written("ann:secret", mode).unwrap_err().to_string();
            assert!(
                error.contains("chmod 600") && !error.contains("secret"),
                "{error}"
            );
        }
        let read = written("ann:secret", 0o640).unwrap();
        assert_eq!(format!("{read:?}"), "Credentials(hidden)");
    }

    #[test]
    fn what_socks_can_say() {
        let long = "x".repeat(256);
        for (text, fits) in [
            ("a:b".to_owned(), true),
            ("a:".to_owned(), false),
            (format!("a:{long}"), false),
        ] {
            assert_eq!(
                Credentials::parse(&text).unwrap().fits_socks().is_ok(),
                fits
            );
        }
    }
}
