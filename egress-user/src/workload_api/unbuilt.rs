//! What stands in for the client in a program that was built without it.

use std::convert::Infallible;
use std::time::Duration;

use super::{Socket, WorkloadApiError};
use crate::tunnel::tls::CredentialDer;

/// A stream of credentials, of which there is none.
pub struct Subscription(Infallible);

impl Subscription {
    /// Cannot be had.
    ///
    /// # Errors
    /// [`WorkloadApiError::Unbuilt`].
    pub fn open(
        socket: Socket,
        _patience: Duration,
    ) -> Result<(Subscription, CredentialDer), WorkloadApiError> {
        Err(WorkloadApiError::Unbuilt(socket))
    }

    /// Never called.
    pub fn next(&mut self, _limit: Duration) -> Option<Result<CredentialDer, WorkloadApiError>> {
        match self.0 {}
    }
}
