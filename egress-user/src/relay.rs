//! Carries one application stream between a TCP socket and a tunnel.
//!
//! One task polls both directions; nothing is locked. From the tunnel, the
//! bytes that rustls decrypted are written to the socket where they lie. From
//! the socket, one `readv` fills the payload slots of several frames, whose
//! headers then complete a run of bytes that fills TLS records exactly. The
//! buffer goes back to a pool whenever the socket has nothing to read, so that
//! an idle connection holds none. As long as a second ClientHello can come,
//! what the client sends takes a detour through the [`FirstFlight`].

pub mod raw;
mod slots;
mod watch;

use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::connection_id::ConnectionId;
use crate::drain::Drain;
use crate::hello::{FirstFlight, NameChanged};
use crate::in_force::InForce;
use crate::policy::Admitted;
use crate::tunnel::frame::{FrameError, Kind, MAX_DATA, ResetCode};
use crate::tunnel::stream::{Incoming, Transport, Tunnel, TunnelError};
use crate::tunnel::tls::Peer;
use crate::workload::Workload;
use slots::{
    SLOT, first_payload, frame_slots, give_buffer, payload_in, put_header, read_slots, take_buffer,
};
use watch::Watch;

/// Time for the rest of a frame when a stream is cut short.
const FRAME_GRACE: Duration = Duration::from_millis(500);

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
    /// Nothing moved in either direction for the idle limit.
    #[error("nothing moved within the idle limit")]
    Idle,
    /// The process is ending and its deadline has passed.
    #[error("the process is ending")]
    Drained,
    /// The client's second ClientHello is for another server.
    #[error(transparent)]
    NameChanged(#[from] NameChanged),
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
            RelayError::Tunnel(_) => ResetCode::Internal,
            RelayError::Idle => ResetCode::IdleTimeout,
            RelayError::NameChanged(_) => ResetCode::NameChangedOnRetry,
            RelayError::Drained => ResetCode::Shutdown,
            RelayError::PolicyChanged => ResetCode::PolicyChanged,
            RelayError::PeerRejected(_) => ResetCode::PeerRejected,
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
    pub flight: FirstFlight,
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

/// Carries the stream that is open on `tunnel` until both directions have
/// ended, or `cut` says why it must end now. A direction that ends is half-closed
/// at the other side and the other direction goes on.
///
/// The idle limit is checked in whole periods, so a silent stream ends after
/// one to two times `idle`.
pub async fn carry<T: Transport>(
    socket: &mut TcpStream,
    tunnel: &mut Tunnel<T>,
    session: Session,
    idle: Duration,
    cut: impl Future<Output = RelayError>,
) -> Carried {
    let mut relay = Relay::new(socket, tunnel, session);
    let result = tokio::select! {
        result = relay.run(idle) => result,
        error = cut => Err(error),
    };
    if let Err(error) = &result {
        relay.finish_frame(error).await;
    }
    Carried {
        from_socket: relay.outward.bytes - payload_in(&relay.pending),
        from_tunnel: relay.inward.bytes,
        first: relay.first,
        result,
    }
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

/// The state of both directions.
struct Relay<'a, T> {
    socket: &'a mut TcpStream,
    tunnel: &'a mut Tunnel<T>,
    buffer: Option<Box<[u8]>>,
    /// Bytes of `buffer` that wait to be written to the tunnel.
    pending: Range<usize>,
    outward: Direction,
    inward: Direction,
    first: Option<End>,
    moved: bool,
    watch: Watch,
}

#[derive(Default)]
struct Direction {
    bytes: u64,
    finishing: bool,
    done: bool,
}

impl<'a, T: Transport> Relay<'a, T> {
    fn new(socket: &'a mut TcpStream, tunnel: &'a mut Tunnel<T>, session: Session) -> Relay<'a, T> {
        Relay {
            socket,
            tunnel,
            buffer: None,
            pending: 0..0,
            outward: Direction::default(),
            inward: Direction::default(),
            first: None,
            moved: false,
            watch: Watch::new(session),
        }
    }

    /// A stream that is cut short may have left a frame half written. The rest of it goes out, so
    /// that a RESET after it is not taken for its payload; a tunnel that does not take it soon
    /// carries nothing more.
    async fn finish_frame(&mut self, error: &RelayError) {
        let rest = std::future::poll_fn(|cx| self.poll_drain(cx));
        let finished = match error {
            RelayError::Tunnel(_) => false,
            _ => matches!(tokio::time::timeout(FRAME_GRACE, rest).await, Ok(Ok(()))),
        };
        if !finished {
            self.tunnel.give_up();
        }
    }

    async fn run(&mut self, idle: Duration) -> Result<(), RelayError> {
        let mut timer = std::pin::pin!(tokio::time::sleep(idle));
        std::future::poll_fn(|cx| self.poll(cx, timer.as_mut(), idle)).await
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        timer: Pin<&mut Sleep>,
        idle: Duration,
    ) -> Poll<Result<(), RelayError>> {
        let (outward, inward) = loop {
            let ends = (self.poll_outward(cx)?, self.poll_inward(cx)?);
            // What the client sent may have waited for this.
            if !self.watch.take_answer() {
                break ends;
            }
        };
        if outward.is_ready() && inward.is_ready() {
            return Poll::Ready(Ok(()));
        }
        if inward.is_ready() && !self.outward.finishing {
            // The peer has nothing more to say, but its connection can still be lost.
            let _ = self.tunnel.poll_incoming(cx)?;
        }
        if self.watch.poll_limit(cx).is_ready() {
            return Poll::Ready(Err(RelayError::Idle));
        }
        poll_idle(cx, timer, idle, &mut self.moved).map(|()| Err(RelayError::Idle))
    }

    /// Socket → tunnel.
    fn poll_outward(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        loop {
            ready!(self.poll_drain(cx))?;
            if self.outward.finishing {
                ready!(self.poll_flush(cx))?;
                self.outward.done = true;
                return Poll::Ready(Ok(()));
            }
            if self.put_admitted()? {
                continue;
            }
            match self.poll_readable(cx) {
                Poll::Ready(ready) => ready.map_err(RelayError::Socket)?,
                Poll::Pending => {
                    self.give_back();
                    // What was written must not wait in rustls for more to come.
                    let _ = self.poll_flush(cx)?;
                    return Poll::Pending;
                }
            }
            self.fill()?;
        }
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.watch.client_waits(End::Socket) {
            return Poll::Pending;
        }
        self.socket.poll_read_ready(cx)
    }

    /// Writes what waits in the buffer.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        while let Some(bytes) = self
            .buffer
            .as_deref()
            .and_then(|buffer| buffer.get(self.pending.clone()))
            && !bytes.is_empty()
        {
            let written =
                ready!(self.tunnel.transport().poll_write(cx, bytes)).map_err(TunnelError::from)?;
            if written == 0 {
                return Poll::Ready(Err(TunnelError::Lost.into()));
            }
            self.pending.start += written;
            self.moved = true;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        let flushed = ready!(self.tunnel.transport().poll_flush(cx));
        Poll::Ready(flushed.map_err(|error| TunnelError::from(error).into()))
    }

    /// Reads once from the socket into frames, or turns its end into FIN.
    fn fill(&mut self) -> Result<(), RelayError> {
        let mut buffer = self.buffer.take().unwrap_or_else(take_buffer);
        let room = if self.watch.is_over() {
            buffer.len()
        } else {
            SLOT
        };
        let read = read_slots(self.socket, buffer.get_mut(..room).unwrap_or_default());
        let framed = match read {
            Ok(0) => {
                self.first.get_or_insert(End::Socket);
                self.outward.finishing = true;
                self.tunnel.sending(Kind::Fin)?;
                put_header(&mut buffer, 0, Kind::Fin, 0)?
            }
            Ok(count) if self.watch.is_client(End::Socket) => {
                self.watch
                    .look(End::Socket, first_payload(&mut buffer, count))?;
                0
            }
            Ok(count) => {
                self.tunnel.sending(Kind::Data)?;
                self.watch
                    .look(End::Socket, first_payload(&mut buffer, count))?;
                self.outward.bytes += count as u64;
                frame_slots(&mut buffer, count)?
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(RelayError::Socket(error)),
        };
        self.pending = 0..framed;
        self.buffer = Some(buffer);
        Ok(())
    }

    /// Makes a frame of what is admitted; false when there is none.
    fn put_admitted(&mut self) -> Result<bool, RelayError> {
        let Some(admitted) = self.watch.admitted(End::Socket) else {
            return Ok(false);
        };
        let part = admitted.split_to(admitted.len().min(MAX_DATA));
        let mut buffer = self.buffer.take().unwrap_or_else(take_buffer);
        first_payload(&mut buffer, part.len()).copy_from_slice(&part);
        self.tunnel.sending(Kind::Data)?;
        self.outward.bytes += part.len() as u64;
        self.pending = 0..frame_slots(&mut buffer, part.len())?;
        self.buffer = Some(buffer);
        Ok(true)
    }

    fn give_back(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            give_buffer(buffer);
        }
    }

    /// Tunnel → socket.
    fn poll_inward(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        if self.inward.done {
            return Poll::Ready(Ok(()));
        }
        loop {
            let admitted = self
                .watch
                .poll_admitted(cx, self.socket, &mut self.inward.bytes);
            ready!(admitted).map_err(RelayError::Socket)?;
            if self.watch.client_waits(End::Tunnel) {
                return Poll::Pending;
            }
            if ready!(self.tunnel.poll_incoming(cx))? == Incoming::Fin {
                break;
            }
            ready!(self.poll_pass(cx))?;
        }
        self.inward.done = true;
        self.first.get_or_insert(End::Tunnel);
        let closed = ready!(Pin::new(&mut *self.socket).poll_shutdown(cx));
        match closed {
            // The other side is gone already: it has nothing to be told.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            closed => Poll::Ready(closed.map_err(RelayError::Socket)),
        }
    }

    /// Passes on a piece of the tunnel's data.
    fn poll_pass(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        let chunk = ready!(self.tunnel.poll_data(cx))?;
        let taken = if self.watch.is_client(End::Tunnel) {
            self.watch.look(End::Tunnel, chunk)?;
            chunk.len()
        } else {
            let written = ready!(Pin::new(&mut *self.socket).poll_write(cx, chunk))
                .map_err(RelayError::Socket)?;
            self.watch
                .look(End::Tunnel, chunk.get(..written).unwrap_or_default())?;
            self.inward.bytes += written as u64;
            written
        };
        self.tunnel.consume(taken);
        self.moved = true;
        Poll::Ready(Ok(()))
    }
}

/// Ready when nothing has `moved` for a whole period of `idle`.
fn poll_idle(
    cx: &mut Context<'_>,
    mut timer: Pin<&mut Sleep>,
    idle: Duration,
    moved: &mut bool,
) -> Poll<()> {
    while timer.as_mut().poll(cx).is_ready() {
        if !std::mem::take(moved) {
            return Poll::Ready(());
        }
        timer.as_mut().reset(Instant::now() + idle);
    }
    Poll::Pending
}

impl<T> Drop for Relay<'_, T> {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            give_buffer(buffer);
        }
    }
}

#[cfg(test)]
mod tests;
