//! Places for connections: among all, among those of a scope, and among those of a workload.
//!
//! For a place of the scope is waited before a connection is accepted, for one among all as soon as
//! it is: listeners to which nobody connects, of however many scopes, hold none of these. Whose a
//! connection is shows only afterwards, so one workload that has its part is refused more: what
//! waits would take the place of others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use super::Limits;
use crate::intake::Allowance;
use crate::refusal::{Class, Refusal};

/// A scope may have this part of what large hellos take, and a workload this part of its scope's.
const PART: usize = 4;

/// The places of one scope. Cheap to clone.
#[derive(Clone)]
pub(super) struct Places {
    of_scope: Arc<Semaphore>,
    of_all: Arc<Semaphore>,
    workloads: Arc<Workloads>,
}

/// Who has the places of a scope.
struct Workloads {
    limits: Limits,
    hellos: Arc<Allowance>,
    held: Mutex<HashMap<String, Held>>,
}

struct Held {
    connections: usize,
    unheard: usize,
    hellos: Arc<Allowance>,
}

impl Places {
    /// The places of a new scope, among those `of_all`.
    pub(super) fn of_scope(
        limits: &Limits,
        of_all: Arc<Semaphore>,
        hellos: &Arc<Allowance>,
    ) -> Places {
        Places {
            of_scope: Arc::new(Semaphore::new(limits.of_scope)),
            of_all,
            workloads: Arc::new(Workloads {
                limits: limits.clone(),
                hellos: hellos.part(PART),
                held: Mutex::default(),
            }),
        }
    }

    /// Waits for a place of the scope. One that is full waits without holding up others.
    pub(super) async fn take(&self) -> Result<ScopePlace, AcquireError> {
        Ok(ScopePlace {
            of_scope: self.of_scope.clone().acquire_owned().await?,
            places: self.clone(),
        })
    }
}

/// A place of a scope, for the next connection.
pub(super) struct ScopePlace {
    of_scope: OwnedSemaphorePermit,
    places: Places,
}

impl ScopePlace {
    /// Waits for a place among all, for the connection that has come.
    pub(super) async fn among_all(self) -> Result<Place, AcquireError> {
        Ok(Place {
            of_scope: self.of_scope,
            of_all: self.places.of_all.acquire_owned().await?,
            workloads: self.places.workloads,
            share: None,
        })
    }
}

/// A place, until it is dropped.
pub(super) struct Place {
    of_scope: OwnedSemaphorePermit,
    of_all: OwnedSemaphorePermit,
    workloads: Arc<Workloads>,
    share: Option<Share>,
}

impl Place {
    /// Counts the place as one of the workload's, and gives what the workload's large hellos may
    /// take.
    ///
    /// # Errors
    /// When the workload has its part of them already.
    pub(super) fn belongs_to(&mut self, workload: &str) -> Result<Arc<Allowance>, Refusal> {
        let limits = &self.workloads.limits;
        let unheard = match self.is_scarce() {
            true => limits.unheard_of_workload,
            false => limits.of_workload,
        };
        let mut table = self.workloads.lock();
        let held = table
            .entry(workload.to_owned())
            .or_insert_with(|| self.workloads.unused());
        // One that has none may always have one, so none is left behind that has none.
        if held.connections > 0
            && (held.connections >= limits.of_workload || held.unheard >= unheard)
        {
            return Err(Refusal::new(Class::Denied, "workload_connection_limit"));
        }
        held.connections += 1;
        held.unheard += 1;
        let hellos = held.hellos.clone();
        drop(table);
        self.share = Some(Share {
            workloads: self.workloads.clone(),
            workload: workload.to_owned(),
            unheard: true,
        });
        Ok(hellos)
    }

    /// The ClientHello has come.
    pub(super) fn heard(&mut self) {
        if let Some(share) = &mut self.share {
            share.heard();
        }
    }

    /// Whether half of the places that this one is among are taken.
    fn is_scarce(&self) -> bool {
        let limits = &self.workloads.limits;
        [
            (&self.of_scope, limits.of_scope),
            (&self.of_all, limits.connections),
        ]
        .into_iter()
        .any(|(permit, room)| permit.semaphore().available_permits() < room / 2)
    }
}

/// A workload's hold on a place.
struct Share {
    workloads: Arc<Workloads>,
    workload: String,
    unheard: bool,
}

impl Share {
    fn heard(&mut self) {
        if std::mem::take(&mut self.unheard)
            && let Some(held) = self.workloads.lock().get_mut(&self.workload)
        {
            held.unheard = held.unheard.saturating_sub(1);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.heard();
        let mut table = self.workloads.lock();
        if let Some(held) = table.get_mut(&self.workload) {
            held.connections = held.connections.saturating_sub(1);
            if held.connections == 0 {
                table.remove(&self.workload);
            }
        }
    }
}

impl Workloads {
    fn unused(&self) -> Held {
        Held {
            connections: 0,
            unheard: 0,
            hellos: self.hellos.part(PART),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn places(connections: usize) -> Places {
        let limits = Limits::within(connections);
        let of_all = Arc::new(Semaphore::new(limits.connections));
        Places::of_scope(&limits, of_all, &Allowance::of_process())
    }

    async fn take(places: &Places) -> Place {
        places.take().await.unwrap().among_all().await.unwrap()
    }

    /// As many as the workload gets.
    async fn all(places: &Places, workload: &str) -> Vec<Place> {
        let mut held = Vec::new();
        loop {
            let mut place = take(places).await;
            match place.belongs_to(workload) {
                Ok(_) => held.push(place),
                Err(refusal) => {
                    assert_eq!(refusal.reason, "workload_connection_limit");
                    return held;
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_scope_that_is_full_leaves_room_for_another() {
        let limits = Limits::within(4);
        let (of_all, hellos) = (Arc::new(Semaphore::new(4)), Allowance::of_process());
        let [full, other] = [(); 2].map(|()| Places::of_scope(&limits, of_all.clone(), &hellos));
        let held = [take(&full).await, take(&full).await];
        let waiting = tokio::time::timeout(Duration::from_secs(1), take(&full));
        assert!(waiting.await.is_err());
        let _other = [take(&other).await, take(&other).await];
        drop(held);
        take(&full).await;
    }

    #[tokio::test]
    async fn scopes_that_nobody_uses_hold_no_place() {
        let limits = Limits::within(4);
        let of_all = Arc::new(Semaphore::new(4));
        let hellos = Allowance::of_process();
        let scopes: Vec<_> = (0..100)
            .map(|_| Places::of_scope(&limits, of_all.clone(), &hellos))
            .collect();
        let mut listening = Vec::new();
        for scope in &scopes {
            listening.push(scope.take().await.unwrap());
        }
        let place = listening.pop().unwrap().among_all().await.unwrap();
        assert_eq!(of_all.available_permits(), 3);
        drop(place);
    }

    /// T4: of 64 places of a scope one may have 32, and others an eighth each until they speak.
    #[tokio::test]
    async fn a_workload_that_says_nothing_leaves_room_for_others() {
        let places = places(128);
        let first = all(&places, "/jobs/a").await;
        assert_eq!(first.len(), 32);
        let second = all(&places, "/jobs/b").await;
        assert_eq!(second.len(), 8);
        let mut third = all(&places, "/jobs/c").await;
        assert_eq!(third.len(), 8);
        // Who speaks gets on.
        for place in &mut third {
            place.heard();
        }
        assert_eq!(all(&places, "/jobs/c").await.len(), 8);
        drop(first);
        drop((second, third));
        assert_eq!(all(&places, "/jobs/a").await.len(), 32);
        assert!(places.workloads.lock().is_empty());
    }

    #[tokio::test]
    async fn a_workload_has_half_of_its_scope_at_the_most() {
        let places = places(128);
        let mut held = Vec::new();
        for _ in 0..32 {
            let mut place = take(&places).await;
            place.belongs_to("/jobs/a").unwrap();
            place.heard();
            held.push(place);
        }
        assert_eq!(all(&places, "/jobs/a").await.len(), 0);
        drop(held.pop());
        assert_eq!(all(&places, "/jobs/a").await.len(), 1);
    }

    #[tokio::test]
    async fn the_large_hellos_of_a_workload_are_counted_together() {
        let places = places(128);
        let mut held = Vec::new();
        let mut hellos = Vec::new();
        for workload in ["/jobs/a", "/jobs/a", "/jobs/b"] {
            let mut place = take(&places).await;
            hellos.push(place.belongs_to(workload).unwrap());
            held.push(place);
        }
        assert!(Arc::ptr_eq(&hellos[0], &hellos[1]));
        assert!(!Arc::ptr_eq(&hellos[0], &hellos[2]));
    }

    #[tokio::test]
    async fn where_there_is_room_for_little_everybody_may_have_one() {
        let places = places(4);
        let first = all(&places, "/jobs/a").await;
        assert_eq!(first.len(), 1);
        let mut other = take(&places).await;
        assert!(other.belongs_to("/jobs/b").is_ok());
    }
}
