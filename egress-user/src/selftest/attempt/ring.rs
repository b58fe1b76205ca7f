//! `connect` by io_uring: the kernel takes it from a ring, and no system call names a socket.

use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode};
use socket2::{SockAddr, Socket};

use super::super::child::Outcome;
use super::{PATIENCE, failed};

/// Connects, and waits for the end of it.
pub(super) fn connect(socket: &Socket, dst: SocketAddr) -> Result<(), Outcome> {
    // Many machines offer none, or none to ordinary processes.
    let mut ring = IoUring::new(2).map_err(|_| Outcome::Unsupported)?;
    let dst = SockAddr::from(dst);
    let entry = opcode::Connect::new(Fd(socket.as_raw_fd()), dst.as_ptr().cast(), dst.len());
    // SAFETY: socket and address live until the ring is dropped, whose file's end is waited for by
    // the end of this process.
    let pushed = unsafe { ring.submission().push(&entry.build()) };
    pushed.map_err(|_| Outcome::Unsupported)?;
    let patience = Timespec::from(PATIENCE);
    let args = SubmitArgs::new().timespec(&patience);
    match ring.submitter().submit_with_args(1, &args) {
        Err(error) if error.raw_os_error() == Some(libc::ETIME) => return Err(Outcome::Silence),
        Err(error) => return Err(failed(error)),
        Ok(_) => {}
    }
    match ring.completion().next().map(|entry| entry.result()) {
        Some(0) => Ok(()),
        Some(negative) => Err(Outcome::Failed(-negative)),
        None => Err(Outcome::Silence),
    }
}
