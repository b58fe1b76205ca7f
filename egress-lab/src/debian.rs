//! Debian packages without installing them: downloaded by `apt-get` with state of its own and
//! unpacked by `dpkg-deb` into a private tree. Needs neither root nor a change to the machine.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use self::apt::{Apt, Archive};
use self::progress::Progress;

mod apt;
mod progress;

/// Parts of packages that neither a compiler nor a test peer reads; they are most of the bytes.
const NOT_UNPACKED: [&str; 4] = [
    "./usr/lib/llvm-*/lib/*.a",
    "./usr/share/doc",
    "./usr/share/man",
    // The compiler's own source; its library's is in `library`.
    "./usr/src/rustc-*/[!l]*",
];

/// A directory into which packages are unpacked, together with apt's state for it.
#[derive(Clone, Debug)]
pub struct Tree {
    home: PathBuf,
}

impl Tree {
    /// The tree kept at `home`, which need not exist yet.
    pub fn at(home: impl Into<PathBuf>) -> Self {
        Self { home: home.into() }
    }

    /// Whether this machine has the programs that download and unpack packages.
    pub fn is_possible() -> bool {
        ["apt-get", "dpkg-deb", "tar"]
            .iter()
            .all(|program| crate::tools::on_path(program).is_some())
    }

    /// Where the packages' `/` is.
    pub fn root(&self) -> PathBuf {
        self.home.join("root")
    }

    /// The directories in which the tree keeps shared libraries, in the form of `LD_LIBRARY_PATH`.
    pub fn library_path(&self) -> OsString {
        let mut directories = Vec::new();
        for lib in ["usr/lib", "lib"] {
            let Ok(entries) = fs::read_dir(self.root().join(lib)) else {
                continue;
            };
            directories.extend(entries.flatten().map(|entry| entry.path()).filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.contains("-linux-gnu")
            }));
        }
        std::env::join_paths(directories).unwrap_or_default()
    }

    /// Downloads `packages` and what they depend on, except for what the machine has installed,
    /// and unpacks them. Says on standard error that it does, and `why`. Does nothing for packages
    /// that were unpacked before.
    ///
    /// # Errors
    ///
    /// Fails where apt cannot be reached, does not know a package, or the disk is full. What was
    /// not finished is done again by the next call.
    pub fn install(&self, packages: &[&str], why: &str) -> Result<()> {
        fs::create_dir_all(&self.home)
            .with_context(|| format!("cannot create {}", self.home.display()))?;
        let _lock = self.lock()?;
        let unpacked = self.unpacked();
        let missing: Vec<&str> = packages
            .iter()
            .copied()
            .filter(|package| !unpacked.iter().any(|file| is_of(file, package)))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        eprintln!(
            "{why}: unpacking Debian's {} below {}; nothing is installed on the machine",
            missing.join(", "),
            self.home.display()
        );
        let apt = Apt::new(&self.home)?;
        apt.update();
        let mut plan = apt.plan(&missing)?;
        plan.retain(|archive| !unpacked.contains(&archive.file));
        let archives = apt.download(&plan)?;
        let mut progress = Progress::new("unpacked");
        for (done, archive) in archives.iter().enumerate() {
            progress.show(done, archives.len());
            self.unpack(archive)?;
            fs::remove_file(archive)?;
        }
        progress.finish(archives.len());
        self.remember(&plan)
    }

    /// The newest of the packages that have their version in their names, as kernels have, by name:
    /// those that begin with `prefix` and end with `suffix`. One that was unpacked before is taken
    /// without asking apt.
    ///
    /// # Errors
    ///
    /// Fails where apt cannot be reached or does not know any.
    pub fn newest(&self, prefix: &str, suffix: &str) -> Result<String> {
        fs::create_dir_all(&self.home)
            .with_context(|| format!("cannot create {}", self.home.display()))?;
        let _lock = self.lock()?;
        let unpacked = self.unpacked();
        let names = unpacked.iter().filter_map(|file| file.split('_').next());
        if let Some(name) = newest(names, prefix, suffix) {
            return Ok(name.to_owned());
        }
        let apt = Apt::new(&self.home)?;
        apt.update();
        let names = apt.names(prefix)?;
        let name = newest(names.lines(), prefix, suffix).with_context(|| {
            format!("apt's sources on this machine have no package {prefix}*{suffix}")
        })?;
        Ok(name.to_owned())
    }

    /// A file or directory of the packages. `bin` and `lib` may be below `usr`, as in Debian from
    /// version 13 on.
    ///
    /// # Errors
    ///
    /// Fails when it was not unpacked.
    pub fn file(&self, path: &str) -> Result<PathBuf> {
        let root = self.root();
        [root.join(path), root.join("usr").join(path)]
            .into_iter()
            .find(|candidate| candidate.exists())
            .with_context(|| format!("no {path} below {}", root.display()))
    }

    fn lock(&self) -> Result<File> {
        let path = self.home.join("lock");
        let file =
            File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        file.lock()
            .with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(file)
    }

    fn unpack(&self, archive: &Path) -> Result<()> {
        let root = self.root();
        fs::create_dir_all(&root)?;
        let mut reader = Command::new("dpkg-deb")
            .arg("--fsys-tarfile")
            .arg(archive)
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run dpkg-deb")?;
        let tarball = reader.stdout.take().context("dpkg-deb has no output")?;
        let written = Command::new("tar")
            .args(["--extract", "--no-same-owner", "--no-same-permissions"])
            .args(["--anchored", "--no-wildcards-match-slash"])
            .args(NOT_UNPACKED.map(|pattern| format!("--exclude={pattern}")))
            .arg("--directory")
            .arg(&root)
            .stdin(tarball)
            .status()
            .context("cannot run tar")?;
        if !reader.wait()?.success() || !written.success() {
            bail!("cannot unpack {}", archive.display());
        }
        Ok(())
    }

    /// The files, `name_version_architecture.deb`, that were unpacked into the tree.
    fn unpacked(&self) -> BTreeSet<String> {
        let record = fs::read_to_string(self.record()).unwrap_or_default();
        record.lines().map(str::to_owned).collect()
    }

    fn remember(&self, archives: &[Archive]) -> Result<()> {
        let path = self.record();
        let mut record = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        for archive in archives {
            writeln!(record, "{}", archive.file)?;
        }
        Ok(())
    }

    fn record(&self) -> PathBuf {
        self.home.join("unpacked-archives")
    }
}

/// Whether `file` is a version of `package`.
fn is_of(file: &str, package: &str) -> bool {
    file.strip_prefix(package)
        .is_some_and(|rest| rest.starts_with('_'))
}

/// The name with the greatest version among those with this beginning and end.
fn newest<'a>(names: impl Iterator<Item = &'a str>, prefix: &str, suffix: &str) -> Option<&'a str> {
    let version = |name: &&str| {
        let version = name.strip_prefix(prefix)?.strip_suffix(suffix)?;
        let numbers = version.split(|character: char| !character.is_ascii_digit());
        Some(numbers.filter_map(|number| number.parse().ok()).collect())
    };
    names
        .filter_map(|name| Some((version(&name)?, name)))
        .max_by(|(a, _): &(Vec<u64>, _), (b, _)| a.cmp(b))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_by_number() {
        let names = [
            "linux-image-6.12-cloud-amd64",
            "linux-image-6.12.9+bpo-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.12.74+deb12+1-cloud-amd64",
            "linux-image-6.12.118+deb12-rt-amd64",
            "linux-image-6.12.118+deb12-cloud-amd64-unsigned",
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
        ];
        let newest = |prefix| newest(names.into_iter(), prefix, "-cloud-amd64");
        assert_eq!(
            newest("linux-image-6.12."),
            Some("linux-image-6.12.117+deb12-cloud-amd64")
        );
        assert_eq!(
            newest("linux-image-6.1."),
            Some("linux-image-6.1.0-56-cloud-amd64")
        );
        assert_eq!(newest("linux-image-6.18."), None);
    }
}
