//! A tun device in a namespace: IP packets that leave by it can be read here, and others sent in.

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::zeroed;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt as _;

use socket2::{Domain, Socket, Type};

/// The name of the device.
pub(super) const NAME: &str = "egress-canary";

/// Makes the device in the calling thread's namespace, with these addresses, and brings it and the
/// loopback device up. It lives as long as the file. Says whether there is IPv6.
pub(super) fn create(
    v4: Ipv4Addr,
    mask: Ipv4Addr,
    v6: Ipv6Addr,
    prefix: u32,
) -> io::Result<(File, bool)> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")?;
    let mut request = request(NAME);
    request.ifr_ifru.ifru_flags = short(libc::IFF_TUN | libc::IFF_NO_PI);
    // SAFETY: the file is a tun file, and the request one for this command.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    set_v4(&socket, libc::SIOCSIFADDR, v4)?;
    set_v4(&socket, libc::SIOCSIFNETMASK, mask)?;
    for name in ["lo", NAME] {
        bring_up(&socket, name)?;
    }
    let has_v6 = add_v6(v6, prefix).is_ok();
    Ok((file, has_v6))
}

fn set_v4(socket: &Socket, command: libc::Ioctl, address: Ipv4Addr) -> io::Result<()> {
    let mut request = request(NAME);
    let family = libc::sa_family_t::try_from(libc::AF_INET).map_err(io::Error::other)?;
    let address = libc::sockaddr_in {
        sin_family: family,
        sin_port: 0,
        sin_addr: libc::in_addr {
            s_addr: u32::from(address).to_be(),
        },
        sin_zero: [0; 8],
    };
    // SAFETY: both forms of an address have the same size, and the field holds either.
    request.ifr_ifru.ifru_addr =
        unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(address) };
    // SAFETY: the socket is open, and the request is one for this command.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), command, &raw mut request) })
}

fn bring_up(socket: &Socket, name: &str) -> io::Result<()> {
    let mut request = request(name);
    // SAFETY: the socket is open, and the request is one for this command.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) })?;
    // SAFETY: the command succeeded and filled this field.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | short(libc::IFF_UP);
    // SAFETY: as above.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) })
}

fn add_v6(address: Ipv6Addr, prefix: u32) -> io::Result<()> {
    /// `struct in6_ifreq` of the kernel's `ipv6.h`.
    #[repr(C)]
    struct Request {
        address: libc::in6_addr,
        prefix: u32,
        index: libc::c_int,
    }

    let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
    let index = rustix::net::netdevice::name_to_index(&socket, NAME)?;
    let mut request = Request {
        address: libc::in6_addr {
            s6_addr: address.octets(),
        },
        prefix,
        index: libc::c_int::try_from(index).map_err(io::Error::other)?,
    };
    // SAFETY: the socket is open, and for sockets of its family the request is one for this command.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFADDR, &raw mut request) })
}

/// A request about a device; its name is shorter than the field.
fn request(name: &str) -> libc::ifreq {
    // SAFETY: zeros are a request with an empty name.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request
}

/// Flags of devices are sixteen bits.
fn short(flags: libc::c_int) -> libc::c_short {
    #[expect(clippy::cast_possible_truncation, reason = "all flags fit")]
    let flags = flags as libc::c_short;
    flags
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
