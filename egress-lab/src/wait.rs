//! Waiting for a condition: the only way in which time enters a test.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::bail;

/// How long a condition may take before the wait is given up. Generous on purpose: it is
/// reached only when something is broken, never because a machine is slow.
pub const DEADLINE: Duration = Duration::from_secs(120);

const PAUSE: Duration = Duration::from_millis(10);

/// Asks `probe` until it has an answer.
///
/// # Errors
/// When [`DEADLINE`] passes first; the error names `what` was waited for.
pub fn until<T>(what: &str, probe: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    until_within(DEADLINE, what, probe)
}

/// Like [`until`], with a deadline of the caller's.
///
/// # Errors
/// When the deadline passes first.
pub fn until_within<T>(
    deadline: Duration,
    what: &str,
    mut probe: impl FnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = probe() {
            return Ok(answer);
        }
        if start.elapsed() > deadline {
            bail!("waited {deadline:?} in vain: {what}");
        }
        sleep(PAUSE);
    }
}
