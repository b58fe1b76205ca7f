//! The first flights of the session, while they matter, as the relay has them.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::{End, RelayError, Session};
use crate::intake::Flight;

/// How long a client that sent more than its first flight may wait for the server's answer, and
/// may take for its second hello.
const LIMIT: Duration = Duration::from_secs(10);

pub(super) struct Watch {
    client: End,
    /// Until it is over.
    flight: Option<Flight>,
    answered: bool,
    /// Running while the client waits.
    limit: Option<Pin<Box<Sleep>>>,
}

impl Watch {
    pub(super) fn new(session: Session) -> Watch {
        Watch {
            client: session.client,
            flight: Some(session.flight),
            answered: false,
            limit: None,
        }
    }

    /// Whether nothing has to be looked at any more.
    pub(super) fn is_over(&self) -> bool {
        self.flight.is_none()
    }

    /// Whether what comes from this end takes the detour.
    pub(super) fn is_client(&self, end: End) -> bool {
        self.flight.is_some() && self.client == end
    }

    /// Takes what the client sent, or looks at what the server sent.
    pub(super) fn look(&mut self, from: End, bytes: &[u8]) -> Result<(), RelayError> {
        let Some(flight) = &mut self.flight else {
            return Ok(());
        };
        if from == self.client {
            return Ok(flight.client_sent(bytes)?);
        }
        let waited = flight.awaits_server();
        flight.server_sent(bytes)?;
        self.answered |= waited && !flight.awaits_server();
        Ok(())
    }

    /// Whether the client, at this end, sent what must wait for the server's answer.
    pub(super) fn client_waits(&self, at: End) -> bool {
        let flight = self.flight.as_ref().filter(|_| at == self.client);
        flight.is_some_and(Flight::awaits_server)
    }

    /// Ready when the client has waited for too long, or does not end its second hello. What it sent
    /// ahead of time is held, and its end is not read meanwhile; whoever does that is no ordinary
    /// client.
    pub(super) fn poll_limit(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.flight.as_ref().is_some_and(Flight::is_holding) {
            self.limit = None;
            return Poll::Pending;
        }
        let limit = self.limit.get_or_insert_with(|| Box::pin(sleep(LIMIT)));
        limit.as_mut().poll(cx)
    }

    /// Whether an answer that the client waited for has come since this was last asked.
    pub(super) fn take_answer(&mut self) -> bool {
        std::mem::take(&mut self.answered)
    }

    /// Writes to the socket what may go on of a client's behind the tunnel, and adds it to `count`.
    pub(super) fn poll_admitted(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut TcpStream,
        count: &mut u64,
    ) -> Poll<io::Result<()>> {
        while let Some(admitted) = self.admitted(End::Tunnel) {
            let written = ready!(Pin::new(&mut *socket).poll_write(cx, admitted))?;
            admitted.advance(written);
            *count += written as u64;
        }
        Poll::Ready(Ok(()))
    }

    /// What may go on of the bytes of the client at this end, when there is something.
    pub(super) fn admitted(&mut self, at: End) -> Option<&mut BytesMut> {
        if self.flight.as_ref().is_some_and(Flight::is_over) {
            self.flight = None;
        }
        let flight = self.flight.as_mut().filter(|_| at == self.client)?;
        Some(flight.admitted()).filter(|admitted| !admitted.is_empty())
    }
}
