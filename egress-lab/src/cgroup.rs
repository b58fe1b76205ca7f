//! Throw-away cgroups.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;

use crate::sweep::{Entry, Leftover};
use crate::wait;

const PREFIX: &str = "egress-lab-";

/// A cgroup v2 directory at the top of the hierarchy. Dropping it ends what runs in it and
/// removes it with everything below.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    _entry: Entry,
}

impl Cgroup {
    /// Makes a cgroup, and removes those of labs that were killed.
    ///
    /// # Errors
    /// When there is no cgroup v2 file system or it may not be written.
    pub fn new() -> anyhow::Result<Cgroup> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let root = mount_point()?;
        remove_stale(&root);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("{PREFIX}{}-{number}", process::id()));
        let made = Entry::making(|| {
            fs::create_dir(&path)?;
            anyhow::Ok((path.clone(), Leftover::Cgroup(path.clone())))
        });
        let (path, entry) = made.with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Cgroup {
            path,
            _entry: entry,
        })
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number by which the kernel knows it: its directory's inode.
    ///
    /// # Errors
    /// When the directory is gone.
    pub fn id(&self) -> io::Result<u64> {
        Ok(fs::metadata(&self.path)?.ino())
    }

    /// Makes `command` start in this cgroup.
    ///
    /// # Errors
    /// When the cgroup may not be written.
    pub fn enter(&self, command: &mut Command) -> io::Result<()> {
        enter(&self.path, command)
    }

    /// Makes `command` start in a cgroup of this name below this one, which is made where it is
    /// not there.
    ///
    /// # Errors
    /// When it can be neither made nor written.
    pub fn enter_below(&self, name: &str, command: &mut Command) -> io::Result<()> {
        let path = self.path.join(name);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => enter(&path, command),
        }
    }

    /// The cgroups below this one, at any depth.
    pub fn below(&self) -> Vec<PathBuf> {
        descendants(&self.path)
    }

    /// The ids of the processes in it and below.
    pub fn processes(&self) -> Vec<u32> {
        let mut directories = descendants(&self.path);
        directories.push(self.path.clone());
        directories
            .iter()
            .filter_map(|directory| fs::read_to_string(directory.join("cgroup.procs")).ok())
            .flat_map(|text| {
                text.lines()
                    .filter_map(|id| id.parse().ok())
                    .collect::<Vec<_>>()
            })
            .collect()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Where the cgroup v2 hierarchy is mounted.
///
/// # Errors
/// When it is not mounted.
pub fn mount_point() -> anyhow::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    mounts
        .lines()
        .find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (place, kind) = (fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(place))
        })
        .context("no cgroup v2 file system is mounted")
}

/// Ends every process in the cgroup and below, then removes the directories. Another thread or
/// process may be doing the same: what is gone is gone.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    gone_is_fine(fs::write(path.join("cgroup.kill"), "1"))?;
    let result = wait::until("a killed cgroup is empty", || {
        match fs::read_to_string(path.join("cgroup.events")) {
            Ok(events) => events.contains("populated 0").then_some(()),
            Err(_) => Some(()),
        }
    });
    result.map_err(io::Error::other)?;
    let mut directories = descendants(path);
    directories.push(path.to_owned());
    directories
        .iter()
        .try_for_each(|directory| gone_is_fine(fs::remove_dir(directory)))
}

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A file of a cgroup that is removed while it is open.
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        other => other,
    }
}

/// Directories below `path`, the deepest first.
fn descendants(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(descendants(&entry.path()));
            found.push(entry.path());
        }
    }
    found
}

fn remove_stale(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let owner = owner.and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
            // Another lab may be removing it at the same time.
            let _ = remove(&entry.path());
        }
    }
}

fn enter(cgroup: &Path, command: &mut Command) -> io::Result<()> {
    let procs = OpenOptions::new()
        .write(true)
        .open(cgroup.join("cgroup.procs"))?;
    let enter = move || join(&procs);
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(enter) };
    Ok(())
}

fn join(procs: &File) -> io::Result<()> {
    // "0" is the process that writes.
    rustix::io::write(procs, b"0")?;
    Ok(())
}
