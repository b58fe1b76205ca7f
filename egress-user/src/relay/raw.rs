//! Carries one application stream between a TCP socket and a TLS connection that holds nothing else.
//!
//! An end of the socket becomes `close_notify` and one of the TLS connection becomes a FIN, each of
//! one direction alone (RFC 8446 §6.1). A TLS connection that ends without `close_notify` was cut.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::{Carried, Direction, End, RelayError, Session, Watch, poll_idle};
use crate::tunnel::stream::{Transport, TunnelError};

/// Read from the socket at once: four TLS records.
const CHUNK: usize = 64 * 1024;

/// As [`super::carry`], without frames.
pub async fn carry<T: Transport>(
    socket: &mut TcpStream,
    transport: &mut T,
    session: Session,
    idle: Duration,
    cut: impl Future<Output = RelayError>,
) -> Carried {
    let mut relay = Relay {
        socket,
        transport,
        pending: BytesMut::new(),
        outward: Direction::default(),
        inward: Direction::default(),
        first: None,
        moved: false,
        watch: Watch::new(session),
    };
    let result = tokio::select! {
        result = relay.run(idle) => result,
        error = cut => Err(error),
    };
    Carried {
        from_socket: relay.outward.bytes,
        from_tunnel: relay.inward.bytes,
        first: relay.first,
        result,
    }
}

struct Relay<'a, T> {
    socket: &'a mut TcpStream,
    transport: &'a mut T,
    /// Bytes that wait to be written to the TLS connection.
    pending: BytesMut,
    outward: Direction,
    inward: Direction,
    first: Option<End>,
    moved: bool,
    watch: Watch,
}

impl<T: Transport> Relay<'_, T> {
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
        if self.watch.poll_limit(cx).is_ready() {
            return Poll::Ready(Err(RelayError::Idle));
        }
        poll_idle(cx, timer, idle, &mut self.moved).map(|()| Err(RelayError::Idle))
    }

    /// Socket → TLS.
    fn poll_outward(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        loop {
            if self.outward.done {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_drain(cx))?;
            if self.outward.finishing {
                let closed = ready!(Pin::new(&mut *self.transport).poll_shutdown(cx));
                closed.map_err(TunnelError::from)?;
                self.outward.done = true;
                continue;
            }
            if let Some(admitted) = self.watch.admitted(End::Socket) {
                self.pending = admitted.split();
                continue;
            }
            if self.watch.client_waits(End::Socket) {
                return self.poll_flush(cx);
            }
            match self.socket.poll_read_ready(cx) {
                Poll::Ready(ready) => ready.map_err(RelayError::Socket)?,
                Poll::Pending => return self.poll_flush(cx),
            }
            self.fill()?;
        }
    }

    /// Writes what waits.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        while !self.pending.is_empty() {
            let written = ready!(Pin::new(&mut *self.transport).poll_write(cx, &self.pending));
            let written = written.map_err(TunnelError::from)?;
            if written == 0 {
                return Poll::Ready(Err(TunnelError::Lost.into()));
            }
            self.pending.advance(written);
            self.outward.bytes += written as u64;
            self.moved = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Nothing is to be read: what was written must not wait in rustls for more to come, and an idle
    /// connection holds no buffer.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        self.pending = BytesMut::new();
        match Pin::new(&mut *self.transport).poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(TunnelError::from(error).into())),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }

    /// Reads once from the socket.
    fn fill(&mut self) -> Result<(), RelayError> {
        self.pending.reserve(CHUNK);
        match self.socket.try_read_buf(&mut self.pending) {
            Ok(0) => {
                self.first.get_or_insert(End::Socket);
                self.outward.finishing = true;
            }
            Ok(_) => {
                self.watch.look(End::Socket, &self.pending)?;
                if self.watch.is_client(End::Socket) {
                    // They come back as what is admitted.
                    self.pending.clear();
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(RelayError::Socket(error)),
        }
        Ok(())
    }

    /// TLS → socket.
    fn poll_inward(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        if self.inward.done {
            return Poll::Ready(Ok(()));
        }
        while !self.inward.finishing {
            let admitted = self
                .watch
                .poll_admitted(cx, self.socket, &mut self.inward.bytes);
            ready!(admitted).map_err(RelayError::Socket)?;
            if self.watch.client_waits(End::Tunnel) {
                return Poll::Pending;
            }
            ready!(self.poll_pass(cx))?;
        }
        let closed = ready!(Pin::new(&mut *self.socket).poll_shutdown(cx));
        self.inward.done = true;
        match closed {
            // The other side is gone already: it has nothing to be told.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            closed => Poll::Ready(closed.map_err(RelayError::Socket)),
        }
    }

    /// Passes on what is decrypted, or notes the end.
    fn poll_pass(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        let chunk = ready!(Pin::new(&mut *self.transport).poll_fill_buf(cx));
        let chunk = chunk.map_err(TunnelError::from)?;
        if chunk.is_empty() {
            self.first.get_or_insert(End::Tunnel);
            self.inward.finishing = true;
            return Poll::Ready(Ok(()));
        }
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
        Pin::new(&mut *self.transport).consume(taken);
        self.moved = true;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
