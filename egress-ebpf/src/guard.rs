//! Packets at the border of a captured namespace: the last look, also at what packet sockets and
//! processes outside of the cgroup send.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    programs::TcContext,
};
use egress_common::{Bypass, Device, Packet, Unread};

use crate::{
    maps::{self, PACKET_NETNS},
    packet::{Buffer, judge, judge_unread},
};

/// A packet whose bytes begin with an Ethernet header. What a process writes into a frame itself
/// is believed, not what the kernel was told about it.
#[inline(always)]
pub(crate) fn leave_as_frame(ctx: &TcContext) -> i32 {
    let buffer = Buffer { skb: ctx.skb.skb };
    let packet = Packet::read_plain_frame(&buffer.head());
    let packet = packet.or_else(|| Packet::read_frame(&buffer));
    leave(buffer, packet, || Unread::read(&buffer))
}

/// A packet whose bytes begin with the IP header.
#[inline(always)]
pub(crate) fn leave_bare(ctx: &TcContext) -> i32 {
    let buffer = Buffer { skb: ctx.skb.skb };
    let packet = Packet::read_plain(&buffer.head(), 0);
    let packet = packet.or_else(|| Packet::read(&buffer, 0));
    leave(buffer, packet, || Unread::Other)
}

#[inline(always)]
fn leave(buffer: Buffer, packet: Option<Packet>, unread: impl FnOnce() -> Unread) -> i32 {
    let netns = || netns(buffer);
    let verdict = match packet {
        // Loopback has no guard.
        Some(packet) => judge(buffer, packet, false, netns),
        None => judge_unread(buffer, unread(), netns),
    };
    match verdict {
        // Other programs on the device have their say too.
        Ok(()) => TC_ACT_UNSPEC,
        Err(Bypass::Socket | Bypass::Raw | Bypass::Protocol | Bypass::Frame | Bypass::Route) => {
            TC_ACT_SHOT
        }
    }
}

/// The namespace of the device, as the agent told it.
#[inline(always)]
fn netns(buffer: Buffer) -> Option<u64> {
    // On tcx the class is whatever was left in its place, of a bridge's for instance.
    if PACKET_NETNS.load() != 0 {
        return maps::netns_of(Device::with_index(buffer.device()));
    }
    // SAFETY: the kernel hands a valid context to the program, with this word.
    let class = unsafe { (&raw const (*buffer.skb).tc_classid).read_volatile() };
    // Sixteen bits that the filter was given.
    u16::try_from(class)
        .ok()
        .and_then(|class| maps::netns_of(Device::with_class(class)))
}
