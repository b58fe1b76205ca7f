//! Whether a file is being written at this moment.

use std::fs::File;
use std::os::fd::AsRawFd;

/// Sets the signal that a broken lease sends (`asm-generic/fcntl.h`; the libc crate lacks it).
const F_SETSIG: libc::c_int = 10;

/// Who has a file open for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writers {
    /// Nobody.
    Nobody,
    /// Somebody.
    Somebody,
    /// The kernel does not say: the file is another user's, or its file system has no leases.
    Unknown,
}

/// Asks the kernel for a read lease, which it gives on files that nobody has open for writing
/// (fcntl(2), `F_SETLEASE`), and gives it back at once.
pub(super) fn of(file: &File) -> Writers {
    let fd = file.as_raw_fd();
    // SAFETY: fcntl takes no pointer with these commands, and the descriptor is open. A writer
    // that comes while the lease is held has the kernel send a signal: one that nobody heeds,
    // since the usual one would end this process.
    let taken = unsafe {
        libc::fcntl(fd, F_SETSIG, libc::SIGURG);
        libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK)
    };
    if taken == 0 {
        // SAFETY: as above. Closing the file would give it back too.
        unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK) };
        return Writers::Nobody;
    }
    match std::io::Error::last_os_error().raw_os_error() {
        Some(libc::EAGAIN) => Writers::Somebody,
        _ => Writers::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_is_seen_until_it_closes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let writer = File::create(&path).unwrap();
        assert_eq!(of(&File::open(&path).unwrap()), Writers::Somebody);
        drop(writer);
        let reader = File::open(&path).unwrap();
        assert_eq!(of(&reader), Writers::Nobody);
        assert_eq!(of(&reader), Writers::Nobody);
    }
}
