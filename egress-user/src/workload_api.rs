//! Certificates from a SPIFFE Workload API, such as a SPIRE agent's: a gRPC service on a Unix socket,
//! which knows its clients by their process and needs no secret of them (the SPIFFE Workload Endpoint
//! standard §3 to §6, the SPIFFE Workload API standard §5).
//!
//! One call is answered by a stream: what is to be used now, and each time that it changes what is to
//! be used instead. Of several identities the first is taken, which is the default one (§5.3).
//! Bundles of foreign trust domains are not: a tunnel is within one domain.

#[cfg(feature = "spiffe")]
mod client;
#[cfg(not(feature = "spiffe"))]
mod unbuilt;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

#[cfg(feature = "spiffe")]
pub use self::client::Subscription;
#[cfg(not(feature = "spiffe"))]
pub use self::unbuilt::Subscription;

/// Names the socket where nothing else is configured (SPIFFE Workload Endpoint §4).
pub const SOCKET_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";

/// Where a Workload API is served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Socket(PathBuf);

impl Socket {
    /// The socket's file.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl FromStr for Socket {
    type Err = String;

    /// TCP, which the standard has too, is not read: the private key would cross it unprotected.
    fn from_str(text: &str) -> Result<Socket, String> {
        let path = text.strip_prefix("unix:").map(|path| {
            let authority = path.strip_prefix("//");
            authority.unwrap_or(path)
        });
        match path {
            Some(path) if path.starts_with('/') && !path.ends_with('/') => Ok(Socket(path.into())),
            None if text.starts_with('/') => {
                Err(format!("a path without its scheme: write unix://{text}"))
            }
            _ => Err("not a Unix socket such as unix:///run/spire/agent.sock".to_owned()),
        }
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

/// Why a Workload API gave no credentials.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadApiError {
    /// Nobody is there, or not to be reached.
    #[error("cannot connect to {socket}: {cause}; is the SPIRE agent running there?")]
    Connect {
        /// Where.
        socket: Socket,
        /// What the system or gRPC said.
        cause: String,
    },
    /// The server does not know this process.
    #[error("{socket} has no identity for this process: {message}; is it registered there?")]
    NoIdentity {
        /// Where.
        socket: Socket,
        /// What the server said.
        message: String,
    },
    /// The server answered with another error.
    #[error("{socket} failed: {message} ({code})")]
    Failed {
        /// Where.
        socket: Socket,
        /// The status of gRPC.
        code: String,
        /// What the server said.
        message: String,
    },
    /// The server said nothing.
    #[error("{socket} gave no answer within {limit:?}")]
    Silent {
        /// Where.
        socket: Socket,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The server ended the stream.
    #[error("{0} has ended the stream")]
    Ended(Socket),
    /// An answer without something that every answer has.
    #[error("an answer of {socket} has no {what}")]
    Incomplete {
        /// Where.
        socket: Socket,
        /// What there is not.
        what: &'static str,
    },
    /// No credentials came in time, for this reason in the end.
    #[error("no certificates within {patience:?}: {last}")]
    OutOfPatience {
        /// How long it was tried.
        patience: Duration,
        /// What was wrong in the end.
        last: Box<WorkloadApiError>,
    },
    /// No thread of async work could be made.
    #[error("cannot start the async runtime: {0}")]
    Runtime(std::io::Error),
    /// This program cannot do it.
    #[error("{0} cannot be asked: this egress was built without the feature `spiffe`")]
    Unbuilt(Socket),
}

#[cfg(test)]
pub(crate) mod tests;
