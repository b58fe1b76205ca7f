//! Captured cgroups that are made again.

use std::os::fd::AsFd as _;

use rustix::fs::inotify::{self, WatchFlags};

use super::Discovery;

impl Discovery {
    /// Has a captured cgroup that is made anew captured as well, as soon as it is there.
    pub(super) fn follow_cgroups(&mut self) {
        match self.scopes.follow_cgroups() {
            Ok(followed) => {
                self.unfollowed = false;
                for path in followed {
                    tracing::warn!(
                        "the cgroup {} was removed and made again: it is captured again, from now on",
                        path.display()
                    );
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.unfollowed, true) {
                    let error = anyhow::Error::new(error);
                    tracing::warn!("a cgroup that was made again is not captured: {error:#}");
                }
            }
        }
    }

    /// Has inotify wake this thread when one of the captured cgroups is made again.
    pub(super) fn watch_captured(&mut self) {
        let parents = self
            .scopes
            .cgroups()
            .iter()
            .filter_map(|path| path.parent());
        for parent in parents {
            // Without, it takes as long as a look at whether the process is ending.
            let _unheard = inotify::add_watch(
                self.inotify.as_fd(),
                parent,
                WatchFlags::CREATE | WatchFlags::MASK_ADD,
            );
        }
    }
}
