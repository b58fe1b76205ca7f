//! `apt-get` with lists, cache and configuration below one directory.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::progress::Progress;

pub(super) struct Apt {
    configuration: PathBuf,
    archives: PathBuf,
}

/// A package that is to be downloaded, by what apt calls its file: `name_version_architecture.deb`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Archive {
    pub(super) file: String,
    bytes: u64,
}

impl Apt {
    /// Prepares `home`.
    pub(super) fn new(home: &Path) -> Result<Self> {
        let archives = home.join("archives");
        // What an interrupted run left may be incomplete.
        let _ = fs::remove_dir_all(&archives);
        fs::create_dir_all(&archives)?;
        fs::create_dir_all(home.join("lists/partial"))?;
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

    /// The names of the packages that begin with `prefix`, one a line.
    pub(super) fn names(&self, prefix: &str) -> Result<String> {
        let output = self
            .command("apt-cache")
            .args(["pkgnames", prefix])
            .output()
            .context("cannot run apt-cache")?;
        if !output.status.success() {
            bail!(
                "apt-cache cannot list {prefix}*: {}",
                one_line(&String::from_utf8_lossy(&output.stderr))
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What apt would download to install `packages`. Those are in it even if the machine has
    /// them, so that the tree is complete where the machine is not.
    pub(super) fn plan(&self, packages: &[&str]) -> Result<Vec<Archive>> {
        let output = self
            .apt_get()
            .args(["install", "--print-uris", "--reinstall"])
            .args(packages)
            .output()
            .context("cannot run apt-get")?;
        if !output.status.success() {
            bail!(
                "apt-get cannot find {}: {}",
                packages.join(", "),
                one_line(&String::from_utf8_lossy(&output.stderr))
            );
        }
        let plan = String::from_utf8_lossy(&output.stdout);
        Ok(plan.lines().filter_map(Archive::parse).collect())
    }

    /// Downloads `archives`, checked against apt's keys, and returns the files in their order.
    pub(super) fn download(&self, archives: &[Archive]) -> Result<Vec<PathBuf>> {
        let bytes: u64 = archives.iter().map(|archive| archive.bytes).sum();
        let mib = bytes.div_ceil(1024 * 1024);
        eprintln!("  downloading {} packages, {mib} MiB", archives.len());
        let mut child = self
            .apt_get()
            .current_dir(&self.archives)
            .arg("download")
            .args(archives.iter().map(Archive::request))
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
            bail!("apt-get cannot download them: {}", one_line(&errors));
        }
        progress.finish(archives.len());
        let files = archives
            .iter()
            .map(|archive| self.archives.join(&archive.file));
        Ok(files.collect())
    }

    fn apt_get(&self) -> Command {
        let mut command = self.command("apt-get");
        command.arg("--quiet=2");
        command
    }

    /// One of apt's programs, with our state.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .arg("--config-file")
            .arg(&self.configuration)
            // What it says is read above.
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        command
    }
}

impl Archive {
    /// Reads a line of `--print-uris`: `'http://…' name_1%3a2.3_amd64.deb 29378692 SHA256:…`.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ').skip(1);
        let file = words.next().filter(|file| file.ends_with(".deb"))?;
        Some(Self {
            file: file.to_owned(),
            bytes: words.next()?.parse().ok()?,
        })
    }

    /// The archive in the words of `apt-get download`: `name:amd64=1:2.3`.
    fn request(&self) -> String {
        let mut parts = self.file.trim_end_matches(".deb").splitn(3, '_');
        let (name, version, architecture) = (parts.next(), parts.next(), parts.next());
        let name = name.unwrap_or_default();
        // apt writes the colon of an epoch in this way, and no other character.
        let version = version.unwrap_or_default().replace("%3a", ":");
        match architecture {
            None | Some("all") => format!("{name}={version}"),
            Some(architecture) => format!("{name}:{architecture}={version}"),
        }
    }
}

/// The machine's sources, keys, proxies and list of installed packages stay in force.
fn configuration_for(home: &Path) -> String {
    let home = home.display();
    format!(
        r#"Dir::State "{home}";
Dir::State::Lists "{home}/lists";
Dir::State::status "/var/lib/dpkg/status";
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
    fn asks_for_the_versions_of_the_plan() {
        let plan = "'http://deb.example.org/libllvm22_22.1.8-1%7edeb12u1_amd64.deb' \
                    libllvm22_1%3a22.1.8-1~deb12u1_amd64.deb 29378692 SHA256:00";
        let archive = Archive::parse(plan).unwrap();
        assert_eq!(archive.bytes, 29_378_692);
        assert_eq!(archive.request(), "libllvm22:amd64=1:22.1.8-1~deb12u1");
        let plan = "'http://deb.example.org/x.deb' rust-web-src_1.96.0+dfsg1-1_all.deb 45012756 ";
        let archive = Archive::parse(plan).unwrap();
        assert_eq!(archive.request(), "rust-web-src=1.96.0+dfsg1-1");
        assert_eq!(Archive::parse("Reading package lists..."), None);
    }

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
        for key in ["Dir::State ", "Dir::State::Lists ", "Dir::Cache "] {
            let line = configuration
                .lines()
                .find(|line| line.starts_with(key))
                .unwrap();
            assert!(line.contains("\"/somewhere"), "{line}");
        }
    }
}
