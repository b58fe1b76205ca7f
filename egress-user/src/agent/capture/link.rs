//! Attached programs. aya has links too, but not for every hook one that can be pinned.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Where a program is attached, by its number in the kernel's `enum bpf_attach_type`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hook {
    /// `BPF_CGROUP_INET_EGRESS`.
    Packet = 1,
    /// `BPF_CGROUP_INET_SOCK_CREATE`.
    SocketCreate = 2,
    /// `BPF_CGROUP_SOCK_OPS`.
    SockOps = 3,
    /// `BPF_CGROUP_INET4_CONNECT`.
    Connect4 = 10,
    /// `BPF_CGROUP_INET6_CONNECT`.
    Connect6 = 11,
    /// `BPF_CGROUP_UDP4_SENDMSG`.
    Sendmsg4 = 14,
    /// `BPF_CGROUP_UDP6_SENDMSG`.
    Sendmsg6 = 15,
    /// `BPF_CGROUP_SETSOCKOPT`.
    SetSockopt = 22,
    /// `BPF_CGROUP_INET4_GETPEERNAME`.
    Peer4 = 29,
    /// `BPF_CGROUP_INET6_GETPEERNAME`.
    Peer6 = 30,
    /// `BPF_LSM_CGROUP`: the program itself says which of the kernel's security hooks.
    Security = 43,
}

/// A program attached to something. It is detached when the link is dropped, unless the link is
/// pinned or another process holds it.
#[derive(Debug)]
pub(super) struct Link {
    fd: OwnedFd,
}

impl Link {
    /// Attaches a loaded program to the cgroup that is open as `cgroup`.
    pub(super) fn to_cgroup(
        program: BorrowedFd<'_>,
        cgroup: &impl AsFd,
        hook: Hook,
    ) -> io::Result<Link> {
        let cgroup = descriptor(cgroup.as_fd())?;
        Link::create(program, cgroup, hook as u32)
    }

    /// Attaches a loaded program to the way out of the network device with this index in the
    /// calling thread's namespace, by tcx. The kernel has it since Linux 6.6.
    pub(super) fn to_device(program: BorrowedFd<'_>, index: u32) -> io::Result<Link> {
        /// `BPF_TCX_EGRESS`.
        const HOOK: u32 = 47;

        Link::create(program, index, HOOK)
    }

    /// The link that is pinned at `path` of a bpf file system.
    pub(super) fn pinned(path: &Path) -> io::Result<Link> {
        /// `BPF_OBJ_GET`.
        const COMMAND: libc::c_int = 7;

        /// The part of `union bpf_attr` that the command needs.
        #[repr(C)]
        struct Attributes {
            path: u64,
            fd: u32,
            flags: u32,
        }

        let path = CString::new(path.as_os_str().as_bytes())?;
        let mut attributes = Attributes {
            path: path.as_ptr().expose_provenance() as u64,
            fd: 0,
            flags: 0,
        };
        let fd = bpf(COMMAND, &mut attributes)?;
        // SAFETY: the call succeeded and gave a descriptor, which nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Link { fd })
    }

    /// Whether a link to a device still leads to one: not once somebody has detached it, or the
    /// device is gone.
    pub(super) fn leads_to_device(&self) -> io::Result<bool> {
        /// `BPF_OBJ_GET_INFO_BY_FD`.
        const COMMAND: libc::c_int = 15;

        /// The part of `union bpf_attr` that the command needs.
        #[repr(C)]
        struct Attributes {
            fd: u32,
            len: u32,
            info: u64,
        }

        /// The part of `struct bpf_link_info` that is asked for.
        #[repr(C)]
        #[derive(Default)]
        struct Info {
            kind: u32,
            id: u32,
            program: u32,
            zero: u32,
            device: u32,
            hook: u32,
        }

        let mut info = Info::default();
        let mut attributes = Attributes {
            fd: descriptor(self.fd.as_fd())?,
            len: u32::try_from(size_of::<Info>()).map_err(io::Error::other)?,
            info: (&raw mut info).expose_provenance() as u64,
        };
        bpf(COMMAND, &mut attributes)?;
        Ok(info.device != 0)
    }

    fn create(program: BorrowedFd<'_>, target: u32, hook: u32) -> io::Result<Link> {
        /// `BPF_LINK_CREATE`.
        const COMMAND: libc::c_int = 28;

        /// The part of `union bpf_attr` that the command needs.
        #[repr(C)]
        struct Attributes {
            program: u32,
            target: u32,
            hook: u32,
            flags: u32,
        }

        let mut attributes = Attributes {
            program: descriptor(program)?,
            target,
            hook,
            flags: 0,
        };
        let fd = bpf(COMMAND, &mut attributes)?;
        // SAFETY: the call succeeded and gave a descriptor, which nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Link { fd })
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Attaches a loaded program to the cgroup that is open as `cgroup`, without a link: it stays as
/// long as the cgroup is there, whoever ends.
pub(super) fn to_stay(program: BorrowedFd<'_>, cgroup: &impl AsFd, hook: Hook) -> io::Result<()> {
    /// `BPF_PROG_ATTACH`.
    const COMMAND: libc::c_int = 8;
    /// `BPF_F_ALLOW_MULTI`: beside the programs of others, and below those of ancestors.
    const MULTI: u32 = 1 << 1;

    /// The part of `union bpf_attr` that the command needs.
    #[repr(C)]
    struct Attributes {
        target: u32,
        program: u32,
        hook: u32,
        flags: u32,
    }

    let mut attributes = Attributes {
        target: descriptor(cgroup.as_fd())?,
        program: descriptor(program)?,
        hook: hook as u32,
        flags: MULTI,
    };
    bpf(COMMAND, &mut attributes).map(drop)
}

/// Pins a link, or a program, at `path` of a bpf file system.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    /// `BPF_OBJ_PIN`.
    const COMMAND: libc::c_int = 6;

    /// The part of `union bpf_attr` that the command needs.
    #[repr(C)]
    struct Attributes {
        path: u64,
        fd: u32,
        flags: u32,
    }

    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = Attributes {
        path: path.as_ptr().expose_provenance() as u64,
        fd: descriptor(object)?,
        flags: 0,
    };
    bpf(COMMAND, &mut attributes).map(drop)
}

/// The ids of the programs that are attached at `hook` of the cgroup that is open as `cgroup`, not
/// those of its ancestors.
pub(super) fn attached(cgroup: &impl AsFd, hook: Hook) -> io::Result<Vec<u32>> {
    /// `BPF_PROG_QUERY`.
    const COMMAND: libc::c_int = 16;
    /// The most programs that the kernel attaches at one hook, `BPF_CGROUP_MAX_PROGS`, and how many
    /// hooks are asked about at once: of the security hooks there are ten, `CGROUP_LSM_NUM`.
    const MOST: u32 = 10 * 64;

    /// The part of `union bpf_attr` that the command needs.
    #[repr(C)]
    struct Attributes {
        target: u32,
        hook: u32,
        query_flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        zero: u32,
        program_flags: u64,
    }

    let mut ids = [0u32; MOST as usize];
    // Nobody needs them, but the security hooks' are not told without.
    let mut program_flags = [0u32; MOST as usize];
    let program_flags = match hook {
        Hook::Security => program_flags.as_mut_ptr().expose_provenance() as u64,
        _ => 0,
    };
    let mut attributes = Attributes {
        target: descriptor(cgroup.as_fd())?,
        hook: hook as u32,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr().expose_provenance() as u64,
        count: MOST,
        zero: 0,
        program_flags,
    };
    bpf(COMMAND, &mut attributes)?;
    let count = usize::try_from(attributes.count).map_err(io::Error::other)?;
    Ok(ids.into_iter().take(count).collect())
}

fn descriptor(fd: BorrowedFd<'_>) -> io::Result<u32> {
    u32::try_from(fd.as_raw_fd()).map_err(io::Error::other)
}

/// Carries out a command whose part of `union bpf_attr` is `attributes`; what they point at lives.
fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads as many bytes as it is told, takes those behind them for zeros, and
    // checks every descriptor and pointer among them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    libc::c_int::try_from(result).map_err(io::Error::other)
}
