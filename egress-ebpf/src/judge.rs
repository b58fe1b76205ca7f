//! Gathers what the decision needs.

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_get_current_cgroup_id, bpf_get_netns_cookie, bpf_ktime_get_ns},
    programs::SockAddrContext,
};
use egress_common::{Attempt, Protocol, Refuse, Verdict, decide};

use crate::{maps, sockaddr::SockAddr};

/// An attempt with its verdict.
pub(crate) struct Judged {
    pub(crate) attempt: Attempt,
    /// Cookie of the network namespace that the socket lives in.
    pub(crate) netns: u64,
    pub(crate) verdict: Verdict,
}

#[inline(always)]
pub(crate) fn judge(ctx: &SockAddrContext, dst: SockAddr) -> Judged {
    let attempt = Attempt {
        // SAFETY: the helper takes nothing and only reads the current task.
        cgroup: unsafe { bpf_get_current_cgroup_id() },
        protocol: protocol(ctx),
        form: dst.form,
        dst: dst.addr,
        port: dst.port,
        // SAFETY: the helper takes nothing and only reads the clock.
        now: unsafe { bpf_ktime_get_ns() },
    };
    // SAFETY: the helper accepts the context of a socket address program.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let verdict = match maps::settings() {
        Some(settings) => {
            let scope = maps::scope(netns);
            let prefix = scope.and_then(|_| maps::prefix(attempt.dst));
            decide(settings, scope, prefix, &attempt)
        }
        None => Verdict::Refuse(Refuse::Settings),
    };
    Judged {
        attempt,
        netns,
        verdict,
    }
}

#[inline(always)]
fn protocol(ctx: &SockAddrContext) -> Protocol {
    // SAFETY: the kernel hands a valid context to the program; this word is readable in every
    // socket address hook.
    let number = unsafe { (&raw const (*ctx.sock_addr).protocol).read_volatile() };
    Protocol::from_number(number)
}
