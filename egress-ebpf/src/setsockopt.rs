//! Socket options that would get frames past the guard of an interface.

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{
        bpf_get_current_cgroup_id, bpf_get_current_uid_gid, bpf_get_netns_cookie, bpf_ktime_get_ns,
    },
    programs::SockoptContext,
};
use egress_common::{Addr, COMM_LEN, Caller, Counter, Port, SetOption, Target, decide_option};

use crate::{
    ALLOW, DENY, evidence,
    maps::{self, count},
};

#[inline(always)]
pub(crate) fn setsockopt(ctx: &SockoptContext) -> i32 {
    // SAFETY: the kernel hands a valid context to the program, with these words. A length of zero
    // tells it to take the option as the application gave it, of whatever length.
    let option = unsafe {
        (&raw mut (*ctx.sockopt).optlen).write_volatile(0);
        let sk = (*ctx.sockopt).__bindgen_anon_1.sk;
        SetOption {
            level: (&raw const (*ctx.sockopt).level).read_volatile(),
            option: (&raw const (*ctx.sockopt).optname).read_volatile(),
            family: (&raw const (*sk).family).read_volatile(),
            kind: (&raw const (*sk).type_).read_volatile(),
        }
    };
    if option.is_free() {
        return ALLOW;
    }
    // SAFETY: the helper takes nothing and only reads the current task.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    // SAFETY: the helper accepts the context of a socket option program.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let scope = maps::scope(netns);
    match maps::settings() {
        Some(settings) if decide_option(settings, scope, cgroup, &option) => ALLOW,
        _ => refuse(cgroup, netns),
    }
}

#[inline(always)]
fn refuse(cgroup: u64, netns: u64) -> i32 {
    count(Counter::RefuseOption);
    // SAFETY: the helper takes nothing and only reads the current task.
    let user_and_group = unsafe { bpf_get_current_uid_gid() };
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the lower half is the user"
    )]
    let uid = user_and_group as u32;
    let caller = Caller {
        cgroup,
        // Not every supported kernel tells these programs the process.
        pid: 0,
        uid,
        comm: [0; COMM_LEN],
    };
    let target = Target {
        protocol: 0,
        dst: Addr::UNSPECIFIED,
        port: Port::NONE,
    };
    // SAFETY: the helper takes nothing and only reads the clock.
    let now = unsafe { bpf_ktime_get_ns() };
    evidence::tell(Counter::RefuseOption, target, caller, netns, now);
    DENY
}
