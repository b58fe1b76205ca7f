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
use tokio::net::TcpStream;

use super::ways::{self, BothWays, Ways};
use super::{Carried, End, RelayError, Session};
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
        ways: Ways::new(session),
    };
    let result = tokio::select! {
        result = ways::run(&mut relay, idle) => result,
        error = cut => Err(error),
    };
    Carried {
        from_socket: relay.ways.outward.bytes,
        from_tunnel: relay.ways.inward.bytes,
        first: relay.ways.first,
        result,
    }
}

struct Relay<'a, T> {
    socket: &'a mut TcpStream,
    transport: &'a mut T,
    /// Bytes that wait to be written to the TLS connection.
    pending: BytesMut,
    ways: Ways,
}

impl<T: Transport> Relay<'_, T> {
    /// Writes what waits.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        while !self.pending.is_empty() {
            let attempt = Pin::new(&mut *self.transport).poll_write(cx, &self.pending);
            self.ways.outward.progress.attempted(&attempt);
            let written = ready!(attempt).map_err(TunnelError::from)?;
            if written == 0 {
                return Poll::Ready(Err(TunnelError::Lost.into()));
            }
            self.pending.advance(written);
            self.ways.outward.bytes += written as u64;
            self.ways.outward.progress.moved();
        }
        Poll::Ready(Ok(()))
    }

    /// Nothing is to be read: what was written must not wait in rustls for more to come, and an idle
    /// connection holds no buffer.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        self.pending = BytesMut::new();
        let attempt = Pin::new(&mut *self.transport).poll_flush(cx);
        self.ways.outward.progress.attempted(&attempt);
        match attempt {
            Poll::Ready(Err(error)) => Poll::Ready(Err(TunnelError::from(error).into())),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }

    /// Reads once from the socket.
    fn fill(&mut self) -> Result<(), RelayError> {
        self.pending.reserve(CHUNK);
        match self.socket.try_read_buf(&mut self.pending) {
            Ok(0) => {
                self.ways.first.get_or_insert(End::Socket);
                self.ways.outward.finishing = true;
            }
            Ok(_) => {
                self.ways.watch.look(End::Socket, &self.pending)?;
                if self.ways.watch.is_client(End::Socket) {
                    // They come back as what is admitted.
                    self.pending.clear();
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(RelayError::Socket(error)),
        }
        Ok(())
    }

    /// Passes on what is decrypted, or notes the end.
    fn poll_pass(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        let chunk = ready!(Pin::new(&mut *self.transport).poll_fill_buf(cx));
        let chunk = chunk.map_err(TunnelError::from)?;
        if chunk.is_empty() {
            self.ways.first.get_or_insert(End::Tunnel);
            self.ways.inward.finishing = true;
            return Poll::Ready(Ok(()));
        }
        let taken = ready!(self.ways.poll_give(cx, self.socket, chunk))?;
        Pin::new(&mut *self.transport).consume(taken);
        Poll::Ready(Ok(()))
    }
}

impl<T: Transport> BothWays for Relay<'_, T> {
    fn ways(&mut self) -> &mut Ways {
        &mut self.ways
    }

    /// Socket → TLS.
    fn poll_outward(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        loop {
            if self.ways.outward.done {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_drain(cx))?;
            if self.ways.outward.finishing {
                let closed = ready!(Pin::new(&mut *self.transport).poll_shutdown(cx));
                closed.map_err(TunnelError::from)?;
                self.ways.outward.done = true;
                continue;
            }
            if let Some(admitted) = self.ways.watch.admitted(End::Socket) {
                self.pending = admitted.split();
                continue;
            }
            if self.ways.watch.client_waits(End::Socket) {
                return self.poll_flush(cx);
            }
            match self.socket.poll_read_ready(cx) {
                Poll::Ready(ready) => ready.map_err(RelayError::Socket)?,
                Poll::Pending => return self.poll_flush(cx),
            }
            self.fill()?;
        }
    }

    /// TLS → socket.
    fn poll_inward(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        if self.ways.inward.done {
            return Poll::Ready(Ok(()));
        }
        while !self.ways.inward.finishing {
            ready!(self.ways.poll_admitted(cx, self.socket))?;
            ready!(self.poll_pass(cx))?;
        }
        let closed = ready!(ways::poll_shut(cx, self.socket));
        self.ways.inward.done = true;
        Poll::Ready(closed)
    }
}

#[cfg(test)]
mod tests;
