//! Packets at the border of a captured namespace: the last look, also at what packet sockets and
//! processes outside of the cgroup send.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    programs::TcContext,
};
use egress_common::{Bypass, Device, Packet};

use crate::{
    maps,
    packet::{Buffer, judge},
};

/// A packet whose bytes begin with an Ethernet header. What a process writes into a frame itself
/// is believed, not what the kernel was told about it.
#[inline(always)]
pub(crate) fn leave_as_frame(ctx: &TcContext) -> i32 {
    let buffer = Buffer { skb: ctx.skb.skb };
    let packet = Packet::read_plain_frame(&buffer.head());
    leave(buffer, packet.or_else(|| Packet::read_frame(&buffer)))
}

/// A packet whose bytes begin with the IP header.
#[inline(always)]
pub(crate) fn leave_bare(ctx: &TcContext) -> i32 {
    let buffer = Buffer { skb: ctx.skb.skb };
    let packet = Packet::read_plain(&buffer.head(), 0);
    leave(buffer, packet.or_else(|| Packet::read(&buffer, 0)))
}

#[inline(always)]
fn leave(buffer: Buffer, packet: Option<Packet>) -> i32 {
    match packet.map(|packet| judge(buffer, packet, || netns(buffer))) {
        // Other programs on the device have their say too.
        None | Some(Ok(())) => TC_ACT_UNSPEC,
        Some(Err(
            Bypass::Socket | Bypass::Raw | Bypass::Protocol | Bypass::Frame | Bypass::Route,
        )) => TC_ACT_SHOT,
    }
}

/// The namespace of the device, as the agent told it.
#[inline(always)]
fn netns(buffer: Buffer) -> Option<u64> {
    // SAFETY: the kernel hands a valid context to the program, with these words.
    let (class, index) = unsafe {
        (
            (&raw const (*buffer.skb).tc_classid).read_volatile(),
            (&raw const (*buffer.skb).ifindex).read_volatile(),
        )
    };
    // Sixteen bits that a filter was given, and that stay zero without one.
    match u16::try_from(class) {
        Ok(0) | Err(_) => maps::netns_of(Device::with_index(index)),
        Ok(class) => maps::netns_of(Device::with_class(class)),
    }
}
