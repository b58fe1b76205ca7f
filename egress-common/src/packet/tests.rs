extern crate std;

use super::*;
use core::net::IpAddr;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

pub(crate) struct Slice<'a>(pub(crate) &'a [u8]);

impl Bytes for Slice<'_> {
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let rest = self.0.get(usize::try_from(offset).unwrap()..)?;
        rest.first_chunk::<N>().copied()
    }
}

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().unwrap().into()
}

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const TO_443: [u8; 4] = [0xc0, 0, 1, 0xbb];

fn tcp(flags: u8) -> Vec<u8> {
    let mut bytes = vec![0; 20];
    bytes[..4].copy_from_slice(&TO_443);
    bytes[13] = flags;
    bytes
}

/// A packet to 192.0.2.1 with `options` bytes of options.
fn v4(protocol: u8, fragment: u16, options: u8, above: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 20 + usize::from(options)];
    bytes[0] = 0x45 + options / 4;
    bytes[6..8].copy_from_slice(&fragment.to_be_bytes());
    bytes[9] = protocol;
    bytes[16..20].copy_from_slice(&[192, 0, 2, 1]);
    bytes.extend(above);
    bytes
}

/// A packet to 2001:db8::1 with these extension headers, each with its own number.
fn v6(extensions: &[(u8, Vec<u8>)], protocol: u8, above: &[u8]) -> Vec<u8> {
    let mut numbers = extensions.iter().map(|(number, _)| *number);
    let mut bytes = vec![0; 40];
    bytes[0] = 0x60;
    bytes[6] = numbers.next().unwrap_or(protocol);
    bytes[24..28].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
    bytes[39] = 1;
    for (_, header) in extensions {
        let start = bytes.len();
        bytes.extend(header);
        bytes[start] = numbers.next().unwrap_or(protocol);
    }
    bytes.extend(above);
    bytes
}

#[test]
fn ordinary_segments_are_read_in_fewer_steps() {
    for flags in [SYN, SYN | ACK, ACK] {
        for bytes in [v4(TCP, 0, 0, &tcp(flags)), v6(&[], TCP, &tcp(flags))] {
            let plain = Packet::read_plain(&Slice(&bytes), 0);
            assert_eq!(plain, Some(read(&bytes)));
        }
    }
    let routed = v6(&[(43, vec![0; 8])], TCP, &tcp(ACK));
    for other in [v4(TCP, 0, 4, &tcp(ACK)), v4(TCP, 1, 0, &tcp(ACK)), routed] {
        assert_eq!(Packet::read_plain(&Slice(&other), 0), None);
    }
}

fn read(bytes: &[u8]) -> Packet {
    Packet::read(&Slice(bytes), 0).unwrap()
}

/// What is above IP, and its port.
fn above(packet: &Packet) -> (Transport, Port) {
    (packet.transport, packet.port)
}

fn to(port: u16, opens: bool) -> (Transport, Port) {
    let transport = match opens {
        true => Transport::Opens,
        false => Transport::Segment,
    };
    (transport, Port::from_host(port))
}

#[test]
fn ipv4_with_and_without_options() {
    for options in [0, 4, 40] {
        let packet = read(&v4(TCP, 0, options, &tcp(SYN)));
        assert_eq!(packet.dst, addr("192.0.2.1"));
        assert_eq!(packet.protocol, TCP);
        assert_eq!(above(&packet), to(443, true));
    }
}

#[test]
fn what_opens_a_connection() {
    for (flags, opens) in [
        (SYN, true),
        (SYN | 0xc0, true),
        (SYN | 0x08, true),
        (SYN | ACK, false),
        (ACK, false),
        (0x04, false),
        (0, false),
    ] {
        let packet = read(&v4(TCP, 0, 0, &tcp(flags)));
        assert_eq!(above(&packet), to(443, opens), "{flags:#x}");
    }
}

#[test]
fn protocols_with_ports_and_without() {
    for protocol in [UDP, DCCP, SCTP, UDPLITE] {
        let expected = (Transport::Ports, Port::from_host(443));
        assert_eq!(above(&read(&v4(protocol, 0, 0, &TO_443))), expected);
        assert_eq!(above(&read(&v6(&[], protocol, &TO_443))), expected);
    }
    for protocol in [1, 2, 4, 41, 47, 50, 58] {
        for fragment in [0, 1, 9] {
            let above = [TO_443, [0; 4]].concat();
            let packet = read(&v4(protocol, fragment, 0, &above));
            assert_eq!(packet.transport, Transport::Portless, "{protocol}");
        }
    }
}

#[test]
fn what_kernels_send_unasked() {
    for kind in 0..=255 {
        let message = [kind, 0, 0, 0, 0, 0, 0, 0];
        let expected = match kind {
            0 | 3 | 5 | 11 | 12 | 14 => Transport::Answer,
            _ => Transport::Portless,
        };
        assert_eq!(read(&v4(1, 0, 0, &message)).transport, expected, "{kind}");
        assert_eq!(read(&v4(1, 5, 0, &message)).transport, Transport::Portless);
        assert_eq!(read(&v6(&[], 1, &message)).transport, Transport::Portless);

        let mut packet = v6(&[], 58, &message);
        for (hops, dst) in [(64, 0x20), (255, 0x20), (1, 0xff)] {
            packet[7] = hops;
            packet[24] = dst;
            let expected = match kind {
                1..=4 | 129 => Transport::Answer,
                133..=137 if hops == 255 => Transport::Link,
                130..=132 | 143 if dst == 0xff => Transport::Link,
                _ => Transport::Portless,
            };
            assert_eq!(read(&packet).transport, expected, "{kind} {hops} {dst}");
        }
    }
    let mut report = v4(2, 0, 4, &[0x22, 0, 0, 0]);
    assert_eq!(read(&report).transport, Transport::Portless);
    report[16] = 224;
    assert_eq!(read(&report).transport, Transport::Link);
    // Group membership stands behind a router alert.
    let mut report = v6(&[(0, vec![0, 0, 5, 2, 0, 0, 1, 0])], 58, &[143, 0, 0, 0]);
    report[24] = 0xff;
    assert_eq!(read(&report).transport, Transport::Link);
    assert_eq!(read(&v6(&[], 58, &[])).transport, Transport::Portless);
}

#[test]
fn fragments_and_stumps_hide_their_ports() {
    // "More fragments" alone is the first one.
    assert_eq!(above(&read(&v4(TCP, 0x2000, 0, &tcp(SYN)))), to(443, true));
    // Without flags the next fragment may say SYN.
    for len in 4..=13 {
        let stump = &tcp(ACK)[..len];
        assert_eq!(above(&read(&v4(TCP, 0x2000, 0, stump))), to(443, true));
        assert_eq!(above(&read(&v6(&[], TCP, stump))), to(443, true));
    }
    for len in 0..4 {
        let stump = &TO_443[..len];
        for protocol in [TCP, UDP] {
            let packet = read(&v4(protocol, 0x2000, 0, stump));
            assert_eq!(packet.transport, Transport::Hidden);
            assert_eq!(read(&v6(&[], protocol, stump)).transport, Transport::Hidden);
        }
    }
    for (protocol, at, expected) in [
        (TCP, 1, Transport::Hidden),
        (TCP, 2, Transport::Fragment),
        (TCP, 0x1fff, Transport::Fragment),
        (UDP, 1, Transport::Fragment),
        (SCTP, 3, Transport::Fragment),
    ] {
        for more in [0, 0x2000] {
            let packet = read(&v4(protocol, more | at, 0, &tcp(SYN)));
            assert_eq!(packet.transport, expected, "{protocol} {at}");
        }
    }
    let first = vec![0, 0, 0, 1, 0, 0, 0, 9];
    let later = vec![0, 0, 0, 9, 0, 0, 0, 9];
    assert_eq!(
        above(&read(&v6(&[(44, first)], TCP, &tcp(SYN)))),
        to(443, true)
    );
    // The next may lie over its flags, and what lies there may be no more than padding of a frame.
    let first_of_data = vec![0, 0, 0, 1, 0, 0, 0, 9];
    let whole = vec![0, 0, 0, 0, 0, 0, 0, 9];
    for (fragment, opens) in [(first_of_data, true), (whole, false)] {
        let packet = read(&v6(&[(44, fragment)], TCP, &tcp(ACK)));
        assert_eq!(above(&packet), to(443, opens));
    }
    assert_eq!(
        read(&v6(&[(44, later)], TCP, &tcp(SYN))).transport,
        Transport::Fragment
    );
    // The first one ends within its extension headers.
    let stump = v6(
        &[(44, vec![0, 0, 0, 1, 0, 0, 0, 9]), (60, vec![0, 1])],
        TCP,
        &[],
    );
    assert_eq!(read(&stump).transport, Transport::Hidden);
}

#[test]
fn extension_headers_are_followed() {
    let options = |len: u8| {
        let mut header = vec![0; 8 * (usize::from(len) + 1)];
        header[1] = len;
        header
    };
    let authentication = [vec![0, 4], vec![0; 22]].concat();
    let chain = [
        (0, options(0)),
        (60, options(3)),
        (43, options(2)),
        (51, authentication),
        (44, vec![0; 8]),
        (60, options(31)),
    ];
    for from in 0..=chain.len() {
        let packet = read(&v6(&chain[from..], TCP, &tcp(SYN)));
        assert_eq!(packet.dst, addr("2001:db8::1"));
        assert_eq!(packet.protocol, TCP);
        assert_eq!(above(&packet), to(443, true), "{from}");
        assert_eq!(packet.steered, from <= 2, "{from}");
    }
    for (len, followed) in [(8, true), (9, false), (20, false)] {
        let chain: Vec<_> = (0..len).map(|_| (60, options(0))).collect();
        let packet = read(&v6(&chain, TCP, &tcp(SYN)));
        let found = packet.transport == Transport::Opens;
        assert_eq!((found, packet.steered), (followed, !followed), "{len}");
        let hidden = packet.transport == Transport::Hidden;
        assert_eq!(hidden, !followed, "{len}");
    }
    let later = [(43, options(2)), (44, vec![0, 0, 0, 8, 0, 0, 0, 7])];
    let packet = read(&v6(&later, TCP, &tcp(SYN)));
    assert_eq!(packet.transport, Transport::Fragment);
    assert!(packet.steered);
}

#[test]
fn source_routes_are_found_among_options() {
    let with = |options: &[u8]| {
        let mut bytes = v4(UDP, 0, 40, &TO_443);
        bytes[20..20 + options.len()].copy_from_slice(options);
        read(&bytes).steered
    };
    let record = [7, 7, 4, 0, 0, 0, 0];
    for route in [131, 137] {
        let route = [route, 7, 4, 192, 0, 2, 1];
        assert!(with(&route));
        assert!(with(&[[1].as_slice(), &route].concat()));
        assert!(with(&[record.as_slice(), &[1], &route].concat()));
        assert!(with(&[[1; 33].as_slice(), &route].concat()), "behind many");
        // What follows the end is not an option.
        assert!(!with(&[[0].as_slice(), &route].concat()));
    }
    assert!(!with(&record));
    assert!(!with(&[148, 4, 0, 0]), "a router alert");
    assert!(with(&[7, 0, 4]) && with(&[7, 1, 4]), "no length");
    // One that ends with the header, and bytes above it that look like a route.
    let mut bytes = v4(UDP, 0, 4, &[131, 7, 4, 0]);
    bytes[20..24].copy_from_slice(&[148, 4, 0, 0]);
    assert!(!read(&bytes).steered);
    assert!(!read(&v4(UDP, 0, 0, &[131, 7, 4, 0])).steered);
}

#[test]
fn frames_with_and_without_tags() {
    let ip = v4(TCP, 0, 0, &tcp(SYN));
    let frame = |types: &[u8]| [&[7; 12], types, &ip].concat();
    for types in [
        [8, 0].as_slice(),
        &[0x81, 0, 0, 5, 8, 0],
        &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 8, 0],
        // What the type says of the version does not matter.
        &[0x86, 0xdd],
    ] {
        let packet = Packet::read_frame(&Slice(&frame(types)));
        assert_eq!(packet, Some(read(&ip)), "{types:?}");
    }
    for types in [[8, 6], [0, 46]] {
        assert_eq!(Packet::read_frame(&Slice(&frame(&types))), None);
    }
}

proptest! {
    /// Nothing that a process can send makes the reader fail, and it never reads an address or a
    /// version that is not there.
    #[test]
    fn any_bytes_can_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        match Packet::read(&Slice(&bytes), 0) {
            Some(packet) => {
                let (version, ip) = match packet.dst.be_v4() {
                    Some(_) if bytes[0] >> 4 == 4 => (4, Addr::from_be_v4(
                        u32::from_ne_bytes(bytes[16..20].try_into().unwrap()))),
                    _ => (6, {
                        let ip: [u8; 16] = bytes[24..40].try_into().unwrap();
                        core::net::Ipv6Addr::from(ip).into()
                    }),
                };
                prop_assert_eq!(bytes[0] >> 4, version);
                prop_assert_eq!(packet.dst, ip);
            }
            None => prop_assert!(bytes.len() < 40 || !matches!(bytes[0] >> 4, 4 | 6)),
        }
        let _any = Packet::read_frame(&Slice(&bytes));
    }

    /// The short way says what the long one says, or nothing.
    #[test]
    fn what_is_read_in_fewer_steps_is_the_same(
        first in prop_oneof![Just(0x45), Just(0x46), Just(0x60), any::<u8>()],
        protocol in prop_oneof![Just(TCP), Just(UDP), Just(0u8), any::<u8>()],
        fragment in prop_oneof![Just(0u16), Just(0x2000), any::<u16>()],
        mut bytes in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        for (at, byte) in [(0, first), (6, protocol), (9, protocol)] {
            if let Some(there) = bytes.get_mut(at) {
                *there = byte;
            }
        }
        if first >> 4 == 4 && bytes.len() > 8 {
            bytes[6..8].copy_from_slice(&fragment.to_be_bytes());
        }
        let plain = Packet::read_plain(&Slice(&bytes), 0);
        prop_assert!(plain.is_none() || plain == Packet::read(&Slice(&bytes), 0));
        let mut frame = vec![0; 12];
        frame.extend(if first >> 4 == 6 { [0x86, 0xdd] } else { [8, 0] });
        frame.extend(&bytes);
        prop_assert_eq!(Packet::read_plain_frame(&Slice(&frame)), plain);
    }
}
