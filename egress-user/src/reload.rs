//! Reads the policy file again when it changes. A good file is put into force at once; a
//! bad one changes nothing, says why, and raises an alarm in the metrics.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};

use crate::config;
use crate::document::Mistakes;
use crate::in_force::Enforcer;
use crate::policy::Policy;
use crate::record::Metrics;

/// How often the file is looked at when no event comes.
const TICK: Duration = Duration::from_millis(500);

/// How long a file must stay as it is before it is read.
const SETTLING: Duration = Duration::from_millis(50);

/// Follows one policy file.
pub struct Reloader {
    path: PathBuf,
    enforcer: Enforcer,
    metrics: Arc<Metrics>,
    inotify: OwnedFd,
    seen: Option<Stamp>,
    /// A state that was seen once. It is read when it is seen again: a file that is being written
    /// may well be a policy already, and another one than is meant.
    settling: Option<Stamp>,
}

/// What tells one state of a file from the next.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
}

impl Reloader {
    /// Watches the folder of the file: editors and ConfigMap mounts put a new file, or a new
    /// symbolic link, in the old one's place.
    ///
    /// # Errors
    /// When the kernel gives no inotify instance. A folder that cannot be watched is no error:
    /// the file is looked at now and then in any case.
    pub fn new(
        path: PathBuf,
        seen: Option<Stamp>,
        enforcer: Enforcer,
        metrics: Arc<Metrics>,
    ) -> io::Result<Reloader> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let changes = WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::DELETE;
        let folder = folder.unwrap_or(Path::new("."));
        if let Err(error) = inotify::add_watch(inotify.as_fd(), folder, changes) {
            tracing::debug!(%error, folder = %folder.display(), "cannot watch");
        }
        metrics.policy_in_force(&enforcer.now().digest().to_string());
        Ok(Reloader {
            seen,
            settling: None,
            path,
            enforcer,
            metrics,
            inotify,
        })
    }

    /// Follows the file as long as the process lives: also a draining one obeys. Blocks its thread.
    pub fn run(mut self) {
        loop {
            let settling = self.settling.is_some();
            self.wait(if settling { SETTLING } else { TICK });
            let now = stamp(&self.path);
            if now == self.seen {
                self.settling = None;
            } else if self.settling != now || !settling {
                self.settling = now;
                if now.is_none() {
                    self.seen = now;
                    self.reload();
                }
            } else {
                self.settling = None;
                self.seen = now;
                self.reload();
            }
        }
    }

    fn wait(&self, timeout: Duration) {
        let mut fds = [PollFd::new(&self.inotify, PollFlags::IN)];
        let timeout = Timespec::try_from(timeout).ok();
        // Interrupted or not, the file is looked at afterwards.
        let _ = poll(&mut fds, timeout.as_ref());
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(self.inotify.as_fd(), &mut buffer);
        while reader.next().is_ok() {}
    }

    fn reload(&self) {
        let read = read(&self.path);
        if stamp(&self.path) != self.seen {
            // It changed while it was read; the next look reads it again.
            return;
        }
        match read {
            Ok(policy) if policy.digest() == self.enforcer.now().digest() => {
                self.metrics.policy_reload_failed(false);
            }
            Ok(policy) => {
                let digest = policy.digest().to_string();
                tracing::info!(%digest, rules = policy.rule_count(), "policy in force");
                self.enforcer.replace(policy);
                self.metrics.policy_in_force(&digest);
                self.metrics.policy_reload_failed(false);
            }
            Err(mistakes) => {
                tracing::warn!("the policy stays as it was, because of its file:\n{mistakes}");
                self.metrics.policy_reload_failed(true);
            }
        }
    }
}

fn read(path: &Path) -> Result<Policy, Mistakes> {
    let text = config::read_text(path)?;
    let loaded = Policy::parse(&text, &path.display().to_string())?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    Ok(loaded.policy)
}

/// The state of the file now; none when it is not there.
pub fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some(Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        len: metadata.len(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
    })
}
