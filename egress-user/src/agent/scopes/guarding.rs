//! The devices of captured namespaces, which get guards.

use super::shares::DEVICES;
use super::{Excess, ScopeError, Scopes, too_much};
use crate::agent::capture::{CaptureError, Fallback, count_interfaces};

impl Scopes {
    /// Guards the devices of a namespace that have come since they were last guarded; not those of
    /// a namespace that others live in too.
    ///
    /// It blocks for the time of a thread's life, and as long as the kernel takes for each device;
    /// not to be called on a worker.
    ///
    /// # Errors
    /// When a strict namespace has a device that cannot be guarded. Elsewhere that is said once,
    /// and the rest of the capture stands. When there are too many devices, and those who are not
    /// captured are refused: then it is captured no longer.
    pub fn guard(&mut self, inode: u64) -> Result<(), ScopeError> {
        if self.shared.contains(&inode) || !self.contains(inode) {
            return Ok(());
        }
        if let Err(excess) = self.recount(inode)? {
            return self.overgrown(inode, excess);
        }
        // Not while the owner of the programs is held: others need it.
        let guards = self.kernel().guards()?;
        let Some(served) = self.serving.get_mut(&inode) else {
            return Ok(());
        };
        served.overgrown = false;
        match guards.guard(&served.netns, DEVICES) {
            Ok(_) => served.unguarded = false,
            Err(error) if self.options.strict => return Err(error.into()),
            Err(error) => {
                if !std::mem::replace(&mut served.unguarded, true) {
                    let error = anyhow::Error::new(error);
                    tracing::warn!("what packet sockets send is not stopped: {error:#}");
                }
            }
        }
        Ok(())
    }

    /// Counts the devices of a namespace anew.
    fn recount(&mut self, inode: u64) -> Result<Result<(), Excess>, ScopeError> {
        let Some(served) = self.serving.get(&inode) else {
            return Ok(Ok(()));
        };
        let failed = |source| CaptureError::Devices {
            netns: served.netns.path().to_owned(),
            source,
        };
        let devices = served.netns.on_thread(count_interfaces)?.map_err(failed)?;
        Ok(self.shares.change(inode, devices))
    }

    /// A captured namespace takes too much by now. Released, it would be free where others that are
    /// not captured are: there it stays, and its newest devices have no guard.
    fn overgrown(&mut self, inode: u64, excess: Excess) -> Result<(), ScopeError> {
        let Some(served) = self.serving.get_mut(&inode) else {
            return Ok(());
        };
        match self.options.unregistered {
            Fallback::Refuse => {
                let error = too_much(&served.owner, excess);
                self.remove(inode)?;
                Err(error)
            }
            Fallback::Pass => {
                if !std::mem::replace(&mut served.overgrown, true) {
                    tracing::warn!(
                        "the newest devices in a network namespace of {} have no guard: {excess}",
                        served.owner
                    );
                }
                Ok(())
            }
        }
    }
}
