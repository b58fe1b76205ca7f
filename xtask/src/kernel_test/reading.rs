//! What a kernel made of the tests, read from the lines that come back.

use std::fmt::{self, Display, Formatter};

/// How the guest's own lines begin.
pub(super) const MARK: &str = "guest:";

/// The lines of one run, as far as they matter.
#[derive(Debug, Default)]
pub(super) struct Reading {
    release: String,
    passed: u32,
    failures: Vec<String>,
    /// libtest said that all is well.
    complete: bool,
    /// The exit code of the tests.
    exit: Option<String>,
    /// What went wrong outside of the tests: a panic of the kernel, the limit.
    trouble: Option<String>,
    /// The last line that was not empty, before the trouble began.
    last: String,
}

impl Reading {
    /// Takes note of a line.
    pub(super) fn read(&mut self, line: &str) {
        let line = line.trim();
        if let Some((_, said)) = line.split_once(MARK) {
            match said.trim().split_once(' ') {
                Some(("release", release)) => self.set_release(release),
                Some(("exit", code)) => self.set_exit(code),
                _ => {}
            }
        } else if let Some((_, why)) = line.split_once("Kernel panic - not syncing: ") {
            self.trouble(format!("the kernel panicked: {why}"));
        } else if let Some((name, result)) = line
            .strip_prefix("test ")
            .and_then(|test| test.rsplit_once(" ... "))
        {
            match result {
                "ok" => self.passed += 1,
                "FAILED" => self.failures.push(name.to_owned()),
                _ => {}
            }
        } else if let Some(result) = line.strip_prefix("test result: ") {
            self.complete = result.starts_with("ok. ");
        }
        if !line.is_empty() && self.trouble.is_none() {
            line.clone_into(&mut self.last);
        }
    }

    /// Takes note of the kernel's release.
    pub(super) fn set_release(&mut self, release: &str) {
        release.clone_into(&mut self.release);
    }

    /// Takes note of how the tests' process ended.
    pub(super) fn set_exit(&mut self, code: impl Display) {
        self.exit = Some(code.to_string());
    }

    /// Takes note of something that makes the run a failure; the first cause is kept.
    pub(super) fn trouble(&mut self, what: String) {
        self.trouble.get_or_insert(what);
    }

    pub(super) fn release(&self) -> &str {
        &self.release
    }

    /// Whether every test ran and passed, and nothing else went wrong until the end.
    pub(super) fn passed(&self) -> bool {
        self.trouble.is_none()
            && self.exit.as_deref() == Some("0")
            && self.complete
            && self.passed > 0
            && self.failures.is_empty()
    }
}

impl Display for Reading {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failures.len())?;
        if !self.failures.is_empty() {
            write!(f, ": {}", self.failures.join(", "))?;
        }
        if let Some(trouble) = &self.trouble {
            write!(f, "; {trouble}; last line: {}", self.last)?;
        } else if self.exit.is_none() {
            write!(f, "; the tests did not end; last line: {}", self.last)?;
        } else if self.passed == 0 {
            write!(f, "; no test ran; last line: {}", self.last)?;
        } else if !self.passed() && self.failures.is_empty() {
            let code = self.exit.as_deref().unwrap_or_default();
            write!(f, "; the tests broke off with exit code {code}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [&str; 6] = [
        "guest: release 6.1.0-1-cloud-amd64",
        "running 2 tests",
        "test redirect::v4 ... ok",
        "test redirect::v6 ... ok",
        "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out",
        "guest: exit 0",
    ];

    fn reading<'a>(lines: impl IntoIterator<Item = &'a str>) -> Reading {
        let mut reading = Reading::default();
        lines.into_iter().for_each(|line| reading.read(line));
        reading
    }

    #[test]
    fn a_pass_is_every_test_and_a_clean_end() {
        let good = reading(GOOD);
        assert!(good.passed());
        assert_eq!(good.release(), "6.1.0-1-cloud-amd64");
        assert_eq!(good.to_string(), "2 passed, 0 failed");
    }

    #[test]
    fn without_any_of_its_lines_it_is_no_pass() {
        for missing in [4, 5] {
            let lines = GOOD.iter().enumerate();
            let lines = lines.filter(|(index, _)| *index != missing);
            assert!(!reading(lines.map(|(_, line)| *line)).passed(), "{missing}");
        }
        assert!(!reading([]).passed());
    }

    #[test]
    fn failures_are_named() {
        let reading = reading([
            "test redirect::v4 ... ok",
            "test redirect::v6 ... FAILED",
            "test result: FAILED. 1 passed; 1 failed; 0 ignored",
            "guest: exit 101",
        ]);
        assert!(!reading.passed());
        assert_eq!(reading.to_string(), "1 passed, 1 failed: redirect::v6");
    }

    #[test]
    fn a_panic_after_the_tests_is_no_pass() {
        let panic = "[   55.1] Kernel panic - not syncing: Fatal exception in interrupt";
        let reading = reading(
            GOOD.into_iter()
                .chain([panic, "[   55.2] Kernel Offset: 0"]),
        );
        assert!(!reading.passed());
        assert_eq!(
            reading.to_string(),
            "2 passed, 0 failed; the kernel panicked: Fatal exception in interrupt; \
             last line: guest: exit 0"
        );
    }

    #[test]
    fn a_hang_is_no_pass() {
        let mut reading = reading(GOOD);
        reading.trouble("still running after 600 s".to_owned());
        assert!(!reading.passed());
        assert!(reading.to_string().contains("still running after 600 s"));
    }

    #[test]
    fn nothing_ran_is_no_pass() {
        let reading = reading([
            "running 0 tests",
            "test result: ok. 0 passed; 0 failed; 0 ignored",
            "guest: exit 0",
        ]);
        assert!(!reading.passed());
        assert!(reading.to_string().contains("no test ran"));
    }
}
