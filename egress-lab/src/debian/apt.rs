//! `apt-get` with lists, cache and configuration below one directory.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::progress::Progress;

/// What dpkg knows about the machine.
const INSTALLED: &str = "/var/lib/dpkg/status";

pub(super) struct Apt {
    configuration: PathBuf,
    archives: PathBuf,
}

impl Apt {
    /// Prepares `home`. Packages of the machine and those in `record` count as installed.
    pub(super) fn new(home: &Path, record: &Path) -> Result<Self> {
        let archives = home.join("archives");
        fs::create_dir_all(archives.join("partial"))?;
        fs::create_dir_all(home.join("lists/partial"))?;
        let mut status =
            fs::read_to_string(INSTALLED).with_context(|| format!("cannot read {INSTALLED}"))?;
        status.push('\n');
        status.push_str(&fs::read_to_string(record).unwrap_or_default());
        fs::write(home.join("status"), without_conflicts(&status))?;
        let configuration = home.join("apt.conf");
        fs::write(&configuration, configuration_for(home))?;
        Ok(Self {
            configuration,
            archives,
        })
    }

    /// Refreshes the lists of packages. One source that cannot be reached does no harm if the
    /// others know the packages, so that a failure is only reported.
    pub(super) fn update(&self) {
        let status = self.apt_get().stdout(Stdio::null()).arg("update").status();
        if !status.is_ok_and(|status| status.success()) {
            eprintln!(
                "  not every list of packages could be refreshed; going on with those there are"
            );
        }
    }

    /// Downloads `packages` and what they need. Packages named are downloaded even if the machine
    /// has them, so that the tree is complete where the machine is not.
    pub(super) fn download(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        let mut child = self
            .apt_get()
            .args(["install", "--download-only", "--reinstall"])
            .args(packages)
            .args(["--option", "APT::Status-Fd=1"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run apt-get")?;
        let mut progress = Progress::new("downloaded");
        let status_lines = child.stdout.take().context("apt-get has no output")?;
        for line in BufReader::new(status_lines).lines() {
            if let Some((file, all)) = retrieved(&line?) {
                progress.show(file.saturating_sub(1), all);
            }
        }
        let mut errors = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            stderr.read_to_string(&mut errors)?;
        }
        if !child.wait()?.success() {
            bail!(
                "apt-get cannot download {}: {}",
                packages.join(", "),
                one_line(&errors)
            );
        }
        let archives = self.downloaded()?;
        progress.finish(archives.len());
        Ok(archives)
    }

    fn downloaded(&self) -> Result<Vec<PathBuf>> {
        let mut archives: Vec<PathBuf> = fs::read_dir(&self.archives)?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .collect();
        archives.sort();
        Ok(archives)
    }

    fn apt_get(&self) -> Command {
        let mut command = Command::new("apt-get");
        command
            .args(["--quiet=2", "--config-file"])
            .arg(&self.configuration)
            // Its messages are read above.
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        command
    }
}

/// What is unpacked side by side does not get into each other's way, whatever the packages say of
/// being installed together.
fn without_conflicts(status: &str) -> String {
    status
        .lines()
        .filter(|line| !line.starts_with("Breaks:") && !line.starts_with("Conflicts:"))
        .fold(String::with_capacity(status.len()), |mut text, line| {
            text.push_str(line);
            text.push('\n');
            text
        })
}

/// The machine's sources, keys and proxies stay in force.
fn configuration_for(home: &Path) -> String {
    let home = home.display();
    format!(
        r#"Dir::State "{home}";
Dir::State::Lists "{home}/lists";
Dir::State::status "{home}/status";
Dir::Cache "{home}";
Dir::Cache::archives "{home}/archives";
Debug::NoLocking "true";
APT::Sandbox::User "root";
APT::Get::Assume-Yes "true";
APT::Install-Recommends "false";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
"#
    )
}

/// The errors among what `apt-get` says, which it begins with "E: ".
fn one_line(messages: &str) -> String {
    let errors: Vec<&str> = messages
        .lines()
        .filter_map(|line| line.strip_prefix("E: "))
        .collect();
    errors.join("; ")
}

/// Reads "dlstatus:7:54.8:Retrieving file 7 of 10".
fn retrieved(line: &str) -> Option<(usize, usize)> {
    let (_, numbers) = line.split_once("Retrieving file ")?;
    let (file, all) = numbers.split_once(" of ")?;
    Some((file.parse().ok()?, all.split(' ').next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_progress_of_apt() {
        let line = "dlstatus:7:54.8247:Retrieving file 7 of 10";
        assert_eq!(retrieved(line), Some((7, 10)));
        let with_time = "dlstatus:7:54.8247:Retrieving file 7 of 10 (3s remaining)";
        assert_eq!(retrieved(with_time), Some((7, 10)));
        assert_eq!(retrieved("pmstatus:x:100:Installed"), None);
    }

    #[test]
    fn tells_errors_in_one_line() {
        let messages =
            "W: old list\nE: Unable to locate package a\nE: Unable to locate package b\n";
        assert_eq!(
            one_line(messages),
            "Unable to locate package a; Unable to locate package b"
        );
    }

    #[test]
    fn keeps_its_state_below_its_home() {
        let configuration = configuration_for(Path::new("/somewhere"));
        for key in [
            "Dir::State ",
            "Dir::State::Lists ",
            "Dir::State::status ",
            "Dir::Cache ",
        ] {
            let line = configuration
                .lines()
                .find(|line| line.starts_with(key))
                .unwrap();
            assert!(line.contains("\"/somewhere"), "{line}");
        }
    }
}
