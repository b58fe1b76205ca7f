//! One line on standard error for something that takes its time.

use std::io::{IsTerminal as _, Write as _};
use std::time::Instant;

/// Redraws its line where a person watches, and says once that it is done where a file does.
pub(super) struct Progress {
    what: &'static str,
    started: Instant,
    is_terminal: bool,
}

impl Progress {
    pub(super) fn new(what: &'static str) -> Self {
        Self {
            what,
            started: Instant::now(),
            is_terminal: std::io::stderr().is_terminal(),
        }
    }

    pub(super) fn show(&mut self, done: usize, all: usize) {
        if self.is_terminal {
            eprint!("\r\x1b[K  {} {done} of {all} packages", self.what);
            // A line that is not drawn is no reason to stop.
            let _ = std::io::stderr().flush();
        }
    }

    pub(super) fn finish(self, all: usize) {
        if self.is_terminal {
            eprint!("\r\x1b[K");
        }
        let seconds = self.started.elapsed().as_secs_f64();
        eprintln!("  {} {all} packages in {seconds:.1} s", self.what);
    }
}
