//! What the kernel programs tell of refusals and attempts to get round the capture.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Instant;

use aya::maps::{MapData, RingBuf};
use egress_common::{Counter, Event};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::flows;
use crate::addr::OriginalDst;
use crate::workload::Process;

/// One refusal by the kernel programs. Those of one cgroup, or without one of one namespace, are told
/// up to
/// [`EVENTS_PER_WINDOW`](egress_common::EVENTS_PER_WINDOW) times a second; the counters count all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelEvent {
    /// The name of the counter that counted it: verdict and reason.
    pub reason: &'static str,
    /// The process that tried; absent where a packet was refused, which belongs to none.
    pub process: Option<Process>,
    /// Id of the cgroup of the process, or of the packet's socket; 0 where it is not known.
    pub cgroup: u64,
    /// Cookie of the network namespace, see [`NetnsCookie::get`](crate::netns::NetnsCookie::get); 0
    /// where the kernel does not tell it.
    pub netns: u64,
    /// The number of the transport protocol (`IPPROTO_`).
    pub protocol: u16,
    /// Where it was to go; absent where nothing was said of that yet.
    pub original_dst: Option<OriginalDst>,
    /// When it was refused.
    pub at: Instant,
    /// How many refusals of the same cgroup, or without one of the same namespace, were not told since
    /// the last one that was.
    pub withheld: u32,
}

/// The events as they come, for somebody who asks from time to time; [`stream`](Self::stream) is
/// for those who wait.
pub struct Events {
    ring: RingBuf<MapData>,
}

impl Events {
    pub(super) fn new(ring: RingBuf<MapData>) -> Events {
        Events { ring }
    }

    /// The oldest event that was not taken yet.
    pub fn take(&mut self) -> Option<KernelEvent> {
        loop {
            let item = self.ring.next()?;
            // What does not have an event's form is not one.
            if let Some(event) = event(&item) {
                return Some(event);
            }
        }
    }

    /// The events for an async task. Must be called on the async runtime.
    ///
    /// # Errors
    /// Fails when the runtime cannot watch the ring buffer.
    pub fn stream(self) -> io::Result<EventStream> {
        // SAFETY: the events own the map's descriptor and keep it as long as they live.
        let events = unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) }?;
        Ok(EventStream { events })
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

/// The events, to be waited for.
#[derive(Debug)]
pub struct EventStream {
    events: AsyncFd<Events>,
}

impl EventStream {
    /// The oldest event that was not taken yet, without waiting for one.
    pub fn take(&mut self) -> Option<KernelEvent> {
        self.events.get_mut().take()
    }

    /// Waits for the next event. None is lost when the future is dropped.
    ///
    /// # Errors
    /// Fails when the runtime ends.
    pub async fn next(&mut self) -> io::Result<KernelEvent> {
        loop {
            let mut ready = self.events.readable_mut().await?;
            if let Some(event) = ready.get_inner_mut().take() {
                return Ok(event);
            }
            ready.clear_ready();
        }
    }
}

fn event(bytes: &[u8]) -> Option<KernelEvent> {
    if bytes.len() != size_of::<Event>() {
        return None;
    }
    // SAFETY: there are as many bytes as an event has, and every pattern of them is one.
    let event: Event = unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() };
    let (target, caller) = (event.target(), event.caller());
    Some(KernelEvent {
        reason: event.reason().map(Counter::name)?,
        process: (caller.pid != 0).then(|| flows::process(&caller)),
        cgroup: caller.cgroup,
        netns: event.netns(),
        protocol: target.protocol,
        original_dst: (target.dst != egress_common::Addr::UNSPECIFIED || !target.port.is_none())
            .then(|| OriginalDst::new(SocketAddr::new(target.dst.into(), target.port.to_host()))),
        at: flows::instant(event.at_ns()),
        withheld: event.withheld(),
    })
}
