//! Where certificates come from, at the start and later.

use std::io;
use std::time::{Duration, Instant};

use rustls::pki_types::UnixTime;

use crate::tunnel::tls::{CredentialFiles, Credentials, CredentialsFaults};
use crate::watched::{Held, State, Watched};
use crate::workload_api::{Socket, Subscription, WorkloadApiError};

/// How long a Workload API is waited for in one go: the time that certificates have left is looked at
/// in between.
const LOOK: Duration = Duration::from_secs(30);

/// Where certificates come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// PEM files.
    Files(CredentialFiles),
    /// A SPIFFE Workload API.
    WorkloadApi(Socket),
}

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// They cannot be used.
    #[error(transparent)]
    Faults(#[from] CredentialsFaults),
    /// They did not come.
    #[error(transparent)]
    WorkloadApi(#[from] WorkloadApiError),
    /// Their files changed, and cannot be read yet.
    #[error(transparent)]
    Held(#[from] Held),
    /// Their files cannot be followed.
    #[error("cannot watch the certificate files: {0}")]
    Watch(io::Error),
}

impl Source {
    /// Takes the first certificates, and will follow later ones. A Workload API is waited for as long
    /// as `patience`. Blocks its thread.
    ///
    /// # Errors
    /// Any [`LoadError`].
    ///
    /// # Panics
    /// On a thread of an async runtime, when it is a Workload API.
    pub fn load(&self, patience: Duration) -> Result<(Credentials, Followed), LoadError> {
        match self {
            Source::Files(files) => {
                // Before they are read: what changes later is a change.
                let seen = State::of(&files.paths());
                let credentials = Credentials::load(files, UnixTime::now())?;
                let watched = Watched::new(files.paths(), seen).map_err(LoadError::Watch)?;
                let files = files.clone();
                Ok((credentials, Followed::Files { files, watched }))
            }
            Source::WorkloadApi(socket) => {
                let (subscription, first) = Subscription::open(socket.clone(), patience)?;
                let credentials = Credentials::from_der(&first, UnixTime::now())?;
                let socket = socket.clone();
                let followed = Followed::WorkloadApi {
                    socket,
                    subscription,
                };
                Ok((credentials, followed))
            }
        }
    }
}

/// What new certificates are taken from.
pub enum Followed {
    /// PEM files.
    Files {
        /// Which ones.
        files: CredentialFiles,
        /// The same, with what was seen of them.
        watched: Watched,
    },
    /// A SPIFFE Workload API.
    WorkloadApi {
        /// Where it is.
        socket: Socket,
        /// What it sends.
        subscription: Subscription,
    },
}

impl Followed {
    /// Waits for what is new, for a while. Blocks its thread.
    pub(super) fn next(&mut self) -> Option<Result<Credentials, LoadError>> {
        match self {
            Followed::Files { files, watched } => {
                watched.wait();
                read_changed(files, watched, Instant::now())
            }
            Followed::WorkloadApi { subscription, .. } => {
                let next = subscription.next(LOOK)?;
                Some(match next {
                    Ok(der) => {
                        Credentials::from_der(&der, UnixTime::now()).map_err(LoadError::from)
                    }
                    Err(error) => Err(error.into()),
                })
            }
        }
    }

    /// Where the own certificate is, for a sentence.
    pub(super) fn certificate(&self) -> String {
        match self {
            Followed::Files { files, .. } => format!("in {}", files.certificate.display()),
            Followed::WorkloadApi { socket, .. } => format!("from {socket}"),
        }
    }
}

/// Reads files that have changed and settled; nothing when they changed again meanwhile.
pub(super) fn read_changed(
    files: &CredentialFiles,
    watched: &mut Watched,
    now: Instant,
) -> Option<Result<Credentials, LoadError>> {
    if !watched.changed(now) {
        return watched.held(now).map(|held| Err(held.into()));
    }
    let read = Credentials::load(files, UnixTime::now());
    watched.stands().then(|| read.map_err(LoadError::from))
}
