//! Gathers what the decision needs.

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_get_current_cgroup_id, bpf_get_netns_cookie, bpf_ktime_get_ns},
    programs::SockAddrContext,
};
use egress_common::{Attempt, Counter, Pass, Protocol, Refuse, Target, Verdict, decide};

use crate::{caller::caller, evidence, maps, packet::LOOPBACK, sockaddr::SockAddr};

/// An attempt with its verdict.
pub(crate) struct Judged {
    pub(crate) attempt: Attempt,
    /// Number of the socket's protocol.
    protocol: u32,
    /// Cookie of the network namespace that the socket lives in.
    pub(crate) netns: u64,
    pub(crate) verdict: Verdict,
}

impl Judged {
    /// Whether the attempt is a connection to the agent's listener that nothing redirected there.
    #[inline(always)]
    pub(crate) fn is_to_listener(&self) -> bool {
        matches!(self.attempt.protocol, Protocol::Tcp)
            && self.attempt.dst.is_local()
            && maps::scope(self.netns)
                .is_some_and(|scope| scope.listens_at(self.attempt.dst, self.attempt.port))
    }

    /// Tells the agent that `reason` met this attempt.
    #[inline(always)]
    pub(crate) fn tell(&self, ctx: &SockAddrContext, reason: Counter) {
        let target = Target {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the largest protocol number is 262"
            )]
            protocol: self.protocol as u16,
            dst: self.attempt.dst,
            port: self.attempt.port,
        };
        // SAFETY: the helper takes nothing and only reads the clock.
        let now = unsafe { bpf_ktime_get_ns() };
        evidence::tell(reason, target, caller(ctx), self.netns, now);
    }
}

#[inline(always)]
pub(crate) fn judge(ctx: &SockAddrContext, dst: SockAddr) -> Judged {
    let protocol = protocol(ctx);
    let mut attempt = Attempt {
        cgroup: 0,
        protocol: Protocol::from_number(protocol),
        form: dst.form,
        dst: dst.addr,
        port: dst.port,
        bound: false,
        // Where nobody asks for it; who did would find the agent stale.
        now: u64::MAX,
    };
    // SAFETY: the helper accepts the context of a socket address program.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // Elsewhere nobody asks for it.
    attempt.bound = attempt.dst.is_local() && is_bound(ctx);
    let verdict = if attempt.dst.is_local() && !attempt.bound {
        // Whoever asks, and whenever: the rest costs time.
        Verdict::Pass(Pass::Loopback)
    } else {
        // SAFETY: the helper takes nothing and only reads the current task.
        attempt.cgroup = unsafe { bpf_get_current_cgroup_id() };
        judge_outside(netns, &mut attempt)
    };
    Judged {
        attempt,
        protocol,
        netns,
        verdict,
    }
}

#[inline(always)]
fn judge_outside(netns: u64, attempt: &mut Attempt) -> Verdict {
    let Some(settings) = maps::settings() else {
        return Verdict::Refuse(Refuse::Settings);
    };
    let scope = maps::scope(netns);
    let prefix = scope.and_then(|_| maps::prefix(attempt.dst, attempt.port));
    if prefix.is_some() || scope.is_some_and(|scope| scope.captures(attempt.port)) {
        // SAFETY: the helper takes nothing and only reads the clock.
        attempt.now = unsafe { bpf_ktime_get_ns() };
    }
    decide(settings, scope, prefix, attempt)
}

/// Whether the socket is bound to a device other than loopback.
#[inline(always)]
fn is_bound(ctx: &SockAddrContext) -> bool {
    !matches!(bound_device(ctx), 0 | LOOPBACK)
}

/// Index of the device that the socket is bound to, or 0.
#[inline(always)]
pub(crate) fn bound_device(ctx: &SockAddrContext) -> u32 {
    // SAFETY: a socket address program's context always has its socket, whose fields are readable.
    unsafe { (*(*ctx.sock_addr).__bindgen_anon_1.sk).bound_dev_if }
}

#[inline(always)]
fn protocol(ctx: &SockAddrContext) -> u32 {
    // SAFETY: the kernel hands a valid context to the program; this word is readable in every
    // socket address hook.
    unsafe { (&raw const (*ctx.sock_addr).protocol).read_volatile() }
}
