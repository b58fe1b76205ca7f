//! Mounts that only the thread sees that made them, with the processes that it starts.

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr;

use anyhow::Context as _;
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// What is mounted.
pub(crate) enum What<'a> {
    /// A new file system of this kind.
    New(&'a CStr),
    /// A file of another place.
    File(&'a Path),
}

/// The calling thread has mounts of its own from now on.
///
/// # Errors
/// Without `CAP_SYS_ADMIN`.
pub(crate) fn separate() -> anyhow::Result<()> {
    // SAFETY: the thread stops sharing its mounts and working directory with others, which
    // no other thread relies on; descriptors stay shared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }
        .context("cannot make a mount namespace (CAP_SYS_ADMIN is needed)")?;
    Ok(mount(None, None, c"/", libc::MS_REC | libc::MS_PRIVATE)?)
}

/// Mounts over `target`.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn over(target: &Path, what: &What<'_>) -> io::Result<()> {
    let target = CString::new(target.as_os_str().as_bytes())?;
    match what {
        What::New(kind) => mount(Some(kind), Some(kind), &target, 0),
        What::File(file) => {
            let file = CString::new(file.as_os_str().as_bytes())?;
            mount(Some(&file), None, &target, libc::MS_BIND)
        }
    }
}

/// Takes a mount away. What stays mounted ends with the thread.
pub(crate) fn remove(target: &Path) {
    if let Ok(target) = CString::new(target.as_os_str().as_bytes()) {
        // SAFETY: a string that outlives the call.
        let _ = unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    }
}

fn mount(
    source: Option<&CStr>,
    kind: Option<&CStr>,
    target: &CStr,
    flags: libc::c_ulong,
) -> io::Result<()> {
    let pointer = |text: Option<&CStr>| text.map_or(ptr::null(), CStr::as_ptr);
    let (source, kind) = (pointer(source), pointer(kind));
    // SAFETY: strings that outlive the call, or none, and no data.
    let result = unsafe { libc::mount(source, target.as_ptr(), kind, flags, ptr::null()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
