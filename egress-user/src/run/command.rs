//! The command: started inside the cgroup as the right user, signalled, waited for.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, setgid, setgroups, setuid};
use rustix::process::Rlimit;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::siginfo::{Cause, Origin};

use super::privilege::Invoker;
use crate::cgroup::Cgroup;
use crate::descriptors;

/// Signals that are passed on. Others act on us, or on the whole process group.
const FORWARDED: [i32; 6] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];

/// Exit codes of a command that could not be started, as shells give them.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// The command could not be started.
pub(super) struct NotStarted {
    pub(super) code: u8,
    pub(super) error: anyhow::Error,
}

/// Collects signals from now on, so that none is lost before the command runs.
pub(super) fn catch_signals() -> anyhow::Result<SignalsInfo<WithOrigin>> {
    // What is ignored now (nohup) stays ignored in the command, as long as nobody handles it here.
    let ignored = ignored_signals();
    let signals = FORWARDED
        .iter()
        .filter(|signal| ignored & (1 << (**signal - 1)) == 0);
    SignalsInfo::new(signals).context("cannot listen for signals")
}

/// The set of ignored signals, one bit each (`SigIgn` of proc(5)); empty when it cannot be read.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default()
}

/// Starts the command inside `cgroup`, as `invoker` if there is one, with the limit of
/// `descriptors` that it would have without us.
pub(super) fn start(
    argv: &[OsString],
    cgroup: &Cgroup,
    invoker: Option<Invoker>,
    descriptors: Rlimit,
) -> Result<Child, NotStarted> {
    let failed = |code, error: anyhow::Error| NotStarted { code, error };
    let [program, args @ ..] = argv else {
        return Err(failed(NOT_FOUND, anyhow::anyhow!("no command was given")));
    };
    let procs = cgroup.path().join("cgroup.procs");
    let procs = OpenOptions::new()
        .write(true)
        .open(&procs)
        .with_context(|| format!("cannot open {}", procs.display()))
        .map_err(|error| failed(NOT_EXECUTABLE, error))?;
    let mut command = Command::new(program);
    command.args(args);
    if let Some(invoker) = &invoker {
        command.envs(invoker.env.iter().map(|(key, value)| (key, value)));
    }
    // SAFETY: between fork and exec only system calls are made, on values that
    // were built before.
    unsafe { command.pre_exec(move || enter(&procs, invoker.as_ref(), descriptors)) };
    command.spawn().map_err(|error| {
        let code = match error.kind() {
            io::ErrorKind::NotFound => NOT_FOUND,
            _ => NOT_EXECUTABLE,
        };
        let what = format!("cannot run {}", program.display());
        failed(code, anyhow::Error::new(error).context(what))
    })
}

/// In the child: first the cgroup, so that no socket is made outside of it, then
/// the groups and the user, after which there is no way back.
fn enter(mut procs: &File, invoker: Option<&Invoker>, limit: Rlimit) -> io::Result<()> {
    procs.write_all(b"0")?;
    descriptors::restore(limit)?;
    if let Some(invoker) = invoker {
        setgroups(&invoker.groups)?;
        setgid(invoker.gid)?;
        setuid(invoker.uid)?;
    }
    Ok(())
}

/// Waits for the command; meanwhile a thread passes signals on.
pub(super) fn wait(
    child: &mut Child,
    mut signals: SignalsInfo<WithOrigin>,
) -> anyhow::Result<ExitStatus> {
    let handle = signals.handle();
    let pid = i32::try_from(child.id()).context("the command's process id is too large")?;
    let forwarder = std::thread::spawn(move || {
        for origin in &mut signals {
            forward(&origin, Pid::from_raw(pid));
        }
    });
    let status = child.wait().context("cannot wait for the command");
    handle.close();
    // The thread does nothing that could panic.
    let _ = forwarder.join();
    status
}

/// What the terminal sends reaches the command by itself: it is in the same
/// process group. Passing it on as well would deliver it twice.
fn forward(origin: &Origin, to: Pid) {
    if matches!(origin.cause, Cause::Kernel) {
        return;
    }
    if let Ok(signal) = Signal::try_from(origin.signal) {
        // The command may have ended at this moment.
        let _ = kill(to, signal);
    }
}

/// The code that a shell would give for this end.
pub(super) fn exit_code(status: ExitStatus) -> u8 {
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    };
    u8::try_from(code & 0xff).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_as_shells_give_them() {
        assert_eq!(exit_code(ExitStatus::from_raw(0)), 0);
        assert_eq!(exit_code(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(exit_code(ExitStatus::from_raw(15)), 143);
        assert_eq!(exit_code(ExitStatus::from_raw(9)), 137);
    }
}
