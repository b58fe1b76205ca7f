//! A look at the wire: which packets really left a host.

use std::collections::BTreeMap;
use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::net::netdevice::name_to_index;
use rustix::net::sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_timeout};
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrV4, SocketFlags, SocketType, sendto, socket_with,
};

use crate::lab::{Host, Lab};
use crate::wait;

/// Where packets went: what identifies a flow to the one who asks "did anything go there?".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Target {
    /// IP protocol number: 6 is TCP, 17 UDP.
    pub protocol: u8,
    /// Destination address.
    pub address: IpAddr,
    /// Destination port; 0 where the protocol has none.
    pub port: u16,
}

/// How many packets went there.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Count {
    /// All of them.
    pub packets: u64,
    /// TCP segments that open a connection: SYN without ACK.
    pub syns: u64,
}

/// Watches the outer end of a host's link from a thread of its own. What it counts has passed
/// every hook of the host and is on its way.
#[derive(Debug)]
pub struct Wire {
    socket: Arc<OwnedFd>,
    seen: Arc<Mutex<BTreeMap<Target, Count>>>,
    stop: Arc<AtomicBool>,
    watcher: Option<JoinHandle<()>>,
    marks: AtomicU64,
}

/// TCP's protocol number.
pub const TCP: u8 = 6;
/// UDP's protocol number.
pub const UDP: u8 = 17;

/// Room for a burst of full-sized packets while the watcher does not get a processor.
const RECEIVE_BUFFER: usize = 64 << 20;

/// How long the watcher may sleep in the kernel before it looks whether it is to stop.
const PAUSE: Duration = Duration::from_millis(20);

const PACKET: u16 = AddressFamily::PACKET.as_raw();
#[expect(
    clippy::cast_possible_truncation,
    reason = "a 16-bit value in a wider constant"
)]
const EVERY_PROTOCOL: u16 = libc::ETH_P_ALL as u16;

/// The port of the marks, which go to the internet's end of the link: that of the discard service (RFC
/// 863). They are TCP segments that open no connection, which no rule is in the way of.
const MARK: u16 = 9;

impl Wire {
    /// Starts watching what leaves `host`.
    ///
    /// # Errors
    /// Without `CAP_NET_RAW`.
    pub fn watch(lab: &Lab, host: &Host) -> anyhow::Result<Wire> {
        let socket = lab
            .internet
            .run(|| packet_socket(host.uplink))?
            .context("cannot open a packet socket")?;
        let socket = Arc::new(socket);
        let seen = Arc::new(Mutex::new(BTreeMap::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let watcher = thread::Builder::new().name("lab-wire".into()).spawn({
            let (socket, seen, stop) = (socket.clone(), seen.clone(), stop.clone());
            move || watch(&socket, &seen, &stop)
        })?;
        Ok(Wire {
            socket,
            seen,
            stop,
            watcher: Some(watcher),
            marks: AtomicU64::new(0),
        })
    }

    /// Everything that has left `host` until now, by target.
    ///
    /// "Until now" is made certain: the host sends a packet of its own, and the answer is given
    /// once the watcher has seen it.
    ///
    /// # Errors
    /// When the packet does not arrive or the kernel dropped packets for want of room, which
    /// would make "nothing seen" worthless.
    pub fn seen(&self, host: &Host) -> anyhow::Result<BTreeMap<Target, Count>> {
        let mark = Target {
            protocol: TCP,
            address: host.next_hop.into(),
            port: MARK,
        };
        host.namespace.run(|| send_mark(host.next_hop))??;
        let marks = self.marks.fetch_add(1, Ordering::Relaxed) + 1;
        wait::until("the watcher sees the mark", || {
            let seen = lock(&self.seen);
            let count = seen.get(&mark)?;
            (count.packets >= marks).then_some(())
        })?;
        let dropped = dropped(&self.socket)?;
        if dropped > 0 {
            bail!("the watcher missed {dropped} packets");
        }
        let mut seen = lock(&self.seen).clone();
        seen.remove(&mark);
        Ok(seen)
    }

    /// What has left `host` for `address` until now, whatever the protocol and port.
    ///
    /// # Errors
    /// As [`Wire::seen`].
    pub fn sent_to(&self, host: &Host, address: IpAddr) -> anyhow::Result<Vec<(Target, Count)>> {
        let seen = self.seen(host)?;
        Ok(seen
            .into_iter()
            .filter(|(target, _)| target.address == address)
            .collect())
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
    }
}

fn watch(socket: &OwnedFd, seen: &Mutex<BTreeMap<Target, Count>>, stop: &AtomicBool) {
    // Headers are enough: the rest of a longer packet is cut off by the kernel.
    let mut buffer = [0; 256];
    while !stop.load(Ordering::Relaxed) {
        let Some(packet) = receive(socket, &mut buffer) else {
            continue;
        };
        if let Some((target, opens)) = parse(packet) {
            let mut seen = lock(seen);
            let count = seen.entry(target).or_default();
            count.packets += 1;
            count.syns += u64::from(opens);
        }
    }
}

/// Reads target, and whether it opens a TCP connection, from an IP packet.
fn parse(packet: &[u8]) -> Option<(Target, bool)> {
    let version = packet.first()? >> 4;
    let (protocol, address, payload) = match version {
        4 => {
            let header = usize::from(packet.first()? & 0x0f) * 4;
            let address: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            (
                *packet.get(9)?,
                Ipv4Addr::from(address).into(),
                packet.get(header..)?,
            )
        }
        6 => {
            let address: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            (
                *packet.get(6)?,
                Ipv6Addr::from(address).into(),
                packet.get(40..)?,
            )
        }
        _ => return None,
    };
    let has_ports = matches!(protocol, TCP | UDP | 33 | 132 | 136);
    let port = match payload.get(2..4) {
        Some(&[high, low]) if has_ports => u16::from_be_bytes([high, low]),
        _ => 0,
    };
    // RFC 9293, section 3.1: SYN is bit 1 and ACK bit 4 of byte 13.
    let opens = protocol == TCP && payload.get(13).is_some_and(|flags| flags & 0x12 == 0x02);
    let target = Target {
        protocol,
        address,
        port,
    };
    Some((target, opens))
}

fn receive<'a>(socket: &OwnedFd, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let length = rustix::io::read(socket, &mut *buffer).ok()?;
    buffer.get(..length)
}

/// A socket that receives every packet that enters by one interface, from the IP header on.
fn packet_socket(interface: &str) -> io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::PACKET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PAUSE))?;
    ignore_outgoing(&socket)?;
    bind(&socket, name_to_index(&socket, interface)?)?;
    Ok(socket)
}

fn send_mark(to: Ipv4Addr) -> io::Result<()> {
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(rustix::net::ipproto::TCP),
    )?;
    // RFC 9293, section 3.1: ports, numbers, five words of header, and RST, which nobody answers.
    let mut segment = [0; 20];
    segment[..2].copy_from_slice(&MARK.to_be_bytes());
    segment[2..4].copy_from_slice(&MARK.to_be_bytes());
    segment[12..14].copy_from_slice(&[5 << 4, 0x04]);
    sendto(
        &socket,
        &segment,
        SendFlags::empty(),
        &SocketAddrV4::new(to, 0),
    )?;
    Ok(())
}

fn bind(socket: &OwnedFd, interface: u32) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = PACKET;
    address.sll_protocol = EVERY_PROTOCOL.to_be();
    address.sll_ifindex = interface.cast_signed();
    // SAFETY: pointer and length describe `address`, which outlives the call.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            length_of::<libc::sockaddr_ll>(),
        )
    };
    check(result)
}

fn ignore_outgoing(socket: &OwnedFd) -> io::Result<()> {
    let yes: libc::c_int = 1;
    // SAFETY: pointer and length describe `yes`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            (&raw const yes).cast(),
            length_of::<libc::c_int>(),
        )
    };
    check(result)
}

/// How many packets found no room in the receive buffer since the last call.
fn dropped(socket: &OwnedFd) -> io::Result<u32> {
    let mut statistics = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut length = length_of::<libc::tpacket_stats>();
    // SAFETY: pointer and length describe `statistics`, which the kernel fills with two counters.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    check(result)?;
    Ok(statistics.tp_drops)
}

const fn length_of<T>() -> libc::socklen_t {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "kernel structures are small"
    )]
    let length = size_of::<T>() as libc::socklen_t;
    length
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(flags: u8) -> [u8; 20] {
        let mut segment = [0; 20];
        segment[2..4].copy_from_slice(&443_u16.to_be_bytes());
        segment[13] = flags;
        segment
    }

    #[test]
    fn a_v4_packet_with_options_is_read() {
        let mut packet = vec![0x46, 0, 0, 0, 0, 0, 0, 0, 64, TCP, 0, 0];
        packet.extend([10, 77, 1, 2, 203, 0, 113, 10, 0, 0, 0, 0]);
        packet.extend(tcp(0x02));
        let (target, opens) = parse(&packet).unwrap();
        assert_eq!(target.address, IpAddr::from([203, 0, 113, 10]));
        assert_eq!((target.protocol, target.port, opens), (TCP, 443, true));
    }

    #[test]
    fn a_v6_packet_is_read() {
        let mut packet = vec![0x60, 0, 0, 0, 0, 20, TCP, 64];
        packet.extend([0; 16]);
        packet.extend("2001:db8::10".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend(tcp(0x12));
        let (target, opens) = parse(&packet).unwrap();
        assert_eq!(target.address, "2001:db8::10".parse::<IpAddr>().unwrap());
        assert_eq!((target.protocol, target.port, opens), (TCP, 443, false));
    }

    #[test]
    fn what_is_no_ip_packet_is_left_out() {
        assert_eq!(parse(&[]), None);
        // ARP begins with the hardware type.
        assert_eq!(parse(&[0, 1, 8, 0, 6, 4]), None);
        assert_eq!(parse(&[0x45; 10]), None);
    }
}
