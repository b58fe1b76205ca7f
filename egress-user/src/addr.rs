//! Addresses by the part they play; no function across a room takes a bare [`SocketAddr`].

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub struct $name(SocketAddr);

        impl $name {
            /// Takes the address in its canonical form: a v4-mapped address becomes IPv4.
            pub fn new(addr: SocketAddr) -> Self {
                Self(SocketAddr::new(addr.ip().to_canonical(), addr.port()))
            }

            /// The plain socket address.
            pub fn get(self) -> SocketAddr {
                self.0
            }

            /// The IP address alone.
            pub fn ip(self) -> IpAddr {
                self.0.ip()
            }

            /// The port in host byte order.
            pub fn port(self) -> u16 {
                self.0.port()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

address! {
    /// The application's end of a captured connection, as the agent's listener sees it.
    ClientAddr
}
address! {
    /// Where the application meant to connect. Recorded, never dialled.
    OriginalDst
}
address! {
    /// A gateway, as the agent dials it.
    GatewayAddr
}
address! {
    /// The agent's end of a tunnel, as the gateway sees it.
    AgentAddr
}
address! {
    /// An origin address that was resolved and checked; the one that is dialled.
    OriginAddr
}

/// What stands for the host at an address: the address, or of IPv6 its network of 64 bits, all of which
/// one host may have (RFC 4291 §2.5.1).
pub fn host_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v4_mapped_is_ipv4() {
        let addr = OriginalDst::new("[::ffff:192.0.2.7]:443".parse().unwrap());
        assert_eq!(addr.to_string(), "192.0.2.7:443");
    }
}
