//! What becomes of connections that were there before the capture.

use super::{ExistingAction, Scopes};
use crate::agent::existing::{self, Existing};
use crate::netns::Netns;
use crate::record::ConnectedBefore;

impl Scopes {
    pub(super) fn settle_existing(&self, inode: u64) {
        let Some(served) = self.serving.get(&inode) else {
            return;
        };
        let listed = served
            .netns
            .on_thread(|| existing::made_here(&self.options.ports))
            .map_err(anyhow::Error::new)
            .and_then(|listed| Ok(listed?));
        let listed = listed.unwrap_or_else(|error| {
            tracing::warn!("connections from before the capture cannot be listed: {error:#}");
            Vec::new()
        });
        for found in listed {
            let (cgroup, to) = (found.cgroup, found.original_dst);
            let passes = self.kernel().lets_pass(served.cookie, cgroup, to);
            if !passes && self.is_captured(&found, inode) {
                self.settle(&found, &served.netns);
            }
        }
    }

    /// In a namespace that others live in too, only what is known to be of the cgroup.
    fn is_captured(&self, found: &Existing, inode: u64) -> bool {
        match found.cgroup {
            Some(id) => {
                let known = self.agent.directory().cgroups();
                let mut captured = self.options.cgroups.iter();
                captured.any(|cgroup| known.is_below(id, cgroup))
            }
            None => !self.shared.contains(&inode),
        }
    }

    fn settle(&self, found: &Existing, netns: &Netns) {
        let ended = match self.options.existing {
            ExistingAction::Keep => false,
            ExistingAction::Close => {
                let ended = netns
                    .on_thread(|| existing::end(found))
                    .map_err(anyhow::Error::new)
                    .and_then(|ended| Ok(ended?));
                if let Err(error) = &ended {
                    tracing::warn!("a connection from before the capture goes on: {error:#}");
                }
                ended.is_ok()
            }
        };
        let directory = self.agent.directory();
        self.agent.recorder().connected_before(ConnectedBefore {
            client: found.client,
            original_dst: found.original_dst,
            workload: directory.workload(found.cgroup, Some(found.uid)),
            ended,
        });
    }
}
