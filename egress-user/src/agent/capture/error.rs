//! What can go wrong between this process and the kernel, in one sentence each.

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;
use aya::util::KernelVersion;
use egress_common::{TooManyPorts, TooManyResolvers};
use rustix::thread::{CapabilitySet, capabilities};
use tracing::debug;

use crate::netns::NetnsError;

/// The oldest kernel that the programs are made for.
const OLDEST_KERNEL: KernelVersion = KernelVersion::new(5, 15, 0);

/// How many lines of the verifier's log are worth showing: the last ones name the instruction and
/// the objection.
const VERIFIER_LINES: usize = 20;

/// Why connections cannot be captured.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The programs were not built before this binary.
    #[error("this binary was built without its kernel programs; build it with `cargo xtask build`")]
    NotBuilt,
    /// The programs in this binary are not the ones it was made for.
    #[error(
        "the kernel programs in this binary do not fit it ({missing}); build it anew with `cargo xtask build`"
    )]
    WrongObject {
        /// The program or map that is missing or of another type.
        missing: &'static str,
    },
    /// The kernel is too old.
    #[error("this is Linux {found}, but capturing connections takes 5.15 or newer")]
    KernelTooOld {
        /// The release that is running.
        found: String,
    },
    /// This process lacks capabilities.
    #[error("loading kernel programs takes {missing}: run it as root, with sudo for instance")]
    NoCapability {
        /// The capabilities that are missing.
        missing: String,
    },
    /// The kernel refuses although this process seems to have every capability.
    #[error(
        "the kernel does not let this process {what} although it has the capabilities; in a container they must be those of the host's user namespace"
    )]
    NotPermitted {
        /// What was refused.
        what: String,
    },
    /// The object in this binary could not be read.
    #[error("cannot load the kernel programs")]
    Object(#[source] EbpfError),
    /// A map could not be made.
    #[error("cannot create the kernel map {name}")]
    CreateMap {
        /// The map.
        name: String,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
    /// A map could not be written.
    #[error("cannot write to the kernel map {name}")]
    WriteMap {
        /// The map.
        name: &'static str,
        /// The kernel's word.
        #[source]
        source: MapError,
    },
    /// The verifier rejected a program.
    #[error("the kernel's verifier rejected the program {program}; its log is at level debug")]
    Rejected {
        /// The program.
        program: &'static str,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
    /// A program could not be loaded for another reason.
    #[error("cannot load the kernel program {program}")]
    Load {
        /// The program.
        program: &'static str,
        /// aya's word.
        #[source]
        source: ProgramError,
    },
    /// A program could not be attached.
    #[error("cannot attach the kernel program {program} to {}", cgroup.display())]
    Attach {
        /// The program.
        program: &'static str,
        /// The cgroup.
        cgroup: PathBuf,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
    /// A network namespace could not be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The network devices of a namespace could not be listed.
    #[error("cannot list the network devices in {}", netns.display())]
    Devices {
        /// The namespace.
        netns: PathBuf,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
    /// A namespace has too many network devices to guard each.
    #[error(
        "the network namespace {} has {found} network devices, and not more than {most} of them can \
         be guarded",
        netns.display()
    )]
    TooManyDevices {
        /// The namespace.
        netns: PathBuf,
        /// How many there are.
        found: usize,
        /// How many there may be.
        most: usize,
    },
    /// A network device could not be guarded.
    #[error("cannot guard the network device {device}")]
    Guard {
        /// The device.
        device: String,
        /// What the kernel or aya said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// A network device has a link layer of its own.
    #[error(
        "cannot guard the network device {device}: packets on it begin with a header that is not known (link layer {kind})"
    )]
    LinkLayer {
        /// The device.
        device: String,
        /// The number of its link layer, `ARPHRD_` in the kernel's `if_arp.h`.
        kind: u16,
    },
    /// The cgroup could not be opened.
    #[error("cannot open the cgroup {}", path.display())]
    OpenCgroup {
        /// What was to be a cgroup.
        path: PathBuf,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
    /// The path is not a cgroup.
    #[error("{} is not a directory of a cgroup v2 hierarchy{}", path.display(), such_as(mount))]
    NotCgroup2 {
        /// What was to be a cgroup.
        path: PathBuf,
        /// Where there is such a hierarchy.
        mount: Option<PathBuf>,
    },
    /// A scope has too many ports.
    #[error(transparent)]
    TooManyPorts(#[from] TooManyPorts),
    /// Too many name servers.
    #[error(transparent)]
    TooManyResolvers(#[from] TooManyResolvers),
    /// Pins need a bpf file system.
    #[error("{0} is not on a bpf file system: mount one with `mount -t bpf bpf /sys/fs/bpf`", path.display())]
    NotBpfFs {
        /// Where the pins were to be.
        path: PathBuf,
    },
    /// A link could not be pinned.
    #[error("cannot pin {}", path.display())]
    Pin {
        /// The pin.
        path: PathBuf,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
    /// A pin could not be removed.
    #[error("cannot remove the pin {}", path.display())]
    Unpin {
        /// The pin.
        path: PathBuf,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
    /// The programs' log could not be read.
    #[error("cannot read the log of the kernel programs")]
    Log(#[source] aya_log::Error),
}

/// Fails on a kernel that is too old. One whose version cannot be told is tried.
pub(super) fn check_kernel() -> Result<(), CaptureError> {
    match KernelVersion::current() {
        Ok(version) if version < OLDEST_KERNEL => Err(CaptureError::KernelTooOld {
            found: fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
        }),
        _ => Ok(()),
    }
}

fn such_as(mount: &Option<PathBuf>) -> String {
    let mount = mount.as_ref().map(|mount| mount.display());
    mount.map_or_else(String::new, |mount| format!(", which is at {mount}"))
}

/// Fails when a capability is missing that loading or attaching takes. `CAP_SYS_ADMIN` stands for
/// those that were split from it.
pub(super) fn check_capabilities() -> Result<(), CaptureError> {
    let effective = match capabilities(None) {
        Ok(sets) => sets.effective,
        // The kernel will say what it thinks.
        Err(_) => return Ok(()),
    };
    let admin = effective.contains(CapabilitySet::SYS_ADMIN);
    let missing: Vec<&str> = [
        (CapabilitySet::BPF, "CAP_BPF", admin),
        // Before Linux 6.9 nothing stands for it when a packet's program is attached.
        (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN", false),
        // For the name of the calling process, and loops in the programs' log.
        (CapabilitySet::PERFMON, "CAP_PERFMON", admin),
    ]
    .into_iter()
    .filter(|(capability, _, stands_in)| !effective.contains(*capability) && !stands_in)
    .map(|(_, name, _)| name)
    .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(CaptureError::NoCapability {
            missing: missing.join(", "),
        })
    }
}

pub(super) fn object(error: EbpfError) -> CaptureError {
    match error {
        EbpfError::MapError(MapError::CreateError { name, io_error }) => {
            if is_permission(&io_error) {
                not_permitted(format!("create the kernel map {name}"))
            } else {
                CaptureError::CreateMap {
                    name,
                    source: io_error,
                }
            }
        }
        error => CaptureError::Object(error),
    }
}

pub(super) fn load(program: &'static str, error: ProgramError) -> CaptureError {
    match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => {
            let log = verifier_log.to_string();
            if log.trim().is_empty() && is_permission(&io_error) {
                return not_permitted(format!("load the kernel program {program}"));
            }
            let lines: Vec<&str> = log.lines().collect();
            for line in lines
                .iter()
                .skip(lines.len().saturating_sub(VERIFIER_LINES))
            {
                debug!(program, "verifier: {line}");
            }
            CaptureError::Rejected {
                program,
                source: io_error,
            }
        }
        source => CaptureError::Load { program, source },
    }
}

pub(super) fn attach(program: &'static str, cgroup: &Path, source: io::Error) -> CaptureError {
    if is_permission(&source) {
        return not_permitted(format!(
            "attach the kernel program {program} to {}",
            cgroup.display()
        ));
    }
    CaptureError::Attach {
        program,
        cgroup: cgroup.to_owned(),
        source,
    }
}

pub(super) fn write(name: &'static str) -> impl FnOnce(MapError) -> CaptureError {
    move |source| CaptureError::WriteMap { name, source }
}

/// Whether the error says that there was no such entry.
pub(super) fn is_missing(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => true,
        MapError::SyscallError(error) => error.io_error.kind() == io::ErrorKind::NotFound,
        error => error
            .source()
            .and_then(|source| source.downcast_ref::<io::Error>())
            .is_some_and(|error| error.kind() == io::ErrorKind::NotFound),
    }
}

fn is_permission(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

fn not_permitted(what: String) -> CaptureError {
    CaptureError::NotPermitted { what }
}
