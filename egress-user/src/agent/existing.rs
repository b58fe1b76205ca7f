//! Connections that were there before the capture, which no program will ever see: listed, and
//! ended where that is wanted (sock_diag(7), `linux/sock_diag.h` and `linux/inet_diag.h`).

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

use crate::addr::{ClientAddr, OriginalDst};

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `SOCK_DESTROY`.
const DESTROY: u16 = 21;
/// `NLMSG_ERROR`, which is also how success is said.
const ERROR: u16 = 2;
/// `NLMSG_DONE`.
const DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_ACK`.
const ASK: u16 = 0x001 | 0x004;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x001 | 0x300;

/// `TCP_LISTEN` of `tcp_states.h`.
const LISTEN: u8 = 10;
/// The states of `tcp_states.h` in which something can still be sent: established, SYN sent, close
/// wait; and of sockets that listen.
const STATES: u32 = 1 << 1 | 1 << 2 | 1 << 8 | 1 << LISTEN;

const TCP: u8 = 6;
/// The length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// The length of `struct inet_diag_msg`.
const MESSAGE: usize = 72;
/// The length of `struct inet_diag_sockid`.
const SOCKET_ID: usize = 48;
/// `INET_DIAG_CGROUP_ID`, since Linux 5.9.
const CGROUP_ID: u16 = 21;

/// One of them.
#[derive(Clone, Debug)]
pub(super) struct Existing {
    pub(super) client: ClientAddr,
    pub(super) original_dst: OriginalDst,
    /// Absent where the kernel does not say.
    pub(super) cgroup: Option<u64>,
    pub(super) uid: u32,
    family: u8,
    state: u8,
    id: [u8; SOCKET_ID],
}

/// The connections of the calling thread's namespace, but not to loopback. Those from a port where
/// somebody listens were made from outside, unless they are to one of these `ports`.
///
/// # Errors
/// When the kernel cannot list sockets (`CONFIG_INET_DIAG`).
pub(super) fn made_here(ports: &[u16]) -> io::Result<Vec<Existing>> {
    let socket = open()?;
    let mut found = Vec::new();
    for family in [AddressFamily::INET, AddressFamily::INET6] {
        let family = u8::try_from(family.as_raw()).map_err(io::Error::other)?;
        send(
            &socket,
            &request(BY_FAMILY, DUMP, family, &[0; SOCKET_ID]),
            SendFlags::empty(),
        )?;
        dump(&socket, &mut found)?;
    }
    let (listening, mut found): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|socket| socket.state == LISTEN);
    let listening = listening.iter().map(|socket| socket.client.port());
    let listening: HashSet<u16> = listening.collect();
    found.retain(|existing| {
        let dst = existing.original_dst;
        let is_ours = ports.contains(&dst.port()) || !listening.contains(&existing.client.port());
        is_ours && !dst.ip().is_loopback()
    });
    Ok(found)
}

/// Resets a connection of the calling thread's namespace, at the application's end too
/// (`ECONNABORTED`). One that is gone already is no error.
///
/// # Errors
/// When the kernel cannot (`CONFIG_INET_DIAG_DESTROY`), or may not be told by this process.
pub(super) fn end(existing: &Existing) -> io::Result<()> {
    /// `ENOENT`.
    const GONE: i32 = 2;

    let socket = open()?;
    send(
        &socket,
        &request(DESTROY, ASK, existing.family, &existing.id),
        SendFlags::empty(),
    )?;
    let mut buffer = vec![0; 4096];
    let (len, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
    let message = messages(buffer.get(..len).unwrap_or_default()).next();
    match message.map(|(_, body)| errno(body)) {
        Some(0 | GONE) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(errno)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn open() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let protocol = Some(netlink::SOCK_DIAG);
    Ok(socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        flags,
        protocol,
    )?)
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
fn request(kind: u16, flags: u16, family: u8, id: &[u8; SOCKET_ID]) -> Vec<u8> {
    const LEN: u8 = 72;

    let mut out = Vec::with_capacity(LEN.into());
    out.extend(u32::from(LEN).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend([0; 8]);
    out.extend([family, TCP, 0, 0]);
    out.extend(STATES.to_ne_bytes());
    out.extend(id);
    out
}

fn dump(socket: &OwnedFd, found: &mut Vec<Existing>) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let (len, _) = recv(socket, &mut buffer[..], RecvFlags::empty())?;
        for (kind, body) in messages(buffer.get(..len).unwrap_or_default()) {
            match kind {
                DONE => return Ok(()),
                ERROR => return Err(io::Error::from_raw_os_error(errno(body))),
                BY_FAMILY => found.extend(read(body)),
                _ => {}
            }
        }
    }
}

/// The messages of a datagram: type and what follows the header.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (len, after) = rest.split_first_chunk::<4>()?;
        let (kind, _) = after.split_first_chunk::<2>()?;
        let len = usize::try_from(u32::from_ne_bytes(*len)).ok()?;
        let body = rest.get(HEADER..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes(*kind), body))
    })
}

/// The error of `struct nlmsgerr`, positive.
fn errno(body: &[u8]) -> i32 {
    let error = body.first_chunk().map(|error| i32::from_ne_bytes(*error));
    error.unwrap_or_default().saturating_neg()
}

/// `struct inet_diag_msg` and its attributes.
fn read(body: &[u8]) -> Option<Existing> {
    let (message, attributes) = body.split_first_chunk::<MESSAGE>()?;
    let [family, state, ..] = *message;
    let id: [u8; SOCKET_ID] = *message.get(4..)?.first_chunk()?;
    let (from, rest) = id.split_first_chunk::<2>()?;
    let (to, rest) = rest.split_first_chunk::<2>()?;
    let (source, rest) = rest.split_first_chunk::<16>()?;
    let (destination, _) = rest.split_first_chunk::<16>()?;
    let address = |ip: &[u8; 16], port: &[u8; 2]| {
        SocketAddr::from((address(family, ip), u16::from_be_bytes(*port)))
    };
    let uid = message.get(64..)?.first_chunk()?;
    Some(Existing {
        client: ClientAddr::new(address(source, from)),
        original_dst: OriginalDst::new(address(destination, to)),
        cgroup: cgroup(attributes),
        uid: u32::from_ne_bytes(*uid),
        family,
        state,
        id,
    })
}

fn address(family: u8, ip: &[u8; 16]) -> IpAddr {
    if u16::from(family) == AddressFamily::INET6.as_raw() {
        return Ipv6Addr::from(*ip).into();
    }
    let [a, b, c, d, ..] = *ip;
    Ipv4Addr::new(a, b, c, d).into()
}

fn cgroup(mut rest: &[u8]) -> Option<u64> {
    loop {
        let (len, after) = rest.split_first_chunk::<2>()?;
        let (kind, _) = after.split_first_chunk::<2>()?;
        let len = usize::from(u16::from_ne_bytes(*len));
        let value = rest.get(4..len)?;
        if u16::from_ne_bytes(*kind) == CGROUP_ID {
            return value.first_chunk().map(|id| u64::from_ne_bytes(*id));
        }
        rest = rest.get(len.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_short_is_nothing() {
        let whole = request(BY_FAMILY, DUMP, 2, &[0; SOCKET_ID]);
        assert_eq!(whole.len(), HEADER + 8 + SOCKET_ID);
        assert_eq!(messages(&whole).count(), 1);
        for len in 0..whole.len() {
            assert_eq!(messages(&whole[..len]).count(), 0, "{len}");
        }
        for len in 0..MESSAGE {
            assert!(read(&vec![2; len]).is_none());
        }
    }

    #[test]
    fn a_message_is_read() {
        let mut body = vec![0; MESSAGE];
        body[..2].copy_from_slice(&[2, LISTEN]);
        body[4..6].copy_from_slice(&40000u16.to_be_bytes());
        body[6..8].copy_from_slice(&443u16.to_be_bytes());
        body[8..12].copy_from_slice(&[192, 0, 2, 1]);
        body[24..28].copy_from_slice(&[192, 0, 2, 2]);
        body[64..68].copy_from_slice(&1000u32.to_ne_bytes());
        // Another attribute, padded, then the cgroup.
        body.extend([5, 0, 8, 0, 1, 0, 0, 0]);
        body.extend(12u16.to_ne_bytes());
        body.extend(CGROUP_ID.to_ne_bytes());
        body.extend(77u64.to_ne_bytes());
        let existing = read(&body).unwrap();
        assert_eq!(existing.client.to_string(), "192.0.2.1:40000");
        assert_eq!(existing.original_dst.to_string(), "192.0.2.2:443");
        assert_eq!((existing.cgroup, existing.uid), (Some(77), 1000));
        assert_eq!(existing.state, LISTEN);
    }
}
