//! Packets that attempts and the canary make themselves.

use std::net::{IpAddr, Ipv4Addr};

/// TCP without options: a SYN from port 50000.
pub(super) fn syn(port: u16) -> Vec<u8> {
    /// Header length of five words, SYN, and a window.
    const REST: [u8; 8] = [0x50, 0x02, 0x04, 0x00, 0, 0, 0, 0];

    let ports = [50_000_u16.to_be_bytes(), port.to_be_bytes()].concat();
    [ports.as_slice(), &[0; 8], &REST].concat()
}

/// A UDP datagram from port 50000 with nothing in it.
pub(super) fn datagram(port: u16) -> Vec<u8> {
    let words = [50_000, port, 8, 0].map(u16::to_be_bytes);
    words.concat()
}

/// An ICMP echo request (RFC 792), or an ICMPv6 one (RFC 4443) without its checksum.
pub(super) fn echo(to: IpAddr, sequence: u16) -> Vec<u8> {
    const IDENTIFIER: u16 = 0xe6e5;

    let kind = if to.is_ipv6() { 128 } else { 8 };
    let rest = [IDENTIFIER.to_be_bytes(), sequence.to_be_bytes()].concat();
    let message = |sum: [u8; 2]| [&[kind, 0], sum.as_slice(), &rest].concat();
    message(checksum(&message([0, 0])))
}

/// An IPv4 packet (RFC 791).
pub(super) fn v4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, above: &[u8]) -> Vec<u8> {
    const HEADER: usize = 20;
    const TTL: u8 = 64;

    let len = u16::try_from(HEADER + above.len()).unwrap_or(u16::MAX);
    let head = |sum: [u8; 2]| {
        [
            &[0x45, 0],
            len.to_be_bytes().as_slice(),
            &[0, 7, 0, 0, TTL, protocol],
            &sum,
            &from.octets(),
            &to.octets(),
        ]
        .concat()
    };
    [head(checksum(&head([0, 0]))).as_slice(), above].concat()
}

/// Says to the sender of a packet that nobody listens where it went, in the packet's own version;
/// `None` for what is no whole IP packet.
pub(super) fn unreachable(packet: &[u8]) -> Option<Vec<u8>> {
    /// `(type, code)` of "port unreachable" in ICMP and ICMPv6.
    const V4: [u8; 2] = [3, 3];
    const V6: [u8; 2] = [1, 4];
    const ICMP: u8 = 1;
    const ICMPV6: u8 = 58;
    /// How much of the packet is given back: both headers and the ports.
    const GIVEN_BACK: usize = 64;

    let given_back = packet.get(..packet.len().min(GIVEN_BACK))?;
    let message =
        |kind: [u8; 2], sum: [u8; 2]| [&kind, sum.as_slice(), &[0; 4], given_back].concat();
    match packet.first()? >> 4 {
        4 => {
            let from: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            let to: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
            let sum = checksum(&message(V4, [0, 0]));
            Some(v4(from.into(), to.into(), ICMP, &message(V4, sum)))
        }
        6 => {
            let (from, to) = (packet.get(24..40)?, packet.get(8..24)?);
            let plain = message(V6, [0, 0]);
            let len = u16::try_from(plain.len()).ok()?.to_be_bytes();
            // RFC 8200, section 8.1.
            let pseudo = [from, to, &[0, 0], &len, &[0, 0, 0, ICMPV6]].concat();
            let sum = checksum(&[pseudo, plain].concat());
            let head = [&[0x60, 0, 0, 0], len.as_slice(), &[ICMPV6, 64], from, to].concat();
            Some([head, message(V6, sum)].concat())
        }
        _ => None,
    }
}

/// The internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [high] => u32::from(*high) << 8,
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let [.., high, low] = (!sum).to_be_bytes();
    [high, low]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 1071, section 3.
    #[test]
    fn checksums_are_those_of_the_rfc() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(checksum(&bytes), (!0xddf2_u16).to_be_bytes());
    }

    #[test]
    fn unreachable_goes_back_to_the_sender() {
        let sent = v4([192, 0, 2, 2].into(), [192, 0, 2, 1].into(), 6, &syn(443));
        let back = unreachable(&sent).unwrap();
        assert_eq!(back[12..20], [192, 0, 2, 1, 192, 0, 2, 2]);
        assert_eq!(back[9], 1);
        assert_eq!(checksum(&back[20..]), [0, 0]);
        assert_eq!(back[28..], sent);
        assert_eq!(unreachable(&[]), None);
        assert_eq!(unreachable(&[0x60; 20]), None);
    }

    #[test]
    fn a_whole_header_sums_to_nothing() {
        let packet = v4([192, 0, 2, 2].into(), [192, 0, 2, 1].into(), 6, &syn(443));
        assert_eq!(packet.len(), 40);
        assert_eq!(checksum(&packet[..20]), [0, 0]);
        assert_eq!(packet[22..24], 443_u16.to_be_bytes());
    }
}
