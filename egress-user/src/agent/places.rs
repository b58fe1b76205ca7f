//! Places for connections, and who may have them.
//!
//! A scope may have another place while it holds fewer than are free. One that takes all it can get
//! leaves half of the places, two of them a third, and so on: whoever comes finds some.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

/// The places of an agent.
#[derive(Clone)]
pub(super) struct Places {
    free: Arc<watch::Sender<usize>>,
    /// Whether there will be one scope alone, which may have them all.
    sole: bool,
}

/// The places as one scope sees them.
#[derive(Clone)]
pub(super) struct ScopePlaces {
    all: Places,
    /// Changed while nobody else looks at what is free.
    held: Arc<AtomicUsize>,
}

/// A place that a connection has, until it is dropped.
pub(super) struct Place {
    of: ScopePlaces,
}

impl Places {
    pub(super) fn new(count: usize, sole: bool) -> Places {
        Places {
            free: Arc::new(watch::Sender::new(count)),
            sole,
        }
    }

    /// For another scope.
    pub(super) fn of_scope(&self) -> ScopePlaces {
        ScopePlaces {
            all: self.clone(),
            held: Arc::default(),
        }
    }
}

impl ScopePlaces {
    /// Waits until the scope may have another place. A scope that waits holds up no other.
    pub(super) async fn take(&self) -> Place {
        let mut changes = self.all.free.subscribe();
        loop {
            if self.take_now() {
                return Place { of: self.clone() };
            }
            // It never fails: the sender is among what is held here.
            let _changed = changes.changed().await;
        }
    }

    fn take_now(&self) -> bool {
        self.all.free.send_if_modified(|free| {
            let held = self.held.load(Ordering::Relaxed);
            let may = if self.all.sole {
                0 < *free
            } else {
                held < *free
            };
            if may {
                *free -= 1;
                self.held.store(held + 1, Ordering::Relaxed);
            }
            may
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of.all.free.send_modify(|free| {
            *free += 1;
            self.of.held.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// As many as the scope is given.
    fn all(scope: &ScopePlaces) -> Vec<Place> {
        let take = || scope.take_now().then(|| Place { of: scope.clone() });
        std::iter::from_fn(take).collect()
    }

    #[test]
    fn however_many_scopes_take_all_they_get_another_finds_some() {
        let places = Places::new(64, false);
        let mut held = Vec::new();
        for expected in [32, 16, 8, 4, 2, 1] {
            let places = all(&places.of_scope());
            assert_eq!(places.len(), expected);
            held.push(places);
        }
        held.remove(0);
        assert_eq!(all(&places.of_scope()).len(), 17);
    }

    #[test]
    fn scopes_that_take_in_turn_get_as_many() {
        let places = Places::new(99, false);
        let (one, other) = (places.of_scope(), places.of_scope());
        let mut held = Vec::new();
        while let (true, true) = (one.take_now(), other.take_now()) {
            held.push(Place { of: one.clone() });
            held.push(Place { of: other.clone() });
        }
        assert_eq!(held.len(), 66, "a third is left");
    }

    #[test]
    fn one_that_is_alone_has_all() {
        assert_eq!(all(&Places::new(64, true).of_scope()).len(), 64);
    }

    #[tokio::test(start_paused = true)]
    async fn a_scope_that_is_full_waits_for_a_place() {
        let places = Places::new(4, false);
        let (full, other) = (places.of_scope(), places.of_scope());
        let held = all(&full);
        let waiting = tokio::time::timeout(Duration::from_secs(1), full.take());
        assert!(waiting.await.is_err());
        let _other = other.take().await;
        drop(held);
        full.take().await;
    }
}
