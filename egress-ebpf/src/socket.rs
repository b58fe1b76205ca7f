//! Sockets as they are made: a strict scope refuses what no other program would judge; elsewhere
//! such sockets are remembered with their maker.

use aya_ebpf::{
    EbpfContext as _,
    bindings::BPF_SK_STORAGE_GET_F_CREATE,
    helpers::generated::{bpf_get_current_cgroup_id, bpf_get_netns_cookie, bpf_sk_storage_get},
    programs::SockContext,
};
use core::{ffi::c_void, ptr};
use egress_common::{Counter, NewSocket, SocketVerdict, Unjudged, decide_socket, is_judged};

use crate::{
    ALLOW,
    caller::caller,
    evidence,
    maps::{self, UNJUDGED},
};

#[inline(always)]
pub(crate) fn create(ctx: &SockContext) -> i32 {
    let (kind, protocol) = read(ctx);
    if is_judged(kind, protocol) {
        return ALLOW;
    }
    let socket = NewSocket {
        // SAFETY: the helper takes nothing and only reads the current task.
        cgroup: unsafe { bpf_get_current_cgroup_id() },
        kind,
        protocol,
    };
    // SAFETY: the helper accepts the context of a socket program.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let Some(settings) = maps::settings() else {
        return refuse(ctx, Counter::RefuseSettings, protocol, netns);
    };
    match decide_socket(settings, maps::scope(netns), &socket) {
        SocketVerdict::Make => ALLOW,
        SocketVerdict::Remember => match remember(ctx, &socket, netns) {
            Some(()) => ALLOW,
            None => refuse(ctx, Counter::RefuseStorage, protocol, netns),
        },
        SocketVerdict::Refuse => refuse(ctx, Counter::RefuseSocket, protocol, netns),
    }
}

#[inline(always)]
fn refuse(ctx: &SockContext, reason: Counter, protocol: u32, netns: u64) -> i32 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the largest protocol number is 262"
    )]
    let protocol = protocol as u16;
    evidence::refuse(reason, protocol, caller(ctx), netns)
}

/// The socket's kind and protocol.
#[inline(always)]
fn read(ctx: &SockContext) -> (u32, u32) {
    // SAFETY: the kernel hands a valid context to the program, with these words.
    unsafe {
        (
            (&raw const (*ctx.sock).type_).read_volatile(),
            (&raw const (*ctx.sock).protocol).read_volatile(),
        )
    }
}

#[inline(always)]
fn remember(ctx: &SockContext, socket: &NewSocket, netns: u64) -> Option<()> {
    let map: *mut c_void = ptr::from_ref(&UNJUDGED).cast_mut().cast();
    let flags = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
    // SAFETY: the helper accepts the context of a socket program for its socket; the result is
    // the socket's storage, of the map's value type, or null.
    let stored: *mut Unjudged =
        unsafe { bpf_sk_storage_get(map, ctx.as_ptr(), ptr::null_mut(), flags).cast() };
    if stored.is_null() {
        return None;
    }
    // SAFETY: not null, and nobody else knows the socket yet.
    unsafe { *stored = Unjudged::new(socket.kind, netns, caller(ctx)) };
    Some(())
}
