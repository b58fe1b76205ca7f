//! What the running kernel offers beyond the oldest one that is supported.

use std::path::Path;

use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported};
use tracing::debug;

/// Whether the programs can get from an MPTCP subflow to the socket above it: since Linux 5.19.
/// Before, `getpeername` of an MPTCP socket tells the listener's address.
pub(super) fn mptcp_sock() -> bool {
    Path::new("/proc/sys/net/mptcp/enabled").exists()
        && has(ProgramType::SockOps, BpfHelper::BPF_FUNC_skc_to_mptcp_sock)
}

/// Whether the kernel tells programs in which namespace a packet is: since Linux 6.15. Before, the
/// programs of a cgroup judge the packets of raw sockets alone, whose namespace was noted when they
/// were made, and guards on devices, by clsact, judge the rest.
pub(super) fn packet_netns() -> bool {
    let tells = [ProgramType::CgroupSkb, ProgramType::SchedClassifier]
        .into_iter()
        .all(|program| has(program, BpfHelper::BPF_FUNC_get_netns_cookie));
    if !tells {
        debug!(
            "this kernel does not tell the namespace of a packet (Linux 6.15 does): what goes round \
             `connect` by other than raw sockets is dropped at guarded devices only"
        );
    }
    tells
}

fn has(program: ProgramType, helper: BpfHelper) -> bool {
    is_helper_supported(program, helper).unwrap_or(false)
}
