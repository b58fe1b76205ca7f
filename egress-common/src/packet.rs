//! What a packet says of where it goes, and the decision about packets that leave by another way
//! than a judged `connect` or `sendmsg`.

use crate::{
    Addr, Attempt, Counter, Form, Pass, Port, PrefixAction, Protocol, ScopeConfig, Settings,
    Verdict, decide,
};

/// The bytes of a packet.
pub trait Bytes {
    /// The `N` bytes from `offset` on, if there are as many.
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
}

/// What is known of the part above IP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// TCP.
    Tcp {
        /// The port it goes to.
        port: Port,
        /// Whether it asks for a connection: SYN without ACK.
        opens: bool,
    },
    /// UDP, UDP-Lite, SCTP or DCCP to this port.
    Ports(Port),
    /// A protocol without ports.
    Portless,
    /// The ports are not in the packet, as in every fragment but the first, or not where anybody
    /// would find them.
    Hidden,
}

/// An IP packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// The destination.
    pub dst: Addr,
    /// The number of the protocol above IP.
    pub protocol: u8,
    /// What is known of it.
    pub transport: Transport,
    /// Whether its header has it go by way of other addresses than its destination (a routing
    /// header, a source route), or more in it than is followed.
    pub steered: bool,
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const DCCP: u8 = 33;
const SCTP: u8 = 132;
const UDPLITE: u8 = 136;

/// Bytes of both addresses of an Ethernet frame.
const ADDRESSES: u32 = 12;

/// Extension headers that are followed: more than a socket's options can ask for, each once.
const MAX_EXTENSIONS: usize = 8;

/// Options of an IPv4 header that are followed. A socket can ask for more, to no purpose.
const MAX_OPTIONS: usize = 8;

impl Packet {
    /// Reads the packet whose IP header (RFC 791, RFC 8200) is at `offset`; `None` if there is no
    /// IP header.
    #[inline(always)]
    pub fn read(bytes: &impl Bytes, offset: u32) -> Option<Packet> {
        let [first] = bytes.read::<1>(offset)?;
        match first >> 4 {
            4 => Packet::read_v4(bytes, offset),
            6 => Packet::read_v6(bytes, offset),
            _ => None,
        }
    }

    /// Reads the packet in an Ethernet frame, also below VLAN tags (IEEE 802.1Q and 802.1ad).
    #[inline(always)]
    pub fn read_frame(bytes: &impl Bytes) -> Option<Packet> {
        /// Bytes of a tag with the type that announces it.
        const TAG: u32 = 4;
        /// More would not be unpacked by anybody.
        const MAX_TAGS: u32 = 2;

        let mut offset = ADDRESSES;
        for _ in 0..=MAX_TAGS {
            match u16::from_be_bytes(bytes.read::<2>(offset)?) {
                0x0800 | 0x86dd => return Packet::read(bytes, offset + 2),
                0x8100 | 0x88a8 => offset += TAG,
                _ => return None,
            }
        }
        None
    }

    /// Reads a TCP segment in the form that nearly all have: the TCP header right behind an IP
    /// header without options or extensions. `None` for every other packet, which
    /// [`read`](Self::read) reads; of these two it says the same, in fewer steps.
    #[inline(always)]
    pub fn read_plain(bytes: &impl Bytes, offset: u32) -> Option<Packet> {
        let (dst, above) = match bytes.read::<20>(offset)? {
            [
                0x45,
                _,
                _,
                _,
                _,
                _,
                hi,
                lo,
                _,
                TCP,
                _,
                _,
                _,
                _,
                _,
                _,
                a,
                b,
                c,
                d,
            ] if u16::from_be_bytes([hi, lo]) & 0x1fff == 0 => {
                (Addr::from_be_v4(u32::from_ne_bytes([a, b, c, d])), 20)
            }
            [first, _, _, _, _, _, TCP, ..] if first >> 4 == 6 => (read_v6_dst(bytes, offset)?, 40),
            _ => return None,
        };
        let [_, _, hi, lo, .., flags] = bytes.read::<14>(offset + above)?;
        Some(Packet {
            dst,
            protocol: TCP,
            transport: Transport::Tcp {
                port: Port::from_be(u16::from_ne_bytes([hi, lo])),
                opens: opens(flags),
            },
            steered: false,
        })
    }

    /// As [`read_plain`](Self::read_plain), in an Ethernet frame without tags.
    #[inline(always)]
    pub fn read_plain_frame(bytes: &impl Bytes) -> Option<Packet> {
        match u16::from_be_bytes(bytes.read::<2>(ADDRESSES)?) {
            0x0800 | 0x86dd => Packet::read_plain(bytes, ADDRESSES + 2),
            _ => None,
        }
    }

    /// The port it goes to; [`Port::NONE`] where there is none, or none to be seen.
    #[inline(always)]
    pub const fn port(&self) -> Port {
        match self.transport {
            Transport::Tcp { port, .. } | Transport::Ports(port) => port,
            Transport::Portless | Transport::Hidden => Port::NONE,
        }
    }

    #[inline(always)]
    fn read_v4(bytes: &impl Bytes, offset: u32) -> Option<Packet> {
        let header = bytes.read::<20>(offset)?;
        let [first, _, _, _, _, _, frag_hi, frag_lo, _, protocol, ..] = header;
        let [.., a, b, c, d] = header;
        let later = u16::from_be_bytes([frag_hi, frag_lo]) & 0x1fff != 0;
        let above = offset + u32::from(first & 0xf) * 4;
        let options = offset + 20;
        Some(Packet {
            dst: Addr::from_be_v4(u32::from_ne_bytes([a, b, c, d])),
            protocol,
            transport: Transport::read(bytes, above, protocol, later),
            steered: options < above && has_source_route(bytes, options, above),
        })
    }

    #[inline(always)]
    fn read_v6(bytes: &impl Bytes, offset: u32) -> Option<Packet> {
        const HOP_BY_HOP: u8 = 0;
        const ROUTING: u8 = 43;
        const FRAGMENT: u8 = 44;
        const AUTHENTICATION: u8 = 51;
        const DESTINATION: u8 = 60;

        let [_, _, _, _, _, _, next, _] = bytes.read::<8>(offset)?;
        let mut packet = Packet {
            dst: read_v6_dst(bytes, offset)?,
            protocol: next,
            transport: Transport::Hidden,
            steered: false,
        };
        let mut above = offset + 40;
        let mut later = false;
        for _ in 0..=MAX_EXTENSIONS {
            let len = match packet.protocol {
                HOP_BY_HOP | ROUTING | DESTINATION | AUTHENTICATION | FRAGMENT => {
                    let Some([next, len, hi, lo]) = bytes.read::<4>(above) else {
                        return Some(packet);
                    };
                    let this = packet.protocol;
                    packet.protocol = next;
                    // Of whatever type, and also where it is spent.
                    packet.steered |= this == ROUTING;
                    match this {
                        AUTHENTICATION => (u32::from(len) + 2) * 4,
                        FRAGMENT => {
                            later |= u16::from_be_bytes([hi, lo]) & 0xfff8 != 0;
                            8
                        }
                        _ => (u32::from(len) + 1) * 8,
                    }
                }
                protocol => {
                    packet.transport = Transport::read(bytes, above, protocol, later);
                    return Some(packet);
                }
            };
            // What follows in a later fragment is not a header.
            if later {
                return Some(packet);
            }
            above += len;
        }
        packet.steered = true;
        Some(packet)
    }
}

#[inline(always)]
fn read_v6_dst(bytes: &impl Bytes, offset: u32) -> Option<Addr> {
    Some(Addr::from_be_words([
        u32::from_ne_bytes(bytes.read(offset + 24)?),
        u32::from_ne_bytes(bytes.read(offset + 28)?),
        u32::from_ne_bytes(bytes.read(offset + 32)?),
        u32::from_ne_bytes(bytes.read(offset + 36)?),
    ]))
}

/// Whether the options of an IPv4 header, from `at` to `end`, have a source route among them, or
/// are more than are followed.
#[inline(always)]
fn has_source_route(bytes: &impl Bytes, mut at: u32, end: u32) -> bool {
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    const LOOSE: u8 = 131;
    const STRICT: u8 = 137;

    for _ in 0..MAX_OPTIONS {
        if at >= end {
            return false;
        }
        let Some([kind]) = bytes.read::<1>(at) else {
            return false;
        };
        at += match kind {
            END => return false,
            LOOSE | STRICT => return true,
            NOTHING => 1,
            _ => match bytes.read::<1>(at + 1) {
                // Shorter than itself: nobody can tell what follows.
                Some([0 | 1]) => return true,
                Some([len]) => u32::from(len),
                None => return false,
            },
        };
    }
    at < end
}

impl Transport {
    #[inline(always)]
    fn read(bytes: &impl Bytes, offset: u32, protocol: u8, later: bool) -> Transport {
        const FLAGS: u32 = 13;

        match protocol {
            TCP | UDP | DCCP | SCTP | UDPLITE if later => return Transport::Hidden,
            TCP | UDP | DCCP | SCTP | UDPLITE => {}
            _ => return Transport::Portless,
        }
        let Some(port) = bytes.read::<2>(offset + 2) else {
            return Transport::Hidden;
        };
        let port = Port::from_be(u16::from_ne_bytes(port));
        if protocol != TCP {
            return Transport::Ports(port);
        }
        match bytes.read::<1>(offset + FLAGS) {
            Some([flags]) => Transport::Tcp {
                port,
                opens: opens(flags),
            },
            None => Transport::Hidden,
        }
    }
}

/// Whether a segment with these flags (RFC 9293) asks for a connection.
#[inline(always)]
const fn opens(flags: u8) -> bool {
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;

    flags & (SYN | ACK) == SYN
}

/// Who gave a packet to the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sender {
    /// A socket whose `connect` and `sendmsg` are judged, or the kernel itself.
    Socket,
    /// A raw socket.
    Raw,
    /// A socket of another protocol than TCP and UDP, whose `connect` or `sendmsg` nothing judges.
    Unjudged,
    /// A packet socket: the frame was written by a process.
    Frame,
}

/// A packet on its way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sent {
    /// Who gave it to the kernel.
    pub sender: Sender,
    /// The packet.
    pub packet: Packet,
    /// Id of the cgroup of its socket, 0 if it has none.
    pub cgroup: u64,
}

/// Why a packet is dropped: by which way it would have got round the redirect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bypass {
    /// By a socket that was not judged, such as one that was connected before.
    Socket,
    /// By a raw socket.
    Raw,
    /// By a socket of another protocol.
    Protocol,
    /// By a packet socket.
    Frame,
    /// By way of other addresses than its destination.
    Route,
}

impl Bypass {
    /// The counter of this way.
    #[inline(always)]
    pub const fn counter(self) -> Counter {
        match self {
            Bypass::Socket => Counter::DropSocket,
            Bypass::Raw => Counter::DropRaw,
            Bypass::Protocol => Counter::DropProtocol,
            Bypass::Frame => Counter::DropFrame,
            Bypass::Route => Counter::DropRoute,
        }
    }
}

impl Sent {
    /// Whether the packet belongs to something that passed: a connection that stands, also if it
    /// stood before the capture began; a fragment that the kernel made of a datagram; what the
    /// kernel sends by itself, such as neighbour discovery.
    #[inline(always)]
    pub const fn continues(&self) -> bool {
        if self.packet.steered {
            return false;
        }
        match (self.sender, self.packet.transport) {
            (
                Sender::Socket,
                Transport::Tcp { opens: false, .. } | Transport::Portless | Transport::Hidden,
            ) => true,
            (Sender::Socket, Transport::Tcp { opens: true, .. } | Transport::Ports(_))
            | (Sender::Raw | Sender::Unjudged | Sender::Frame, _) => false,
        }
    }

    #[inline(always)]
    const fn attempt(&self) -> Attempt {
        let protocol = match self.packet.transport {
            Transport::Tcp { .. } => Protocol::Tcp,
            // Those of SCTP and DCCP too: nothing redirects them to where the port is captured.
            Transport::Ports(_) => Protocol::Udp,
            Transport::Portless | Transport::Hidden => Protocol::Other,
        };
        Attempt {
            cgroup: self.cgroup,
            protocol,
            form: Form::V6,
            dst: self.packet.dst,
            port: self.packet.port(),
            // A packet that would be redirected is dropped, whether the agent lives or not.
            now: 0,
        }
    }

    /// The way that the packet takes.
    #[inline(always)]
    pub const fn way(&self) -> Bypass {
        if self.packet.steered {
            return Bypass::Route;
        }
        match self.sender {
            Sender::Socket => Bypass::Socket,
            Sender::Raw => Bypass::Raw,
            Sender::Unjudged => Bypass::Protocol,
            Sender::Frame => Bypass::Frame,
        }
    }
}

/// Judges a packet that leaves the namespace: what [`decide`] would not let pass to where the
/// packet goes is dropped, and what it would redirect as well, since a redirected connection's
/// packets go to loopback. `scope` and `prefix` are those of [`decide`].
///
/// A packet that is steered goes elsewhere than `connect` or `sendmsg` was asked, or than its
/// destination says: only those of exempt cgroups leave, in whatever namespace.
///
/// # Errors
/// The packet is to be dropped.
#[inline(always)]
pub fn decide_packet(
    settings: &Settings,
    scope: Option<&ScopeConfig>,
    prefix: Option<PrefixAction>,
    sent: &Sent,
) -> Result<(), Bypass> {
    if sent.packet.steered {
        return if settings.exempts(sent.cgroup) {
            Ok(())
        } else {
            Err(sent.way())
        };
    }
    if sent.continues() {
        return Ok(());
    }
    let strict = scope.is_some_and(ScopeConfig::strict);
    match decide(settings, scope, prefix, &sent.attempt()) {
        Verdict::Pass(Pass::Loopback | Pass::Exempt | Pass::Unregistered | Pass::Prefix) => Ok(()),
        Verdict::Pass(Pass::Protocol | Pass::OtherPort | Pass::Dns) => match sent.sender {
            // The kernel made the packet: its fragments hide nothing.
            Sender::Socket | Sender::Unjudged => Ok(()),
            Sender::Raw | Sender::Frame if strict => Err(sent.way()),
            Sender::Raw | Sender::Frame => match sent.packet.transport {
                Transport::Hidden => Err(sent.way()),
                Transport::Tcp { .. } | Transport::Ports(_) | Transport::Portless => Ok(()),
            },
        },
        Verdict::Redirect(_) | Verdict::Refuse(_) => Err(sent.way()),
    }
}

#[cfg(test)]
mod tests;
