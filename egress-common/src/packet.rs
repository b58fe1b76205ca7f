//! What a packet says of where it goes.

use crate::{Addr, Port};

/// The bytes of a packet.
pub trait Bytes {
    /// The `N` bytes from `offset` on, if there are as many.
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;

    /// `number`, without what a verifier of programs knows of it, so that it does not follow what comes
    /// once for each that it may be.
    #[inline(always)]
    fn veil(&self, number: u32) -> u32 {
        number
    }
}

/// What is known of the part above IP.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// A segment of TCP that asks for a connection: SYN without ACK.
    Opens,
    /// Another segment of TCP.
    Segment,
    /// UDP, UDP-Lite, SCTP or DCCP.
    Ports,
    /// What keeps a link in order, and goes no further: neighbour discovery (RFC 4861), group
    /// membership (RFC 3376, RFC 3810).
    Link,
    /// An ICMP error or answer (RFC 792, RFC 4443): what kernels send unasked.
    Answer,
    /// Another protocol without ports.
    Portless,
    /// A fragment but the first, which has the ports.
    Fragment,
    /// The ports are not where anybody would find them.
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
    /// The port it goes to; [`Port::NONE`] where there is none, or none to be seen.
    pub port: Port,
    /// Whether its header has it go by way of other addresses than its destination (a routing
    /// header, a source route), or more in it than is followed.
    pub steered: bool,
}

const ICMP: u8 = 1;
const IGMP: u8 = 2;
const TCP: u8 = 6;
const UDP: u8 = 17;
const DCCP: u8 = 33;
const ICMPV6: u8 = 58;
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
        match upper(bytes)? {
            (0x0800 | 0x86dd, offset) => Packet::read(bytes, offset),
            _ => None,
        }
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
            transport: segment(flags),
            port: Port::from_be(u16::from_ne_bytes([hi, lo])),
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

    #[inline(always)]
    fn read_v4(bytes: &impl Bytes, offset: u32) -> Option<Packet> {
        let header = bytes.read::<20>(offset)?;
        let [first, _, _, _, _, _, frag_hi, frag_lo, _, protocol, ..] = header;
        let [.., a, b, c, d] = header;
        let fragment = u16::from_be_bytes([frag_hi, frag_lo]) & 0x1fff;
        let dst = Addr::from_be_v4(u32::from_ne_bytes([a, b, c, d]));
        let above = offset + u32::from(first & 0xf) * 4;
        let options = offset + 20;
        let (transport, port) = Transport::read_v4(bytes, above, protocol, fragment, dst);
        Some(Packet {
            dst,
            protocol,
            transport,
            port,
            steered: options < above && has_source_route(bytes, options, above),
        })
    }

    #[inline(always)]
    fn read_v6(bytes: &impl Bytes, offset: u32) -> Option<Packet> {
        let [_, _, _, _, _, _, mut protocol, hops] = bytes.read::<8>(offset)?;
        let dst = read_v6_dst(bytes, offset)?;
        let mut found = (Transport::Hidden, Port::NONE);
        let mut above = offset + 40;
        let mut met = 0;
        'extensions: {
            for _ in 0..=MAX_EXTENSIONS {
                if !extension::is_one(protocol) {
                    found = Transport::read_v6(bytes, above, protocol, hops, dst);
                    break 'extensions;
                }
                let Some(header) = bytes.read::<4>(above) else {
                    break 'extensions;
                };
                let (len, this) = extension::read(protocol, header);
                [protocol, ..] = header;
                met |= this;
                // What follows is not a header.
                if met & extension::LATER != 0 {
                    found.0 = Transport::Fragment;
                    break 'extensions;
                }
                above = bytes.veil(above + len);
                met = bytes.veil(met);
            }
            met |= extension::STEERED;
        }
        // Its flags may be those of the next fragment, or padding of the frame. TCP avoids
        // fragments, and routers make none.
        if met & extension::FIRST != 0 && found.0 == Transport::Segment {
            found.0 = Transport::Opens;
        }
        Some(Packet {
            dst,
            protocol,
            transport: found.0,
            port: found.1,
            steered: met & extension::STEERED != 0,
        })
    }
}

/// Extension headers of IPv6 (RFC 8200 §4, RFC 4302).
mod extension {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;

    /// The packet goes by way of others: whatever the type of its routing header, and also where
    /// that is spent.
    pub(super) const STEERED: u32 = 1;
    /// It is the first of several fragments.
    pub(super) const FIRST: u32 = 2;
    /// It is a later one.
    pub(super) const LATER: u32 = 4;

    #[inline(always)]
    pub(super) const fn is_one(protocol: u8) -> bool {
        matches!(
            protocol,
            HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION
        )
    }

    /// The length of a header in bytes, and what it says of the packet.
    #[inline(always)]
    pub(super) fn read(protocol: u8, [_, len, hi, lo]: [u8; 4]) -> (u32, u32) {
        /// Of a fragment's flags: that others follow.
        const MORE: u16 = 1;

        let len = u32::from(len);
        match protocol {
            ROUTING => ((len + 1) * 8, STEERED),
            AUTHENTICATION => ((len + 2) * 4, 0),
            FRAGMENT => match u16::from_be_bytes([hi, lo]) {
                place if place & 0xfff8 != 0 => (8, LATER),
                place if place & MORE != 0 => (8, FIRST),
                _ => (8, 0),
            },
            _ => ((len + 1) * 8, 0),
        }
    }
}

/// The type of what is in an Ethernet frame, below VLAN tags, and where it begins.
#[inline(always)]
pub(crate) fn upper(bytes: &impl Bytes) -> Option<(u16, u32)> {
    /// Bytes of a tag with the type that announces it.
    const TAG: u32 = 4;
    /// More would not be unpacked by anybody.
    const MAX_TAGS: u32 = 2;

    let mut offset = ADDRESSES;
    for _ in 0..=MAX_TAGS {
        match u16::from_be_bytes(bytes.read::<2>(offset)?) {
            0x8100 | 0x88a8 => offset += TAG,
            kind => return Some((kind, bytes.veil(offset + 2))),
        }
    }
    None
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
        let len = match kind {
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
        at = bytes.veil(at + len);
    }
    at < end
}

impl Transport {
    /// What is above an IPv4 header to `dst`; `fragment` is where in its datagram it begins, in
    /// units of eight bytes.
    #[inline(always)]
    fn read_v4(
        bytes: &impl Bytes,
        offset: u32,
        protocol: u8,
        fragment: u16,
        dst: Addr,
    ) -> (Transport, Port) {
        /// Echo reply, unreachable, redirect, time exceeded, parameter problem, timestamp reply.
        const ANSWERS: [u8; 6] = [0, 3, 5, 11, 12, 14];

        let transport = match (protocol, fragment) {
            (TCP | UDP | DCCP | SCTP | UDPLITE, 0) => {
                return Transport::read(bytes, offset, protocol);
            }
            // It would put other flags over those of the first (RFC 3128).
            (TCP, 1) => Transport::Hidden,
            (TCP | UDP | DCCP | SCTP | UDPLITE, _) => Transport::Fragment,
            (ICMP, 0) => match bytes.read::<1>(offset) {
                Some([kind]) if ANSWERS.contains(&kind) => Transport::Answer,
                _ => Transport::Portless,
            },
            (IGMP, _) if dst.is_multicast() => Transport::Link,
            _ => Transport::Portless,
        };
        (transport, Port::NONE)
    }

    /// What is above an IPv6 header to `dst` with this hop limit, in no fragment or the first.
    #[inline(always)]
    fn read_v6(
        bytes: &impl Bytes,
        offset: u32,
        protocol: u8,
        hops: u8,
        dst: Addr,
    ) -> (Transport, Port) {
        /// What was forwarded has a lower one.
        const OF_THIS_LINK: u8 = 255;

        match protocol {
            TCP | UDP | DCCP | SCTP | UDPLITE => return Transport::read(bytes, offset, protocol),
            ICMPV6 => {}
            _ => return (Transport::Portless, Port::NONE),
        }
        let transport = match bytes.read::<1>(offset) {
            // Errors, and echo reply.
            Some([1..=4 | 129]) => Transport::Answer,
            Some([133..=137]) if hops == OF_THIS_LINK => Transport::Link,
            Some([130..=132 | 143]) if dst.is_multicast() => Transport::Link,
            _ => Transport::Portless,
        };
        (transport, Port::NONE)
    }

    /// A header with ports.
    #[inline(always)]
    fn read(bytes: &impl Bytes, offset: u32, protocol: u8) -> (Transport, Port) {
        const FLAGS: u32 = 13;

        let Some(port) = bytes.read::<2>(offset + 2) else {
            return (Transport::Hidden, Port::NONE);
        };
        let port = Port::from_be(u16::from_ne_bytes(port));
        if protocol != TCP {
            return (Transport::Ports, port);
        }
        let transport = match bytes.read::<1>(offset + FLAGS) {
            Some([flags]) => segment(flags),
            // They come in the next fragment, and may be these.
            None => Transport::Opens,
        };
        (transport, port)
    }
}

/// A segment with these flags (RFC 9293).
#[inline(always)]
const fn segment(flags: u8) -> Transport {
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;

    match flags & (SYN | ACK) == SYN {
        true => Transport::Opens,
        false => Transport::Segment,
    }
}

#[cfg(test)]
pub(crate) mod tests;
