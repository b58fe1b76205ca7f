//! Ending in good order: first no new work, then a deadline, then force.

use std::future::Future;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

/// How far the end has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
enum Phase {
    Running,
    Draining,
    Forced,
}

/// Starts the end and waits for it.
pub struct Drainer {
    phase: watch::Sender<Phase>,
    work: mpsc::Receiver<()>,
}

/// Held by every piece of work; the end waits until all are dropped.
#[derive(Clone)]
pub struct Drain {
    phase: watch::Receiver<Phase>,
    _alive: mpsc::Sender<()>,
}

/// Sees whether the end has begun, without holding it up.
#[derive(Clone)]
pub struct Observer(watch::Receiver<Phase>);

impl Observer {
    /// Whether the end has begun.
    pub fn is_draining(&self) -> bool {
        *self.0.borrow() >= Phase::Draining
    }
}

/// A connected pair.
pub fn channel() -> (Drainer, Drain) {
    let (phase, seen) = watch::channel(Phase::Running);
    let (alive, work) = mpsc::channel(1);
    let drain = Drain {
        phase: seen,
        _alive: alive,
    };
    (Drainer { phase, work }, drain)
}

impl Drainer {
    /// Asks for the end, waits for the work to finish until `deadline`, then
    /// cuts what is left. True when nothing had to be cut.
    pub async fn drain(self, deadline: Duration) -> bool {
        self.drain_until(tokio::time::sleep(deadline)).await
    }

    /// As [`drain`](Self::drain), with any event as the deadline.
    pub async fn drain_until(mut self, deadline: impl Future<Output = ()>) -> bool {
        self.phase.send_replace(Phase::Draining);
        tokio::select! {
            _ = self.work.recv() => return true,
            () = deadline => {}
        }
        self.phase.send_replace(Phase::Forced);
        self.work.recv().await;
        false
    }
}

impl Drain {
    /// Resolves once no new work shall begin.
    pub async fn draining(&mut self) {
        self.reached(Phase::Draining).await;
    }

    /// Resolves once work under way shall be cut.
    pub async fn forced(&mut self) {
        self.reached(Phase::Forced).await;
    }

    /// Whether the end has begun.
    pub fn is_draining(&self) -> bool {
        self.observer().is_draining()
    }

    /// A view that the end does not wait for.
    pub fn observer(&self) -> Observer {
        Observer(self.phase.clone())
    }

    async fn reached(&mut self, phase: Phase) {
        // A drainer that is gone can no longer ask for anything in order: force.
        let _ = self.phase.wait_for(|now| *now >= phase).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_for_work_that_finishes() {
        let (drainer, mut drain) = channel();
        let work = tokio::spawn(async move {
            drain.draining().await;
            assert!(drain.is_draining());
        });
        assert!(drainer.drain(Duration::from_secs(60)).await);
        work.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn cuts_work_that_does_not() {
        let (drainer, mut drain) = channel();
        let work = tokio::spawn(async move { drain.forced().await });
        assert!(!drainer.drain(Duration::from_secs(1)).await);
        work.await.unwrap();
    }
}
