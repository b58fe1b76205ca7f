//! Which network namespaces are to be captured, noticed as they come and go.
//!
//! The kernel tells by inotify when a cgroup is made and when its first process
//! comes (`cgroup.events`). A process may enter its namespace a little later than
//! its cgroup, so a cgroup that has changed is looked at again a few times. A slow
//! walk over everything finds what no event announced, and what is gone.

mod captured;
mod outside;
mod pattern;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

use super::handover::Inherited;
use super::scopes::Scopes;
use crate::drain::Observer;
use crate::netns::Netns;
use outside::Outside;
use pattern::{fits, is_pattern};

/// When a cgroup that has changed is looked at again.
const SETTLING: [Duration; 7] = [
    Duration::ZERO,
    Duration::from_millis(5),
    Duration::from_millis(15),
    Duration::from_millis(40),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_secs(1),
];

/// How often everything is walked.
const WALK: Duration = Duration::from_secs(10);

/// How often to look whether the process is ending.
const TICK: Duration = Duration::from_millis(200);

/// What is to be captured.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    /// Files of network namespaces. The last component may have one `*`.
    pub namespaces: Vec<PathBuf>,
    /// Cgroups in and below which every process's namespace is captured. The last
    /// component may have one `*`.
    pub cgroups: Vec<PathBuf>,
}

impl Targets {
    /// The namespaces that are named one by one.
    pub fn fixed(&self) -> impl Iterator<Item = &PathBuf> {
        self.namespaces.iter().filter(|path| !is_pattern(path))
    }
}

/// Keeps a registry of scopes in step with what is there.
pub struct Discovery {
    targets: Targets,
    scopes: Scopes,
    inotify: OwnedFd,
    watches: HashMap<i32, Watch>,
    watched: HashSet<PathBuf>,
    due: Vec<(Instant, PathBuf)>,
    outside: Outside,
    /// Namespaces that the last complete walk did not find.
    missed: HashSet<u64>,
    /// Everything is looked at, threads included.
    walking: bool,
    /// Something could not be read in the walk under way.
    incomplete: bool,
    /// That the last walk was incomplete was said.
    blind: bool,
    /// That a cgroup cannot be captured again was said.
    unfollowed: bool,
}

/// A directory or event file that is watched, and the target that it speaks of.
struct Watch {
    path: PathBuf,
    about: PathBuf,
}

impl Discovery {
    /// Looks at everything once.
    ///
    /// # Errors
    /// When the kernel gives no inotify instance.
    pub fn start(targets: Targets, scopes: Scopes) -> io::Result<Discovery> {
        let mut discovery = Discovery {
            targets,
            scopes,
            inotify: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
            watches: HashMap::new(),
            watched: HashSet::new(),
            due: Vec::new(),
            outside: Outside::default(),
            missed: HashSet::new(),
            walking: false,
            incomplete: false,
            blind: false,
            unfollowed: false,
        };
        discovery.watch_captured();
        discovery.walk();
        Ok(discovery)
    }

    /// What was inherited from a predecessor and nobody asked for.
    pub fn take_inherited(&mut self) -> Option<Inherited> {
        self.scopes.take_inherited()
    }

    /// The programs are attached from now on; see [`Scopes::attached`].
    pub fn attached(&mut self) {
        self.scopes.attached();
    }

    /// How many namespaces are captured.
    pub fn len(&self) -> usize {
        self.scopes.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.scopes.is_empty()
    }

    /// Follows what happens until the drain begins. Blocks its thread.
    pub fn run(mut self, draining: &Observer) {
        let mut next_walk = Instant::now() + WALK;
        while !draining.is_draining() {
            let now = Instant::now();
            let due = self.due.iter().map(|(due, _)| *due).min();
            let until = due.map_or(next_walk, |due| due.min(next_walk));
            self.wait(until.saturating_duration_since(now).min(TICK));
            self.take_events();
            self.follow_cgroups();
            self.look_again();
            if Instant::now() >= next_walk {
                self.walk();
                next_walk = Instant::now() + WALK;
            }
        }
    }

    fn wait(&self, timeout: Duration) {
        let mut fds = [PollFd::new(&self.inotify, PollFlags::IN)];
        let timeout = Timespec::try_from(timeout).ok();
        // Interrupted or not, everything is looked at afterwards.
        let _ = poll(&mut fds, timeout.as_ref());
    }

    /// Turns what inotify says into cgroups to look at.
    fn take_events(&mut self) {
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut changed = HashSet::new();
        let mut lost = false;
        let mut reader = Reader::new(self.inotify.as_fd(), &mut buffer);
        while let Ok(event) = reader.next() {
            lost |= event.events().contains(ReadFlags::QUEUE_OVERFLOW);
            if let Some(watch) = self.watches.get(&event.wd()) {
                changed.insert(watch.about.clone());
            }
            if event.events().contains(ReadFlags::IGNORED)
                && let Some(watch) = self.watches.remove(&event.wd())
            {
                self.watched.remove(&watch.path);
            }
        }
        if lost {
            self.walk();
        }
        let now = Instant::now();
        for path in changed {
            self.due
                .extend(SETTLING.map(|after| (now + after, path.clone())));
        }
    }

    fn look_again(&mut self) {
        let now = Instant::now();
        let (ready, later): (Vec<_>, Vec<_>) = self.due.drain(..).partition(|(due, _)| *due <= now);
        self.due = later;
        let paths: HashSet<PathBuf> = ready.into_iter().map(|(_, path)| path).collect();
        for path in &paths {
            self.look_at(path, &mut HashSet::new());
        }
        if !paths.is_empty() {
            self.tell();
        }
    }

    fn tell(&self) {
        let (captured, outside) = (self.scopes.len(), self.outside.len());
        self.scopes.metrics().namespaces(captured, outside);
    }

    /// Looks at everything, and releases the namespaces that are gone: those that two walks in a
    /// row did not find, both of which could read everything, and in which nobody has a socket. What
    /// cannot be seen may well be there.
    fn walk(&mut self) {
        self.walk_over();
        self.tell();
    }

    fn walk_over(&mut self) {
        self.incomplete = false;
        self.walking = true;
        let mut alive = HashSet::new();
        let targets = self.targets.namespaces.iter().chain(&self.targets.cgroups);
        for path in targets.cloned().collect::<Vec<_>>() {
            self.look_at(&path, &mut alive);
        }
        self.walking = false;
        if self.incomplete {
            if !std::mem::replace(&mut self.blind, true) {
                tracing::warn!(
                    "not everything can be read where namespaces are looked for: none is released"
                );
            }
            return;
        }
        self.blind = false;
        self.outside.retain(&alive);
        let served = self.scopes.inodes().into_iter();
        let missed: HashSet<u64> = served.filter(|inode| !alive.contains(inode)).collect();
        let before = std::mem::replace(&mut self.missed, missed);
        let gone: Vec<u64> = before.intersection(&self.missed).copied().collect();
        for inode in gone {
            self.release(inode);
        }
    }

    fn release(&mut self, inode: u64) {
        let released = match self.scopes.has_sockets(inode) {
            Ok(true) => return,
            Ok(false) => self.scopes.remove(inode).map_err(anyhow::Error::new),
            Err(error) => Err(anyhow::Error::new(error)),
        };
        if let Err(error) = released {
            tracing::warn!("a network namespace that is gone stays captured: {error:#}");
        }
    }

    /// What was read, unless it is gone. Anything else that went wrong leaves the walk incomplete.
    fn seen<T>(&mut self, read: io::Result<T>) -> Option<T> {
        match read {
            Ok(read) => Some(read),
            Err(error) => {
                self.incomplete |= !is_gone(&error);
                tracing::debug!(%error, "cannot look for network namespaces");
                None
            }
        }
    }

    /// Captures what a target, or each path that a pattern describes, leads to.
    fn look_at(&mut self, target: &Path, alive: &mut HashSet<u64>) {
        if !is_pattern(target) {
            return self.look_at_one(target, alive);
        }
        let Some(folder) = target.parent() else {
            return;
        };
        let changes = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::ATTRIB;
        self.watch(folder, target, changes);
        for entry in self.entries(folder) {
            if fits(target, &entry.path()) {
                self.look_at_one(&entry.path(), alive);
            }
        }
    }

    /// A directory is a cgroup, a file is a namespace.
    fn look_at_one(&mut self, path: &Path, alive: &mut HashSet<u64>) {
        if path.is_dir() {
            self.cgroup(path, alive);
        } else {
            self.capture(path, &path.to_string_lossy(), alive);
        }
    }

    /// Captures the namespaces of the processes in a cgroup and below it.
    fn cgroup(&mut self, path: &Path, alive: &mut HashSet<u64>) {
        self.watch(path, path, WatchFlags::CREATE | WatchFlags::ONLYDIR);
        self.watch(&path.join("cgroup.events"), path, WatchFlags::MODIFY);
        let procs = self.seen(fs::read_to_string(path.join("cgroup.procs")));
        let procs = procs.unwrap_or_default();
        let owner = self.scopes.owner_of(path);
        for pid in procs.lines() {
            // A process that this process cannot see is in another tree of process ids.
            self.incomplete |= pid == "0";
            self.process(&Path::new("/proc").join(pid), &owner, alive);
        }
        for entry in self.entries(path) {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.cgroup(&entry.path(), alive);
            }
        }
    }

    /// Captures the namespace of a process. Its threads may be in others, or go on without the first
    /// of them; that takes a thorough look.
    fn process(&mut self, process: &Path, owner: &str, alive: &mut HashSet<u64>) {
        self.capture(&process.join("ns/net"), owner, alive);
        if self.walking {
            for thread in self.entries(&process.join("task")) {
                self.capture(&thread.path().join("ns/net"), owner, alive);
            }
        }
    }

    fn entries(&mut self, folder: &Path) -> Vec<fs::DirEntry> {
        let Some(entries) = self.seen(fs::read_dir(folder)) else {
            return Vec::new();
        };
        entries.filter_map(|entry| self.seen(entry)).collect()
    }

    /// Captures a namespace, which counts as one of `owner`.
    fn capture(&mut self, path: &Path, owner: &str, alive: &mut HashSet<u64>) {
        // Whoever is gone by now needs no scope.
        let Some(inode) = self.seen(fs::metadata(path).map(|metadata| metadata.ino())) else {
            return;
        };
        if !alive.insert(inode) {
            return;
        }
        let captured = if self.scopes.contains(inode) {
            self.scopes.guard(inode)
        } else {
            let failed = self.outside.tried_of(owner, inode);
            let room = self.scopes.has_room(owner, failed);
            room.and_then(|()| self.scopes.add(Netns::at(path)?, owner).map(drop))
        };
        match captured {
            Err(error) if self.scopes.contains(inode) => {
                tracing::warn!("{:#}", anyhow::Error::new(error));
            }
            Err(error) => self.outside.note(inode, owner, error),
            Ok(()) => {
                self.outside.forget(inode);
            }
        }
    }

    /// Watches `path`; what happens there is about `about`.
    fn watch(&mut self, path: &Path, about: &Path, flags: WatchFlags) {
        if self.watched.contains(path) {
            return;
        }
        match inotify::add_watch(self.inotify.as_fd(), path, flags) {
            Ok(watch) => {
                self.watched.insert(path.to_owned());
                let (path, about) = (path.to_owned(), about.to_owned());
                self.watches.insert(watch, Watch { path, about });
            }
            // The walk finds what cannot be watched, only later.
            Err(error) => tracing::debug!(%error, path = %path.display(), "cannot watch"),
        }
    }
}

/// Whether a process, cgroup or file is not there any more. The processes of a threaded cgroup, which
/// cannot be read either, are those of the one above.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::EOPNOTSUPP)
    )
}
