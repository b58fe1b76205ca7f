//! The moment before the SYN: the source port is known now, and with it the key under which the
//! agent will look the connection up.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_ANY, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    helpers::generated::{
        bpf_get_netns_cookie, bpf_sk_storage_delete, bpf_sk_storage_get, bpf_skc_to_mptcp_sock,
    },
    programs::SockOpsContext,
};
use core::{ffi::c_void, ptr};
use egress_common::{Addr, Counter, FlowKey, Port, Redirected};

use crate::{
    maps::{self, FLOWS, MPTCP_SOCK, SOCKETS, count},
    sockaddr::read_words,
};

const AF_INET: u32 = 2;

#[inline(always)]
pub(crate) fn connecting(ctx: &SockOpsContext) {
    // SAFETY: the kernel hands a valid context to the program.
    let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if sk.is_null() {
        return;
    }
    // SAFETY: `sk` is a socket and not null; the map's values are `Redirected`, written only
    // under the socket's lock, which is held now.
    let redirected = unsafe { storage(sk.cast(), 0).as_mut() };
    match redirected {
        Some(redirected) => {
            redirected.set_sent();
            share_with_mptcp(sk, redirected);
            record(ctx, redirected);
        }
        None => not_redirected(ctx, sk),
    }
}

#[inline(always)]
fn record(ctx: &SockOpsContext, redirected: &Redirected) {
    let key = key(ctx, redirected.netns());
    match FLOWS.insert(key, redirected.flow(), u64::from(BPF_ANY)) {
        Ok(()) => count(Counter::FlowRecorded),
        Err(_) => count(Counter::FlowLost),
    }
}

/// A process that connects to the agent's listener by itself must not be taken for the connection
/// that last used its source port and that the agent never accepted.
#[inline(always)]
fn not_redirected(ctx: &SockOpsContext, sk: *mut bpf_sock) {
    forget_with_mptcp(sk);
    let (addr, port) = remote(ctx);
    if !addr.is_local() {
        return;
    }
    // SAFETY: the helper accepts the context of a sock_ops program.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let Some(scope) = maps::scope(netns) else {
        return;
    };
    if scope.listens_at(addr, port) {
        let _none_recorded = FLOWS.remove(key(ctx, netns));
        count(Counter::DirectToListener);
    }
}

#[inline(always)]
fn key(ctx: &SockOpsContext, netns: u64) -> FlowKey {
    // SAFETY: the kernel hands a valid context to the program, with these words.
    let (v4, v6) = unsafe {
        (
            (&raw const (*ctx.ops).local_ip4).read_volatile(),
            read_words(&raw const (*ctx.ops).local_ip6),
        )
    };
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the word holds a 16-bit port"
    )]
    let port = Port::from_host(ctx.local_port() as u16);
    FlowKey::new(netns, of_family(ctx, v4, v6), port)
}

#[inline(always)]
fn remote(ctx: &SockOpsContext) -> (Addr, Port) {
    // SAFETY: the kernel hands a valid context to the program, with these words.
    let (v4, v6) = unsafe {
        (
            (&raw const (*ctx.ops).remote_ip4).read_volatile(),
            read_words(&raw const (*ctx.ops).remote_ip6),
        )
    };
    // The whole word is in network byte order, unlike that of the local port.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the word holds a 16-bit port"
    )]
    let port = Port::from_host(u32::from_be(ctx.remote_port()) as u16);
    (of_family(ctx, v4, v6), port)
}

/// Both forms are read before one is chosen: the optimiser would make one read of two, at an offset
/// that it computes.
#[inline(always)]
fn of_family(ctx: &SockOpsContext, be_v4: u32, v6: Addr) -> Addr {
    match ctx.family() {
        AF_INET => Addr::from_be_v4(be_v4),
        _ => v6,
    }
}

/// `connect` and this hook see an MPTCP connection's first subflow, `getpeername` the MPTCP socket
/// above it: give that one a copy.
#[inline(always)]
fn share_with_mptcp(sk: *mut bpf_sock, redirected: &Redirected) {
    if MPTCP_SOCK.load() == 0 {
        return;
    }
    // SAFETY: `sk` is a socket and not null; the result is null unless it is a subflow.
    let above = unsafe { bpf_skc_to_mptcp_sock(sk.cast()) };
    if above.is_null() {
        return;
    }
    // SAFETY: `above` is a socket and not null.
    let stored = unsafe { storage(above.cast(), BPF_SK_STORAGE_GET_F_CREATE) };
    if !stored.is_null() {
        // SAFETY: not null, and of the map's value type.
        unsafe { *stored = *redirected };
    }
}

#[inline(always)]
fn forget_with_mptcp(sk: *mut bpf_sock) {
    if MPTCP_SOCK.load() == 0 {
        return;
    }
    // SAFETY: `sk` is a socket and not null; the result is null unless it is a subflow.
    let above = unsafe { bpf_skc_to_mptcp_sock(sk.cast()) };
    if !above.is_null() {
        // SAFETY: `above` is a socket and not null.
        unsafe { bpf_sk_storage_delete(sockets(), above.cast()) };
    }
}

/// The storage of a socket, or null.
///
/// # Safety
/// `sk` is a socket that the verifier knows as one, and not null.
#[inline(always)]
unsafe fn storage(sk: *mut c_void, flags: u32) -> *mut Redirected {
    // SAFETY: the caller's promise; without an initial value a new entry is zeroed.
    unsafe { bpf_sk_storage_get(sockets(), sk, ptr::null_mut(), u64::from(flags)).cast() }
}

/// The map as the helpers want it; aya's wrapper serves socket address programs only.
#[inline(always)]
fn sockets() -> *mut c_void {
    ptr::from_ref(&SOCKETS).cast_mut().cast()
}
