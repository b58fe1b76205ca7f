//! What the kernel programs refused, on its way into the log.

use std::io;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::capture::{EventStream, Events, KernelEvent};
use super::directory::Directory;
use crate::record::{KernelRefusal, Recorder};

/// A task that writes a record of every refusal that the kernel tells.
pub struct Evidence {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

struct Writer {
    recorder: Recorder,
    directory: Directory,
}

impl Evidence {
    /// Starts it. Must be called on the async runtime.
    ///
    /// # Errors
    /// When the runtime cannot watch the kernel's ring buffer.
    pub fn start(events: Events, recorder: Recorder, directory: Directory) -> io::Result<Evidence> {
        let events = events.stream()?;
        let (stop, stopped) = oneshot::channel();
        let writer = Writer {
            recorder,
            directory,
        };
        let task = tokio::spawn(writer.run(events, stopped));
        Ok(Evidence { stop, task })
    }

    /// Writes what the kernel has told so far, and ends.
    pub async fn finish(self) {
        drop(self.stop);
        if self.task.await.is_err() {
            tracing::error!("refusals by the kernel were not recorded to the end");
        }
    }
}

impl Writer {
    async fn run(self, mut events: EventStream, mut stopped: oneshot::Receiver<()>) {
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Ok(event) => self.write(event),
                    // The runtime ends.
                    Err(_) => return,
                },
                _ = &mut stopped => break,
            }
        }
        while let Some(event) = events.take() {
            self.write(event);
        }
    }

    fn write(&self, event: KernelEvent) {
        let uid = event.process.as_ref().map(|process| process.uid);
        let cgroup = (event.cgroup != 0).then_some(event.cgroup);
        self.recorder.refused_by_kernel(KernelRefusal {
            at: event.at,
            reason: event.reason,
            protocol: event.protocol,
            original_dst: event.original_dst,
            workload: self.directory.workload(cgroup, uid),
            process: event.process,
            netns: (event.netns != 0).then_some(event.netns),
            withheld: event.withheld,
        });
    }
}
