//! Programs that do nothing: what hooks cost whatever is on them.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

/// `enum bpf_prog_type` and `enum bpf_attach_type` of each program that is attached to a cgroup.
const HOOKS: [(u32, u32); 10] = [
    (8, 1),   // packets that leave
    (9, 2),   // sock_create
    (13, 3),  // sock_ops
    (18, 10), // connect4
    (18, 11), // connect6
    (18, 14), // sendmsg4
    (18, 15), // sendmsg6
    (25, 22), // setsockopt
    (18, 29), // getpeername4
    (18, 30), // getpeername6
];

/// `r0 = 1; exit`, as `struct bpf_insn`.
const RETURN_1: [u64; 2] = [0x0000_0001_0000_00b7, 0x95];

/// Puts one on every hook of the cgroup, for as long as that is there.
pub(crate) fn attach(cgroup: &Path) {
    /// `BPF_PROG_ATTACH` and its flag for several programs on one hook.
    const ATTACH: libc::c_long = 8;
    const MULTI: u32 = 2;

    let cgroup = File::open(cgroup).unwrap();
    for (kind, hook) in HOOKS {
        let program = load(kind, hook);
        let descriptors = [cgroup.as_raw_fd(), program.as_raw_fd()];
        let [cgroup, program] = descriptors.map(i32::cast_unsigned);
        bpf(ATTACH, &mut [cgroup, program, hook, MULTI]);
    }
}

fn load(kind: u32, hook: u32) -> OwnedFd {
    /// `BPF_PROG_LOAD`.
    const LOAD: libc::c_long = 5;

    /// The part of `union bpf_attr` that the command needs.
    #[repr(C)]
    struct Attributes {
        kind: u32,
        instructions: u32,
        code: u64,
        license: u64,
        log: [u64; 2],
        version_and_flags: [u32; 2],
        name: [u8; 16],
        interface: u32,
        hook: u32,
    }

    let mut attributes = Attributes {
        kind,
        instructions: 2,
        code: RETURN_1.as_ptr().expose_provenance() as u64,
        license: c"GPL".as_ptr().expose_provenance() as u64,
        log: [0; 2],
        version_and_flags: [0; 2],
        name: [0; 16],
        interface: 0,
        hook,
    };
    let program = i32::try_from(bpf(LOAD, &mut attributes)).unwrap();
    // SAFETY: the call succeeded and gave a descriptor, which nobody else owns.
    unsafe { OwnedFd::from_raw_fd(program) }
}

fn bpf<T>(command: libc::c_long, attributes: &mut T) -> libc::c_long {
    // SAFETY: pointer and length describe `attributes`, in which every pointer leads to what is
    // constant; the kernel takes unwritten fields behind its end for zero.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    assert!(result >= 0, "{}", io::Error::last_os_error());
    result
}
