//! The throw-away process of one attempt.

use std::fmt;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::attempt::Attempt;

/// The longest that an attempt may take; it waits for an answer no longer than
/// [`attempt::PATIENCE`](super::attempt::PATIENCE).
const LIMIT: Duration = Duration::from_secs(20);

/// What a process prints when it is prepared.
pub(super) const READY: &str = "ready";

/// What a process is to do, and where.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Order {
    /// The cgroup to move to; it stays where it is when absent.
    pub(super) cgroup: Option<PathBuf>,
    /// The network namespace to enter.
    pub(super) netns: PathBuf,
    /// What to try there.
    pub(super) attempt: Attempt,
}

/// What the kernel answered to an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Outcome {
    /// The call succeeded.
    Done,
    /// It failed with this errno.
    Failed(i32),
    /// Nothing was answered in time.
    Silence,
    /// The kernel has no such socket or call.
    Unsupported,
}

impl Outcome {
    /// Whether the application was told that it failed.
    pub(super) fn is_error(self) -> bool {
        matches!(self, Outcome::Failed(_))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Done => f.write_str("it went"),
            Outcome::Failed(errno) => {
                let error = io::Error::from_raw_os_error(*errno).to_string();
                let words = error.split(" (os error").next();
                f.write_str(words.unwrap_or(&error))
            }
            Outcome::Silence => f.write_str("no answer"),
            Outcome::Unsupported => f.write_str("this kernel has no such thing"),
        }
    }
}

/// A process that makes one attempt; dropping it ends it.
pub(super) struct Child {
    process: std::process::Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Child {
    /// Starts it; it has moved and entered, and is prepared, when this returns.
    pub(super) fn start(order: &Order) -> anyhow::Result<Child> {
        Child::start_with(order, Stdio::piped())
    }

    /// As there, with this as its standard input.
    pub(super) fn start_with(order: &Order, stdin: Stdio) -> anyhow::Result<Child> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut process = Command::new(program)
            .args(["selftest", "--attempt"])
            .arg(serde_json::to_string(order)?)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a process for an attempt")?;
        let stdout = process.stdout.take().context("a process has no output")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // The receiver is gone when the process was given up.
                let _ = sender.send(line);
            }
        });
        let child = Child {
            stdin: process.stdin.take(),
            process,
            lines,
        };
        match child.line()? {
            Some(line) if line == READY => Ok(child),
            line => bail!("an attempt could not be prepared: {line:?}"),
        }
    }

    /// Lets it go on, and waits for what came of it.
    pub(super) fn outcome(mut self) -> anyhow::Result<Outcome> {
        if let Some(mut stdin) = self.stdin.take() {
            stdin.write_all(b"\n").context("a process has gone")?;
        }
        match self.line()? {
            Some(line) => serde_json::from_str(&line).context("an attempt has no outcome"),
            None => Ok(Outcome::Silence),
        }
    }

    /// The next line; `None` when there is none in time.
    fn line(&self) -> anyhow::Result<Option<String>> {
        match self.lines.recv_timeout(LIMIT) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                bail!("the process of an attempt ended without a word")
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // One that has ended cannot be killed, and is waited for all the same.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
