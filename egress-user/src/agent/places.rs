//! Places for connections: among all, among those of a scope, and among those of a workload.
//!
//! Whether there is one for its scope is looked at before a connection is accepted, and it is taken
//! as soon as it is: listeners to which nobody connects, of however many scopes, hold none. Whose a
//! connection is shows only afterwards, so one workload that has its part is refused more: what
//! waits would take the place of others. How large a part is, the [`Ledger`] says.

mod ledger;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Limits;
use crate::intake::Allowance;
use crate::refusal::{Class, Refusal};
use ledger::{Ledger, ScopeId};

/// A scope may have this part of what large hellos take, and a workload this part of its scope's.
const PART: usize = 4;

/// The places of an agent.
pub(super) struct Room {
    ledger: Mutex<Ledger>,
    /// Somebody left.
    freed: Notify,
}

impl Room {
    pub(super) fn new(limits: &Limits) -> Arc<Room> {
        Arc::new(Room {
            ledger: Mutex::new(Ledger::new(limits)),
            freed: Notify::new(),
        })
    }

    /// Waits until `attempt` succeeds, and tries again whenever somebody left.
    async fn until<T>(&self, mut attempt: impl FnMut(&mut Ledger) -> Option<T>) -> T {
        loop {
            // Who leaves between the attempt and the waiting is not missed.
            let freed = self.freed.notified();
            if let Some(done) = attempt(&mut self.lock()) {
                return done;
            }
            freed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The places of one scope. Cheap to clone.
#[derive(Clone)]
pub(super) struct Places {
    room: Arc<Room>,
    scope: ScopeId,
    hellos: Arc<Allowance>,
}

impl Places {
    /// The places of a new scope in the room.
    pub(super) fn of_scope(room: &Arc<Room>, hellos: &Arc<Allowance>) -> Places {
        Places {
            scope: room.lock().new_scope(),
            room: room.clone(),
            hellos: hellos.part(PART),
        }
    }

    /// Waits until there is a place, and leaves it to others. One that is full waits without
    /// holding up others.
    pub(super) async fn wait(&self) {
        let has_place = |ledger: &mut Ledger| ledger.has_place(self.scope).then_some(());
        self.room.until(has_place).await;
    }

    /// Waits for a place, for a connection that has come.
    pub(super) async fn take(&self) -> Place {
        let take = |ledger: &mut Ledger| ledger.take(self.scope).then_some(());
        self.room.until(take).await;
        Place {
            places: self.clone(),
            share: None,
        }
    }
}

/// A place, until it is dropped.
pub(super) struct Place {
    places: Places,
    share: Option<Share>,
}

/// A workload's hold on a place.
struct Share {
    workload: String,
    unheard: bool,
}

impl Place {
    /// Counts the place as one of the workload's, and gives what the workload's large hellos may
    /// take.
    ///
    /// # Errors
    /// When the workload has its part of them already.
    pub(super) fn belongs_to(&mut self, workload: &str) -> Result<Arc<Allowance>, Refusal> {
        let Places {
            room,
            scope,
            hellos,
        } = &self.places;
        let counted = room
            .lock()
            .belongs_to(*scope, workload, || hellos.part(PART))
            .ok_or_else(|| Refusal::new(Class::Denied, "workload_connection_limit"))?;
        self.share = Some(Share {
            workload: workload.to_owned(),
            unheard: true,
        });
        Ok(counted)
    }

    /// The ClientHello has come.
    pub(super) fn heard(&mut self) {
        let Places { room, scope, .. } = &self.places;
        if let Some(share) = &mut self.share
            && std::mem::take(&mut share.unheard)
        {
            room.lock().heard(*scope, &share.workload);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.heard();
        let Places { room, scope, .. } = &self.places;
        let workload = self.share.as_ref().map(|share| &*share.workload);
        room.lock().leave(*scope, workload);
        room.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
