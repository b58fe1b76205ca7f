//! Addresses that a public name may not lead to, unless the operator says so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Special-purpose IPv4 blocks (IANA registry, RFC 6890 and its updates).
const V4: &[(Ipv4Addr, u8)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8),       // this network, RFC 791
    (Ipv4Addr::new(10, 0, 0, 0), 8),      // private, RFC 1918
    (Ipv4Addr::new(100, 64, 0, 0), 10),   // shared (CGNAT), RFC 6598
    (Ipv4Addr::new(127, 0, 0, 0), 8),     // loopback, RFC 1122
    (Ipv4Addr::new(169, 254, 0, 0), 16),  // link-local and cloud metadata, RFC 3927
    (Ipv4Addr::new(172, 16, 0, 0), 12),   // private, RFC 1918
    (Ipv4Addr::new(192, 0, 0, 0), 24),    // IETF protocol assignments, RFC 6890
    (Ipv4Addr::new(192, 0, 2, 0), 24),    // documentation, RFC 5737
    (Ipv4Addr::new(192, 88, 99, 0), 24),  // 6to4 relay anycast, RFC 7526
    (Ipv4Addr::new(192, 168, 0, 0), 16),  // private, RFC 1918
    (Ipv4Addr::new(198, 18, 0, 0), 15),   // benchmarking, RFC 2544
    (Ipv4Addr::new(198, 51, 100, 0), 24), // documentation, RFC 5737
    (Ipv4Addr::new(203, 0, 113, 0), 24),  // documentation, RFC 5737
    (Ipv4Addr::new(224, 0, 0, 0), 4),     // multicast, RFC 5771
    (Ipv4Addr::new(240, 0, 0, 0), 4),     // reserved and broadcast, RFC 1112, RFC 919
];

/// Special-purpose IPv6 blocks. Outside 2000::/3 nothing is global unicast.
const V6: &[(Ipv6Addr, u8)] = &[
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), // IETF assignments, Teredo among them
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32), // documentation, RFC 3849
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20), // documentation, RFC 9637
];

const GLOBAL_UNICAST: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// The range check with the operator's exceptions.
#[derive(Clone, Debug, Default)]
pub struct Forbidden {
    allowed: Vec<IpNet>,
}

impl Forbidden {
    /// Everything special is forbidden but what lies in `allowed`.
    pub fn except(allowed: Vec<IpNet>) -> Forbidden {
        Forbidden { allowed }
    }

    /// Whether the address may not be dialled.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        if self.allowed.iter().any(|net| net.contains(&ip)) {
            return false;
        }
        match ip {
            IpAddr::V4(ip) => forbidden_v4(ip),
            IpAddr::V6(ip) => match embedded_v4(ip) {
                Some(inner) => self.contains(IpAddr::V4(inner)),
                None => forbidden_v6(ip),
            },
        }
    }
}

fn forbidden_v4(ip: Ipv4Addr) -> bool {
    V4.iter().any(|&(net, len)| in_v4(ip, net, len))
}

fn forbidden_v6(ip: Ipv6Addr) -> bool {
    let (net, len) = GLOBAL_UNICAST;
    !in_v6(ip, net, len) || V6.iter().any(|&(net, len)| in_v6(ip, net, len))
}

/// The IPv4 address that a translating or tunnelling address leads to:
/// NAT64 (64:ff9b::/96, RFC 6052) and 6to4 (2002::/16, RFC 3056). Teredo and the
/// local-use NAT64 prefix are forbidden whole, as parts of special blocks.
fn embedded_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = ip.segments();
    match (a, b, c, d, e, f) {
        (0x64, 0xff9b, 0, 0, 0, 0) => Some(v4(g, h)),
        (0x2002, ..) => Some(v4(b, c)),
        _ => None,
    }
}

fn v4(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low))
}

fn in_v4(ip: Ipv4Addr, net: Ipv4Addr, len: u8) -> bool {
    (ip.to_bits() ^ net.to_bits()) >> (32 - len) == 0
}

fn in_v6(ip: Ipv6Addr, net: Ipv6Addr, len: u8) -> bool {
    (ip.to_bits() ^ net.to_bits()) >> (128 - len) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forbidden(ip: &str) -> bool {
        Forbidden::default().contains(ip.parse().unwrap())
    }

    #[test]
    fn special_ranges_are_forbidden() {
        for ip in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "2001:db8::1",
            "3fff::1",
            "2001::1",
            "100::1",
            "64:ff9b:1::1",
            "::127.0.0.1",
            "fec0::1",
            "5f00::1",
        ] {
            assert!(forbidden(ip), "{ip}");
        }
    }

    #[test]
    fn the_same_inside_other_forms() {
        for ip in [
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "2002:0a00:0001::1",
            "2001:0:53aa:64c::",
        ] {
            assert!(forbidden(ip), "{ip}");
        }
    }

    #[test]
    fn public_addresses_are_not() {
        for ip in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "185.15.59.224",
            "223.255.255.255",
            "2a02:ec80:300:ed1a::1",
            "2606:4700::1111",
            "64:ff9b::b90f:3be0",
            "2002:b90f:3be0::1",
            "::ffff:185.15.59.224",
        ] {
            assert!(!forbidden(ip), "{ip}");
        }
    }

    #[test]
    fn exceptions_open_only_what_they_name() {
        let forbidden = Forbidden::except(vec!["10.9.0.0/16".parse().unwrap()]);
        let contains = |ip: &str| forbidden.contains(ip.parse().unwrap());
        assert!(!contains("10.9.1.1"));
        assert!(!contains("::ffff:10.9.1.1"));
        assert!(!contains("64:ff9b::0a09:0101"));
        assert!(contains("10.8.1.1"));
        assert!(contains("127.0.0.1"));
    }
}
