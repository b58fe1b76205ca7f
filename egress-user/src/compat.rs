//! System calls as 32-bit programs make them: on x86_64, where a 64-bit program can (`int 0x80`). The kernel asks
//! fewer of its hooks about them, so that what is tried has to be tried in this way too.

use std::io;
use std::os::fd::BorrowedFd;

/// Sets an option of a socket to 1.
///
/// # Errors
/// The kernel's; `ENOSYS` where it has no such calls, or this machine no way to make them.
pub fn set_option(socket: BorrowedFd<'_>, level: i32, option: i32) -> io::Result<()> {
    imp::set_option(socket, level, option)
}

#[cfg(target_arch = "x86_64")]
mod imp {
    use std::arch::asm;
    use std::io;
    use std::os::fd::{AsRawFd as _, BorrowedFd};
    use std::ptr;

    /// Numbers of i386's `unistd_32.h`.
    const GETPID: u32 = 20;
    const SETSOCKOPT: u32 = 366;

    pub(super) fn set_option(socket: BorrowedFd<'_>, level: i32, option: i32) -> io::Result<()> {
        if !are_there() {
            return Err(io::Error::from_raw_os_error(libc::ENOSYS));
        }
        let value = Low::new(1)?;
        let socket = socket.as_raw_fd().cast_unsigned();
        let [level, option] = [level, option].map(i32::cast_unsigned);
        // SAFETY: the kernel reads the four bytes of `value`, which lives.
        let result = unsafe { call(SETSOCKOPT, [socket, level, option, value.address()?, 4]) };
        match result {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(-error)),
        }
    }

    /// Whether this process may make such calls: one that makes them where the kernel has none is ended,
    /// and a filter may refuse them all.
    fn are_there() -> bool {
        // SAFETY: the child makes three system calls, and does nothing that another thread could have
        // left half done.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                // Its end leaves no file behind.
                libc::prctl(libc::PR_SET_DUMPABLE, 0);
                libc::_exit(i32::from(call(GETPID, [0; 5]) <= 0));
            }
            let mut status = 0;
            if child < 0 {
                return false;
            }
            let mut wait = || libc::waitpid(child, &raw mut status, 0);
            let interrupted = || io::Error::last_os_error().kind() == io::ErrorKind::Interrupted;
            let mut ended = wait();
            while ended < 0 && interrupted() {
                ended = wait();
            }
            ended == child && libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
        }
    }

    /// # Safety
    /// As for the system call of this number, of which every pointer has 32 bits.
    unsafe fn call(number: u32, [a, b, c, d, e]: [u32; 5]) -> i32 {
        let result: i32;
        // SAFETY: the caller's promise; the first argument's register is put back, and older kernels
        // leave nothing in those that 32-bit programs do not have.
        unsafe {
            asm!(
                "xchg {a}, rbx",
                "int 0x80",
                "xchg {a}, rbx",
                a = inout(reg) u64::from(a) => _,
                inout("eax") number => result,
                in("ecx") b,
                in("edx") c,
                in("esi") d,
                in("edi") e,
                out("r8") _,
                out("r9") _,
                out("r10") _,
                out("r11") _,
            );
        }
        result
    }

    /// A number where 32 bits can point to.
    struct Low(*mut i32);

    const PAGE: usize = 4096;

    impl Low {
        fn new(number: i32) -> io::Result<Low> {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
            let rights = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: a new mapping, which is writable for a page.
            unsafe {
                let page = libc::mmap(ptr::null_mut(), PAGE, rights, flags, -1, 0);
                if page == libc::MAP_FAILED {
                    return Err(io::Error::last_os_error());
                }
                let page = page.cast::<i32>();
                page.write(number);
                Ok(Low(page))
            }
        }

        fn address(&self) -> io::Result<u32> {
            u32::try_from(self.0.expose_provenance()).map_err(io::Error::other)
        }
    }

    impl Drop for Low {
        fn drop(&mut self) {
            // SAFETY: the mapping that was made, which nobody else has.
            let _unmapped = unsafe { libc::munmap(self.0.cast(), PAGE) };
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod imp {
    use std::io;
    use std::os::fd::BorrowedFd;

    pub(super) fn set_option(_: BorrowedFd<'_>, _: i32, _: i32) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::ENOSYS))
    }
}
