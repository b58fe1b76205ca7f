//! Child processes that end with the lab.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context as _, bail};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getppid, getrlimit, kill_process,
    set_parent_process_death_signal, setrlimit,
};

use crate::sweep::{Entry, Leftover};
use crate::{tools, wait};

/// A command that is told nothing of our environment but where programs are: proxies, settings of
/// ours or of curl's, languages and the like differ between machines, and tests do not.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", tools::path());
    command
}

/// Copies a program to a place from which every user may run it.
///
/// Another process does it. Nobody can run a file that is open for writing, as one that we wrote would
/// be in each child that another thread forks meanwhile, until that runs its own program.
///
/// # Errors
/// When it cannot be copied; the error carries why.
pub fn copy_program(from: &Path, to: &Path) -> anyhow::Result<()> {
    let output = command("install")
        .args(["-m", "755"])
        .args([from, to])
        .output();
    let output = output.context("cannot run install")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("cannot copy a program: {said}");
    }
    Ok(())
}

/// Makes a script that every user may run; as [`copy_program`] does, and for its reasons.
///
/// # Errors
/// When it cannot be written.
pub fn write_program(path: &Path, text: &str) -> anyhow::Result<()> {
    let draft = path.with_extension("draft");
    fs::write(&draft, text).with_context(|| format!("cannot write {}", draft.display()))?;
    copy_program(&draft, path)
}

/// A new file in `directory`, called `NAME.EXTENSION` if there is none of that name, and otherwise
/// `NAME-2.EXTENSION` and so on: two processes never write to one file.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn fresh_file(
    directory: &Path,
    name: &str,
    extension: &str,
) -> anyhow::Result<(PathBuf, File)> {
    for path in numbered(directory, name, extension) {
        match File::options().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot make {}", path.display()));
            }
        }
    }
    bail!("{name}: there is no name left")
}

/// The names that [`fresh_file`] gives, in this order.
pub(crate) fn numbered(
    directory: &Path,
    name: &str,
    extension: &str,
) -> impl Iterator<Item = PathBuf> {
    (1_u32..).map(move |number| match number {
        1 => directory.join(format!("{name}.{extension}")),
        _ => directory.join(format!("{name}-{number}.{extension}")),
    })
}

/// A running child. Its output goes to a log file; dropping it ends it, by its id, and waits.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    _entry: Entry,
}

impl Process {
    /// Starts `command`; what it prints goes to a log file of its own in `directory`, `NAME.log` as a
    /// rule.
    ///
    /// The kernel also ends it when the thread that called this ends, so that not even a
    /// killed lab leaves processes behind.
    ///
    /// # Errors
    /// When the log cannot be made or the program cannot be started.
    pub fn start(mut command: Command, name: &str, directory: &Path) -> anyhow::Result<Process> {
        command.stdin(Stdio::null());
        Process::spawn(command, name, directory)
    }

    /// Like [`Process::start`], for a program that will be given [input](Process::input).
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn start_with_input(
        mut command: Command,
        name: &str,
        directory: &Path,
    ) -> anyhow::Result<Process> {
        command.stdin(Stdio::piped());
        Process::spawn(command, name, directory)
    }

    fn spawn(mut command: Command, name: &str, directory: &Path) -> anyhow::Result<Process> {
        let (log, output) = fresh_file(directory, name, "log")?;
        command
            .stdout(output.try_clone()?)
            .stderr(output)
            // Its own group: a Ctrl-C at the terminal is for the lab to answer, in order.
            .process_group(0);
        let started = Entry::making(|| {
            let child = spawn_bound(&mut command)?;
            let leftover = Leftover::Process(pid_of(&child)?);
            anyhow::Ok((child, leftover))
        });
        let (child, entry) = started.with_context(|| format!("cannot start {name}"))?;
        Ok(Process {
            name: name.to_owned(),
            child,
            log,
            _entry: entry,
        })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Writes to its standard input.
    ///
    /// # Errors
    /// When it was started without, or does not read any more.
    pub fn input(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let stdin = self.child.stdin.as_mut();
        let stdin = stdin.with_context(|| format!("{} takes no input", self.name))?;
        stdin.write_all(bytes)?;
        Ok(())
    }

    /// Ends its standard input.
    pub fn close_input(&mut self) {
        self.child.stdin = None;
    }

    /// What it has printed so far, standard output and error together.
    pub fn output(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            anyhow::bail!("{} has already ended: {status}", self.name);
        }
        kill_process(pid_of(&self.child)?, signal)?;
        Ok(())
    }

    /// The exit status, if it has ended.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn status(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after [`wait::DEADLINE`].
    pub fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        let what = format!("{} ends", self.name);
        wait::until(&what, || self.child.try_wait().transpose())?.map_err(Into::into)
    }

    /// Waits until its output contains `text`.
    ///
    /// # Errors
    /// When it ends before, or after [`wait::DEADLINE`]; the error carries the output.
    pub fn says(&mut self, text: &str) -> anyhow::Result<()> {
        let what = format!("{} says \"{text}\"", self.name);
        let answer = wait::until(&what, || {
            if self.output().contains(text) {
                return Some(true);
            }
            matches!(self.child.try_wait(), Ok(Some(_))).then_some(false)
        });
        match answer {
            Ok(true) => Ok(()),
            Ok(false) => anyhow::bail!("{} ended early and said:\n{}", self.name, self.output()),
            Err(error) => Err(error.context(self.output())),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts `command` such that the kernel ends the child together with this thread.
fn spawn_bound(command: &mut Command) -> io::Result<Child> {
    let parent = rustix::process::getpid();
    let bind = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have ended before the line above.
        if getppid() != Some(parent) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closures make system calls and allocate nothing.
    unsafe { command.pre_exec(bind).pre_exec(default_signals) };
    command.spawn()
}

/// Whoever started us, such as a shell in the background or nohup, may have had signals ignored, and
/// what is ignored stays so in children.
fn default_signals() -> io::Result<()> {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
        // SAFETY: the default action needs no handler.
        if unsafe { libc::signal(signal, libc::SIG_DFL) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Limits the command to `soft` open files; without a number, to as many as the administrator
/// allows.
pub(crate) fn limit_descriptors(command: &mut Command, soft: Option<u64>) {
    let limit = move || {
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = soft.or(limit.maximum);
        setrlimit(Resource::Nofile, limit)?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes two system calls and allocates nothing.
    unsafe { command.pre_exec(limit) };
}

/// Limits the command to `most` open files, and leaves it no way to more.
pub(crate) fn cap_descriptors(command: &mut Command, most: u64) {
    let limit = move || {
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        Ok(setrlimit(Resource::Nofile, limit)?)
    };
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(limit) };
}

fn pid_of(child: &Child) -> anyhow::Result<Pid> {
    Pid::from_raw(child.id().cast_signed()).context("a child has a positive id")
}
