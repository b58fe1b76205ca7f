//! Addresses and ports as they lie in socket addresses, packets and maps: in network byte order.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IP address in network byte order; an IPv4 address is held as `::ffff:a.b.c.d`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Addr {
    /// Four words, each in network byte order, so that the memory is the address's sixteen bytes.
    be_words: [u32; 4],
}

const _: () = assert!(size_of::<Addr>() == 16);

impl Addr {
    /// `::ffff:127.0.0.1`, where the agent's IPv4 listener is.
    pub const LOOPBACK_V4: Addr = Addr::from_be_v4(u32::from_be_bytes([127, 0, 0, 1]).to_be());
    /// `::1`, where the agent's IPv6 listener is.
    pub const LOOPBACK_V6: Addr = Addr::from_be_words([0, 0, 0, 1u32.to_be()]);

    /// `::`, no address at all.
    pub const UNSPECIFIED: Addr = Addr::from_be_words([0; 4]);

    /// The address whose four words in network byte order are `be_words`.
    #[inline(always)]
    pub const fn from_be_words(be_words: [u32; 4]) -> Addr {
        Addr { be_words }
    }

    /// The IPv4 address that is `be` in network byte order.
    #[inline(always)]
    pub const fn from_be_v4(be: u32) -> Addr {
        Addr::from_be_words([0, 0, 0xffff_u32.to_be(), be])
    }

    /// The four words of the address, each in network byte order.
    #[inline(always)]
    pub const fn be_words(self) -> [u32; 4] {
        self.be_words
    }

    /// The IPv4 address in network byte order, if it is one.
    #[inline(always)]
    pub const fn be_v4(self) -> Option<u32> {
        let [a, b, c, d] = self.be_words;
        // One condition, where a verifier of programs would follow three.
        if a | b | (c ^ 0xffff_u32.to_be()) == 0 {
            Some(d)
        } else {
            None
        }
    }

    /// Whether a connection to this address stays inside the network namespace:
    /// `127.0.0.0/8`, `::1`, and the unspecified addresses, which the kernel takes for loopback.
    #[inline(always)]
    pub const fn is_local(self) -> bool {
        match self.be_v4() {
            Some(v4) => v4 == 0 || u32::from_be(v4) >> 24 == 127,
            None => {
                let [a, b, c, d] = self.be_words;
                a | b | c | (d & !1u32.to_be()) == 0
            }
        }
    }
}

impl Addr {
    /// Whether this is a group's: `224.0.0.0/4` (RFC 5771), `ff00::/8` (RFC 4291).
    #[inline(always)]
    pub const fn is_multicast(self) -> bool {
        match self.be_v4() {
            Some(v4) => u32::from_be(v4) >> 28 == 0xe,
            None => {
                let [a, ..] = self.be_words;
                u32::from_be(a) >> 24 == 0xff
            }
        }
    }

    /// Whether this address holds on one link alone: `fe80::/10` (RFC 4291).
    #[inline(always)]
    pub const fn is_link_local_v6(self) -> bool {
        let [a, ..] = self.be_words;
        u32::from_be(a) >> 22 == 0xfe80 >> 6
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Addr {
        match ip {
            IpAddr::V4(v4) => Addr::from_be_v4(v4.to_bits().to_be()),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl From<Ipv6Addr> for Addr {
    #[inline(always)]
    fn from(v6: Ipv6Addr) -> Addr {
        let bits = v6.to_bits();
        let word = |shift: u32| {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "takes one of the four words"
            )]
            let word = (bits >> shift) as u32;
            word.to_be()
        };
        Addr::from_be_words([word(96), word(64), word(32), word(0)])
    }
}

impl From<Addr> for Ipv6Addr {
    #[inline(always)]
    fn from(addr: Addr) -> Ipv6Addr {
        let word = |be: u32| u128::from(u32::from_be(be));
        let [a, b, c, d] = addr.be_words;
        Ipv6Addr::from_bits(word(a) << 96 | word(b) << 64 | word(c) << 32 | word(d))
    }
}

impl From<Addr> for IpAddr {
    /// The address in its canonical form: a v4-mapped address becomes IPv4.
    fn from(addr: Addr) -> IpAddr {
        match addr.be_v4() {
            Some(be) => IpAddr::V4(Ipv4Addr::from_bits(u32::from_be(be))),
            None => IpAddr::V6(addr.into()),
        }
    }
}

/// A port in network byte order; zero stands for "none".
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Port {
    be: u16,
}

impl Port {
    /// No port.
    pub const NONE: Port = Port { be: 0 };
    /// The port of the domain name system.
    pub const DNS: Port = Port::from_host(53);

    /// The port that is `be` in network byte order.
    #[inline(always)]
    pub const fn from_be(be: u16) -> Port {
        Port { be }
    }

    /// The port that is `host` in the machine's byte order.
    #[inline(always)]
    pub const fn from_host(host: u16) -> Port {
        Port { be: host.to_be() }
    }

    /// The port in network byte order.
    #[inline(always)]
    pub const fn to_be(self) -> u16 {
        self.be
    }

    /// The port in the machine's byte order.
    #[inline(always)]
    pub const fn to_host(self) -> u16 {
        u16::from_be(self.be)
    }

    /// Whether this is no port.
    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.be == 0
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::string::ToString;

    fn addr(text: &str) -> Addr {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn memory_is_the_address_as_on_the_wire() {
        let bytes: std::vec::Vec<u8> = addr("2001:db8::a:7")
            .be_words()
            .into_iter()
            .flat_map(u32::to_ne_bytes)
            .collect();
        let v6: Ipv6Addr = "2001:db8::a:7".parse().unwrap();
        assert_eq!(bytes, v6.octets());
        assert_eq!(Port::from_host(443).to_be().to_ne_bytes(), [1, 187]);
    }

    #[test]
    fn one_form_for_ipv4() {
        assert_eq!(addr("192.0.2.7"), addr("::ffff:192.0.2.7"));
        assert_eq!(
            IpAddr::from(addr("::ffff:192.0.2.7")).to_string(),
            "192.0.2.7"
        );
        assert_eq!(
            addr("192.0.2.7").be_v4(),
            Some(u32::from_ne_bytes([192, 0, 2, 7]))
        );
        assert_eq!(addr("2001:db8::ffff:c000:207").be_v4(), None);
    }

    #[test]
    fn groups_and_links() {
        for group in ["224.0.0.22", "239.255.255.255", "ff02::16", "ff0e::1"] {
            assert!(addr(group).is_multicast(), "{group}");
        }
        for other in ["223.255.255.255", "240.0.0.1", "fe80::1", "::1", "0.0.0.0"] {
            assert!(!addr(other).is_multicast(), "{other}");
        }
        for link in ["fe80::1", "febf:ffff::1"] {
            assert!(addr(link).is_link_local_v6(), "{link}");
        }
        for other in ["fec0::1", "fe7f::1", "169.254.0.1", "::1", "2001:db8::1"] {
            assert!(!addr(other).is_link_local_v6(), "{other}");
        }
    }

    #[test]
    fn what_stays_inside_the_namespace() {
        for local in [
            "127.0.0.1",
            "127.255.255.254",
            "::ffff:127.0.0.53",
            "0.0.0.0",
            "::",
            "::ffff:0.0.0.0",
            "::1",
        ] {
            assert!(addr(local).is_local(), "{local}");
        }
        for outside in [
            "126.255.255.255",
            "128.0.0.1",
            "0.0.0.1",
            "169.254.169.254",
            "::2",
            "::127.0.0.1",
            "fe80::1",
            "2001:db8::1",
            "64:ff9b::7f00:1",
        ] {
            assert!(!addr(outside).is_local(), "{outside}");
        }
        assert!(Addr::LOOPBACK_V4.is_local() && Addr::LOOPBACK_V6.is_local());
        assert_eq!(Addr::LOOPBACK_V4, addr("127.0.0.1"));
        assert_eq!(Addr::LOOPBACK_V6, addr("::1"));
    }
}
