//! Socket options that would get frames past the guard of an interface.

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{
        bpf_get_current_cgroup_id, bpf_get_current_uid_gid, bpf_get_netns_cookie,
    },
    programs::SockoptContext,
};
use egress_common::{COMM_LEN, Caller, Counter, SetOption, decide_option};

use crate::{ALLOW, evidence, maps};

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
    evidence::refuse(Counter::RefuseOption, 0, caller, netns)
}
