//! Open files: as many as the administrator allows.
//!
//! Shells and service managers start programs with room for 1024 descriptors, since some programs
//! cannot cope with more, and leave it to the others to ask for what they may have. A connection
//! takes two at each hop, and a captured network namespace some at the agent.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises this process's limit as far as it may be raised. Gives the limit as it was, for
/// [`restore`] in a child that did not ask for more.
pub fn raise() -> Rlimit {
    let before = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: before.maximum,
        maximum: before.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, most) {
        tracing::warn!(%error, limit = before.current, "cannot raise the limit of open files");
    }
    before
}

/// Sets the limit as it was. Makes one system call, so that it may stand between fork and exec.
///
/// # Errors
/// When the kernel refuses, which it does not as long as the hard limit is the same.
pub fn restore(before: Rlimit) -> rustix::io::Result<()> {
    setrlimit(Resource::Nofile, before)
}

/// Descriptors for what is no connection: files that are followed, the log, name servers, the admin
/// port, the runtime.
const OTHERS: u64 = 64;

/// How many connections this process has room for, of which each takes so many descriptors.
pub fn room_for(each: u64) -> usize {
    let Some(limit) = getrlimit(Resource::Nofile).current else {
        return usize::MAX;
    };
    let room = limit.saturating_sub(OTHERS) / each.max(1);
    usize::try_from(room.max(1)).unwrap_or(usize::MAX)
}

/// What an agent does with its descriptors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Division {
    /// How many connections it has room for.
    pub connections: usize,
    /// How many descriptors are for the network namespaces that it captures.
    pub namespaces: u64,
}

/// Divides the descriptors of this process between at most so many connections, of which each takes
/// so many, and network namespaces. These get what those leave, and a quarter in any case.
pub fn divide(each: u64, most: usize) -> Division {
    match getrlimit(Resource::Nofile).current {
        Some(limit) => divided(limit.saturating_sub(OTHERS), each, most),
        None => Division {
            connections: most,
            namespaces: u64::MAX,
        },
    }
}

fn divided(all: u64, each: u64, most: usize) -> Division {
    let wanted = each.saturating_mul(most as u64);
    let namespaces = all.saturating_sub(wanted).max(all / 4);
    let connections = all.saturating_sub(namespaces) / each.max(1);
    Division {
        connections: usize::try_from(connections.max(1)).unwrap_or(usize::MAX),
        namespaces,
    }
}

/// The reason in records when a connection failed for want of one.
pub const SPENT: &str = "out_of_descriptors";

/// Whether this process, or the machine, has none left.
pub fn are_spent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_get_what_connections_leave() {
        for (all, connections, namespaces) in [
            (0, 1, 0),
            (448, 168, 112),
            (960, 360, 240),
            (40_000, 15_000, 10_000),
            (65_536, 16_384, 32_768),
        ] {
            let expected = Division {
                connections,
                namespaces,
            };
            assert_eq!(divided(all, 2, 16_384), expected, "{all}");
        }
    }

    #[test]
    fn raises_and_restores() {
        let before = raise();
        let raised = getrlimit(Resource::Nofile);
        assert_eq!(raised.current, before.maximum);
        restore(before).unwrap();
        assert_eq!(getrlimit(Resource::Nofile).current, before.current);
    }
}
