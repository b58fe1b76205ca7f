//! Carries one application stream between a TCP socket and a tunnel.
//!
//! One task polls both directions; nothing is locked. [`carry`] speaks `egress/1`, [`raw`] a TLS
//! connection with nothing else in it. As long as a second ClientHello can come, what the client
//! sends takes a detour through the [`Flight`].

mod framed;
mod idle;
pub mod raw;
mod slots;
mod watch;
mod ways;

use std::future::Future;
use std::io;

use crate::connection_id::ConnectionId;
use crate::drain::Drain;
use crate::hello::NameChanged;
use crate::in_force::InForce;
use crate::intake::{Flight, FlightError};
use crate::policy::Admitted;
use crate::tunnel::frame::{FrameError, ResetCode};
use crate::tunnel::stream::TunnelError;
use crate::tunnel::tls::Peer;
use crate::workload::Workload;

pub use framed::carry;

/// Which end finished first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The socket.
    Socket,
    /// The peer behind the tunnel.
    Tunnel,
}

/// Why a stream was cut short.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The socket failed, most often because its peer reset it.
    #[error("the socket failed")]
    Socket(#[source] io::Error),
    /// The tunnel failed, or its peer gave up on the stream.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// For the idle limit nothing moved in either direction, or one had bytes that were not taken.
    #[error("nothing moved within the idle limit, or one side took nothing of what waited for it")]
    Idle,
    /// The process is ending and its deadline has passed.
    #[error("the process is ending")]
    Drained,
    /// The client's second ClientHello is for another server.
    #[error(transparent)]
    NameChanged(NameChanged),
    /// A second ClientHello, or what stands in its place, is larger than most, and too many such are in
    /// hand.
    #[error("the client sent much that has to wait, and too much such is in hand")]
    NoRoom,
    /// A policy that came into force meanwhile refuses the connection.
    #[error("the policy in force refuses it now")]
    PolicyChanged,
    /// The certificates in use do not vouch any more for the other end of the tunnel.
    #[error("the other end of the tunnel is not trusted any more")]
    PeerRejected(&'static str),
}

impl RelayError {
    /// What the peer behind the tunnel is told.
    pub fn reset_code(&self) -> ResetCode {
        match self {
            RelayError::Socket(_) => ResetCode::Aborted,
            RelayError::Tunnel(_) | RelayError::NoRoom => ResetCode::Internal,
            RelayError::Idle => ResetCode::IdleTimeout,
            RelayError::NameChanged(_) => ResetCode::NameChangedOnRetry,
            RelayError::Drained => ResetCode::Shutdown,
            RelayError::PolicyChanged => ResetCode::PolicyChanged,
            RelayError::PeerRejected(_) => ResetCode::PeerRejected,
        }
    }
}

impl From<FlightError> for RelayError {
    fn from(error: FlightError) -> RelayError {
        match error {
            FlightError::NameChanged(error) => RelayError::NameChanged(error),
            FlightError::NoRoom => RelayError::NoRoom,
        }
    }
}

impl From<FrameError> for RelayError {
    fn from(error: FrameError) -> RelayError {
        RelayError::Tunnel(error.into())
    }
}

/// The TLS session that is carried.
#[derive(Debug)]
pub struct Session {
    /// Where its client is.
    pub client: End,
    /// What has to be looked at before the rest is nobody's business.
    pub flight: Flight,
}

/// What was carried, to whatever end it came.
#[derive(Debug)]
pub struct Carried {
    /// Bytes read from the socket and handed to the tunnel.
    pub from_socket: u64,
    /// Bytes taken from the tunnel and written to the socket.
    pub from_tunnel: u64,
    /// Which end finished first, if one did.
    pub first: Option<End>,
    /// How it ended.
    pub result: Result<(), RelayError>,
}

/// Why a stream that goes well must end all the same: the process is ending, or a later
/// policy refuses it.
pub async fn interruption(
    drain: &mut Drain,
    in_force: &mut InForce,
    admitted: &Admitted,
    workload: &Workload,
    connection: ConnectionId,
) -> RelayError {
    tokio::select! {
        () = drain.forced() => RelayError::Drained,
        () = in_force.refuses(admitted, workload, connection) => RelayError::PolicyChanged,
    }
}

/// As `interruption`, or because the other end of the tunnel is not trusted any more.
pub async fn or_rejected<C>(
    interruption: impl Future<Output = RelayError>,
    peer: &mut Peer<C>,
) -> RelayError {
    tokio::select! {
        error = interruption => error,
        reason = peer.rejected() => RelayError::PeerRejected(reason),
    }
}
