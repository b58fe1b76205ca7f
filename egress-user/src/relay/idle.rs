//! When a stream has stood still for too long.
//!
//! One silent direction is no such case: a download asks for nothing while it goes on. A direction
//! that has bytes which its receiver does not take is one, whatever the other does.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// How one direction gets on; looked at once a period.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// Whether a byte was passed on in this period.
    moved: bool,
    /// Whether bytes wait for their receiver.
    waits: bool,
    /// The same when the period began.
    waited: bool,
}

impl Progress {
    /// Bytes were passed on.
    pub(super) fn moved(&mut self) {
        self.moved = true;
    }

    /// What came of an attempt to pass bytes on: they wait now, or they do not.
    pub(super) fn attempted<T>(&mut self, attempt: &Poll<T>) {
        self.waits = attempt.is_pending();
    }

    /// Ends a period.
    fn period(&mut self) -> Period {
        let moved = std::mem::take(&mut self.moved);
        let stuck = self.waited && self.waits && !moved;
        self.waited = self.waits;
        Period { moved, stuck }
    }
}

/// What a direction did in a period.
struct Period {
    moved: bool,
    /// Bytes waited from its beginning to its end, and none was taken.
    stuck: bool,
}

/// Ready when nothing has moved for a whole period of `idle`, or one direction was stuck for one.
pub(super) fn poll_idle(
    cx: &mut Context<'_>,
    mut timer: Pin<&mut Sleep>,
    idle: Duration,
    outward: &mut Progress,
    inward: &mut Progress,
) -> Poll<()> {
    while timer.as_mut().poll(cx).is_ready() {
        let (outward, inward) = (outward.period(), inward.period());
        if outward.stuck || inward.stuck || !(outward.moved || inward.moved) {
            return Poll::Ready(());
        }
        timer.as_mut().reset(Instant::now() + idle);
    }
    Poll::Pending
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(pending: bool) -> Poll<()> {
        match pending {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }

    #[test]
    fn only_a_whole_period_without_a_byte_is_stuck() {
        let mut progress = Progress::default();
        progress.attempted(&attempt(true));
        assert!(!progress.period().stuck, "it began within the period");
        assert!(progress.period().stuck);
        progress.moved();
        assert!(!progress.period().stuck, "slow is not stuck");
        progress.attempted(&attempt(false));
        assert!(!progress.period().stuck, "nothing waits");
        progress.attempted(&attempt(true));
        assert!(!progress.period().stuck);
    }
}
