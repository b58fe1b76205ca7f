//! The agent's word that it lives, which the kernel programs believe for a while.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aya::maps::{Array, MapData};
use egress_common::{Settings, maps};

use super::{CaptureError, error, flows};

/// A handle on the settings in the kernel, which are written anew with each beat. It waits for
/// nothing else that the agent does with its programs. Cheap to clone.
#[derive(Clone)]
pub struct Heartbeat {
    map: Arc<Mutex<Array<MapData, Settings>>>,
    settings: Settings,
    limit: Duration,
}

impl Heartbeat {
    pub(super) fn new(
        map: Array<MapData, Settings>,
        settings: Settings,
        limit: Duration,
    ) -> Heartbeat {
        Heartbeat {
            map: Arc::new(Mutex::new(map)),
            settings,
            limit,
        }
    }

    /// Whether the programs take this process for dead: the same words that they read, judged in
    /// the same way.
    pub(super) fn is_stale(&self) -> bool {
        let settings = self.map().get(&0, 0);
        settings.map_or(true, |settings| settings.is_stale(flows::monotonic_ns()))
    }

    /// Says that this process lives. While it is not said for longer than
    /// [`CaptureOptions::heartbeat`](super::CaptureOptions::heartbeat), nothing is redirected:
    /// connects fail at once instead of waiting for a process that is stopped.
    ///
    /// # Errors
    /// Fails when the kernel refuses.
    pub fn beat(&self) -> Result<(), CaptureError> {
        self.map()
            .set(0, beating(self.settings, self.limit), 0)
            .map_err(error::write(maps::SETTINGS))
    }

    fn map(&self) -> MutexGuard<'_, Array<MapData, Settings>> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Heartbeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heartbeat")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

/// The settings with a beat now; a limit of zero is none.
pub(super) fn beating(settings: Settings, limit: Duration) -> Settings {
    let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
    settings.with_heartbeat(flows::monotonic_ns(), limit)
}
