//! What one agent or one workload takes of the gateway now, and took in the last minute.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::Quota;

/// The time over which names are counted; it begins with a name.
const NAMES_FOR: Duration = Duration::from_secs(60);

/// The time over which a rate is given, and so the length of the burst that it allows.
const SECOND: Duration = Duration::from_secs(1);

/// The bound that was reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Excess {
    Connections,
    Rate,
    Names,
}

#[derive(Debug, Default)]
pub(super) struct Usage {
    open: u32,
    /// Until when the connections that were opened take up the rate (GCRA's theoretical arrival
    /// time: each moves it on by its share of a second, and it may be one second ahead).
    busy_until: Option<Instant>,
    /// When the minute of `names` began.
    names_since: Option<Instant>,
    /// Hashes of the names of this minute, at most as many as are allowed.
    names: HashSet<u64>,
}

impl Usage {
    /// Whether one more connection may be opened.
    pub(super) fn check(&self, quota: &Quota, now: Instant) -> Result<(), Excess> {
        if quota.connections.is_some_and(|limit| self.open >= limit) {
            return Err(Excess::Connections);
        }
        if quota
            .rate
            .is_some_and(|rate| self.ahead(now) + share(rate) > SECOND)
        {
            return Err(Excess::Rate);
        }
        Ok(())
    }

    /// Counts a connection that is opened.
    pub(super) fn begin(&mut self, quota: &Quota, now: Instant) {
        self.open = self.open.saturating_add(1);
        if let Some(rate) = quota.rate {
            self.busy_until = Some(now + self.ahead(now) + share(rate));
        }
    }

    /// A connection has ended.
    pub(super) fn end(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    /// Counts a name, unless it was counted in this minute.
    pub(super) fn name(&mut self, quota: &Quota, hash: u64, now: Instant) -> Result<(), Excess> {
        let Some(limit) = quota.names else {
            return Ok(());
        };
        let begun = self.names_since;
        if begun.is_none_or(|since| now.saturating_duration_since(since) >= NAMES_FOR) {
            self.names_since = Some(now);
            self.names = HashSet::new();
        }
        let full = usize::try_from(limit).is_ok_and(|limit| self.names.len() >= limit);
        if full && !self.names.contains(&hash) {
            return Err(Excess::Names);
        }
        self.names.insert(hash);
        Ok(())
    }

    /// Whether forgetting it makes no difference.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        let named = self.names_since;
        self.open == 0
            && self.ahead(now).is_zero()
            && named.is_none_or(|since| now.saturating_duration_since(since) >= NAMES_FOR)
    }

    fn ahead(&self, now: Instant) -> Duration {
        let until = self.busy_until.unwrap_or(now);
        until.saturating_duration_since(now)
    }
}

/// What one connection takes up of a second.
fn share(rate: u32) -> Duration {
    SECOND.checked_div(rate).unwrap_or(SECOND + SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_allows_a_burst_of_a_second_and_then_its_pace() {
        let quota = Quota {
            rate: Some(10),
            ..Quota::default()
        };
        let mut usage = Usage::default();
        let start = Instant::now();
        let mut opened = |after: u64| {
            let now = start + Duration::from_millis(after);
            let checked = usage.check(&quota, now);
            if checked.is_ok() {
                usage.begin(&quota, now);
            }
            checked
        };
        for _ in 0..10 {
            assert_eq!(opened(0), Ok(()));
        }
        assert_eq!(opened(0), Err(Excess::Rate));
        assert_eq!(opened(99), Err(Excess::Rate));
        assert_eq!(opened(100), Ok(()));
        assert_eq!(opened(150), Err(Excess::Rate));
        assert_eq!(opened(200), Ok(()));
    }

    #[test]
    fn names_are_counted_once_a_minute() {
        let quota = Quota {
            names: Some(2),
            ..Quota::default()
        };
        let mut usage = Usage::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for (second, name, expected) in [
            (0, 1, Ok(())),
            (1, 1, Ok(())),
            (2, 2, Ok(())),
            (3, 3, Err(Excess::Names)),
            (59, 1, Ok(())),
            (59, 4, Err(Excess::Names)),
            (60, 4, Ok(())),
        ] {
            assert_eq!(usage.name(&quota, name, at(second)), expected, "{second}");
        }
        assert!(!usage.is_over(at(119)));
        assert!(usage.is_over(at(120)));
    }

    #[test]
    fn a_quota_of_nothing_opens_nothing() {
        let now = Instant::now();
        let mut usage = Usage::default();
        let none = Some(0);
        let quota = Quota {
            connections: none,
            ..Quota::default()
        };
        assert_eq!(usage.check(&quota, now), Err(Excess::Connections));
        let quota = Quota {
            rate: none,
            ..Quota::default()
        };
        assert_eq!(usage.check(&quota, now), Err(Excess::Rate));
        let quota = Quota {
            names: none,
            ..Quota::default()
        };
        assert_eq!(usage.name(&quota, 1, now), Err(Excess::Names));
    }
}
