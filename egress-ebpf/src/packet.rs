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
    Bypass, Bytes, COMM_LEN, Caller, Packet, Sender, Sent, Target, Unjudged, decide_packet,
};

use crate::{
    ALLOW, DENY, evidence,
    maps::{self, PACKET_NETNS, UNJUDGED, count},
};

const AF_PACKET: u32 = 17;
/// No namespace's cookie.
const NO_NETNS: u64 = 0;

/// A packet that leaves by a socket; its bytes begin with the IP header.
#[inline(always)]
pub(crate) fn leave(ctx: &SkBuffContext) -> i32 {
    let buffer = Buffer { skb: ctx.skb.skb };
    let packet = Packet::read_plain(&buffer.head(), 0).or_else(|| Packet::read(&buffer, 0));
    match packet.map(|packet| judge(buffer, packet, || None)) {
        None | Some(Ok(())) => ALLOW,
        Some(Err(
            Bypass::Socket | Bypass::Raw | Bypass::Protocol | Bypass::Frame | Bypass::Route,
        )) => DENY,
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
}

/// Judges a packet, and tells of it when it is to be dropped. `device` gives the namespace of the
/// device that it leaves by, where that is known.
#[inline(always)]
pub(crate) fn judge(
    buffer: Buffer,
    packet: Packet,
    device: impl FnOnce() -> Option<u64>,
) -> Result<(), Bypass> {
    if packet.dst.is_local() && !packet.steered {
        return Ok(());
    }
    let socket = socket(buffer);
    let unjudged = unjudged(socket);
    let mut sent = Sent {
        sender: match unjudged {
            Some(unjudged) if unjudged.is_raw() => Sender::Raw,
            Some(_) => Sender::Unjudged,
            None if is_packet_socket(socket) => Sender::Frame,
            None => Sender::Socket,
        },
        packet,
        cgroup: 0,
    };
    if sent.continues() {
        return Ok(());
    }
    let netns = match unjudged {
        Some(unjudged) => Some(unjudged.netns()),
        None => netns(buffer, socket).or_else(device),
    };
    // What is steered is judged without knowing.
    let netns = netns.or(packet.steered.then_some(NO_NETNS));
    let Some(netns) = netns else {
        return Ok(());
    };
    if !socket.is_null() {
        // SAFETY: the helper accepts the context of a packet's program.
        sent.cgroup = unsafe { bpf_skb_cgroup_id(buffer.skb) };
    }
    let verdict = match maps::settings() {
        Some(settings) => {
            let scope = maps::scope(netns);
            let prefix = scope.and_then(|_| maps::prefix(packet.dst, sent.packet.port()));
            decide_packet(settings, scope, prefix, &sent)
        }
        None => Err(sent.way()),
    };
    verdict.inspect_err(|bypass| tell(*bypass, &sent, unjudged, netns))
}

#[inline(always)]
fn tell(bypass: Bypass, sent: &Sent, unjudged: Option<&Unjudged>, netns: u64) {
    count(bypass.counter());
    let target = Target {
        protocol: u16::from(sent.packet.protocol),
        dst: sent.packet.dst,
        port: sent.packet.port(),
    };
    let sender = match unjudged {
        Some(unjudged) => unjudged.maker(),
        None => Caller {
            cgroup: sent.cgroup,
            pid: 0,
            uid: 0,
            comm: [0; COMM_LEN],
        },
    };
    // SAFETY: the helper takes nothing and only reads the clock.
    let now = unsafe { bpf_ktime_get_ns() };
    evidence::tell(bypass.counter(), target, sender, netns, now);
}

/// The packet's socket, or null: forwarded packets have none.
#[inline(always)]
fn socket(buffer: Buffer) -> *mut bpf_sock {
    // SAFETY: the kernel hands a valid context to the program, with this pointer; the helper takes
    // a socket that is not null and gives the same one, or null.
    unsafe {
        let sk = (*buffer.skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return ptr::null_mut();
        }
        bpf_sk_fullsock(sk)
    }
}

#[inline(always)]
fn is_packet_socket(socket: *mut bpf_sock) -> bool {
    // SAFETY: a socket that is not null, whose family is readable.
    !socket.is_null() && unsafe { (*socket).family } == AF_PACKET
}

/// Whether this is a socket whose `connect` and `sendmsg` are judged. Nothing changes a socket's
/// kind or protocol.
#[inline(always)]
fn is_judged(socket: *mut bpf_sock) -> bool {
    // SAFETY: a socket that is not null, whose words are readable.
    !socket.is_null() && unsafe { egress_common::is_judged((*socket).type_, (*socket).protocol) }
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
