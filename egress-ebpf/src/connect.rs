//! `connect`: passes, is refused, or goes to the agent's listener with the original destination
//! stored beside the socket.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{SO_BINDTODEVICE, SOL_SOCKET, bpf_sock},
    helpers::generated::{
        bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_ktime_get_ns, bpf_setsockopt,
    },
    programs::SockAddrContext,
};
use aya_log_ebpf::debug;
use core::{mem::MaybeUninit, net::Ipv6Addr};
use egress_common::{COMM_LEN, Caller, Flow, Redirect, Redirected, Refuse, Verdict};

use crate::{
    ALLOW, DENY,
    judge::{Judged, judge},
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
        Verdict::Pass(_) => {
            forget(ctx);
            ALLOW
        }
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
fn redirect<F: Family>(ctx: &SockAddrContext, judged: &Judged, to: Redirect) -> Result<(), Refuse> {
    release_from_device(ctx)?;
    let stored = storage(ctx)?;
    let attempt = &judged.attempt;
    // SAFETY: the helper takes nothing and reads a clock.
    let now = unsafe { bpf_ktime_get_ns() };
    let flow = Flow::new(attempt.dst, attempt.port, attempt.form, caller(ctx), now);
    // SAFETY: not null, of the map's value type, and `connect` holds the socket's lock.
    unsafe { *stored = Redirected::new(flow, judged.netns, to) };
    F::write(ctx, to.addr(), to.port()).ok_or(Refuse::NoListener)
}

/// A socket that is bound to a device cannot reach the loopback device: its connect would hang.
/// Without a right to release it, there is only refusal.
#[inline(always)]
fn release_from_device(ctx: &SockAddrContext) -> Result<(), Refuse> {
    const LEN: i32 = 4;
    // SAFETY: a socket address program's context always has its socket, whose fields are readable.
    let device = unsafe { (*socket(ctx)).bound_dev_if };
    if device == 0 {
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

#[inline(always)]
fn caller(ctx: &SockAddrContext) -> Caller {
    Caller {
        // SAFETY: the helper takes nothing and only reads the current task.
        cgroup: unsafe { bpf_get_current_cgroup_id() },
        pid: ctx.tgid(),
        uid: ctx.uid(),
        comm: command(),
    }
}

/// The current task's command name. aya's wrapper clears its buffer first, in a loop over bytes.
#[inline(always)]
fn command() -> [u8; COMM_LEN] {
    #[expect(clippy::cast_possible_truncation, reason = "sixteen")]
    const LEN: u32 = COMM_LEN as u32;
    let mut comm = MaybeUninit::<[u8; COMM_LEN]>::uninit();
    // SAFETY: `comm` is writable for the length that the helper is told; it fills all of it, with
    // zeros where it fails.
    unsafe {
        bpf_get_current_comm(comm.as_mut_ptr().cast(), LEN);
        comm.assume_init()
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
