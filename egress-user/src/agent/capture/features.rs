//! What the running kernel offers beyond the oldest one that is supported.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported};
use aya::util::KernelVersion;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{self, FsMountFlags, FsOpenFlags, MountAttrFlags};
use tracing::debug;

use super::kernel_types::{KernelTypes, Members};

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

/// What programs at the kernel's security hooks (BPF LSM) need to know of it.
pub(super) struct SecurityHooks {
    pub(super) types: KernelTypes,
    pub(super) members: Members,
}

/// What programs of a cgroup at the kernel's security hooks need, or why the kernel asks none: it does
/// since Linux 6.0, elsewhere than on x86_64 since 6.4, and where `bpf` is among the security
/// modules that it was started with.
pub(super) fn security_hooks() -> Result<SecurityHooks, String> {
    let oldest = if cfg!(target_arch = "x86_64") {
        KernelVersion::new(6, 0, 0)
    } else {
        KernelVersion::new(6, 4, 0)
    };
    if KernelVersion::current().is_ok_and(|version| version < oldest) {
        return Err(
            "the kernel is older than Linux 6.0 (on other machines than x86_64, 6.4)".into(),
        );
    }
    let modules = security_modules().map_err(|error| {
        format!(
            "the kernel's security modules cannot be read: {error}; mount securityfs at \
             /sys/kernel/security, or give the agent CAP_SYS_ADMIN"
        )
    })?;
    if !modules.split(',').any(|each| each == "bpf") {
        return Err(format!(
            "bpf is not among the kernel's security modules ({modules}): start it with `lsm=` and these, \
             and `,bpf`"
        ));
    }
    let types = KernelTypes::of_this_kernel();
    let types = types.map_err(|error| format!("the kernel's types cannot be read: {error}"))?;
    match types.members() {
        Some(members) => Ok(SecurityHooks { types, members }),
        None => Err("the kernel's structures are not those that the programs know".into()),
    }
}

/// The security modules of the running kernel. Its file system for them need not be mounted for
/// that, which in containers it is not.
fn security_modules() -> io::Result<String> {
    let modules = fs::read_to_string("/sys/kernel/security/lsm").or_else(|_| {
        let context = mount::fsopen("securityfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        mount::fsconfig_create(&context)?;
        let rights = MountAttrFlags::MOUNT_ATTR_RDONLY;
        let root = mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, rights)?;
        let how = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&root, "lsm", how, Mode::empty())?;
        io::read_to_string(File::from(file))
    })?;
    Ok(modules.trim().to_owned())
}

fn has(program: ProgramType, helper: BpfHelper) -> bool {
    is_helper_supported(program, helper).unwrap_or(false)
}
