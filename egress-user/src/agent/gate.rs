//! Lets the accept loops through, or holds them up, and knows when all of them stand.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// A loop only has to be polled once more.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often to look whether all loops stand.
const TICK: Duration = Duration::from_millis(1);

/// The gate.
pub(super) struct Gate {
    open: watch::Sender<bool>,
    /// Loops that may be accepting.
    inside: AtomicUsize,
}

impl Default for Gate {
    fn default() -> Gate {
        Gate {
            open: watch::Sender::new(true),
            inside: AtomicUsize::new(0),
        }
    }
}

/// What one loop sees of the gate.
pub(super) struct Passage<'a> {
    gate: &'a Gate,
    seen: watch::Receiver<bool>,
    inside: bool,
}

impl Gate {
    /// For a loop that begins.
    pub(super) fn passage(&self) -> Passage<'_> {
        let mut passage = Passage {
            gate: self,
            seen: self.open.subscribe(),
            inside: false,
        };
        passage.look();
        passage
    }

    /// Holds the loops up, and waits until all of them stand.
    pub(super) fn close(&self) -> io::Result<()> {
        self.open.send_replace(false);
        let deadline = Instant::now() + PATIENCE;
        while self.inside.load(Ordering::SeqCst) > 0 {
            if Instant::now() > deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            sleep(TICK);
        }
        Ok(())
    }

    pub(super) fn open(&self) {
        self.open.send_replace(true);
    }
}

impl Passage<'_> {
    /// Whether the loop may accept; what it last saw counts.
    pub(super) fn is_open(&self) -> bool {
        self.inside
    }

    /// Resolves when the gate was opened or closed.
    pub(super) async fn changed(&mut self) {
        // The gate outlives the loop.
        let _ = self.seen.changed().await;
        self.look();
    }

    fn look(&mut self) {
        let open = *self.seen.borrow_and_update();
        match (self.inside, open) {
            (false, true) => {
                self.gate.inside.fetch_add(1, Ordering::SeqCst);
            }
            (true, false) => {
                self.gate.inside.fetch_sub(1, Ordering::SeqCst);
            }
            (true, true) | (false, false) => {}
        }
        self.inside = open;
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        if self.inside {
            self.gate.inside.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn closing_waits_for_those_inside() {
        let gate = std::sync::Arc::new(Gate::default());
        let mut passage = gate.passage();
        assert!(passage.is_open());
        let closing = gate.clone();
        let closed = tokio::task::spawn_blocking(move || closing.close());
        passage.changed().await;
        assert!(!passage.is_open());
        closed.await.unwrap().unwrap();
        gate.open();
        passage.changed().await;
        assert!(passage.is_open());
        drop(passage);
        gate.close().unwrap();
        assert!(!gate.passage().is_open());
    }
}
