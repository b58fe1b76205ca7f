//! The network devices of the calling thread's namespace.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd as _;

use socket2::{Domain, Socket, Type};

/// A device by which packets leave.
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) index: u32,
    pub(super) link: Link,
}

/// What the bytes of a packet on a device begin with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Link {
    /// An Ethernet header.
    Ethernet,
    /// The IP header.
    Bare,
    /// A header that is not known, of a link layer with this number (`ARPHRD_`).
    Unknown(u16),
}

/// Every device but loopback, and but those that are down and could not be guarded: kernels give
/// every namespace such ones.
pub(super) fn interfaces() -> io::Result<Vec<Interface>> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut interfaces = Vec::new();
    for (index, name) in names()? {
        if let Some(link) = link(&socket, &name)? {
            interfaces.push(Interface { name, index, link });
        }
    }
    Ok(interfaces)
}

fn names() -> io::Result<Vec<(u32, String)>> {
    // SAFETY: it takes nothing; the list that it gives is freed below.
    let list = unsafe { libc::if_nameindex() };
    if list.is_null() {
        return Err(io::Error::last_os_error());
    }
    let mut names = Vec::new();
    let mut entry = list;
    // SAFETY: the list ends with an entry without name; the names of those before end with a zero.
    unsafe {
        while !(*entry).if_name.is_null() {
            let name = CStr::from_ptr((*entry).if_name);
            names.push(((*entry).if_index, name.to_string_lossy().into_owned()));
            entry = entry.add(1);
        }
        libc::if_freenameindex(list);
    }
    Ok(names)
}

/// What the device's packets begin with; `None` for what [`interfaces`] leaves out, and for a device
/// that has gone.
fn link(socket: &Socket, name: &str) -> io::Result<Option<Link>> {
    /// Of mobile modems; the libc crate does not have it.
    const ARPHRD_RAWIP: u16 = 519;

    let Some(request) = ask(socket, name, libc::SIOCGIFHWADDR)? else {
        return Ok(None);
    };
    // SAFETY: the command succeeded and filled this field.
    let kind = unsafe { request.ifr_ifru.ifru_hwaddr.sa_family };
    Ok(match kind {
        libc::ARPHRD_LOOPBACK => None,
        libc::ARPHRD_ETHER => Some(Link::Ethernet),
        // Tun, WireGuard and the like; tunnels that add their header after the guard.
        libc::ARPHRD_NONE
        | ARPHRD_RAWIP
        | libc::ARPHRD_PPP
        | libc::ARPHRD_TUNNEL
        | libc::ARPHRD_TUNNEL6
        | libc::ARPHRD_SIT => Some(Link::Bare),
        kind if is_up(socket, name)? => Some(Link::Unknown(kind)),
        _ => None,
    })
}

fn is_up(socket: &Socket, name: &str) -> io::Result<bool> {
    let Some(request) = ask(socket, name, libc::SIOCGIFFLAGS)? else {
        return Ok(false);
    };
    // SAFETY: the command succeeded and filled this field.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok(libc::c_int::from(flags) & libc::IFF_UP != 0)
}

/// Asks about a device; `None` if it has gone.
fn ask(socket: &Socket, name: &str, command: libc::Ioctl) -> io::Result<Option<libc::ifreq>> {
    let request = MaybeUninit::<libc::ifreq>::zeroed();
    // SAFETY: zeros are a request with an empty name.
    let mut request = unsafe { request.assume_init() };
    // The name is shorter than its field, and closed by a zero.
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    // SAFETY: the socket is open, and the request is one for the commands that ask about devices.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), command, &raw mut request) };
    if result < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ENODEV) => Ok(None),
            _ => Err(error),
        };
    }
    Ok(Some(request))
}
