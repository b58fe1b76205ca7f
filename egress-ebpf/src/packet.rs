//! Packets on their way out: what leaves by another way than a judged `connect` or `sendmsg` is
//! dropped.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::{
        bpf_get_netns_cookie, bpf_ktime_get_ns, bpf_sk_fullsock, bpf_sk_storage_get,
        bpf_skb_cgroup_id, bpf_skb_load_bytes,
    },
    programs::SkBuffContext,
};
use core::{ffi::c_void, mem::MaybeUninit, ptr};
use egress_common::{
    Addr, Bypass, Bytes, COMM_LEN, Caller, Course, Packet, Port, Sender, Sent, Target, Unjudged,
    Unread, decide_packet, decide_unread,
};

use crate::{
    ALLOW, DENY, evidence,
    maps::{self, PACKET_NETNS, UNJUDGED, count},
    veil::{self, Veil},
};

const AF_UNSPEC: u32 = 0;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
/// Index of the loopback device, in every namespace.
pub(crate) const LOOPBACK: u32 = 1;
/// No namespace's cookie.
pub(crate) const NO_NETNS: u64 = 0;

/// A packet that leaves by a socket; its bytes begin with the IP header.
#[inline(always)]
pub(crate) fn leave(ctx: &SkBuffContext) -> i32 {
    let buffer = Buffer { skb: ctx.skb.skb };
    let packet = Packet::read_plain(&buffer.head(), 0).or_else(|| Packet::read(&buffer, 0));
    let loopback = buffer.device() == LOOPBACK;
    let verdict = match packet {
        Some(packet) => judge(buffer, packet, loopback, || None),
        None => judge_unread(buffer, Unread::Other, || None),
    };
    match verdict {
        Ok(()) => ALLOW,
        Err(Bypass::Socket | Bypass::Raw | Bypass::Protocol | Bypass::Frame | Bypass::Route) => {
            DENY
        }
    }
}

/// A packet in the kernel's hands.
#[derive(Clone, Copy)]
pub(crate) struct Buffer {
    pub(crate) skb: *mut __sk_buff,
}

impl Buffer {
    /// The part of the packet that lies in one piece.
    #[inline(always)]
    pub(crate) fn head(self) -> Head {
        // SAFETY: the kernel hands a valid context to the program, with these words.
        let (start, end) = unsafe { ((*self.skb).data, (*self.skb).data_end) };
        Head {
            start: start as usize,
            end: end as usize,
        }
    }

    /// Index of the device that it leaves by.
    #[inline(always)]
    pub(crate) fn device(self) -> u32 {
        // SAFETY: the kernel hands a valid context to the program, with this word.
        unsafe { (&raw const (*self.skb).ifindex).read_volatile() }
    }
}

/// The beginning of a packet, which takes no call to read.
pub(crate) struct Head {
    start: usize,
    end: usize,
}

impl Bytes for Head {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let at = self.start + offset as usize;
        if at + N > self.end {
            return None;
        }
        // SAFETY: within the packet.
        Some(unsafe { *ptr::with_exposed_provenance::<[u8; N]>(at) })
    }
}

impl Bytes for Buffer {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        #[expect(clippy::cast_possible_truncation, reason = "a few bytes of a header")]
        let len = N as u32;
        // SAFETY: the context is valid, and `bytes` is writable for the length that the helper is
        // told; it fills all of it, or fails.
        unsafe {
            let failed =
                bpf_skb_load_bytes(self.skb.cast(), offset, bytes.as_mut_ptr().cast(), len);
            (failed == 0).then(|| bytes.assume_init())
        }
    }

    #[inline(always)]
    fn veil(&self, number: u32) -> u32 {
        Veil::of(*self).word(number)
    }
}

/// Judges a packet, and tells of it when it is to be dropped. `loopback` says whether it leaves by
/// that device; `device` gives the namespace of the device, where that is known.
#[inline(always)]
pub(crate) fn judge(
    buffer: Buffer,
    packet: Packet,
    loopback: bool,
    device: impl Fn() -> Option<u64>,
) -> Result<(), Bypass> {
    let veil = Veil::of(buffer);
    let packet = veil::veil(buffer, packet);
    let course = veil.course(Course::of(&packet, loopback));
    if course == Course::Stays {
        return Ok(());
    }
    let origin = Origin::of(buffer);
    let sender = veil.sender(origin.sender());
    let mut sent = Sent {
        sender,
        packet,
        cgroup: 0,
        course,
    };
    if sent.continues() {
        let forwarded = Sent {
            sender: Sender::Nobody,
            ..sent
        };
        if forwarded.continues() {
            return Ok(());
        }
    }
    let (netns, is_own) = origin.netns(buffer, device);
    if !veil.flag(is_own || sent.continues() && origin.is_lent(buffer, sender)) {
        sent.sender = veil.sender(sent.sender.elsewhere());
    }
    if sent.continues() {
        return Ok(());
    }
    let netns = veil.long(netns.unwrap_or(NO_NETNS));
    // What is astray is judged without knowing.
    if netns == NO_NETNS && course != Course::Astray {
        return Ok(());
    }
    sent.cgroup = veil.long(cgroup(buffer));
    let verdict = match maps::settings() {
        Some(settings) => {
            let scope = maps::scope(netns);
            let prefix = scope.and_then(|_| maps::prefix(packet.dst, sent.packet.port));
            decide_packet(settings, scope, prefix, &sent)
        }
        None => Err(sent.way()),
    };
    let target = Target {
        protocol: u16::from(packet.protocol),
        dst: packet.dst,
        port: packet.port,
    };
    verdict.inspect_err(|bypass| tell(buffer, *bypass, target, sent.cgroup, netns))
}

/// As [`judge`], for a frame in which no packet can be read.
#[inline(always)]
pub(crate) fn judge_unread(
    buffer: Buffer,
    frame: Unread,
    device: impl Fn() -> Option<u64>,
) -> Result<(), Bypass> {
    let origin = Origin::of(buffer);
    let (Some(netns), is_own) = origin.netns(buffer, device) else {
        return Ok(());
    };
    let sender = match origin.sender() {
        sender if is_own => sender,
        sender => sender.elsewhere(),
    };
    let cgroup = cgroup(buffer);
    let verdict = match maps::settings() {
        Some(settings) => decide_unread(settings, maps::scope(netns), sender, cgroup, frame),
        None => Err(Bypass::Frame),
    };
    let target = Target {
        protocol: 0,
        dst: Addr::UNSPECIFIED,
        port: Port::NONE,
    };
    verdict.inspect_err(|bypass| tell(buffer, *bypass, target, cgroup, netns))
}

/// Its socket is looked for again, so that nothing of it needs to be kept on every way to here.
#[inline(always)]
fn tell(buffer: Buffer, bypass: Bypass, target: Target, cgroup: u64, netns: u64) {
    count(bypass.counter());
    let maker = Origin::of(buffer).maker(cgroup);
    // SAFETY: the helper takes nothing and only reads the clock.
    let now = unsafe { bpf_ktime_get_ns() };
    evidence::tell(bypass.counter(), target, maker, netns, now);
}

/// Where a packet comes from.
#[derive(Clone, Copy)]
struct Origin {
    /// The packet's socket, or null: forwarded packets have none.
    socket: *mut bpf_sock,
    /// Whether it has one that is not whole: of a TCP connection that begins, or has ended.
    partial: bool,
    /// What is known of the socket if it is one that nothing judges and that a process made.
    unjudged: Option<&'static Unjudged>,
}

impl Origin {
    #[inline(always)]
    fn of(buffer: Buffer) -> Origin {
        let (socket, partial) = socket(buffer);
        Origin {
            socket,
            partial,
            unjudged: unjudged(socket),
        }
    }

    #[inline(always)]
    fn sender(self) -> Sender {
        match self.unjudged {
            Some(unjudged) if unjudged.is_raw() => Sender::Raw,
            Some(_) => Sender::Unjudged,
            None if self.partial => Sender::Socket,
            None if self.socket.is_null() => Sender::Nobody,
            None => unknown(self.socket),
        }
    }

    /// The namespace that the packet leaves, and whether its socket is of that one. What a bridge
    /// carries keeps the socket that sent it, of whatever namespace, so that a socket's namespace
    /// counts only where it is captured; else the device's does.
    #[inline(always)]
    fn netns(self, buffer: Buffer, device: impl Fn() -> Option<u64>) -> (Option<u64>, bool) {
        let own = match self.unjudged {
            Some(unjudged) => Some(unjudged.netns()),
            None => netns(buffer, self.socket),
        };
        // A cookie in place of none: the optimiser leaves that unset, which the verifier minds.
        let own = own.unwrap_or(NO_NETNS);
        if own != NO_NETNS && maps::scope(own).is_some() {
            return (Some(own), true);
        }
        match device() {
            Some(device) => (Some(device), own == NO_NETNS || own == device),
            None => ((own != NO_NETNS).then_some(own), true),
        }
    }

    /// Whether the socket may be one of those that the kernel lends to every namespace for ICMP: between
    /// two packets they are of the first namespace, also where one still waits for the address of its
    /// next hop. Those of processes there look the same.
    #[inline(always)]
    fn is_lent(self, buffer: Buffer, sender: Sender) -> bool {
        let own = netns(buffer, self.socket).unwrap_or(NO_NETNS);
        sender == Sender::Kernel && own != NO_NETNS && Some(own) == first_netns()
    }

    /// Who made the socket, or what is known of it.
    #[inline(always)]
    fn maker(self, cgroup: u64) -> Caller {
        match self.unjudged {
            Some(unjudged) => unjudged.maker(),
            None => Caller {
                cgroup,
                pid: 0,
                uid: 0,
                comm: [0; COMM_LEN],
            },
        }
    }
}

/// Id of the cgroup of the packet's socket, 0 if it has none.
#[inline(always)]
fn cgroup(buffer: Buffer) -> u64 {
    // SAFETY: the helper accepts the context of a packet's program.
    unsafe { bpf_skb_cgroup_id(buffer.skb) }
}

/// The packet's socket, or null, and whether it has one that is not whole.
#[inline(always)]
fn socket(buffer: Buffer) -> (*mut bpf_sock, bool) {
    // SAFETY: the kernel hands a valid context to the program, with this pointer; the helper takes
    // a socket that is not null and gives the same one, or null.
    unsafe {
        let sk = (*buffer.skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return (ptr::null_mut(), false);
        }
        let socket = bpf_sk_fullsock(sk);
        (socket, socket.is_null())
    }
}

/// Who has this socket, of which nobody remembers who made it.
#[inline(always)]
fn unknown(socket: *mut bpf_sock) -> Sender {
    // SAFETY: a socket that is not null, whose words are readable.
    let (family, kind, protocol) =
        unsafe { ((*socket).family, (*socket).type_, (*socket).protocol) };
    match family {
        AF_INET | AF_INET6 => Sender::unknown(kind, protocol),
        // A tap's: what comes from it was sent behind it.
        AF_UNSPEC => Sender::Nobody,
        _ => Sender::Frame,
    }
}

/// Whether this is a socket whose `connect` and `sendmsg` are judged. Nothing changes a socket's
/// kind or protocol.
#[inline(always)]
fn is_judged(socket: *mut bpf_sock) -> bool {
    if socket.is_null() {
        return false;
    }
    // SAFETY: a socket that is not null, whose words are readable.
    let (family, kind, protocol) =
        unsafe { ((*socket).family, (*socket).type_, (*socket).protocol) };
    matches!(family, AF_INET | AF_INET6) && egress_common::is_judged(kind, protocol)
}

/// What is known of the socket if it is one that nothing judges and that a process made.
#[inline(always)]
fn unjudged(socket: *mut bpf_sock) -> Option<&'static Unjudged> {
    if socket.is_null() || is_judged(socket) {
        return None;
    }
    let map: *mut c_void = ptr::from_ref(&UNJUDGED).cast_mut().cast();
    // SAFETY: `socket` is one and not null; the result is its storage, of the map's value type and
    // written once before anybody knew the socket, or null.
    unsafe {
        bpf_sk_storage_get(map, socket.cast(), ptr::null_mut(), 0)
            .cast::<Unjudged>()
            .as_ref()
    }
}

/// The namespace that the packet is in. Not every kernel tells, and none without a socket.
#[inline(always)]
fn netns(buffer: Buffer, socket: *mut bpf_sock) -> Option<u64> {
    if socket.is_null() || PACKET_NETNS.load() == 0 {
        return None;
    }
    // SAFETY: the loader found that the helper accepts the context of a packet's program.
    Some(unsafe { bpf_get_netns_cookie(buffer.skb.cast()) })
}

/// The namespace that the kernel began with.
#[inline(always)]
fn first_netns() -> Option<u64> {
    if PACKET_NETNS.load() == 0 {
        return None;
    }
    // SAFETY: the helper accepts null where it accepts the context of a packet's program, which the
    // loader found; it gives the first namespace's then.
    Some(unsafe { bpf_get_netns_cookie(ptr::null_mut()) })
}
