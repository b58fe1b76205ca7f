//! How many streams a gateway lately carried at once.

use std::time::Duration;

/// For how long a peak is remembered, at least; at most twice as long.
const WINDOW: Duration = Duration::from_secs(60);

/// The most streams at once, in this window and in the one before.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Demand {
    since: Duration,
    current: usize,
    previous: usize,
}

impl Demand {
    /// There are so many now.
    pub(super) fn note(&mut self, live: usize, now: Duration) {
        *self = self.at(now);
        self.current = self.current.max(live);
    }

    /// The most there were lately.
    pub(super) fn peak(self, now: Duration) -> usize {
        let seen = self.at(now);
        seen.current.max(seen.previous)
    }

    /// The windows as they are now.
    fn at(self, now: Duration) -> Demand {
        let age = now.saturating_sub(self.since);
        if age < WINDOW {
            self
        } else {
            let previous = if age < 2 * WINDOW { self.current } else { 0 };
            Demand {
                since: now,
                current: 0,
                previous,
            }
        }
    }
}
