//! `egress pki init`: a CA and certificates in a directory.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{PkiError, TrialCa, Validity};
use crate::tunnel::identity::{SpiffeIdError, TrustDomain};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What to make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InitOptions {
    /// The trust domain of every certificate.
    pub trust_domain: TrustDomain,
    /// Agents are called `spiffe://<trust domain>/agent/<name>`.
    pub agents: Vec<String>,
    /// Gateways are called `spiffe://<trust domain>/gateway/<name>`.
    pub gateways: Vec<String>,
    /// How many days from now the certificates are valid.
    pub days: u32,
}

impl Default for InitOptions {
    /// One agent and one gateway, both called `default`, in the trial's trust domain for 30 days.
    fn default() -> InitOptions {
        InitOptions {
            trust_domain: TrustDomain::trial(),
            agents: vec!["default".to_owned()],
            gateways: vec!["default".to_owned()],
            days: 30,
        }
    }
}

/// A file that was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WrittenFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it is, in a few words.
    pub what: String,
    /// Whether it is a private key, readable by its owner alone.
    pub secret: bool,
}

/// Makes a CA and a certificate for each agent and gateway, and writes them to `dir`, which is made
/// if it is not there: `ca.pem`, `agent.pem`, `gateway.pem`, each with its key in `…-key.pem`. Where
/// there are several of a kind the files are called `agent-<name>.pem`.
///
/// No file is overwritten, and on an error none is left that was not there before.
///
/// # Errors
/// Any [`InitError`].
pub fn init(dir: &Path, options: &InitOptions) -> Result<Vec<WrittenFile>, InitError> {
    let files = make(options, SystemTime::now())?;
    let mut names = BTreeSet::new();
    if let Some(file) = files.iter().find(|file| !names.insert(&file.name)) {
        return Err(InitError::SameFile(file.name.clone()));
    }
    make_dir(dir)?;
    write_all(dir, files)
}

/// A file to be written.
struct NewFile {
    name: String,
    what: String,
    secret: bool,
    text: String,
}

fn make(options: &InitOptions, now: SystemTime) -> Result<Vec<NewFile>, InitError> {
    let validity = Validity::starting(now, options.days * DAY)?;
    let ca = TrialCa::new(options.trust_domain.clone(), validity)?;
    let about = format!("the CA of trust domain {}", options.trust_domain);
    let mut files = Vec::from(pair("ca", &about, ca.certificate_pem(), ca.key_pem()));
    for (kind, names) in [("agent", &options.agents), ("gateway", &options.gateways)] {
        for name in names {
            if name.contains('/') {
                return Err(InitError::Slash(name.clone()));
            }
            let id = options.trust_domain.id(&format!("/{kind}/{name}"));
            let id = id.map_err(|cause| InitError::Name {
                name: name.clone(),
                cause,
            })?;
            let issued = ca.issue(&id, validity)?;
            let stem = match names.as_slice() {
                [_] => kind.to_owned(),
                _ => format!("{kind}-{name}"),
            };
            files.extend(pair(
                &stem,
                &id.to_string(),
                issued.certificates,
                issued.key,
            ));
        }
    }
    Ok(files)
}

fn pair(stem: &str, about: &str, certificate: String, key: String) -> [NewFile; 2] {
    let certificate = NewFile {
        name: format!("{stem}.pem"),
        what: format!("certificate of {about}"),
        secret: false,
        text: certificate,
    };
    let key = NewFile {
        name: format!("{stem}-key.pem"),
        what: format!("private key of {about}"),
        secret: true,
        text: key,
    };
    [certificate, key]
}

fn make_dir(dir: &Path) -> Result<(), InitError> {
    let made = DirBuilder::new().recursive(true).mode(0o755).create(dir);
    made.map_err(|error| InitError::Directory {
        path: dir.to_owned(),
        error,
    })
}

fn write_all(dir: &Path, files: Vec<NewFile>) -> Result<Vec<WrittenFile>, InitError> {
    let mut written: Vec<WrittenFile> = Vec::with_capacity(files.len());
    for file in files {
        let path = dir.join(&file.name);
        if let Err(error) = write_new(&path, file.secret, &file.text) {
            for WrittenFile { path, .. } in written {
                // What matters to the caller is why the writing failed.
                let _ = fs::remove_file(path);
            }
            return Err(match error.kind() {
                io::ErrorKind::AlreadyExists => InitError::Exists(path),
                _ => InitError::Write { path, error },
            });
        }
        written.push(WrittenFile {
            path,
            what: file.what,
            secret: file.secret,
        });
    }
    Ok(written)
}

/// Makes the file; leaves none behind when it cannot be filled.
fn write_new(path: &Path, secret: bool, text: &str) -> io::Result<()> {
    let mode = if secret { 0o600 } else { 0o644 };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(text.as_bytes()).inspect_err(|_| {
        let _ = fs::remove_file(path);
    })
}

/// Why `egress pki init` made nothing.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// A file is there already.
    #[error("{0} exists and is not overwritten: choose another directory, or remove it first")]
    Exists(PathBuf),
    /// Two of the names lead to one file.
    #[error("two of the agents and gateways would be written to {0}: choose other names")]
    SameFile(String),
    /// A name that cannot be part of a SPIFFE ID.
    #[error("{name:?} cannot name an agent or gateway: {cause}")]
    Name {
        /// The name asked for.
        name: String,
        /// What is wrong with it.
        cause: SpiffeIdError,
    },
    /// A name that would be several segments, and a path in the file system.
    #[error("{0:?} cannot name an agent or gateway: it has a '/'")]
    Slash(String),
    /// The directory cannot be made.
    #[error("cannot make the directory {path}: {error}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}: {error}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A certificate could not be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
}
