//! The decision about every socket that is made, and about its options.

use crate::{COMM_LEN, Caller, Fallback, ScopeConfig, Settings};

/// A socket of the internet families, as it is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewSocket {
    /// Id of the calling process's cgroup.
    pub cgroup: u64,
    /// `SOCK_STREAM`, `SOCK_DGRAM`, `SOCK_RAW` and so on, by number.
    pub kind: u32,
    /// The number of its protocol (`IPPROTO_`).
    pub protocol: u32,
}

/// What becomes of a [`NewSocket`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SocketVerdict {
    /// It is made; what it is used for will be judged.
    Make,
    /// It is made, and its packets will be judged.
    Remember,
    /// It is not made: the application gets `EPERM`.
    Refuse,
}

const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
pub(crate) const SOCK_RAW: u32 = 3;

pub(crate) const ICMP: u32 = 1;
pub(crate) const TCP: u32 = 6;
const UDP: u32 = 17;
pub(crate) const ICMPV6: u32 = 58;
const UDPLITE: u32 = 136;
const MPTCP: u32 = 262;

/// Whether `connect` and `sendmsg` of sockets of this kind and protocol are judged, so that they
/// are made in every scope.
#[inline(always)]
pub const fn is_judged(kind: u32, protocol: u32) -> bool {
    matches!(
        (kind, protocol),
        (SOCK_STREAM, TCP | MPTCP) | (SOCK_DGRAM, UDP | UDPLITE)
    )
}

/// Judges a socket; `scope` is that of its network namespace. Where the scope is strict, only
/// those are made whose `connect` and `sendmsg` are judged, and those that can only ping.
#[inline(always)]
pub fn decide_socket(
    settings: &Settings,
    scope: Option<&ScopeConfig>,
    socket: &NewSocket,
) -> SocketVerdict {
    let strict = scope.is_some_and(ScopeConfig::strict) && !settings.exempts(socket.cgroup);
    match (socket.kind, socket.protocol) {
        (kind, protocol) if is_judged(kind, protocol) => SocketVerdict::Make,
        (SOCK_DGRAM, ICMP | ICMPV6) => SocketVerdict::Remember,
        _ if strict => SocketVerdict::Refuse,
        // Also where nothing is captured yet: that may change while the socket lives.
        _ => SocketVerdict::Remember,
    }
}

/// Whether everybody may make a socket of this family (`AF_`), captured or not: nothing leaves by it
/// that is not judged. Of IP, [`decide_socket`] says which. There are others for frames
/// (`AF_PACKET`, `AF_XDP`), for what a virtual machine is on (`AF_VSOCK`), and with a transport of
/// their own (`AF_TIPC`, `AF_RDS`, `AF_SMC`, `AF_RXRPC`).
#[inline(always)]
pub const fn is_free_family(family: i32) -> bool {
    const AF_UNIX: i32 = 1;
    const AF_INET: i32 = 2;
    const AF_INET6: i32 = 10;
    const AF_NETLINK: i32 = 16;
    /// The kernel's cryptography.
    const AF_ALG: i32 = 38;

    matches!(family, AF_UNIX | AF_INET | AF_INET6 | AF_NETLINK | AF_ALG)
}

/// Whether a socket of a family that not [everybody](is_free_family) may make can be made in the
/// namespace with this scope: not in a strict one; where other ports are refused, a packet socket
/// alone, which guards hold; and in one that is not captured as its connections are.
#[inline(always)]
pub fn decide_family(
    settings: &Settings,
    scope: Option<&ScopeConfig>,
    cgroup: u64,
    family: i32,
) -> bool {
    const AF_PACKET: i32 = 17;

    let passes = match scope {
        Some(scope) if scope.strict() => false,
        Some(scope) => family == AF_PACKET || scope.other_ports() == Fallback::Pass,
        None => settings.unregistered() == Fallback::Pass,
    };
    passes || settings.exempts(cgroup)
}

/// A socket option that is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SetOption {
    /// The level (`SOL_`).
    pub level: i32,
    /// The option's number.
    pub option: i32,
    /// The family of the socket (`AF_`).
    pub family: u32,
    /// Its kind (`SOCK_`).
    pub kind: u32,
}

impl SetOption {
    /// Whether everybody may set it, captured or not.
    #[inline(always)]
    pub const fn is_free(&self) -> bool {
        const SOL_PACKET: i32 = 263;
        const PACKET_TX_RING: i32 = 13;
        const PACKET_QDISC_BYPASS: i32 = 20;
        const SOL_XDP: i32 = 283;
        const SOL_IP: i32 = 0;
        const IP_FREEBIND: i32 = 15;
        const IP_TRANSPARENT: i32 = 19;
        const SOL_IPV6: i32 = 41;
        const IPV6_TRANSPARENT: i32 = 75;
        const IPV6_FREEBIND: i32 = 78;
        const AF_INET6: u32 = 10;

        match (self.level, self.option) {
            // What is in the ring may be changed by its owner after it was judged.
            (SOL_PACKET, PACKET_QDISC_BYPASS | PACKET_TX_RING)
            | (SOL_XDP, _)
            | (SOL_IP, IP_TRANSPARENT)
            | (SOL_IPV6, IPV6_TRANSPARENT) => false,
            // By IPv4 there is no way from a foreign address to loopback, and datagrams go to none.
            (SOL_IP, IP_FREEBIND) | (SOL_IPV6, IPV6_FREEBIND) => {
                self.family != AF_INET6 || self.kind != SOCK_STREAM
            }
            _ => true,
        }
    }
}

/// Whether a socket option may be set; `scope` is that of the socket's network namespace. In a
/// captured one, options may not that let a packet or XDP socket hand its frames to the device
/// past the programs on it, nor those that give a socket a source address that is not its own: the
/// answers of the agent's listener would leave the namespace, and the connect would hang.
///
/// What is set before the capture would hold in it: a namespace that is not captured yet is treated
/// as its connections are.
#[inline(always)]
pub fn decide_option(
    settings: &Settings,
    scope: Option<&ScopeConfig>,
    cgroup: u64,
    option: &SetOption,
) -> bool {
    let captured = scope.is_some() || settings.unregistered() == Fallback::Refuse;
    option.is_free() || !captured || settings.exempts(cgroup)
}

/// What is stored with a socket whose `connect` or `sendmsg` nothing judges: who made it, in which
/// namespace. Packets know neither on every kernel. It lives as long as the socket, also when
/// another agent takes over: it knows the form by the size.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unjudged {
    netns: u64,
    cgroup: u64,
    pid: u32,
    uid: u32,
    comm: [u8; COMM_LEN],
    kind: u32,
    zero: u32,
}

const _: () = assert!(size_of::<Unjudged>() == 48);

impl Unjudged {
    /// A socket of this kind that `maker` made in the namespace with the cookie `netns`.
    #[inline(always)]
    pub const fn new(kind: u32, netns: u64, maker: Caller) -> Unjudged {
        Unjudged {
            netns,
            cgroup: maker.cgroup,
            pid: maker.pid,
            uid: maker.uid,
            comm: maker.comm,
            kind,
            zero: 0,
        }
    }

    /// Whether the process writes the protocol's header itself.
    #[inline(always)]
    pub const fn is_raw(&self) -> bool {
        self.kind == SOCK_RAW
    }

    /// Cookie of the namespace.
    #[inline(always)]
    pub const fn netns(&self) -> u64 {
        self.netns
    }

    /// The process that made it.
    #[inline(always)]
    pub const fn maker(&self) -> Caller {
        Caller {
            cgroup: self.cgroup,
            pid: self.pid,
            uid: self.uid,
            comm: self.comm,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EXEMPT_CGROUPS, Port};

    const ANY: [(u32, u32); 12] = [
        (SOCK_STREAM, TCP),
        (SOCK_STREAM, MPTCP),
        (SOCK_DGRAM, UDP),
        (SOCK_DGRAM, UDPLITE),
        (SOCK_DGRAM, ICMP),
        (SOCK_DGRAM, ICMPV6),
        (SOCK_RAW, TCP),
        (SOCK_RAW, ICMP),
        (SOCK_RAW, 255),
        (SOCK_STREAM, 132),
        (5, 132),
        (6, 33),
    ];

    fn decide(strict: Option<bool>, cgroup: u64, (kind, protocol): (u32, u32)) -> SocketVerdict {
        let mut exempt = [0; EXEMPT_CGROUPS];
        exempt[1] = 7;
        let settings = Settings::new(exempt, Fallback::Refuse);
        let scope = strict
            .map(|strict| ScopeConfig::new(Port::from_host(1), Port::NONE).with_strict(strict));
        let socket = NewSocket {
            cgroup,
            kind,
            protocol,
        };
        decide_socket(&settings, scope.as_ref(), &socket)
    }

    #[test]
    fn a_strict_scope_makes_only_what_is_judged() {
        for socket in &ANY[..4] {
            assert_eq!(decide(Some(true), 1, *socket), SocketVerdict::Make);
        }
        for ping in &ANY[4..6] {
            assert_eq!(decide(Some(true), 1, *ping), SocketVerdict::Remember);
        }
        for socket in &ANY[6..] {
            assert_eq!(decide(Some(true), 1, *socket), SocketVerdict::Refuse);
        }
    }

    #[test]
    fn other_families_go_with_other_ports() {
        const PACKET: i32 = 17;
        const VSOCK: i32 = 40;

        let scope = |strict, other_ports| {
            ScopeConfig::new(Port::from_host(1), Port::NONE)
                .with_strict(strict)
                .with_other_ports(other_ports)
        };
        for fallback in [Fallback::Refuse, Fallback::Pass] {
            let settings = Settings::new([7, 0, 0, 0], fallback);
            let passes = fallback == Fallback::Pass;
            for (scope, vsock, packet) in [
                (Some(scope(true, fallback)), false, false),
                (Some(scope(false, fallback)), passes, true),
                (None, passes, passes),
            ] {
                let may = |cgroup, family| decide_family(&settings, scope.as_ref(), cgroup, family);
                assert_eq!((may(1, VSOCK), may(1, PACKET)), (vsock, packet));
                assert!(may(7, VSOCK) && may(7, PACKET), "exempt");
            }
        }
        for family in -1..60 {
            let free = matches!(family, 1 | 2 | 10 | 16 | 38);
            assert_eq!(is_free_family(family), free, "{family}");
        }
    }

    #[test]
    fn options_past_the_guard_are_for_others() {
        let exempt = [7, 0, 0, 0];
        let scope = ScopeConfig::new(Port::from_host(1), Port::NONE);
        for (level, option, harmless) in [
            (263, 20, false),
            (263, 13, false),
            (263, 5, true),
            (263, 19, true),
            (283, 4, false),
            (0, 19, false),
            (41, 75, false),
            (0, 15, false),
            (41, 78, false),
            (1, 20, true),
            (0, 20, true),
            (6, 1, true),
            (41, 15, true),
        ] {
            let option = SetOption {
                level,
                option,
                family: 10,
                kind: SOCK_STREAM,
            };
            for unregistered in [Fallback::Refuse, Fallback::Pass] {
                let settings = Settings::new(exempt, unregistered);
                let may = |scope, cgroup| decide_option(&settings, scope, cgroup, &option);
                assert_eq!(option.is_free(), harmless, "{option:?}");
                assert_eq!(may(Some(&scope), 1), harmless, "{option:?}");
                assert!(may(Some(&scope), 7), "exempt");
                let free = harmless || unregistered == Fallback::Pass;
                assert_eq!(may(None, 1), free, "not captured: {option:?}");
                assert!(may(None, 7), "exempt");
            }
        }
    }

    /// Servers bind so, and clients of IPv4 are told at once.
    #[test]
    fn a_foreign_address_is_harmless_where_nothing_is_redirected_to_ipv6() {
        for (level, option) in [(0, 15), (41, 78)] {
            for (family, kind, free) in [
                (2, SOCK_STREAM, true),
                (2, SOCK_DGRAM, true),
                (10, SOCK_STREAM, false),
                (10, SOCK_DGRAM, true),
                (10, SOCK_RAW, true),
            ] {
                let option = SetOption {
                    level,
                    option,
                    family,
                    kind,
                };
                assert_eq!(option.is_free(), free, "{option:?}");
            }
        }
    }

    #[test]
    fn elsewhere_all_are_made_and_what_nothing_judges_is_remembered() {
        for (index, socket) in ANY.into_iter().enumerate() {
            let expected = if index < 4 {
                SocketVerdict::Make
            } else {
                SocketVerdict::Remember
            };
            assert_eq!(decide(Some(false), 1, socket), expected);
            assert_eq!(decide(None, 1, socket), expected);
            assert_eq!(decide(Some(true), 7, socket), expected, "exempt");
        }
    }
}
