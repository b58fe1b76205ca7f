//! What is tried, and the process that tries it.

use std::fs::{self, File};
use std::io::{self, BufRead as _};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::Command;
use std::time::Duration;

use rustix::net::{SendFlags, connect_unspec};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};

use super::canary::{OWN_V4, V4, V6};
use super::child::{Order, Outcome, READY};
use super::{packet, tun};
use crate::compat;

mod astray;
mod ring;

/// How long an attempt waits for an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// The port that every capture redirects by default.
pub(super) const CAPTURED: u16 = 443;

/// Another address behind the wire, of a range for documentation.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

const SOCK_DCCP: i32 = 6;

/// A transport, by what a process asks the kernel for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Transport {
    Tcp,
    Mptcp,
    Udp,
    UdpLite,
    Sctp,
    Dccp,
    Ping,
}

/// The form of a destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Form {
    V4,
    V6,
    /// IPv4 through an IPv6 socket.
    Mapped,
}

/// Whether a packet socket's frame goes by the device's queue, at which guards are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Queue {
    By,
    /// It is told to go past it.
    Past,
    /// As above, by a system call of a 32-bit program.
    PastBy32Bits,
}

/// One way to get something to the canary.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Attempt {
    Connect(Transport, Form, u16),
    SendTo(Transport, Form, u16),
    /// Sends a datagram to loopback that goes by way of the canary.
    Routed,
    /// Sends a datagram to loopback that leaves by the wire's device: the socket is bound to it, or
    /// has it as the one that datagrams without a better route leave by.
    ByDevice {
        bound: bool,
    },
    /// Connects and sends in one call.
    FastOpen(Form),
    /// Connects, and the kernel waits for what is sent.
    FastOpenConnect,
    /// Connects by a ring that the kernel reads.
    Ring,
    /// The socket was made before anything was captured.
    MadeBefore,
    /// The socket was made by a process that is not captured.
    Inherited,
    /// A child of the process connects.
    Forked,
    /// The socket is bound to an address first.
    Bound,
    /// The socket has a mark for policy routing.
    Marked,
    /// The socket asks for a foreign source address.
    Transparent,
    /// The socket is bound to the wire's device.
    BoundToDevice,
    /// Connects elsewhere, takes it back, and connects.
    Again,
    /// Connects from a new namespace that nobody has seen.
    NewNamespace,
    /// A raw socket sends TCP.
    Raw(Form),
    /// A raw socket sends a packet with its IP header: of TCP, or of UDP.
    RawHeader {
        tcp: bool,
    },
    /// A packet socket sends a frame.
    Frame(Queue),
    /// Connects to the agent's own listener.
    Listener(u16),
    /// Does nothing; it is there to be found.
    Wait,
}

impl Attempt {
    /// The plainest one.
    pub(super) fn control() -> Attempt {
        Attempt::Connect(Transport::Tcp, Form::V4, CAPTURED)
    }
}

/// The process of one attempt: enters, says that it is ready, waits, tries, and says what came of it.
///
/// # Errors
/// When the order cannot be read, or its place cannot be entered.
pub fn run(order: &str) -> anyhow::Result<()> {
    let order: Order = serde_json::from_str(order)?;
    if let Some(cgroup) = &order.cgroup {
        fs::write(cgroup.join("cgroup.procs"), "0")?;
    }
    let netns = File::open(&order.netns)?;
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
    let outcome = match order.attempt {
        // The child says everything itself.
        Attempt::Forked => return forked(&order),
        Attempt::MadeBefore => {
            let socket = make(Transport::Tcp, Form::V4);
            wait()?;
            socket.and_then(|socket| connect(&socket, destination(Form::V4, CAPTURED)))
        }
        Attempt::Inherited => {
            println!("{READY}");
            let socket = io::stdin().as_fd().try_clone_to_owned()?;
            connect(&Socket::from(socket), destination(Form::V4, CAPTURED))
        }
        attempt => {
            wait()?;
            make_attempt(&attempt)
        }
    };
    println!(
        "{}",
        serde_json::to_string(&outcome.err().unwrap_or(Outcome::Done))?
    );
    Ok(())
}

fn wait() -> io::Result<()> {
    println!("{READY}");
    io::stdin().lock().read_line(&mut String::new()).map(drop)
}

fn forked(order: &Order) -> anyhow::Result<()> {
    let order = Order {
        cgroup: None,
        netns: order.netns.clone(),
        attempt: Attempt::control(),
    };
    let child = Command::new(std::env::current_exe()?)
        .args(["selftest", "--attempt", &serde_json::to_string(&order)?])
        .status()?;
    anyhow::ensure!(child.success(), "the child of an attempt failed");
    Ok(())
}

fn make_attempt(attempt: &Attempt) -> Result<(), Outcome> {
    let dst = destination(Form::V4, CAPTURED);
    let tcp = || make(Transport::Tcp, Form::V4);
    match attempt {
        Attempt::Connect(transport, form, port) => {
            connect(&make(*transport, *form)?, destination(*form, *port))
        }
        Attempt::SendTo(transport, form, port) => send_to(*transport, *form, *port),
        Attempt::Routed => astray::by_the_canary(),
        Attempt::ByDevice { bound } => astray::by_device(*bound),
        Attempt::FastOpen(form) => fast_open(*form),
        Attempt::FastOpenConnect => fast_open_connect(&tcp()?, dst),
        Attempt::Ring => ring::connect(&tcp()?, dst),
        Attempt::Bound
        | Attempt::Marked
        | Attempt::Transparent
        | Attempt::BoundToDevice
        | Attempt::Again
        | Attempt::NewNamespace => connect(&odd_one(attempt)?, dst),
        Attempt::Raw(form) => send_raw(*form, libc::IPPROTO_TCP, &packet::syn(CAPTURED)),
        Attempt::RawHeader { tcp } => send_raw(Form::V4, libc::IPPROTO_RAW, &whole_packet(*tcp)),
        Attempt::Frame(queue) => send_frame(*queue),
        Attempt::Listener(port) => listen_to_listener(&tcp()?, *port),
        // These were made by their process.
        Attempt::Wait | Attempt::MadeBefore | Attempt::Inherited | Attempt::Forked => Ok(()),
    }
}

/// A socket that something was done to before it connects, or that was made somewhere else.
fn odd_one(attempt: &Attempt) -> Result<Socket, Outcome> {
    const IP_TRANSPARENT: i32 = 19;

    if *attempt == Attempt::NewNamespace {
        // SAFETY: the process has one thread, and a namespace of the network has no memory.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.map_err(|errno| failed(errno.into()))?;
    }
    let socket = make(Transport::Tcp, Form::V4)?;
    let bind = |ip: Ipv4Addr| socket.bind(&SocketAddr::from((ip, 0)).into());
    let done = match attempt {
        Attempt::Bound => bind(OWN_V4),
        Attempt::Marked => socket.set_mark(0x2a),
        Attempt::Transparent => {
            set(&socket, libc::SOL_IP, IP_TRANSPARENT, &1_i32.to_ne_bytes())?;
            bind(ELSEWHERE)
        }
        Attempt::BoundToDevice => socket.bind_device(Some(tun::NAME.as_bytes())),
        Attempt::Again => {
            connect(&socket, SocketAddr::from((ELSEWHERE, CAPTURED)))?;
            connect_unspec(&socket).map_err(Into::into)
        }
        _ => Ok(()),
    };
    done.map_err(failed)?;
    Ok(socket)
}

fn fast_open_connect(socket: &Socket, dst: SocketAddr) -> Result<(), Outcome> {
    const TCP_FASTOPEN_CONNECT: i32 = 30;

    let on = 1_i32.to_ne_bytes();
    set(socket, libc::IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &on)?;
    connect(socket, dst)?;
    socket.send(b"early").map(drop).map_err(failed)
}

fn listen_to_listener(socket: &Socket, port: u16) -> Result<(), Outcome> {
    connect(socket, SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let mut buffer = [MaybeUninit::uninit(); 1];
    socket.recv(&mut buffer).map(drop).map_err(failed)
}

fn destination(form: Form, port: u16) -> SocketAddr {
    let ip = match form {
        Form::V4 => IpAddr::V4(V4),
        Form::V6 => IpAddr::V6(V6),
        Form::Mapped => IpAddr::V6(V4.to_ipv6_mapped()),
    };
    SocketAddr::new(ip, port)
}

/// A socket; what the kernel does not have is no way out.
fn make(transport: Transport, form: Form) -> Result<Socket, Outcome> {
    let v6 = form != Form::V4;
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    let (kind, protocol) = match transport {
        Transport::Tcp => (Type::STREAM, libc::IPPROTO_TCP),
        Transport::Mptcp => (Type::STREAM, libc::IPPROTO_MPTCP),
        Transport::Udp => (Type::DGRAM, libc::IPPROTO_UDP),
        Transport::UdpLite => (Type::DGRAM, libc::IPPROTO_UDPLITE),
        Transport::Sctp => (Type::STREAM, libc::IPPROTO_SCTP),
        Transport::Dccp => (Type::from(SOCK_DCCP), libc::IPPROTO_DCCP),
        Transport::Ping if v6 => (Type::DGRAM, libc::IPPROTO_ICMPV6),
        Transport::Ping => (Type::DGRAM, libc::IPPROTO_ICMP),
    };
    let made = Socket::new(domain, kind, Some(protocol.into())).and_then(|socket| {
        // Of a call that connects and sends.
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(socket)
    });
    made.map_err(|error| match error.raw_os_error() {
        Some(
            // Pinging may be for no group at all.
            libc::EACCES | libc::EPROTONOSUPPORT | libc::ESOCKTNOSUPPORT | libc::EAFNOSUPPORT,
        ) => Outcome::Unsupported,
        _ => failed(error),
    })
}

fn connect(socket: &Socket, dst: SocketAddr) -> Result<(), Outcome> {
    socket
        .connect_timeout(&dst.into(), PATIENCE)
        .map_err(failed)
}

fn send_to(transport: Transport, form: Form, port: u16) -> Result<(), Outcome> {
    let socket = make(transport, form)?;
    let dst = destination(form, port);
    let bytes = match transport {
        Transport::Ping => packet::echo(dst.ip(), 1),
        _ => b"datagram".to_vec(),
    };
    socket
        .send_to(&bytes, &dst.into())
        .map(drop)
        .map_err(failed)
}

fn fast_open(form: Form) -> Result<(), Outcome> {
    let socket = make(Transport::Tcp, form)?;
    let flags = SendFlags::from_bits_retain(libc::MSG_FASTOPEN.cast_unsigned());
    let sent = rustix::net::sendto(&socket, b"early", flags, &destination(form, CAPTURED));
    sent.map(drop).map_err(|errno| failed(errno.into()))
}

fn send_raw(form: Form, protocol: i32, bytes: &[u8]) -> Result<(), Outcome> {
    let domain = if form == Form::V6 {
        Domain::IPV6
    } else {
        Domain::IPV4
    };
    let socket = Socket::new(domain, Type::from(libc::SOCK_RAW), Some(protocol.into()));
    let dst = destination(form, 0);
    let sent = socket.and_then(|socket| socket.send_to(bytes, &dst.into()));
    sent.map(drop).map_err(failed)
}

fn whole_packet(tcp: bool) -> Vec<u8> {
    const TCP: u8 = 6;
    const UDP: u8 = 17;

    if tcp {
        packet::v4(OWN_V4, V4, TCP, &packet::syn(CAPTURED))
    } else {
        packet::v4(OWN_V4, V4, UDP, &packet::datagram(CAPTURED))
    }
}

fn send_frame(queue: Queue) -> Result<(), Outcome> {
    const SOL_PACKET: i32 = 263;
    const PACKET_QDISC_BYPASS: i32 = 20;

    let socket = Socket::new(Domain::PACKET, Type::from(libc::SOCK_RAW), None).map_err(failed)?;
    let on = 1_i32.to_ne_bytes();
    match queue {
        Queue::By => {}
        Queue::Past => set(&socket, SOL_PACKET, PACKET_QDISC_BYPASS, &on)?,
        Queue::PastBy32Bits => {
            compat::set_option(socket.as_fd(), SOL_PACKET, PACKET_QDISC_BYPASS).map_err(
                |error| match error.raw_os_error() {
                    Some(libc::ENOSYS) => Outcome::Unsupported,
                    _ => failed(error),
                },
            )?;
        }
    }
    let to = link_address(&socket).map_err(failed)?;
    let sent = socket.send_to(&whole_packet(true), &to);
    sent.map(drop).map_err(failed)
}

/// The wire's device, as packet sockets know it.
fn link_address(socket: &Socket) -> io::Result<SockAddr> {
    const ETHER_IP: u16 = 0x0800;

    let index = rustix::net::netdevice::name_to_index(socket, tun::NAME)?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: the storage is large enough for every kind of address, and zeroed.
    let link: &mut libc::sockaddr_ll = unsafe { storage.view_as() };
    link.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    link.sll_protocol = ETHER_IP.to_be();
    link.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    let len = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>());
    // SAFETY: it holds an address of this length.
    Ok(unsafe { SockAddr::new(storage, len.map_err(io::Error::other)?) })
}

fn set(socket: &Socket, level: i32, option: i32, value: &[u8]) -> Result<(), Outcome> {
    let len = libc::socklen_t::try_from(value.len()).unwrap_or_default();
    // SAFETY: the socket is open, and `value` is as long as the kernel is told.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            value.as_ptr().cast(),
            len,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(failed(io::Error::last_os_error()))
    }
}

fn failed(error: io::Error) -> Outcome {
    match error.raw_os_error() {
        Some(errno) => Outcome::Failed(errno),
        // The socket's own word for a time-out.
        None => Outcome::Silence,
    }
}
