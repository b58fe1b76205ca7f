//! The programs by name: how each is loaded and where it is attached.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use aya::Ebpf;
use aya::programs::Program;

use super::CaptureError;
use super::error;
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

/// The names of [`PROGRAMS`].
fn names() -> impl Iterator<Item = &'static str> {
    PROGRAMS.into_iter().map(|(name, _)| name)
}

/// The name of the pin of a program's link to the cgroup with the number `cgroup`.
fn pin_name(program: &str, cgroup: u64) -> String {
    format!("{program}_{cgroup:x}")
}

/// Whether a pin of this name is the link of a program to a cgroup, whichever.
pub(super) fn is_pin_name(name: &str) -> bool {
    let is_of = |program: &str| {
        let cgroup = name.strip_prefix(program)?.strip_prefix('_')?;
        u64::from_str_radix(cgroup, 16).ok()
    };
    names().any(|program| is_of(program).is_some())
}

/// Loads every program into the kernel.
pub(super) fn load(ebpf: &mut Ebpf) -> Result<(), CaptureError> {
    for name in names() {
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
/// word. Those of which it says nothing count as not attached.
pub(super) fn missing(ebpf: &Ebpf, directory: &File) -> Vec<&'static str> {
    let is_missing = |(name, hook): &(&'static str, Hook)| {
        let id = ebpf.program(name).and_then(|program| program.info().ok());
        let id = id.map(|info| info.id());
        let attached = link::attached(directory, *hook).unwrap_or_default();
        id.is_none_or(|id| !attached.contains(&id))
    };
    let missing = PROGRAMS.into_iter().filter(is_missing);
    missing.map(|(name, _)| name).collect()
}

fn descriptor<'a>(ebpf: &'a Ebpf, name: &str) -> io::Result<BorrowedFd<'a>> {
    let program = ebpf.program(name).ok_or(io::ErrorKind::NotFound)?;
    Ok(program.fd().map_err(io::Error::other)?.as_fd())
}
