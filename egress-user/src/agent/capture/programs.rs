//! The programs by name: how each is loaded and where it is attached.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use aya::programs::{Program, ProgramError};
use aya::{Btf, Ebpf, Endianness};

use super::CaptureError;
use super::error;
use super::features::SecurityHooks;
use super::link::{self, Hook, Link};

/// Every program of a cgroup, in the order in which they are attached: what a redirected
/// connection will need stands before the first one is redirected, and connections are redirected
/// before those that are not are dropped.
pub(super) const PROGRAMS: [(&str, Hook); 10] = [
    ("egress_flow", Hook::SockOps),
    ("egress_peer4", Hook::Peer4),
    ("egress_peer6", Hook::Peer6),
    ("egress_socket", Hook::SocketCreate),
    ("egress_setsockopt", Hook::SetSockopt),
    ("egress_sendmsg4", Hook::Sendmsg4),
    ("egress_sendmsg6", Hook::Sendmsg6),
    ("egress_connect4", Hook::Connect4),
    ("egress_connect6", Hook::Connect6),
    ("egress_packet", Hook::Packet),
];

/// Those that not every kernel asks, with the names of the security hooks.
const SECURITY: [(&str, &str); 2] = [
    ("egress_family", "socket_create"),
    ("egress_option", "socket_setsockopt"),
];

/// The names of all.
fn names() -> impl Iterator<Item = &'static str> {
    let others = PROGRAMS.into_iter().map(|(name, _)| name);
    SECURITY.into_iter().map(|(name, _)| name).chain(others)
}

/// Whether those of the security hooks are loaded.
pub(super) fn has_security(ebpf: &Ebpf) -> bool {
    let mut programs = SECURITY.into_iter();
    programs.all(|(name, _)| descriptor(ebpf, name).is_ok())
}

/// The name of the pin of a program's link to the cgroup with the number `cgroup`.
fn pin_name(program: &str, cgroup: u64) -> String {
    format!("{program}_{cgroup:x}")
}

/// Whether a pin of this name is the link of a program to a cgroup, whichever.
pub(super) fn is_pin_name(name: &str) -> bool {
    names().any(|program| is_pin_of(name, program))
}

/// As there, of a program of the security hooks.
pub(super) fn is_security_pin(name: &str) -> bool {
    let mut programs = SECURITY.into_iter();
    programs.any(|(program, _)| is_pin_of(name, program))
}

fn is_pin_of(name: &str, program: &str) -> bool {
    let cgroup = name
        .strip_prefix(program)
        .and_then(|rest| rest.strip_prefix('_'));
    cgroup.is_some_and(|cgroup| u64::from_str_radix(cgroup, 16).is_ok())
}

/// Loads every program into the kernel but those of the security hooks.
pub(super) fn load(ebpf: &mut Ebpf) -> Result<(), CaptureError> {
    for (name, _) in PROGRAMS {
        let result = match ebpf.program_mut(name) {
            Some(Program::CgroupSockAddr(program)) => program.load(),
            Some(Program::CgroupSock(program)) => program.load(),
            Some(Program::CgroupSockopt(program)) => program.load(),
            Some(Program::CgroupSkb(program)) => program.load(),
            Some(Program::SockOps(program)) => program.load(),
            _ => return Err(CaptureError::WrongObject { missing: name }),
        };
        result.map_err(|error| error::load(name, error))?;
    }
    Ok(())
}

/// Loads those of the security hooks.
///
/// # Errors
/// Says why there are none: the kernel has no such hook, or takes no program for it.
pub(super) fn load_security(ebpf: &mut Ebpf, hooks: &SecurityHooks) -> Result<(), String> {
    const NATIVE: Endianness = if cfg!(target_endian = "big") {
        Endianness::Big
    } else {
        Endianness::Little
    };

    for (name, hook) in SECURITY {
        let Some(Program::LsmCgroup(program)) = ebpf.program_mut(name) else {
            return Err(format!("there is no kernel program {name}"));
        };
        let function = hooks.types.function_alone(&format!("bpf_lsm_{hook}"));
        let function = function.ok_or_else(|| format!("the kernel has no hook {hook}"))?;
        let types = Btf::parse(&function, NATIVE);
        types
            .map_err(ProgramError::from)
            .and_then(|types| program.load(hook, &types))
            .map_err(|error| {
                let error = anyhow::Error::new(error::load(name, error));
                format!("the kernel takes no program for {hook}: {error:#}")
            })?;
    }
    Ok(())
}

/// Attaches every program to the cgroup at `path`, opened as `directory`. Gives the links, each
/// with the name of its pin.
pub(super) fn attach(
    ebpf: &Ebpf,
    directory: &File,
    path: &Path,
) -> Result<Vec<(String, Link)>, CaptureError> {
    let cgroup = directory
        .metadata()
        .map_err(|source| CaptureError::OpenCgroup {
            path: path.to_owned(),
            source,
        })?;
    PROGRAMS
        .into_iter()
        .map(|(name, hook)| {
            let link = descriptor(ebpf, name)
                .and_then(|program| Link::to_cgroup(program, directory, hook))
                .map_err(|error| error::attach(name, path, error))?;
            Ok((pin_name(name, cgroup.ino()), link))
        })
        .collect()
}

/// Attaches those of the security hooks to the cgroup that is open as `directory`: all that are loaded,
/// or none. A kernel that took them may still have no way to call them, or no place for more.
pub(super) fn attach_security(ebpf: &Ebpf, directory: &File) -> io::Result<Vec<(String, Link)>> {
    if !has_security(ebpf) {
        return Ok(Vec::new());
    }
    let cgroup = directory.metadata()?.ino();
    let attach = |(name, _): (&'static str, _)| {
        let link = Link::to_cgroup(descriptor(ebpf, name)?, directory, Hook::Security)?;
        Ok((pin_name(name, cgroup), link))
    };
    SECURITY.into_iter().map(attach).collect()
}

/// What follows where nothing is asked at the security hooks.
pub const UNASKED: &str = "packet sockets, and those of families that are not IP's, such as AF_VSOCK, are made in \
                                  every scope, and options that 32-bit system calls set are not refused";

/// As [`attach`], for as long as the cgroup is there.
pub(super) fn attach_to_stay(
    ebpf: &Ebpf,
    directory: &File,
    path: &Path,
) -> Result<(), CaptureError> {
    PROGRAMS.into_iter().try_for_each(|(name, hook)| {
        descriptor(ebpf, name)
            .and_then(|program| link::to_stay(program, directory, hook))
            .map_err(|error| error::attach(name, path, error))
    })
}

/// The programs that are not attached to the cgroup that is open as `directory`, by the kernel's
/// word. Those of which it says nothing count as not attached. `security` says whether those of the
/// security hooks were.
pub(super) fn missing(ebpf: &Ebpf, directory: &File, security: bool) -> Vec<&'static str> {
    let is_missing = |(name, hook): &(&'static str, Hook)| {
        let id = ebpf.program(name).and_then(|program| program.info().ok());
        let id = id.map(|info| info.id());
        let attached = link::attached(directory, *hook).unwrap_or_default();
        id.is_none_or(|id| !attached.contains(&id))
    };
    let security = security && has_security(ebpf);
    let hooks = SECURITY.into_iter().filter(|_| security);
    let hooks = hooks.map(|(name, _)| (name, Hook::Security));
    let missing = PROGRAMS.into_iter().chain(hooks).filter(is_missing);
    missing.map(|(name, _)| name).collect()
}

fn descriptor<'a>(ebpf: &'a Ebpf, name: &str) -> io::Result<BorrowedFd<'a>> {
    let program = ebpf.program(name).ok_or(io::ErrorKind::NotFound)?;
    Ok(program.fd().map_err(io::Error::other)?.as_fd())
}
