//! A process that outlives us, so that our death leaves nothing.
//!
//! The kernel programs stay attached as long as the cgroup is there, and what
//! is redirected finds nobody listening. The keeper kills what is left in the
//! cgroup and removes it.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::Context;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::{ForkResult, Pid, fork, pipe2, setsid};
use rustix::io::Errno;

use crate::cgroup::Cgroup;

/// Our end of the bond; the keeper acts when it closes.
pub(super) struct Keeper {
    bond: OwnedFd,
    pid: Pid,
}

impl Keeper {
    /// Forks the keeper of `cgroup`.
    ///
    /// # Errors
    ///
    /// Fails when there may be no further process, or when this one already has
    /// several threads: of those a fork takes only one along, with whatever
    /// locks the others hold.
    pub(super) fn start(cgroup: &Cgroup) -> anyhow::Result<Keeper> {
        let threads = std::fs::read_dir("/proc/self/task").context("cannot count our threads")?;
        anyhow::ensure!(
            threads.count() == 1,
            "the keeper must start before other threads"
        );
        let (end, bond) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).context("cannot make a pipe")?;
        // SAFETY: this process has a single thread, so the child may do whatever
        // this one may.
        match unsafe { fork() }.context("cannot start the keeper process")? {
            ForkResult::Parent { child } => Ok(Keeper { bond, pid: child }),
            ForkResult::Child => {
                drop(bond);
                keep(&end, cgroup);
                // Nothing of the parent's is ours to clean up.
                // SAFETY: _exit is always sound; it does not return.
                unsafe { libc::_exit(0) }
            }
        }
    }

    /// Lets the keeper go, once the cgroup is gone, and waits for it.
    pub(super) fn dismiss(self) {
        drop(self.bond);
        // It ends by itself; not being able to wait for it changes nothing.
        let _ = nix::sys::wait::waitpid(self.pid, None);
    }
}

fn keep(end: &OwnedFd, cgroup: &Cgroup) {
    // Signals of the terminal and of process groups are for the command, also
    // those that no mask holds back. Without either the keeper would be less
    // sturdy, not wrong.
    let _ = setsid();
    let _ = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), None);
    let _ = rustix::thread::set_name(c"egress-keeper");
    let_go_of_stdio();
    wait_for_the_end(end);
    if cgroup.path().exists() {
        // Should either fail, the cgroup stays, and is still captured; the next
        // run removes what is empty.
        let _ = cgroup.kill();
        let _ = cgroup.remove();
    }
}

/// Whoever reads the command's output waits until every writer is gone.
fn let_go_of_stdio() {
    let Ok(null) = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
    else {
        return;
    };
    let null = null.as_fd();
    let _ = rustix::stdio::dup2_stdin(null);
    let _ = rustix::stdio::dup2_stdout(null);
    let _ = rustix::stdio::dup2_stderr(null);
}

fn wait_for_the_end(end: &OwnedFd) {
    let mut byte = [0];
    loop {
        match rustix::io::read(end, &mut byte) {
            Err(Errno::INTR) => {}
            // Nobody writes: whatever it is, the other side is no more.
            Ok(_) | Err(_) => return,
        }
    }
}
