//! Datagrams to loopback that leave all the same: socket options have them do so that any user may
//! set.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{CAPTURED, Form, Outcome, Transport, V6, failed, make, set, tun};

/// A routing header leads to the canary first, which the hooks of sockets are not told.
pub(super) fn by_the_canary() -> Result<(), Outcome> {
    const IPV6_RTHDR: i32 = 57;
    let socket = make(Transport::Udp, Form::V6)?;
    // RFC 8754, section 2: two segments, the last of the way first.
    let mut header = vec![0, 4, 4, 1, 1, 0, 0, 0];
    header.extend(Ipv6Addr::LOCALHOST.octets());
    header.extend(V6.octets());
    set(&socket, libc::IPPROTO_IPV6, IPV6_RTHDR, &header)?;
    let loopback = SocketAddr::from((Ipv6Addr::LOCALHOST, CAPTURED));
    let sent = socket.send_to(b"datagram", &loopback.into());
    sent.map(drop).map_err(failed)
}

/// The device is the wire's; the hooks of sockets see it only where the socket is bound to it.
pub(super) fn by_device(bound: bool) -> Result<(), Outcome> {
    const IP_UNICAST_IF: i32 = 50;
    let socket = make(Transport::Udp, Form::V4)?;
    if bound {
        let device = Some(tun::NAME.as_bytes());
        socket.bind_device(device).map_err(failed)?;
    } else {
        let index = rustix::net::netdevice::name_to_index(&socket, tun::NAME);
        let index = index.map_err(|errno| failed(errno.into()))?;
        set(&socket, libc::SOL_IP, IP_UNICAST_IF, &index.to_be_bytes())?;
    }
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, CAPTURED));
    let sent = socket.send_to(b"datagram", &loopback.into());
    sent.map(drop).map_err(failed)
}
