//! The kernel programs: they send captured sockets to the agent's listener and remember where the
//! sockets meant to go.
//!
//! Each entry point is one call; the decision itself is `egress_common::decide`.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod caller;
mod connect;
mod evidence;
mod flow;
mod guard;
mod judge;
mod maps;
mod packet;
mod peername;
mod security;
mod sendmsg;
mod setsockopt;
mod sockaddr;
mod socket;
mod veil;

use aya_ebpf::{
    bindings::BPF_SOCK_OPS_TCP_CONNECT_CB,
    macros::{
        cgroup_skb, cgroup_sock, cgroup_sock_addr, cgroup_sockopt, classifier, lsm_cgroup, sock_ops,
    },
    programs::{
        LsmContext, SkBuffContext, SockAddrContext, SockContext, SockOpsContext, SockoptContext,
        TcContext,
    },
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

/// A socket of the internet families is made.
#[cgroup_sock(sock_create)]
fn egress_socket(ctx: SockContext) -> i32 {
    socket::create(&ctx)
}

/// A socket option is set, of any family.
#[cgroup_sockopt(setsockopt)]
fn egress_setsockopt(ctx: SockoptContext) -> i32 {
    setsockopt::setsockopt(&ctx)
}

/// A socket is made, of any family.
#[lsm_cgroup(hook = "socket_create")]
fn egress_family(ctx: LsmContext) -> i32 {
    security::create(&ctx)
}

/// A socket option is set, of any family and by any system call.
#[lsm_cgroup(hook = "socket_setsockopt")]
fn egress_option(ctx: LsmContext) -> i32 {
    security::setsockopt(&ctx)
}

/// A packet leaves by a socket of the internet families.
#[cgroup_skb(egress)]
fn egress_packet(ctx: SkBuffContext) -> i32 {
    packet::leave(&ctx)
}

/// A packet leaves by an Ethernet device.
#[classifier]
fn egress_guard(ctx: TcContext) -> i32 {
    guard::leave_as_frame(&ctx)
}

/// A packet leaves by a device whose frames are bare IP packets.
#[classifier]
fn egress_guard_ip(ctx: TcContext) -> i32 {
    guard::leave_bare(&ctx)
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
