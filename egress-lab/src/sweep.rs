//! What a lab would leave behind when its process is ended by a signal, and its removal.
//!
//! Namespaces need no entry here: they have no name, so the kernel removes each with the last
//! descriptor that holds it, however the process ends.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{fs, io, process, thread};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cgroup;

/// One thing that outlives its owner unless it is removed.
#[derive(Debug)]
pub(crate) enum Leftover {
    /// A child that has not been waited for, so that its id cannot belong to anyone else.
    Process(Pid),
    /// A cgroup directory with everything below it.
    Cgroup(PathBuf),
    /// A directory of files.
    Directory(PathBuf),
}

/// An entry in the list of leftovers; dropping it takes the entry out again.
#[derive(Debug)]
pub(crate) struct Entry(u64);

#[derive(Debug, Default)]
struct Leftovers {
    next: u64,
    entries: BTreeMap<u64, Leftover>,
}

static LEFTOVERS: Mutex<Leftovers> = Mutex::new(Leftovers {
    next: 0,
    entries: BTreeMap::new(),
});

impl Entry {
    /// Makes a thing and enters it into the list, without a moment between the two in which a
    /// signal could find the thing and not the entry.
    pub(crate) fn making<T, E>(
        make: impl FnOnce() -> Result<(T, Leftover), E>,
    ) -> Result<(T, Entry), E> {
        let mut list = leftovers();
        let (thing, leftover) = make()?;
        let id = list.next;
        list.next += 1;
        list.entries.insert(id, leftover);
        Ok((thing, Entry(id)))
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        leftovers().entries.remove(&self.0);
    }
}

/// From now on SIGINT, SIGTERM and SIGHUP end this process only after everything that its labs
/// started or made is gone. For programs such as the demo; a test harness keeps its own ways.
///
/// # Errors
/// When the handler or its thread cannot be set up.
pub fn on_signals() -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::Builder::new()
        .name("lab-sweep".into())
        .spawn(move || {
            if let Some(signal) = signals.forever().next() {
                // Held until the end: nobody reports on what falls apart now, and nothing new can
                // be started meanwhile.
                let _silence = (io::stdout().lock(), io::stderr().lock());
                let mut list = leftovers();
                remove_all(&mut list);
                process::exit(128 + signal);
            }
        })?;
    Ok(())
}

/// Newest first: what was started last may still use what was made before.
fn remove_all(list: &mut Leftovers) {
    while let Some((_, leftover)) = list.entries.pop_last() {
        // The process is ending; there is nobody left to act on a failure.
        let _ = match leftover {
            Leftover::Process(pid) => end(pid),
            Leftover::Cgroup(path) => cgroup::remove(&path),
            Leftover::Directory(path) => fs::remove_dir_all(path),
        };
    }
}

/// Waits too, so that there is not even a zombie when this process is gone.
fn end(pid: Pid) -> io::Result<()> {
    kill_process(pid, Signal::KILL)?;
    waitpid(Some(pid), WaitOptions::empty())?;
    Ok(())
}

fn leftovers() -> MutexGuard<'static, Leftovers> {
    LEFTOVERS.lock().unwrap_or_else(PoisonError::into_inner)
}
