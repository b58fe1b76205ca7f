//! `connect`: passes, is refused, or goes to the agent's listener with the original destination
//! stored beside the socket.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{SO_BINDTODEVICE, SOL_SOCKET, bpf_sock},
    helpers::generated::bpf_setsockopt,
    programs::SockAddrContext,
};
use aya_log_ebpf::debug;
use core::net::Ipv6Addr;
use egress_common::{Counter, Flow, Redirect, Redirected, Refuse, Verdict};

use crate::{
    ALLOW, DENY,
    caller::caller,
    judge::{Judged, bound_device, judge},
    maps::{SOCKETS, count},
    sockaddr::Family,
};

#[inline(always)]
pub(crate) fn connect<F: Family>(ctx: &SockAddrContext) -> i32 {
    let judged = judge(ctx, F::read(ctx));
    let verdict = match judged.verdict {
        Verdict::Pass(why) => Verdict::Pass(why),
        Verdict::Redirect(to) => match redirect::<F>(ctx, &judged, to) {
            Ok(()) => Verdict::Redirect(to),
            Err(why) => Verdict::Refuse(why),
        },
        Verdict::Refuse(why) => Verdict::Refuse(why),
    };
    count(verdict.counter());
    match verdict {
        Verdict::Pass(_) => pass(ctx, &judged),
        Verdict::Redirect(to) => {
            debug!(
                ctx,
                "redirect {:i} port {} to listener port {}",
                Ipv6Addr::from(judged.attempt.dst),
                judged.attempt.port.to_host(),
                to.port().to_host()
            );
            ALLOW
        }
        Verdict::Refuse(_) => {
            forget(ctx);
            judged.tell(ctx, verdict.counter());
            debug!(
                ctx,
                "refuse {:i} port {} as counter {}",
                Ipv6Addr::from(judged.attempt.dst),
                judged.attempt.port.to_host(),
                verdict.counter().index()
            );
            DENY
        }
    }
}

#[inline(always)]
fn pass(ctx: &SockAddrContext, judged: &Judged) -> i32 {
    let attempt = &judged.attempt;
    // SAFETY: the context is valid; the pointer is this socket's storage or null, and `connect`
    // holds the socket's lock.
    match unsafe { SOCKETS.get_ptr_mut(ctx).as_ref() } {
        // Nothing to forget: a predecessor's programs, which share this storage, have just
        // redirected it.
        Some(stored) if stored.is_under_way_to(attempt.dst, attempt.port) => return ALLOW,
        Some(_) => forget(ctx),
        None => {}
    }
    if judged.is_to_listener() {
        judged.tell(ctx, Counter::DirectToListener);
    }
    ALLOW
}

#[inline(always)]
fn redirect<F: Family>(ctx: &SockAddrContext, judged: &Judged, to: Redirect) -> Result<(), Refuse> {
    if F::is_link_local(socket(ctx)) {
        return Err(Refuse::BoundDevice);
    }
    release_from_device(ctx)?;
    let stored = storage(ctx)?;
    let attempt = &judged.attempt;
    let flow = Flow::new(
        attempt.dst,
        attempt.port,
        attempt.form,
        caller(ctx),
        attempt.now,
    );
    // SAFETY: not null, of the map's value type, and `connect` holds the socket's lock.
    unsafe { *stored = Redirected::new(flow, judged.netns, to) };
    F::write(ctx, to.addr(), to.port()).ok_or(Refuse::NoListener)
}

/// A socket that is bound to a device cannot reach the loopback device: its connect would hang.
/// Without a right to release it, there is only refusal.
#[inline(always)]
fn release_from_device(ctx: &SockAddrContext) -> Result<(), Refuse> {
    const LEN: i32 = 4;
    if bound_device(ctx) == 0 {
        return Ok(());
    }
    let mut no_device = [0u8; LEN as usize];
    // SAFETY: the helper accepts the context of a connect program and reads `no_device`.
    let released = unsafe {
        bpf_setsockopt(
            ctx.as_ptr(),
            SOL_SOCKET as i32,
            SO_BINDTODEVICE as i32,
            no_device.as_mut_ptr().cast(),
            LEN,
        )
    };
    if released == 0 {
        Ok(())
    } else {
        Err(Refuse::BoundDevice)
    }
}

/// The socket's storage: what an earlier connect left there, or zeros.
#[inline(always)]
fn storage(ctx: &SockAddrContext) -> Result<*mut Redirected, Refuse> {
    // SAFETY: the context is valid; the returned pointer is this socket's storage or null.
    let stored = unsafe { SOCKETS.get_or_insert_ptr_mut(ctx, None) };
    if stored.is_null() {
        Err(Refuse::Storage)
    } else {
        Ok(stored)
    }
}

/// Forgets what an earlier connect stored with the socket.
#[inline(always)]
fn forget(ctx: &SockAddrContext) {
    // SAFETY: a socket address program's context always has its socket.
    let _none_stored = unsafe { SOCKETS.delete(socket(ctx)) };
}

#[inline(always)]
fn socket(ctx: &SockAddrContext) -> *mut bpf_sock {
    // SAFETY: the kernel hands a valid context to the program; the socket is readable in every
    // socket address hook.
    unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk }
}
