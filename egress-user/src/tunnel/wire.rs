//! The TCP connection under the TLS session of a tunnel, read in large strides.
//!
//! rustls asks for at most 4 KiB more than it has whenever it reads, which is five system calls for
//! each full record. Here one call takes what the kernel has, up to [`STRIDE`], and rustls is served
//! from memory. The buffer exists only while bytes wait in it, so an idle tunnel holds none.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Bytes taken at once.
const STRIDE: usize = 64 * 1024;

/// Buffers that a thread keeps for reuse; beyond that they are freed.
const POOLED: usize = 64;

thread_local! {
    static POOL: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A TCP connection with the bytes that were read ahead.
pub struct Wire {
    socket: TcpStream,
    ahead: Option<Ahead>,
}

struct Ahead {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Wire {
    /// Nothing is read yet.
    pub fn new(socket: TcpStream) -> Wire {
        Wire {
            socket,
            ahead: None,
        }
    }

    /// Moves bytes that were read ahead; false when there are none.
    fn serve(&mut self, into: &mut ReadBuf<'_>) -> bool {
        let Some(ahead) = &mut self.ahead else {
            return false;
        };
        let waiting = ahead.buffer.get(ahead.start..ahead.end).unwrap_or_default();
        let count = waiting.len().min(into.remaining());
        into.put_slice(waiting.get(..count).unwrap_or_default());
        ahead.start += count;
        if ahead.start == ahead.end
            && let Some(ahead) = self.ahead.take()
        {
            give(ahead.buffer);
        }
        true
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.serve(into) {
                return Poll::Ready(Ok(()));
            }
            ready!(self.socket.poll_read_ready(cx))?;
            let mut buffer = take();
            match self.socket.try_read(&mut buffer) {
                Ok(0) => {
                    give(buffer);
                    return Poll::Ready(Ok(()));
                }
                Ok(end) => {
                    self.ahead = Some(Ahead {
                        buffer,
                        start: 0,
                        end,
                    });
                }
                Err(error) => {
                    give(buffer);
                    if error.kind() != io::ErrorKind::WouldBlock {
                        return Poll::Ready(Err(error));
                    }
                }
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

fn take() -> Box<[u8]> {
    POOL.with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| vec![0; STRIDE].into_boxed_slice())
}

fn give(buffer: Box<[u8]>) {
    POOL.with_borrow_mut(|pool| {
        if pool.len() < POOLED {
            pool.push(buffer);
        }
    });
}
