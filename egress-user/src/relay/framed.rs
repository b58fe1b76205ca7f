//! Streams in the frames of `egress/1`.
//!
//! From the tunnel, the bytes that rustls decrypted are written to the socket where they lie. From
//! the socket, one `readv` fills the payload slots of several frames, whose headers then complete a
//! run of bytes that fills TLS records exactly. The buffer goes back to a pool whenever the socket
//! has nothing to read, so that an idle connection holds none.

use std::future::Future;
use std::io;
use std::ops::Range;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::TcpStream;

use super::slots::{
    SLOT, first_payload, frame_slots, give_buffer, payload_in, put_header, read_slots, take_buffer,
};
use super::ways::{self, BothWays, Ways};
use super::{Carried, End, RelayError, Session};
use crate::tunnel::frame::{Kind, MAX_DATA};
use crate::tunnel::stream::{Incoming, Transport, Tunnel, TunnelError};

/// Time for the rest of a frame when a stream is cut short.
const FRAME_GRACE: Duration = Duration::from_millis(500);

/// Carries the stream that is open on `tunnel` until both directions have
/// ended, or `cut` says why it must end now. A direction that ends is half-closed
/// at the other side and the other direction goes on.
///
/// The idle limit is for silence of both directions, and for each direction while bytes wait that its
/// receiver does not take. It is checked in whole periods, so such a stream ends after one to two
/// times `idle`.
pub async fn carry<T: Transport>(
    socket: &mut TcpStream,
    tunnel: &mut Tunnel<T>,
    session: Session,
    idle: Duration,
    cut: impl Future<Output = RelayError>,
) -> Carried {
    let mut relay = Relay::new(socket, tunnel, session);
    let result = tokio::select! {
        result = ways::run(&mut relay, idle) => result,
        error = cut => Err(error),
    };
    if let Err(error) = &result {
        relay.finish_frame(error).await;
    }
    Carried {
        from_socket: relay.ways.outward.bytes - payload_in(&relay.pending),
        from_tunnel: relay.ways.inward.bytes,
        first: relay.ways.first,
        result,
    }
}

struct Relay<'a, T> {
    socket: &'a mut TcpStream,
    tunnel: &'a mut Tunnel<T>,
    buffer: Option<Box<[u8]>>,
    /// Bytes of `buffer` that wait to be written to the tunnel.
    pending: Range<usize>,
    ways: Ways,
}

impl<'a, T: Transport> Relay<'a, T> {
    fn new(socket: &'a mut TcpStream, tunnel: &'a mut Tunnel<T>, session: Session) -> Relay<'a, T> {
        Relay {
            socket,
            tunnel,
            buffer: None,
            pending: 0..0,
            ways: Ways::new(session),
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

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ways.watch.client_waits(End::Socket) {
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
            let attempt = self.tunnel.transport().poll_write(cx, bytes);
            self.ways.outward.progress.attempted(&attempt);
            let written = ready!(attempt).map_err(TunnelError::from)?;
            if written == 0 {
                return Poll::Ready(Err(TunnelError::Lost.into()));
            }
            self.pending.start += written;
            self.ways.outward.progress.moved();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        let attempt = self.tunnel.transport().poll_flush(cx);
        self.ways.outward.progress.attempted(&attempt);
        let flushed = ready!(attempt);
        Poll::Ready(flushed.map_err(|error| TunnelError::from(error).into()))
    }

    /// Reads once from the socket into frames, or turns its end into FIN.
    fn fill(&mut self) -> Result<(), RelayError> {
        let mut buffer = self.buffer.take().unwrap_or_else(take_buffer);
        let room = if self.ways.watch.is_over() {
            buffer.len()
        } else {
            SLOT
        };
        let read = read_slots(self.socket, buffer.get_mut(..room).unwrap_or_default());
        let framed = match read {
            Ok(0) => {
                self.ways.first.get_or_insert(End::Socket);
                self.ways.outward.finishing = true;
                self.tunnel.sending(Kind::Fin)?;
                put_header(&mut buffer, 0, Kind::Fin, 0)?
            }
            Ok(count) if self.ways.watch.is_client(End::Socket) => {
                self.ways
                    .watch
                    .look(End::Socket, first_payload(&mut buffer, count))?;
                0
            }
            Ok(count) => {
                self.tunnel.sending(Kind::Data)?;
                self.ways
                    .watch
                    .look(End::Socket, first_payload(&mut buffer, count))?;
                self.ways.outward.bytes += count as u64;
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
        let Some(admitted) = self.ways.watch.admitted(End::Socket) else {
            return Ok(false);
        };
        let part = admitted.split_to(admitted.len().min(MAX_DATA));
        let mut buffer = self.buffer.take().unwrap_or_else(take_buffer);
        first_payload(&mut buffer, part.len()).copy_from_slice(&part);
        self.tunnel.sending(Kind::Data)?;
        self.ways.outward.bytes += part.len() as u64;
        self.pending = 0..frame_slots(&mut buffer, part.len())?;
        self.buffer = Some(buffer);
        Ok(true)
    }

    fn give_back(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            give_buffer(buffer);
        }
    }

    /// Passes on a piece of the tunnel's data.
    fn poll_pass(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        let chunk = ready!(self.tunnel.poll_data(cx))?;
        let taken = ready!(self.ways.poll_give(cx, self.socket, chunk))?;
        self.tunnel.consume(taken);
        Poll::Ready(Ok(()))
    }
}

impl<T: Transport> BothWays for Relay<'_, T> {
    fn ways(&mut self) -> &mut Ways {
        &mut self.ways
    }

    /// Socket → tunnel.
    fn poll_outward(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        loop {
            ready!(self.poll_drain(cx))?;
            if self.ways.outward.finishing {
                ready!(self.poll_flush(cx))?;
                self.ways.outward.done = true;
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

    /// Tunnel → socket.
    fn poll_inward(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        if self.ways.inward.done {
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.ways.poll_admitted(cx, self.socket))?;
            if ready!(self.tunnel.poll_incoming(cx))? == Incoming::Fin {
                break;
            }
            ready!(self.poll_pass(cx))?;
        }
        self.ways.inward.done = true;
        self.ways.first.get_or_insert(End::Tunnel);
        ways::poll_shut(cx, self.socket)
    }

    /// The peer has nothing more to say, but its connection can still be lost.
    fn poll_loss(&mut self, cx: &mut Context<'_>) -> Result<(), RelayError> {
        if !self.ways.outward.finishing {
            let _ = self.tunnel.poll_incoming(cx)?;
        }
        Ok(())
    }
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
