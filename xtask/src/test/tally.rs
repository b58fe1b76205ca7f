//! Adding up what the test binaries say.

use std::fmt::{self, Display, Formatter};

use anyhow::{Result, bail};

/// The sum over the test binaries of a run.
#[derive(Debug, Default)]
pub(super) struct Tally {
    binaries: u32,
    passed: u32,
    failed: u32,
    ignored: u32,
    /// The tests that failed, by name.
    failures: Vec<String>,
    /// A run of cargo that did not succeed, for instance because something did not compile.
    unsuccessful: bool,
}

impl Tally {
    /// Takes note of a line like "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; …"
    /// or "test policy::wildcard ... FAILED".
    pub(super) fn read(&mut self, line: &str) {
        if let Some((name, _)) = line
            .strip_prefix("test ")
            .filter(|rest| rest.contains("FAILED"))
            .and_then(|rest| rest.split_once(" ... "))
        {
            self.failures.push(name.to_owned());
        }
        let Some((_, counts)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        self.binaries += 1;
        for count in counts.split("; ") {
            let Some((number, what)) = count.split_once(' ') else {
                continue;
            };
            let number = number.parse().unwrap_or(0);
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }

    /// Takes note of how cargo ended.
    pub(super) fn finish(&mut self, success: bool) {
        self.unsuccessful |= !success;
    }

    /// # Errors
    ///
    /// Fails unless at least one test ran and all that ran passed.
    pub(super) fn verdict(&self) -> Result<()> {
        if self.failed > 0 {
            bail!("failed: {}", self.failures.join(", "));
        }
        if self.unsuccessful {
            bail!("not every test could be built and run to its end");
        }
        if self.passed == 0 {
            bail!("no test ran");
        }
        Ok(())
    }
}

impl Display for Tally {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} test binaries: {} tests passed, {} failed",
            self.binaries, self.passed, self.failed
        )?;
        if self.ignored > 0 {
            write!(f, ", {} ignored", self.ignored)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(lines: &[&str]) -> Tally {
        let mut tally = Tally::default();
        lines.iter().for_each(|line| tally.read(line));
        tally
    }

    #[test]
    fn adds_up_over_binaries() {
        let tally = tally(&[
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s",
            "test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s",
        ]);
        assert_eq!(
            tally.to_string(),
            "2 test binaries: 7 tests passed, 0 failed, 1 ignored"
        );
        tally.verdict().unwrap();
    }

    #[test]
    fn fails_for_one_failure_among_many() {
        let tally = tally(&[
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test record::one_line ... FAILED",
            "test result: FAILED. 4 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s",
        ]);
        assert_eq!(
            tally.verdict().unwrap_err().to_string(),
            "failed: record::one_line"
        );
    }

    #[test]
    fn fails_when_a_binary_died_without_a_result() {
        let mut tally = tally(&["test result: ok. 3 passed; 0 failed; 0 ignored"]);
        tally.finish(false);
        assert!(tally.verdict().is_err());
    }

    #[test]
    fn fails_when_nothing_ran() {
        assert!(Tally::default().verdict().is_err());
    }

    #[test]
    fn understands_colours() {
        let tally = tally(&["test result: \u{1b}[32mok\u{1b}[m. 3 passed; 0 failed; 0 ignored"]);
        assert_eq!(tally.passed, 3);
    }
}
