//! Reads the policy file again when it changes. A good file is put into force at once; a
//! bad one changes nothing, says why, and raises an alarm in the metrics.

mod writers;

use std::fs::{self, File};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};

use crate::config;
use crate::document::Mistakes;
use crate::in_force::Enforcer;
use crate::policy::Policy;
use crate::record::Metrics;
use writers::Writers;

/// How often the file is looked at when no event comes.
const TICK: Duration = Duration::from_millis(500);

/// How long a file must stay as it is before it is read: one that is being written may well be a
/// policy already, and another one than is meant. The times of files are no finer than 10 ms.
const SETTLING: Duration = Duration::from_millis(50);

/// The same where the kernel does not say whether somebody still writes.
const SETTLING_UNSEEN: Duration = Duration::from_secs(2);

/// Follows one policy file.
pub struct Reloader {
    path: PathBuf,
    enforcer: Enforcer,
    metrics: Arc<Metrics>,
    inotify: OwnedFd,
    seen: Option<Stamp>,
    /// A state that is not read yet, and when it was first seen.
    settling: Option<(Option<Stamp>, Instant)>,
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
            self.look(Instant::now());
        }
    }

    /// Reads the file if it changed and has settled since.
    fn look(&mut self, now: Instant) {
        let state = stamp(&self.path);
        if state == self.seen {
            self.settling = None;
            return;
        }
        let since = match self.settling {
            Some((settling, since)) if settling == state => since,
            _ => now,
        };
        self.settling = Some((state, since));
        let needed = match File::open(&self.path).as_ref().map(writers::of) {
            Ok(Writers::Somebody) => return,
            Ok(Writers::Unknown) => SETTLING_UNSEEN,
            // What is gone or forbidden is said when it is read.
            Ok(Writers::Nobody) | Err(_) => SETTLING,
        };
        if now.duration_since(since) >= needed {
            self.settling = None;
            self.seen = state;
            self.reload();
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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::in_force;

    /// All that is allowed until the second rule is written.
    const HALF: &str = "version: 1\nrules:\n  - {name: all, hosts: ['*.example.com']}\n";
    const REST: &str = "  - {name: not, action: deny, hosts: [a.example.com]}\n";
    const NOTHING: &str = "version: 1\nrules: [{name: one, hosts: [example.com]}]\n";

    struct Followed {
        reloader: Reloader,
        path: PathBuf,
        now: Instant,
        _dir: tempfile::TempDir,
    }

    impl Followed {
        fn new() -> Followed {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("policy.yaml");
            fs::write(&path, NOTHING).unwrap();
            let seen = stamp(&path);
            let (enforcer, _) = in_force::channel(read(&path).unwrap());
            let metrics = Arc::new(Metrics::default());
            let reloader = Reloader::new(path.clone(), seen, enforcer, metrics).unwrap();
            Followed {
                reloader,
                path,
                now: Instant::now(),
                _dir: dir,
            }
        }

        fn look_after(&mut self, time: Duration) {
            self.now += time;
            self.reloader.look(self.now);
        }

        fn is_in_force(&self, text: &str) -> bool {
            let policy = Policy::parse(text, "policy.yaml").unwrap().policy;
            self.reloader.enforcer.now().digest() == policy.digest()
        }
    }

    #[test]
    fn a_file_that_is_being_written_is_not_read() {
        let mut followed = Followed::new();
        let mut file = File::create(&followed.path).unwrap();
        file.write_all(HALF.as_bytes()).unwrap();
        for _ in 0..3 {
            followed.look_after(SETTLING_UNSEEN);
            assert!(followed.is_in_force(NOTHING));
        }
        file.write_all(REST.as_bytes()).unwrap();
        followed.look_after(SETTLING_UNSEEN);
        assert!(followed.is_in_force(NOTHING));
        drop(file);
        followed.look_after(SETTLING_UNSEEN);
        assert!(followed.is_in_force(&format!("{HALF}{REST}")));
    }

    /// Every event in the folder has the file looked at; none makes it older.
    #[test]
    fn a_file_settles_however_often_it_is_looked_at() {
        let mut followed = Followed::new();
        fs::write(&followed.path, HALF).unwrap();
        for _ in 0..10 {
            followed.look_after(Duration::from_millis(4));
            assert!(followed.is_in_force(NOTHING));
        }
        // Written by a program that opens it once more for each part.
        let whole = format!("{HALF}{REST}");
        fs::write(&followed.path, &whole).unwrap();
        for _ in 0..10 {
            followed.look_after(Duration::from_millis(4));
            assert!(followed.is_in_force(NOTHING));
        }
        followed.look_after(SETTLING);
        assert!(followed.is_in_force(&whole));
    }

    #[test]
    fn a_file_that_is_gone_changes_nothing() {
        let mut followed = Followed::new();
        fs::remove_file(&followed.path).unwrap();
        followed.look_after(TICK);
        followed.look_after(TICK);
        assert!(followed.is_in_force(NOTHING));
        fs::write(&followed.path, HALF).unwrap();
        followed.look_after(TICK);
        followed.look_after(TICK);
        assert!(followed.is_in_force(HALF));
    }
}
