//! Guards that outlive the process: pins whose names say on which device of which namespace.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::devices::interfaces;
use super::hold;
use crate::agent::capture::CaptureError;
use crate::agent::capture::pins::NEW;
use crate::netns::{self, Netns, NetnsCookie, cookie_of_current};

/// How the name of a guard's pin begins; the cookie of the namespace and the index of the device
/// follow.
const PREFIX: &str = "egress_guard_";

/// Where the guard of a device is pinned.
pub(super) fn path(dir: &Path, cookie: NetnsCookie, index: u32) -> PathBuf {
    dir.join(format!("{PREFIX}{}_{index}", cookie.get()))
}

/// Pins something at `path`, in place of what is pinned there.
pub(super) fn replace(
    path: &Path,
    pin: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<(), CaptureError> {
    let mut new = path.as_os_str().to_owned();
    new.push(NEW);
    let new = PathBuf::from(new);
    let _left_behind = fs::remove_file(&new);
    let pinned = pin(&new).and_then(|()| fs::rename(&new, path));
    pinned.map_err(|source| CaptureError::Pin {
        path: path.to_owned(),
        source,
    })
}

/// Removes a pin; one that is gone is no error.
pub(super) fn unpin(path: &Path) -> Result<(), CaptureError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(CaptureError::Unpin {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Removes the guards that are pinned in `dir`, other than those pinned at `ours`.
pub(super) fn remove_others(dir: &Path, ours: &[PathBuf]) -> Result<(), CaptureError> {
    remove(dir, |path| !ours.iter().any(|ours| ours == path)).map(drop)
}

/// Removes every guard that is pinned in `dir`, and says which.
///
/// # Errors
/// Fails when a pin cannot be removed; those before it are.
pub(in crate::agent::capture) fn cleanup(dir: &Path) -> Result<Vec<String>, CaptureError> {
    remove(dir, |_| true)
}

fn remove(dir: &Path, which: impl Fn(&Path) -> bool) -> Result<Vec<String>, CaptureError> {
    let mut removed = Vec::new();
    let mut namespaces = None;
    for path in pins(dir).into_iter().filter(|path| which(path)) {
        unpin(&path)?;
        removed.push(path.display().to_string());
        // A link is gone with its pin; a filter has to be taken off.
        if let Some((cookie, index)) = place(&path) {
            let namespaces = namespaces.get_or_insert_with(netns::all);
            take_off(namespaces, cookie, index);
        }
    }
    Ok(removed)
}

fn pins(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let is_guard = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(PREFIX))
    };
    entries
        .flatten()
        .map(|entry| entry.path())
        .filter(is_guard)
        .collect()
}

/// The namespace's cookie and the device's index in the name of a pin.
fn place(path: &Path) -> Option<(u64, u32)> {
    let name = path.file_name()?.to_str()?.strip_prefix(PREFIX)?;
    let (cookie, index) = name.split_once('_')?;
    Some((cookie.parse().ok()?, index.parse().ok()?))
}

/// A namespace that is not among these has no process left, and its devices go with it.
fn take_off(namespaces: &[Netns], cookie: u64, index: u32) {
    for netns in namespaces {
        let found = netns.on_thread(|| {
            if !cookie_of_current().is_ok_and(|own| own.get() == cookie) {
                return false;
            }
            let devices = interfaces().unwrap_or_default();
            for device in devices.iter().filter(|device| device.index == index) {
                hold::take_off_all(&device.name);
            }
            true
        });
        if matches!(found, Ok(true)) {
            return;
        }
    }
}
