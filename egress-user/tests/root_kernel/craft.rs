//! Packets that a process makes itself, and a tap that sees whatever comes along a wire.

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::OpenOptionsExt as _;

use egress_lab::{Namespace, wait};
use egress_user::compat;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

pub(crate) const SYN: u8 = 0x02;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const RST: u8 = 0x04;

pub(crate) const PACKET_QDISC_BYPASS: i32 = 20;

const SOL_PACKET: i32 = 263;
const ETHER_IP: u16 = 0x0800;
const ETHER_IPV6: u16 = 0x86dd;

/// By which way a packet is given to the kernel.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Way {
    /// A raw socket of the protocol; the kernel makes the IP header.
    Raw,
    /// A raw socket that is given the IP header too.
    RawHeader,
    /// As above, with a header that is of no version of IP.
    RawUnversioned,
    /// A packet socket that is given the whole frame, and told the truth about it.
    Frame,
    /// As [`Frame`](Self::Frame), past the device's queue: told so by a system call of a 32-bit program.
    FramePastQueue,
    /// As `Frame`, with a VLAN tag, and the kernel is told that it is something else.
    TaggedFrame,
}

/// What is above IP.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Above {
    /// TCP with these flags.
    Tcp(u8),
    Udp,
    /// A fragment of a TCP segment, but not the first.
    LaterFragment,
    /// The first fragment of a TCP segment, too short for its flags; a whole packet in IPv6.
    TinyFragment,
    /// The fragment that would follow the one above in IPv4, and lie over the flags of a longer one.
    SecondFragment,
    /// Another protocol.
    Protocol(u8),
    /// An IPv6 packet whose TCP SYN stands behind extension headers.
    BehindExtensions,
    /// ICMP echo.
    Ping,
}

/// A packet with a text in it that a [`Tap`] will find.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Craft {
    pub(crate) way: Way,
    pub(crate) dst: SocketAddr,
    pub(crate) above: Above,
    pub(crate) text: String,
}

impl Craft {
    pub(crate) fn send(&self) -> io::Result<()> {
        match self.way {
            Way::Raw => self.send_raw(i32::from(self.protocol()), &self.above_ip()),
            Way::RawHeader => self.send_raw(libc::IPPROTO_RAW, &self.packet()),
            Way::RawUnversioned => {
                let mut packet = self.packet();
                *packet.first_mut().unwrap() &= 0x0f;
                self.send_raw(libc::IPPROTO_RAW, &packet)
            }
            Way::Frame => self.send_frame(&[], self.ether()),
            Way::FramePastQueue => {
                let socket = packet_socket(0)?;
                compat::set_option(socket.as_fd(), SOL_PACKET, PACKET_QDISC_BYPASS)?;
                let bytes = [self.ether().to_be_bytes().as_slice(), &self.packet()].concat();
                send_frame_by(&socket, &bytes, self.ether())
            }
            Way::TaggedFrame => self.send_frame(&[0x81, 0, 0, 5], 0x1234),
        }
    }

    fn send_raw(&self, protocol: i32, bytes: &[u8]) -> io::Result<()> {
        let domain = Domain::for_address(self.dst);
        let socket = Socket::new(domain, Type::from(libc::SOCK_RAW), Some(protocol.into()))?;
        let mut to = self.dst;
        to.set_port(0);
        socket.send_to(bytes, &to.into()).map(drop)
    }

    fn send_frame(&self, tag: &[u8], told: u16) -> io::Result<()> {
        let ether = self.ether().to_be_bytes();
        send_frame(&[tag, &ether, &self.packet()].concat(), told)
    }

    /// The frame that brings it to this address, in hexadecimal.
    pub(crate) fn frame_to(&self, mac: &str) -> Vec<u8> {
        let byte = |hex| u8::from_str_radix(hex, 16).unwrap();
        let mac: Vec<u8> = mac.split(':').map(byte).collect();
        let ether = self.ether().to_be_bytes();
        [&mac, [2; 6].as_slice(), &ether, &self.packet()].concat()
    }

    fn ether(&self) -> u16 {
        if self.dst.is_ipv6() {
            ETHER_IPV6
        } else {
            ETHER_IP
        }
    }

    fn protocol(&self) -> u8 {
        match self.above {
            Above::Tcp(_)
            | Above::LaterFragment
            | Above::TinyFragment
            | Above::SecondFragment
            | Above::BehindExtensions => 6,
            Above::Protocol(protocol) => protocol,
            Above::Udp => 17,
            Above::Ping if self.dst.is_ipv6() => 58,
            Above::Ping => 1,
        }
    }

    /// Checksums are left out: nobody needs to accept it.
    fn above_ip(&self) -> Vec<u8> {
        let ports = [&[0xc0, 1], self.dst.port().to_be_bytes().as_slice()].concat();
        let text = self.text.as_bytes();
        let len = u16::try_from(8 + text.len()).unwrap().to_be_bytes();
        match self.above {
            Above::Tcp(flags) => {
                [&ports, [0; 8].as_slice(), &[0x50, flags], &[0; 6], text].concat()
            }
            Above::BehindExtensions => {
                let extensions = [60, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0];
                let flags = [0x50, SYN];
                [
                    &extensions,
                    ports.as_slice(),
                    &[0; 8],
                    &flags,
                    &[0; 6],
                    text,
                ]
                .concat()
            }
            Above::Udp => [&ports, len.as_slice(), &[0; 2], text].concat(),
            Above::LaterFragment | Above::SecondFragment => text.to_vec(),
            Above::TinyFragment => [&ports, text.get(..4).unwrap()].concat(),
            Above::Protocol(_) => [&[0; 8], text].concat(),
            Above::Ping => {
                let kind = if self.dst.is_ipv6() { 128 } else { 8 };
                [&[kind, 0], [0; 6].as_slice(), text].concat()
            }
        }
    }

    fn packet(&self) -> Vec<u8> {
        let above = self.above_ip();
        match self.dst.ip() {
            IpAddr::V4(dst) => {
                let len = u16::try_from(20 + above.len()).unwrap().to_be_bytes();
                let fragment = match self.above {
                    Above::LaterFragment => [0, 3],
                    Above::TinyFragment => [0x20, 0],
                    Above::SecondFragment => [0, 1],
                    _ => [0, 0],
                };
                let head = [&[0x45, 0], &len, [0, 7].as_slice(), &fragment].concat();
                // The kernel fills in whose they are.
                let source = match self.way {
                    Way::RawHeader | Way::RawUnversioned => [0; 4],
                    _ => [192, 0, 2, 2],
                };
                let rest = [64, self.protocol(), 0, 0];
                [
                    head,
                    rest.to_vec(),
                    source.to_vec(),
                    dst.octets().to_vec(),
                    above,
                ]
                .concat()
            }
            IpAddr::V6(dst) => {
                let fragment = [self.protocol(), 0, 0, 24, 0, 0, 0, 7];
                let (next, between) = match self.above {
                    Above::LaterFragment => (44, fragment.as_slice()),
                    Above::BehindExtensions => (0, [].as_slice()),
                    _ => (self.protocol(), [].as_slice()),
                };
                let len = u16::try_from(between.len() + above.len()).unwrap();
                let source: std::net::Ipv6Addr = crate::world::WORKLOAD_V6.parse().unwrap();
                let head = [&[0x60, 0, 0, 0], len.to_be_bytes().as_slice(), &[next, 64]].concat();
                let (source, dst) = (source.octets(), dst.octets());
                [&head, source.as_slice(), &dst, between, &above].concat()
            }
        }
    }
}

/// Sends a frame to everybody on eth0, with these bytes behind both addresses, of which the kernel
/// is told that they are of a type.
pub(crate) fn send_frame(bytes: &[u8], told: u16) -> io::Result<()> {
    send_frame_by(&packet_socket(0)?, bytes, told)
}

fn send_frame_by(socket: &Socket, bytes: &[u8], told: u16) -> io::Result<()> {
    let frame = [&[0xff; 6], [2; 6].as_slice(), bytes].concat();
    // SAFETY: a string that ends with a zero.
    let index = unsafe { libc::if_nametoindex(c"eth0".as_ptr()) };
    let mut storage = SockAddrStorage::zeroed();
    let len = {
        // SAFETY: the storage is large enough for every kind of address, and zeroed.
        let link: &mut libc::sockaddr_ll = unsafe { storage.view_as() };
        link.sll_family = libc::AF_PACKET.try_into().unwrap();
        link.sll_protocol = told.to_be();
        link.sll_ifindex = index.try_into().unwrap();
        link.sll_halen = 6;
        link.sll_addr = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0];
        size_of::<libc::sockaddr_ll>()
    };
    // SAFETY: it holds an address of this length.
    let to = unsafe { SockAddr::new(storage, len.try_into().unwrap()) };
    socket.send_to(&frame, &to).map(drop)
}

/// A device `tun0` in the namespace of the calling thread: `IFF_TUN` or `IFF_TAP`.
pub(crate) fn tun_device(kind: libc::c_int) -> File {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .unwrap();
    // SAFETY: zeros are a request with an empty name.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"tun0") {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags = (kind | libc::IFF_NO_PI).try_into().unwrap();
    // SAFETY: the file is open, and the request is one for this command.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    file
}

/// Sets an option of a packet socket.
pub(crate) fn packet_option(option: i32) -> io::Result<()> {
    set_option(&packet_socket(0)?, SOL_PACKET, option)
}

/// Sets an option of a socket to 1.
pub(crate) fn set_option(socket: &Socket, level: i32, option: i32) -> io::Result<()> {
    let on: libc::c_int = 1;
    set_option_bytes(socket, level, option, &on.to_ne_bytes())
}

/// Sets an option of a socket to what these bytes say.
pub(crate) fn set_option_bytes(
    socket: &Socket,
    level: i32,
    option: i32,
    value: &[u8],
) -> io::Result<()> {
    let len = value.len().try_into().unwrap();
    let fd = socket.as_raw_fd();
    // SAFETY: the socket is open, and `value` is as long as the kernel is told.
    let result = unsafe { libc::setsockopt(fd, level, option, value.as_ptr().cast(), len) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Uses up the memory that a socket's options may have (`net.core.optmem_max`) with a filter that
/// lets everything through, as any user may.
pub(crate) fn fill_option_memory(socket: &Socket) -> io::Result<()> {
    /// `ldxb 4*([0]&0xf)`, which the kernel makes several instructions of.
    const LONG: libc::sock_filter = instruction(0xb1, 0);
    /// `ldx #0`, which stays one.
    const SHORT: libc::sock_filter = instruction(0x01, 0);
    /// `ret #65535`.
    const PASS: libc::sock_filter = instruction(0x06, 0xffff);
    /// The longest filter, `BPF_MAXINSNS`.
    const MOST: usize = 4096;

    let filter =
        |long: usize, short: usize| [vec![LONG; long], vec![SHORT; short], vec![PASS]].concat();
    let fits = |filter: &[libc::sock_filter]| {
        let _none_yet = detach_filter(socket);
        attach_filter(socket, filter).is_ok()
    };
    let most = |fits: &dyn Fn(usize) -> bool, limit: usize| {
        let (mut low, mut high) = (0, limit);
        while low < high {
            let middle = (low + high).div_ceil(2);
            (low, high) = if fits(middle) {
                (middle, high)
            } else {
                (low, middle - 1)
            };
        }
        low
    };
    let long = most(&|long| fits(&filter(long, 0)), MOST - 1);
    let short = most(&|short| fits(&filter(long, short)), MOST - 1 - long);
    let _last_try = detach_filter(socket);
    attach_filter(socket, &filter(long, short))
}

const fn instruction(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

fn attach_filter(socket: &Socket, filter: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: filter.len().try_into().unwrap(),
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: a plain structure without padding that counts, read as the bytes that it is.
    let bytes = unsafe {
        std::slice::from_raw_parts((&raw const program).cast::<u8>(), size_of_val(&program))
    };
    set_option_bytes(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, bytes)
}

fn detach_filter(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER)
}

/// A packet socket that takes what is of this Ethernet type; nothing for 0, all for 3.
fn packet_socket(ether: u16) -> io::Result<Socket> {
    let protocol = Protocol::from(i32::from(ether.to_be()));
    Socket::new(Domain::PACKET, Type::from(libc::SOCK_RAW), Some(protocol))
}

/// Sees every frame that comes into a namespace.
pub(crate) struct Tap {
    socket: Socket,
}

impl Tap {
    pub(crate) fn new(namespace: &Namespace) -> Tap {
        const ALL: u16 = 3;
        const PACKET_IGNORE_OUTGOING: i32 = 23;

        let socket = namespace.run(|| packet_socket(ALL)).unwrap().unwrap();
        set_option(&socket, SOL_PACKET, PACKET_IGNORE_OUTGOING).unwrap();
        socket.set_nonblocking(true).unwrap();
        Tap { socket }
    }

    /// Which of `texts` come along, up to and with the frame that has `last` in it.
    pub(crate) fn seen<'a>(&self, texts: &[&'a str], last: &str) -> Vec<&'a str> {
        let frames = self.frames(last);
        let seen = texts
            .iter()
            .filter(|text| frames.iter().any(|frame| has(frame, text)));
        seen.copied().collect()
    }

    /// How many frames with this text come along, up to the one that has `last` in it.
    pub(crate) fn count(&self, text: &str, last: &str) -> usize {
        let frames = self.frames(last);
        frames.iter().filter(|frame| has(frame, text)).count()
    }

    /// The numbers of the IPv4 protocols that come along, up to and with the frame that has `last`
    /// in it.
    pub(crate) fn protocols(&self, last: &str) -> Vec<u8> {
        let frames = self.frames(last).into_iter();
        let v4 = frames.filter(|frame| frame.get(12..14) == Some(&[8, 0]));
        v4.filter_map(|frame| frame.get(23).copied()).collect()
    }

    fn frames(&self, last: &str) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        wait::until(last, || {
            let mut buffer = [MaybeUninit::<u8>::uninit(); 2048];
            let read = self.socket.recv(&mut buffer).ok()?;
            // SAFETY: as many bytes as were read are initialised.
            let frame: Vec<u8> = buffer[..read]
                .iter()
                .map(|byte| unsafe { byte.assume_init() })
                .collect();
            let done = has(&frame, last);
            frames.push(frame);
            done.then_some(())
        })
        .unwrap();
        frames
    }
}

fn has(frame: &[u8], text: &str) -> bool {
    let mut parts = frame.windows(text.len());
    parts.any(|part| part == text.as_bytes())
}
