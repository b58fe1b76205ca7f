//! The kernel programs: they send captured sockets to the agent's listener and remember where the
//! sockets meant to go.
//!
//! Each entry point is one call; the decision itself is `egress_common::decide`.
#![no_std]
#![no_main]

mod connect;
mod flow;
mod judge;
mod maps;
mod peername;
mod sendmsg;
mod sockaddr;

use aya_ebpf::{
    bindings::BPF_SOCK_OPS_TCP_CONNECT_CB,
    macros::{cgroup_sock_addr, sock_ops},
    programs::{SockAddrContext, SockOpsContext},
};
use sockaddr::{V4, V6};

/// What a program returns to let the system call go on.
const ALLOW: i32 = 1;
/// What a program returns to let the system call fail with `EPERM`.
const DENY: i32 = 0;

/// `connect` with an IPv4 address.
#[cgroup_sock_addr(connect4)]
fn egress_connect4(ctx: SockAddrContext) -> i32 {
    connect::connect::<V4>(&ctx)
}

/// `connect` with an IPv6 address, v4-mapped ones included.
#[cgroup_sock_addr(connect6)]
fn egress_connect6(ctx: SockAddrContext) -> i32 {
    connect::connect::<V6>(&ctx)
}

/// A datagram to an IPv4 address, also from an IPv6 socket to a v4-mapped one.
#[cgroup_sock_addr(sendmsg4)]
fn egress_sendmsg4(ctx: SockAddrContext) -> i32 {
    sendmsg::sendmsg::<V4>(&ctx)
}

/// A datagram to an IPv6 address.
#[cgroup_sock_addr(sendmsg6)]
fn egress_sendmsg6(ctx: SockAddrContext) -> i32 {
    sendmsg::sendmsg::<V6>(&ctx)
}

/// `getpeername` of an IPv4 socket.
#[cgroup_sock_addr(getpeername4)]
fn egress_peer4(ctx: SockAddrContext) -> i32 {
    peername::getpeername::<V4>(&ctx)
}

/// `getpeername` of an IPv6 socket.
#[cgroup_sock_addr(getpeername6)]
fn egress_peer6(ctx: SockAddrContext) -> i32 {
    peername::getpeername::<V6>(&ctx)
}

/// TCP events; only the moment before the SYN matters.
#[sock_ops]
fn egress_flow(ctx: SockOpsContext) -> u32 {
    if ctx.op() == BPF_SOCK_OPS_TCP_CONNECT_CB {
        flow::connecting(&ctx);
    }
    1
}

/// The kernel allows some helpers only to programs that declare a licence it knows as compatible
/// with its own.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: the verifier refuses a program in which this loop is reachable.
    loop {}
}
