//! What the kernel programs counted.

use std::fmt;
use std::sync::Arc;

use aya::maps::{MapData, PerCpuArray};
use egress_common::Counter;

/// A handle on the counters; clones read the same ones.
#[derive(Clone)]
pub struct Counters {
    map: Arc<PerCpuArray<MapData, u64>>,
}

impl Counters {
    pub(super) fn new(map: PerCpuArray<MapData, u64>) -> Counters {
        Counters { map: Arc::new(map) }
    }

    /// Every counter's name (verdict and reason) with its total since the programs were loaded.
    pub fn totals(&self) -> Vec<(&'static str, u64)> {
        Counter::ALL
            .into_iter()
            .map(|counter| (counter.name(), self.total(counter)))
            .collect()
    }

    fn total(&self, counter: Counter) -> u64 {
        // An array's slots always exist; the lookup cannot fail.
        self.map
            .get(&counter.index(), 0)
            .map_or(0, |values| values.iter().sum())
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.totals()).finish()
    }
}
