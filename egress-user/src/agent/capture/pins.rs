//! Links pinned in a bpf file system: they keep the programs attached without a process. With them
//! is what the programs remember of sockets.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use tracing::warn;

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
    links: Vec<(String, Link)>,
) -> Result<Vec<(String, Link)>, CaptureError> {
    prepare(dir)?;
    // What the programs remember goes first: without it their links are worth less.
    let pairs = links
        .iter()
        .map(|(name, link)| (name.as_str(), link.as_fd()));
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
    // Of cgroups that are not captured any more.
    for name in self::links(dir)? {
        if !links.iter().any(|(pinned, _)| *pinned == name) {
            tell_of_security(&name, &links);
            remove(&dir.join(name))?;
        }
    }
    Ok(links)
}

/// Says so when the link of a program of the security hooks is taken away from an agent before, and
/// this one has none.
fn tell_of_security(name: &str, links: &[(String, Link)]) {
    let has_any = links
        .iter()
        .any(|(pinned, _)| programs::is_security_pin(pinned));
    if programs::is_security_pin(name) && !has_any {
        warn!(
            pin = name,
            "the agent before was asked at the kernel's security hooks, and this one is not: {}",
            programs::UNASKED
        );
    }
}

/// The names of the pins in `dir` that hold links to cgroups, in alphabetical order.
///
/// # Errors
/// Fails when `dir` cannot be read; one that is absent has none.
pub(super) fn links(dir: &Path) -> Result<Vec<String>, CaptureError> {
    let mut names = files(dir)?;
    names.retain(|name| programs::is_pin_name(name));
    Ok(names)
}

/// The names of all pins but the guards' in `dir`, those that were to replace others too.
fn ours(dir: &Path) -> Result<Vec<String>, CaptureError> {
    let mut names = files(dir)?;
    names.retain(|name| {
        let name = name.strip_suffix(NEW).unwrap_or(name);
        programs::is_pin_name(name) || memory::names().any(|memory| memory == name)
    });
    Ok(names)
}

/// The names of what is in `dir`; nothing if it is absent.
fn files(dir: &Path) -> Result<Vec<String>, CaptureError> {
    let listed = fs::read_dir(dir).and_then(|entries| {
        entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<_>>>()
    });
    let mut names = match listed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        other => other.map_err(|source| CaptureError::Pin {
            path: dir.to_owned(),
            source,
        })?,
    };
    names.sort_unstable();
    Ok(names)
}

/// Removes every pin of this program from `dir`, and `dir` itself if it is empty then; the
/// programs and the guards on devices are detached unless a process still holds them. Says what it
/// removed.
///
/// # Errors
/// Fails when a pin cannot be removed; those before it are.
pub fn cleanup(dir: &Path) -> Result<Vec<String>, CaptureError> {
    let mut removed = guard::cleanup(dir)?;
    for name in ours(dir)? {
        let path = dir.join(name);
        if remove(&path)? {
            removed.push(path.display().to_string());
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
    check_pins(dir)?;
    fs::create_dir_all(dir).map_err(|source| CaptureError::Pin {
        path: dir.to_owned(),
        source,
    })?;
    for name in unfinished(dir)? {
        remove(&dir.join(name))?;
    }
    Ok(())
}

/// Whether links can be pinned in `dir`, which need not be there yet.
///
/// # Errors
/// Fails when it is not on a bpf file system.
pub fn check_pins(dir: &Path) -> Result<(), CaptureError> {
    let bpf_fs = nearest_existing(dir)
        .and_then(|path| rustix::fs::statfs(path).ok())
        .is_some_and(|stat| stat.f_type == libc::BPF_FS_MAGIC);
    match bpf_fs {
        true => Ok(()),
        false => Err(CaptureError::NotBpfFs {
            path: dir.to_owned(),
        }),
    }
}

fn nearest_existing(path: &Path) -> Option<&Path> {
    path.ancestors().find(|path| path.exists())
}

fn new_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}{NEW}"))
}

/// Best effort: what stays is cleared away by the next attempt.
fn remove_new(dir: &Path) {
    for name in unfinished(dir).unwrap_or_default() {
        let _kept = fs::remove_file(dir.join(name));
    }
}

/// The pins that were to replace others.
fn unfinished(dir: &Path) -> Result<Vec<String>, CaptureError> {
    let mut names = ours(dir)?;
    names.retain(|name| name.ends_with(NEW));
    Ok(names)
}

/// Whether there was something to remove.
fn remove(path: &Path) -> Result<bool, CaptureError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(CaptureError::Unpin {
            path: path.to_owned(),
            source,
        }),
    }
}
