//! A bpf file system for one test.

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr;

use anyhow::Context as _;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use tempfile::TempDir;

/// A bpf file system in a directory of its own. Only the thread that made it sees it, with the
/// processes that it starts, so that it ends with the test, however that ends.
#[derive(Debug)]
pub struct BpfFs {
    directory: TempDir,
}

impl BpfFs {
    /// Mounts one; the calling thread has mounts of its own from now on.
    ///
    /// # Errors
    /// Without `CAP_SYS_ADMIN`.
    pub fn mount() -> anyhow::Result<BpfFs> {
        let directory = TempDir::new().context("cannot make a directory")?;
        // SAFETY: the thread stops sharing its mounts and working directory with others, which
        // no other thread relies on; descriptors stay shared.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }
            .context("cannot make a mount namespace (CAP_SYS_ADMIN is needed)")?;
        let target = CString::new(directory.path().as_os_str().as_bytes())?;
        mount(None, c"/", libc::MS_REC | libc::MS_PRIVATE)?;
        mount(Some(c"bpf"), &target, 0).context("cannot mount a bpf file system")?;
        Ok(BpfFs { directory })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        if let Ok(target) = CString::new(self.path().as_os_str().as_bytes()) {
            // SAFETY: a string that outlives the call. What stays mounted ends with the thread.
            let _ = unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
        }
    }
}

fn mount(kind: Option<&CStr>, target: &CStr, flags: libc::c_ulong) -> io::Result<()> {
    let kind = kind.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: strings that outlive the call, or none, and no data.
    let result = unsafe { libc::mount(kind, target.as_ptr(), kind, flags, ptr::null()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
