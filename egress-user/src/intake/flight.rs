//! The rest of the first flights, and what it holds of the allowance: a second ClientHello may be as
//! large as the first one, and end as late.

use std::sync::Arc;

use bytes::BytesMut;

use super::Allowance;
use super::allowance::Taken;
use crate::hello::{FirstFlight, NameChanged, ServerName};

/// Why a session cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FlightError {
    /// The second hello is not for the same server.
    #[error(transparent)]
    NameChanged(#[from] NameChanged),
    /// More waits than may.
    #[error(
        "the client's bytes that wait for the server's answer are many, and too many such are in hand"
    )]
    NoRoom,
}

/// A [`FirstFlight`] whose bytes that wait are counted as those of unfinished hellos are.
#[derive(Debug)]
pub struct Flight {
    first: FirstFlight,
    taken: Taken,
}

impl Flight {
    /// The session that a ClientHello with this name begins, and of which nothing waits.
    pub fn of(name: ServerName, allowance: &Arc<Allowance>) -> Flight {
        Flight::with(FirstFlight::of(name), Taken::nothing(allowance))
    }

    /// With what was taken for the first hello, which is not in hand any more.
    pub(super) fn with(first: FirstFlight, taken: Taken) -> Flight {
        let mut flight = Flight { first, taken };
        flight.taken.keep(flight.first.held());
        flight
    }

    /// Takes what the client sent next.
    ///
    /// # Errors
    /// When nothing may follow: it names another server, or is too much.
    pub fn client_sent(&mut self, bytes: &[u8]) -> Result<(), FlightError> {
        self.first.client_sent(bytes)?;
        let held = self.first.held();
        self.taken.keep(held);
        match self.taken.cover(held) {
            true => Ok(()),
            false => Err(FlightError::NoRoom),
        }
    }

    /// Looks at what the server sent next.
    ///
    /// # Errors
    /// When nothing may follow.
    pub fn server_sent(&mut self, bytes: &[u8]) -> Result<(), FlightError> {
        self.first.server_sent(bytes)?;
        self.taken.keep(self.first.held());
        Ok(())
    }

    /// What of the client's bytes may go on, to be taken from the front.
    pub fn admitted(&mut self) -> &mut BytesMut {
        self.first.admitted()
    }

    /// Whether nothing more of the client helps before the server has answered.
    pub fn awaits_server(&self) -> bool {
        self.first.awaits_server()
    }

    /// Whether a further hello has begun, and cannot go on yet.
    pub fn is_holding(&self) -> bool {
        self.first.is_holding()
    }

    /// Whether nothing more needs to be looked at, and everything was taken.
    pub fn is_over(&self) -> bool {
        self.first.is_over()
    }
}
