//! The process that makes the system call.

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_get_current_cgroup_id, bpf_get_current_comm},
};
use core::mem::MaybeUninit;
use egress_common::{COMM_LEN, Caller};

#[inline(always)]
pub(crate) fn caller(ctx: &impl EbpfContext) -> Caller {
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
