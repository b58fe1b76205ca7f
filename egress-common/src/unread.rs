//! The decision about frames that have no IP packet in them, or none that can be found.

use crate::{Bypass, Bytes, Fallback, ScopeConfig, Sender, Settings, packet::upper};

/// A frame in which no IP packet can be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unread {
    /// A question or an answer about an IPv4 address (RFC 826), and nothing more.
    Arp,
    /// To an address that no bridge passes on (IEEE 802.1Q, table 8-1): spanning trees, aggregated
    /// links.
    Link,
    /// Anything else.
    Other,
}

impl Unread {
    /// Reads an Ethernet frame in which [`Packet::read_frame`](crate::Packet::read_frame) found
    /// nothing.
    #[inline(always)]
    pub fn read(bytes: &impl Bytes) -> Unread {
        const ARP: u16 = 0x0806;
        /// Of an Ethernet address with an IPv4 one, without the low byte of the operation.
        const FORM: [u8; 7] = [0, 1, 8, 0, 6, 4, 0];
        /// What the shortest frame has room for.
        const ROOM: u32 = 46;

        if let Some((ARP, offset)) = upper(bytes)
            && let Some([form @ .., 1 | 2]) = bytes.read::<8>(offset)
            && form == FORM
            && bytes.read::<1>(offset + ROOM).is_none()
        {
            return Unread::Arp;
        }
        match bytes.read::<6>(0) {
            Some([0x01, 0x80, 0xc2, 0, 0, 0..=0x0f]) => Unread::Link,
            _ => Unread::Other,
        }
    }
}

/// Judges a frame that leaves the namespace and in which no IP packet can be read: where other
/// protocols pass, it does; in a closed or strict scope what keeps the link in order does, and what
/// the namespace's own tunnels made of a judged socket's packets. `scope` is that of the namespace,
/// `cgroup` the id of the cgroup of the sender.
///
/// # Errors
/// The frame is to be dropped.
#[inline(always)]
pub fn decide_unread(
    settings: &Settings,
    scope: Option<&ScopeConfig>,
    sender: Sender,
    cgroup: u64,
    frame: Unread,
) -> Result<(), Bypass> {
    let open = match scope {
        Some(scope) => scope.other_ports() == Fallback::Pass && !scope.strict(),
        None => settings.unregistered() == Fallback::Pass,
    };
    match (sender, frame) {
        _ if open || settings.exempts(cgroup) => Ok(()),
        (Sender::Socket, _) | (_, Unread::Arp) => Ok(()),
        (Sender::Nobody, Unread::Link) => Ok(()),
        _ => Err(Bypass::Frame),
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::packet::tests::Slice;
    use crate::{EXEMPT_CGROUPS, Port};
    use std::vec::Vec;

    const ARP: [u8; 10] = [8, 6, 0, 1, 8, 0, 6, 4, 0, 1];

    fn read(to: [u8; 6], rest: &[u8]) -> Unread {
        let frame: Vec<u8> = [&to, [2; 6].as_slice(), rest].concat();
        Unread::read(&Slice(&frame))
    }

    #[test]
    fn arp_is_known_by_its_form_and_size() {
        let arp = |head: &[u8], len: usize| read([0xff; 6], &[head, &std::vec![7; len]].concat());
        assert_eq!(arp(&ARP, 20), Unread::Arp);
        assert_eq!(arp(&ARP, 38), Unread::Arp, "padded");
        assert_eq!(arp(&ARP, 39), Unread::Other, "too long");
        let tagged = [[0x81, 0, 0, 5].as_slice(), &ARP].concat();
        assert_eq!(arp(&tagged, 38), Unread::Arp);
        assert_eq!(arp(&[tagged.as_slice(), &ARP].concat(), 38), Unread::Other);
        for (at, byte) in [
            (0, 9),
            (1, 7),
            (3, 2),
            (4, 9),
            (6, 8),
            (7, 6),
            (8, 1),
            (9, 3),
        ] {
            let mut other = ARP;
            other[at] = byte;
            assert_eq!(arp(&other, 20), Unread::Other, "{at}");
        }
        assert_eq!(read([0xff; 6], &ARP[..9]), Unread::Other);
    }

    #[test]
    fn what_no_bridge_passes_on() {
        for (last, expected) in [(0, Unread::Link), (15, Unread::Link), (16, Unread::Other)] {
            assert_eq!(read([1, 0x80, 0xc2, 0, 0, last], &[0x88, 9]), expected);
        }
        assert_eq!(read([1, 0x80, 0xc2, 0, 1, 0], &[0x88, 9]), Unread::Other);
        assert_eq!(Unread::read(&Slice(&[])), Unread::Other);
    }

    #[test]
    fn closed_and_strict_scopes_let_links_be() {
        let mut exempt = [0; EXEMPT_CGROUPS];
        exempt[0] = 77;
        let scope = |other_ports, strict| {
            let scope = ScopeConfig::new(Port::from_host(1), Port::NONE);
            Some(scope.with_other_ports(other_ports).with_strict(strict))
        };
        for (scope, unregistered, open) in [
            (scope(Fallback::Pass, false), Fallback::Refuse, true),
            (scope(Fallback::Pass, true), Fallback::Pass, false),
            (scope(Fallback::Refuse, false), Fallback::Pass, false),
            (None, Fallback::Pass, true),
            (None, Fallback::Refuse, false),
        ] {
            let settings = Settings::new(exempt, unregistered);
            for sender in [
                Sender::Socket,
                Sender::Nobody,
                Sender::Kernel,
                Sender::Raw,
                Sender::Unjudged,
                Sender::Frame,
            ] {
                for frame in [Unread::Arp, Unread::Link, Unread::Other] {
                    let judge =
                        |cgroup| decide_unread(&settings, scope.as_ref(), sender, cgroup, frame);
                    let link = match frame {
                        Unread::Arp => true,
                        Unread::Link => sender == Sender::Nobody,
                        Unread::Other => false,
                    };
                    let passes = open || link || sender == Sender::Socket;
                    let expected = if passes { Ok(()) } else { Err(Bypass::Frame) };
                    assert_eq!(judge(1), expected, "{scope:?} {sender:?} {frame:?}");
                    assert_eq!(judge(77), Ok(()));
                }
            }
        }
    }
}
