//! The cgroup v2 hierarchy: where it is, the path of a cgroup id, and cgroups of our own.

use std::fs::{self, File};
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a killed process may take to leave its cgroup.
const REMOVE_DEADLINE: Duration = Duration::from_secs(5);
/// How often to look whether it has; a killed process is gone within a millisecond or two.
const REMOVE_INTERVAL: Duration = Duration::from_millis(2);

/// What went wrong with a cgroup.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The machine has no cgroup v2 hierarchy that this process can see.
    #[error("no cgroup v2 hierarchy is mounted: mount one, or boot with the unified hierarchy")]
    NotMounted,
    /// The machine has one, but not among the mounts of this process.
    #[error(
        "the cgroup v2 hierarchy cannot be seen from here, as under `ip netns exec`, which hides \
         /sys: enter the namespace with `nsenter --net=/run/netns/NAME` instead"
    )]
    Hidden,
    /// A file or directory of the hierarchy could not be used.
    #[error("cannot {verb} {}", path.display())]
    Io {
        /// What was to be done.
        verb: &'static str,
        /// With what.
        path: PathBuf,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
    /// The hierarchy belongs to an ordinary user, who can move processes as they like.
    #[error(
        "{} does not belong to root alone: its owner could move the command out of its cgroup",
        path.display()
    )]
    NotOfRoot {
        /// The cgroup.
        path: PathBuf,
    },
    /// Processes stayed in the cgroup although they were killed.
    #[error("cannot remove {}: it still has processes", path.display())]
    Populated {
        /// The cgroup.
        path: PathBuf,
    },
}

/// The mounted cgroup v2 hierarchy.
#[derive(Clone, Debug)]
pub struct Cgroup2 {
    mount: PathBuf,
}

impl Cgroup2 {
    /// Finds the hierarchy among the mounts of this process.
    ///
    /// # Errors
    /// Fails when there is none.
    pub fn find() -> Result<Cgroup2, CgroupError> {
        let path = Path::new("/proc/self/mountinfo");
        let mounts = fs::read_to_string(path).map_err(io_error("read", path))?;
        if let Some(mount) = mount_point(&mounts).filter(|mount| is_on_top(mount)) {
            return Ok(Cgroup2 { mount });
        }
        let of_init = fs::read_to_string("/proc/1/mountinfo").unwrap_or_default();
        Err(match mount_point(&of_init) {
            Some(_) => CgroupError::Hidden,
            None => CgroupError::NotMounted,
        })
    }

    /// Where the hierarchy is mounted.
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// The cgroup that this process is in.
    ///
    /// # Errors
    /// Fails when it cannot be told, or is outside of what is mounted.
    pub fn current(&self) -> Result<Cgroup, CgroupError> {
        let path = Path::new("/proc/self/cgroup");
        let memberships = fs::read_to_string(path).map_err(io_error("read", path))?;
        let own = memberships
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .ok_or(CgroupError::NotMounted)?;
        Cgroup::open(self.mount.join(own))
    }

    /// The nearest cgroup, from the one that this process is in upwards, that only root can change:
    /// it and all above it belong to root. A process may move between two cgroups when it may
    /// write to their common ancestor, so what an ordinary user runs below this one stays there.
    ///
    /// # Errors
    /// Fails when not even the top is root's.
    pub fn nearest_of_root(&self) -> Result<Cgroup, CgroupError> {
        let own = self.current()?;
        let below = own
            .path()
            .strip_prefix(&self.mount)
            .unwrap_or(Path::new(""));
        let mut nearest = None;
        let mut path = self.mount.clone();
        for component in std::iter::once(Path::new("")).chain(below.iter().map(Path::new)) {
            if !component.as_os_str().is_empty() {
                path.push(component);
            }
            if !is_of_root(&path) {
                break;
            }
            nearest = Some(path.clone());
        }
        let nearest = nearest.ok_or_else(|| CgroupError::NotOfRoot {
            path: self.mount.clone(),
        })?;
        Cgroup::open(nearest)
    }

    /// Makes a cgroup called `name` below the one that this process is in.
    ///
    /// # Errors
    /// Fails when there is one already, or this process may not make one.
    pub fn create_child(&self, name: &str) -> Result<Cgroup, CgroupError> {
        self.current()?.create_child(name)
    }

    /// The path of the cgroup with this id below the mount point, starting with `/`; `None` when
    /// there is no such cgroup (any more). What is not UTF-8 in it, or a control character, becomes
    /// U+FFFD, so that nobody hides from rules and records behind the name of a cgroup of their own
    /// making, and every such name can be told to the gateway.
    pub fn path_of(&self, id: u64) -> Option<String> {
        path_below(&self.mount, &self.directory_of(id)?)
    }

    fn directory_of(&self, id: u64) -> Option<PathBuf> {
        let path = match self.open_by_id(id) {
            Ok(directory) => {
                fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd())).ok()?
            }
            // The kernel wants CAP_DAC_READ_SEARCH for it; the directories can be searched without.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                find_inode(&self.mount, id)?
            }
            Err(_) => return None,
        };
        // The kernel says "name (deleted)" of a cgroup that went just now.
        let is_there = fs::metadata(&path).is_ok_and(|metadata| metadata.ino() == id);
        is_there.then_some(path)
    }

    /// Whether the cgroup with this id is the one at `path`, or below it.
    pub fn is_below(&self, id: u64, path: &Path) -> bool {
        let found = self.directory_of(id);
        found.is_some_and(|found| found.starts_with(path))
    }

    /// Of a [path](Self::path_of) the part that one owner's processes cannot leave: up to the topmost
    /// cgroup that others than root can change, or cannot be looked at, as below it they make
    /// cgroups as they like. The whole path when all of it is root's.
    pub fn of_one_owner<'a>(&self, path: &'a str) -> &'a str {
        let is_closed = |upper: &str| is_of_root(&self.mount.join(upper.trim_start_matches('/')));
        up_to_the_first_open(path, is_closed)
    }

    /// Opens the cgroup with this id: cgroup ids are the file handles of their directories.
    fn open_by_id(&self, id: u64) -> io::Result<OwnedFd> {
        /// `FILEID_KERNFS` of the kernel's `exportfs.h`: the handle is a 64-bit node id.
        const FILEID_KERNFS: libc::c_int = 0xfe;

        #[repr(C)]
        struct KernfsHandle {
            bytes: libc::c_uint,
            kind: libc::c_int,
            id: u64,
        }
        const _: () = assert!(offset_of!(KernfsHandle, id) == size_of::<libc::file_handle>());

        let mount = File::open(&self.mount)?;
        let mut handle = KernfsHandle {
            bytes: 8,
            kind: FILEID_KERNFS,
            id,
        };
        // SAFETY: `handle` is a `file_handle` with the eight bytes that its length announces, and
        // outlives the call, which only reads it.
        let fd = unsafe {
            libc::open_by_handle_at(
                mount.as_raw_fd(),
                (&raw mut handle).cast(),
                libc::O_PATH | libc::O_CLOEXEC,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// One cgroup.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    id: u64,
}

impl Cgroup {
    /// The cgroup whose directory is `path`.
    ///
    /// # Errors
    /// Fails when there is none.
    pub fn open(path: impl Into<PathBuf>) -> Result<Cgroup, CgroupError> {
        let path = path.into();
        match fs::metadata(&path) {
            // The inode number of a cgroup's directory is its id.
            Ok(metadata) => Ok(Cgroup {
                id: metadata.ino(),
                path,
            }),
            Err(error) => Err(io_error("open", &path)(error)),
        }
    }

    /// The cgroup's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The cgroup's id, as the kernel programs see it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Makes a cgroup called `name` below this one.
    ///
    /// # Errors
    /// Fails when there is one already, or this process may not make one.
    pub fn create_child(&self, name: &str) -> Result<Cgroup, CgroupError> {
        let path = self.path.join(name);
        fs::create_dir(&path).map_err(io_error("make the cgroup", &path))?;
        Cgroup::open(path)
    }

    /// Moves the process `pid` into this cgroup; 0 is the calling process.
    ///
    /// Sockets belong to the cgroup in which they were made, so a process moves before it makes
    /// any.
    ///
    /// # Errors
    /// Fails when there is no such process, or it may not be moved.
    pub fn add(&self, pid: u32) -> Result<(), CgroupError> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Whether there are processes in this cgroup or below it.
    ///
    /// # Errors
    /// Fails when the cgroup is gone.
    pub fn is_populated(&self) -> Result<bool, CgroupError> {
        let path = self.path.join("cgroup.events");
        let events = fs::read_to_string(&path).map_err(io_error("read", &path))?;
        Ok(events.lines().any(|line| line == "populated 1"))
    }

    /// Kills every process in this cgroup and below it.
    ///
    /// # Errors
    /// Fails on kernels before 5.14, and when the cgroup is gone.
    pub fn kill(&self) -> Result<(), CgroupError> {
        self.write("cgroup.kill", "1")
    }

    /// Removes this cgroup and those below it, once their last processes are gone; a few seconds
    /// are allowed for that. A cgroup that is gone already is no error.
    ///
    /// # Errors
    /// Fails when processes remain, or the cgroup may not be removed.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let deadline = Instant::now() + REMOVE_DEADLINE;
        loop {
            match remove_tree(&self.path) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    if Instant::now() >= deadline {
                        return Err(CgroupError::Populated {
                            path: self.path.clone(),
                        });
                    }
                    sleep(REMOVE_INTERVAL);
                }
                Err(error) => return Err(io_error("remove", &self.path)(error)),
            }
        }
    }

    fn write(&self, file: &str, content: &str) -> Result<(), CgroupError> {
        let path = self.path.join(file);
        fs::write(&path, content).map_err(io_error("write to", &path))
    }
}

/// Whether nobody but root may make cgroups in this one or move processes through it.
fn is_of_root(path: &Path) -> bool {
    [path.to_owned(), path.join("cgroup.procs")]
        .iter()
        .all(|path| {
            fs::metadata(path)
                .is_ok_and(|metadata| metadata.uid() == 0 && metadata.mode() & 0o022 == 0)
        })
}

/// Of a cgroup's path the shortest part that is not closed, or else the path.
fn up_to_the_first_open(path: &str, is_closed: impl Fn(&str) -> bool) -> &str {
    let ends = path.match_indices('/').map(|(at, _)| at).skip(1);
    let mut uppers = ends.filter_map(|end| path.get(..end));
    uppers.find(|upper| !is_closed(upper)).unwrap_or(path)
}

/// The path of a cgroup as records and rules have it.
fn path_below(mount: &Path, path: &Path) -> Option<String> {
    let below = path.strip_prefix(mount).ok()?;
    let below = below.to_string_lossy();
    Some(format!("/{}", below.replace(char::is_control, "\u{fffd}")))
}

fn io_error(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    move |source| CgroupError::Io {
        verb,
        path: path.to_owned(),
        source,
    }
}

/// Removes a cgroup and those below it: a cgroup with children cannot be removed.
fn remove_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

/// The directory with this inode number at or below `path`.
fn find_inode(path: &Path, inode: u64) -> Option<PathBuf> {
    if fs::metadata(path).ok()?.ino() == inode {
        return Some(path.to_owned());
    }
    fs::read_dir(path)
        .ok()?
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .find_map(|entry| find_inode(&entry.path(), inode))
}

/// The mount point of the first cgroup v2 hierarchy in a `mountinfo` file, proc(5).
fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let kind = filesystem.split(' ').next()?;
        let point = mount.split(' ').nth(4)?;
        (kind == "cgroup2").then(|| PathBuf::from(unescape(point)))
    })
}

/// Whether nothing else is mounted over the hierarchy.
fn is_on_top(mount: &Path) -> bool {
    rustix::fs::statfs(mount).is_ok_and(|stat| stat.f_type == libc::CGROUP2_SUPER_MAGIC)
}

/// Undoes the octal escapes that `mountinfo` has for space, tab, newline and backslash.
fn unescape(text: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .into_iter()
    .fold(text.to_owned(), |text, (escape, plain)| {
        text.replace(escape, plain)
    })
}

#[cfg(test)]
mod tests;
