//! Files that are read again when they change: noticed at once where the kernel tells, looked for
//! now and then where it does not, and never read while somebody writes.

mod writers;

use std::fs::{self, File};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};

use writers::Writers;

/// How often the files are looked at when no event comes.
const TICK: Duration = Duration::from_millis(500);

/// How long files must stay as they are before they are read: one that is being written may well be
/// valid already, and something else than is meant. The times of files are no finer than 10 ms.
const SETTLING: Duration = Duration::from_millis(50);

/// The same where the kernel does not say whether somebody still writes.
const SETTLING_UNSEEN: Duration = Duration::from_secs(2);

/// How long somebody may have a changed file open for writing before that is worth an alarm. Nobody
/// writes that long; who forgot to close it keeps what is in it from being in force.
const HELD: Duration = Duration::from_secs(5);

/// Files that belong together, followed through their changes.
pub struct Watched {
    files: Vec<PathBuf>,
    inotify: OwnedFd,
    seen: State,
    /// A state that is not read yet, and when it was first seen.
    settling: Option<(State, Instant)>,
    /// Since when somebody has had a changed file open for writing, and whether that was told.
    held: Option<(Instant, bool)>,
}

/// A file was changed and is not read, since somebody has it open for writing.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} was changed, but somebody still has it open for writing: it is read once that ends; better \
     write another file and rename it",
    .0.display()
)]
pub struct Held(PathBuf);

/// What tells one state of files from the next: of each its stamp, and none of one that is not there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State(Vec<Option<Stamp>>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
}

impl State {
    /// The state of the files now. Taken before they are read, it makes what comes later a change.
    pub fn of(files: &[PathBuf]) -> State {
        State(files.iter().map(|file| stamp(file)).collect())
    }
}

impl Watched {
    /// Watches the folders of the files: editors and ConfigMap mounts put a new file, or a new
    /// symbolic link, in the old one's place. `seen` is the state that was read already.
    ///
    /// # Errors
    /// When the kernel gives no inotify instance. A folder that cannot be watched is no error:
    /// the files are looked at now and then in any case.
    pub fn new(files: Vec<PathBuf>, seen: State) -> io::Result<Watched> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let changes = WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::DELETE;
        for file in &files {
            let folder = file
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty());
            let folder = folder.unwrap_or(Path::new("."));
            if let Err(error) = inotify::add_watch(inotify.as_fd(), folder, changes) {
                tracing::debug!(%error, folder = %folder.display(), "cannot watch");
            }
        }
        Ok(Watched {
            files,
            inotify,
            seen,
            settling: None,
            held: None,
        })
    }

    /// Waits for something to happen in the folders, for half a second at most.
    pub fn wait(&self) {
        let timeout = match self.settling {
            Some(_) => SETTLING,
            None => TICK,
        };
        let mut fds = [PollFd::new(&self.inotify, PollFlags::IN)];
        let timeout = Timespec::try_from(timeout).ok();
        // Interrupted or not, the files are looked at afterwards.
        let _ = poll(&mut fds, timeout.as_ref());
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(self.inotify.as_fd(), &mut buffer);
        while reader.next().is_ok() {}
    }

    /// Whether the files changed and have settled since: then they are to be read, and count as seen.
    pub fn changed(&mut self, now: Instant) -> bool {
        let state = State::of(&self.files);
        if state == self.seen {
            self.settling = None;
            self.held = None;
            return false;
        }
        let since = match &self.settling {
            Some((settling, since)) if *settling == state => *since,
            _ => now,
        };
        self.settling = Some((state.clone(), since));
        let Some(needed) = self.settling_time() else {
            self.held.get_or_insert((now, false));
            return false;
        };
        self.held = None;
        let settled = now.duration_since(since) >= needed;
        if settled {
            self.settling = None;
            self.seen = state;
        }
        settled
    }

    /// A file that has [changed](Self::changed) and was held open by its writer since, for too long;
    /// once.
    pub fn held(&mut self, now: Instant) -> Option<Held> {
        let (since, told) = self.held.as_mut()?;
        if *told || now.duration_since(*since) < HELD {
            return None;
        }
        *told = true;
        let is_held = |file: &&PathBuf| {
            File::open(file).is_ok_and(|file| writers::of(&file) == Writers::Somebody)
        };
        self.files.iter().find(is_held).cloned().map(Held)
    }

    /// Whether the files are still as they were when they were last to be read. What was read of
    /// files that are not is thrown away: the next look reads them again.
    pub fn stands(&self) -> bool {
        State::of(&self.files) == self.seen
    }

    /// How long the files must stay as they are; none while somebody writes one of them.
    fn settling_time(&self) -> Option<Duration> {
        let mut needed = SETTLING;
        for file in &self.files {
            match File::open(file).as_ref().map(writers::of) {
                Ok(Writers::Somebody) => return None,
                Ok(Writers::Unknown) => needed = SETTLING_UNSEEN,
                // What is gone or forbidden is said when it is read.
                Ok(Writers::Nobody) | Err(_) => {}
            }
        }
        Some(needed)
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some(Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        len: metadata.len(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
    })
}

#[cfg(test)]
mod tests;
