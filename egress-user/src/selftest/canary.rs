//! The other end of the wire: what a captured process gets out of its namespace arrives here.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use egress_common::{Bytes, Packet};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{packet, tun};
use crate::netns::Netns;

/// The canary's addresses, of ranges for documentation (RFC 5737, RFC 3849): nobody has them.
pub(super) const V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(super) const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// The workload's addresses at its end of the wire.
pub(super) const OWN_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const OWN_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

/// Both ends and nothing else.
const MASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 252);
const PREFIX: u32 = 126;

/// A ping over the wire takes microseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often the thread looks whether it is to end.
const TICK: Duration = Duration::from_millis(100);

const ICMP: u8 = 1;

/// Reads the wire, and tells those whose packets come along it that nobody is there: what leaks need
/// not be waited for.
pub(super) struct Canary {
    tun: Arc<File>,
    heard: Receiver<Heard>,
    has_v6: bool,
    sequence: u16,
    stop: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

/// What comes along the wire.
enum Heard {
    /// The answer to the ping of this number.
    Answer(u16),
    /// What ought not to be there.
    Leak(String),
}

/// A packet's bytes.
struct Slice<'a>(&'a [u8]);

impl Bytes for Slice<'_> {
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let offset = usize::try_from(offset).ok()?;
        let bytes = self.0.get(offset..offset.checked_add(N)?)?;
        bytes.try_into().ok()
    }
}

impl Canary {
    /// Lays a wire into a namespace.
    pub(super) fn new(netns: &Netns) -> anyhow::Result<Canary> {
        let made = netns.on_thread(|| tun::create(OWN_V4, MASK, OWN_V6, PREFIX))?;
        let (tun, has_v6) = made.with_context(|| {
            format!(
                "cannot make the tun device {}; load the module with `modprobe tun`",
                tun::NAME
            )
        })?;
        let tun = Arc::new(tun);
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, heard) = channel();
        let (wire, told) = (tun.clone(), stop.clone());
        let listener = thread::Builder::new()
            .name("canary".to_owned())
            .spawn(move || listen(&wire, &sender, &told))?;
        Ok(Canary {
            tun,
            heard,
            has_v6,
            sequence: 0,
            stop,
            listener: Some(listener),
        })
    }

    /// Whether the namespace has IPv6.
    pub(super) fn has_v6(&self) -> bool {
        self.has_v6
    }

    /// What has come along the wire since the last time, up to now: the canary pings the workload's
    /// end, and the kernel's answer comes behind all that was sent before.
    pub(super) fn seen(&mut self) -> anyhow::Result<Vec<String>> {
        self.sequence = self.sequence.wrapping_add(1);
        let ping = packet::echo(IpAddr::V4(OWN_V4), self.sequence);
        let ping = packet::v4(V4, OWN_V4, ICMP, &ping);
        (&*self.tun)
            .write_all(&ping)
            .context("cannot send by the tun device")?;
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let heard = self.heard.recv_timeout(left).context(
                "the canary's own ping is not answered: nothing could be told from its silence",
            )?;
            match heard {
                Heard::Answer(sequence) if sequence == self.sequence => return Ok(seen),
                Heard::Answer(_) => {}
                Heard::Leak(leak) => seen.push(leak),
            }
        }
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(listener) = self.listener.take() {
            // A panic of it was printed.
            let _ = listener.join();
        }
    }
}

fn listen(tun: &File, heard: &Sender<Heard>, stop: &AtomicBool) {
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let mut fds = [PollFd::new(tun, PollFlags::IN)];
        let timeout = Timespec::try_from(TICK).ok();
        // Interrupted or not, the device is read.
        let _ = poll(&mut fds, timeout.as_ref());
        let mut tun = tun;
        while let Ok(len) = tun.read(&mut buffer) {
            let bytes = buffer.get(..len).unwrap_or_default();
            let word = match answer(bytes) {
                Some(sequence) => Heard::Answer(sequence),
                None => match leak(bytes) {
                    Some(leak) => {
                        let answer = packet::unreachable(bytes);
                        // Best effort: without it, the sender waits.
                        let _ = answer.map(|answer| tun.write_all(&answer));
                        Heard::Leak(leak)
                    }
                    None => continue,
                },
            };
            // The receiver is gone when the test is over.
            let _ = heard.send(word);
        }
    }
}

/// The number of the ping that these bytes answer: they differ from it in type and checksum.
fn answer(bytes: &[u8]) -> Option<u16> {
    const REPLY: u8 = 0;

    let [high, low] = bytes.get(26..28)?.try_into().ok()?;
    let sequence = u16::from_be_bytes([high, low]);
    let ping = packet::echo(IpAddr::V4(OWN_V4), sequence);
    let is_answer = bytes.get(9) == Some(&ICMP)
        && bytes.get(16..20) == Some(&V4.octets())
        && bytes.get(20) == Some(&REPLY)
        && bytes.get(24..) == ping.get(4..);
    is_answer.then_some(sequence)
}

/// What a packet is, unless the kernel sends such by itself: to multicast groups.
fn leak(bytes: &[u8]) -> Option<String> {
    let packet = Packet::read(&Slice(bytes), 0)?;
    let to = IpAddr::from(packet.dst);
    if to.is_multicast() {
        return None;
    }
    Some(format!(
        "protocol {} to {to} port {}",
        packet.protocol,
        packet.port.to_host()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaks_are_named_and_multicast_is_none() {
        let syn = packet::v4(OWN_V4, V4, 6, &packet::syn(443));
        assert_eq!(leak(&syn).unwrap(), "protocol 6 to 192.0.2.1 port 443");
        let group = packet::v4(OWN_V4, Ipv4Addr::new(224, 0, 0, 22), 2, &[0; 8]);
        assert_eq!(leak(&group), None);
        assert_eq!(leak(&[]), None);
    }
}
