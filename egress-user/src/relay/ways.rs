//! What both ways of carrying a stream have in common.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::idle::{Progress, poll_idle};
use super::watch::Watch;
use super::{End, RelayError, Session};

/// The state of both directions.
pub(super) struct Ways {
    pub(super) outward: Direction,
    pub(super) inward: Direction,
    /// Which end finished first.
    pub(super) first: Option<End>,
    pub(super) watch: Watch,
}

#[derive(Default)]
pub(super) struct Direction {
    pub(super) bytes: u64,
    pub(super) progress: Progress,
    pub(super) finishing: bool,
    pub(super) done: bool,
}

/// A stream of which each direction can be moved on.
pub(super) trait BothWays {
    /// How far it is.
    fn ways(&mut self) -> &mut Ways;

    /// Socket → tunnel; ready when that direction has ended.
    fn poll_outward(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>>;

    /// Tunnel → socket; ready when that direction has ended.
    fn poll_inward(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>>;

    /// Asked while the tunnel's direction alone has ended: fails if it was lost since.
    fn poll_loss(&mut self, _cx: &mut Context<'_>) -> Result<(), RelayError> {
        Ok(())
    }
}

/// Carries until both directions have ended, or the stream stood still for `idle`.
pub(super) async fn run(relay: &mut impl BothWays, idle: Duration) -> Result<(), RelayError> {
    let mut timer = std::pin::pin!(tokio::time::sleep(idle));
    std::future::poll_fn(|cx| poll(relay, cx, timer.as_mut(), idle)).await
}

fn poll(
    relay: &mut impl BothWays,
    cx: &mut Context<'_>,
    timer: Pin<&mut Sleep>,
    idle: Duration,
) -> Poll<Result<(), RelayError>> {
    let (outward, inward) = loop {
        let ends = (relay.poll_outward(cx)?, relay.poll_inward(cx)?);
        // What the client sent may have waited for this.
        if !relay.ways().watch.take_answer() {
            break ends;
        }
    };
    if outward.is_ready() && inward.is_ready() {
        return Poll::Ready(Ok(()));
    }
    if inward.is_ready() {
        relay.poll_loss(cx)?;
    }
    let ways = relay.ways();
    if ways.watch.poll_limit(cx).is_ready() {
        return Poll::Ready(Err(RelayError::Idle));
    }
    let (outward, inward) = (&mut ways.outward.progress, &mut ways.inward.progress);
    poll_idle(cx, timer, idle, outward, inward).map(|()| Err(RelayError::Idle))
}

impl Ways {
    pub(super) fn new(session: Session) -> Ways {
        Ways {
            outward: Direction::default(),
            inward: Direction::default(),
            first: None,
            watch: Watch::new(session),
        }
    }

    /// Writes to the socket what was admitted of what came from the tunnel; not ready as long as the
    /// client behind the tunnel must wait.
    pub(super) fn poll_admitted(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut TcpStream,
    ) -> Poll<Result<(), RelayError>> {
        let admitted = self.watch.poll_admitted(cx, socket, &mut self.inward.bytes);
        ready!(admitted).map_err(RelayError::Socket)?;
        if self.watch.client_waits(End::Tunnel) {
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Gives what came from the tunnel to the socket, or to the watch while it takes the detour.
    /// How many bytes were taken.
    pub(super) fn poll_give(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut TcpStream,
        chunk: &[u8],
    ) -> Poll<Result<usize, RelayError>> {
        let taken = if self.watch.is_client(End::Tunnel) {
            self.watch.look(End::Tunnel, chunk)?;
            chunk.len()
        } else {
            let attempt = Pin::new(socket).poll_write(cx, chunk);
            self.inward.progress.attempted(&attempt);
            let written = ready!(attempt).map_err(RelayError::Socket)?;
            self.watch
                .look(End::Tunnel, chunk.get(..written).unwrap_or_default())?;
            self.inward.bytes += written as u64;
            written
        };
        self.inward.progress.moved();
        Poll::Ready(Ok(taken))
    }
}

/// Tells the socket's peer that nothing more comes.
pub(super) fn poll_shut(
    cx: &mut Context<'_>,
    socket: &mut TcpStream,
) -> Poll<Result<(), RelayError>> {
    match ready!(Pin::new(socket).poll_shutdown(cx)) {
        // The other side is gone already: it has nothing to be told.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
        closed => Poll::Ready(closed.map_err(RelayError::Socket)),
    }
}
