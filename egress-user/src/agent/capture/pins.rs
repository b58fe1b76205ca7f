//! Links pinned in a bpf file system: they keep the programs attached without a process. With them
//! is what the programs remember of sockets.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use super::CaptureError;
use super::guard;
use super::link::{self, Link};
use super::{memory, programs};

/// Ends the name of a pin that will replace another. The file system has no names with dots.
pub(super) const NEW: &str = "_new";

/// Pins `memories` and `links` in `dir` in place of those that are pinned there. Gives the links
/// back.
pub(super) fn replace(
    dir: &Path,
    memories: &[(&'static str, BorrowedFd<'_>)],
    links: Vec<(&'static str, Link)>,
) -> Result<Vec<(&'static str, Link)>, CaptureError> {
    prepare(dir)?;
    // What the programs remember goes first: without it their links are worth less.
    let pairs = links.iter().map(|(name, link)| (*name, link.as_fd()));
    let objects: Vec<_> = memories.iter().copied().chain(pairs).collect();
    for (name, object) in &objects {
        let path = new_path(dir, name);
        link::pin(*object, &path).map_err(|source| {
            remove_new(dir);
            CaptureError::Pin { path, source }
        })?;
    }
    for (name, _) in &objects {
        // Renaming over a pin removes it: the earlier link ends in the moment that this one takes
        // its name.
        let to = dir.join(name);
        fs::rename(new_path(dir, name), &to).map_err(|source| {
            remove_new(dir);
            CaptureError::Pin { path: to, source }
        })?;
    }
    Ok(links)
}

/// The names of all pins but the guards'.
fn names() -> impl Iterator<Item = &'static str> {
    memory::names().chain(programs::names())
}

/// Removes every pin of this program from `dir`, and `dir` itself if it is empty then; the
/// programs and the guards on devices are detached unless a process still holds them. Says what it
/// removed.
///
/// # Errors
/// Fails when a pin cannot be removed; those before it are.
pub fn cleanup(dir: &Path) -> Result<Vec<String>, CaptureError> {
    let mut removed = guard::cleanup(dir)?;
    for name in names() {
        for path in [dir.join(name), new_path(dir, name)] {
            if remove(&path).map_err(|source| unpin(&path, source))? {
                removed.push(path.display().to_string());
            }
        }
    }
    // Whatever else is in the directory is somebody else's.
    if fs::remove_dir(dir).is_ok() {
        removed.push(dir.display().to_string());
    }
    Ok(removed)
}

/// Makes `dir`, and clears away what a process left that ended in the middle of pinning.
fn prepare(dir: &Path) -> Result<(), CaptureError> {
    let bpf_fs = nearest_existing(dir)
        .and_then(|path| rustix::fs::statfs(path).ok())
        .is_some_and(|stat| stat.f_type == libc::BPF_FS_MAGIC);
    if !bpf_fs {
        return Err(CaptureError::NotBpfFs {
            path: dir.to_owned(),
        });
    }
    fs::create_dir_all(dir).map_err(|source| CaptureError::Pin {
        path: dir.to_owned(),
        source,
    })?;
    for name in names() {
        let path = new_path(dir, name);
        remove(&path).map_err(|source| unpin(&path, source))?;
    }
    Ok(())
}

fn nearest_existing(path: &Path) -> Option<&Path> {
    path.ancestors().find(|path| path.exists())
}

fn new_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}{NEW}"))
}

/// Best effort: what stays is cleared away by the next attempt.
fn remove_new(dir: &Path) {
    for name in names() {
        let _absent = fs::remove_file(new_path(dir, name));
    }
}

fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn unpin(path: &Path, source: io::Error) -> CaptureError {
    CaptureError::Unpin {
        path: path.to_owned(),
        source,
    }
}
