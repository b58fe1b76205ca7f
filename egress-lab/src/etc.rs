//! Other files below `/etc` for one test: what names lead to for the programs that it starts.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use anyhow::Context as _;
use tempfile::NamedTempFile;

use crate::lab;
use crate::mounts::{self, What};

/// A file in the place of `/etc/hosts`. Only the thread that made it sees it, with the processes that
/// it starts.
#[derive(Debug)]
pub struct Hosts(Over);

impl Hosts {
    /// Puts it there; the calling thread has mounts of its own from now on.
    ///
    /// # Errors
    /// Without `CAP_SYS_ADMIN`.
    pub fn mount(name: &str, addresses: &[IpAddr]) -> anyhow::Result<Hosts> {
        let hosts = Hosts(Over::mount("/etc/hosts")?);
        hosts.lead(name, addresses)?;
        Ok(hosts)
    }

    /// Lets the only name in it lead there from now on.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn lead(&self, name: &str, addresses: &[IpAddr]) -> io::Result<()> {
        let lines = addresses
            .iter()
            .map(|address| format!("{address} {name}\n"));
        self.0.write(&lines.collect::<String>())
    }
}

/// A file in the place of `/etc/resolv.conf`, for the same who see [`Hosts`].
#[derive(Debug)]
pub struct ResolvConf(#[expect(dead_code, reason = "stays mounted as long as it is there")] Over);

impl ResolvConf {
    /// Puts it there; the calling thread has mounts of its own from now on.
    ///
    /// # Errors
    /// Without `CAP_SYS_ADMIN`.
    pub fn mount(text: &str) -> anyhow::Result<ResolvConf> {
        let file = Over::mount("/etc/resolv.conf")?;
        file.write(text)?;
        Ok(ResolvConf(file))
    }
}

/// A file that is mounted over another.
#[derive(Debug)]
struct Over {
    file: NamedTempFile,
    place: &'static Path,
}

impl Over {
    fn mount(place: &'static str) -> anyhow::Result<Over> {
        let over = Over {
            file: NamedTempFile::new_in(lab::TEMPORARY).context("cannot make a file")?,
            place: Path::new(place),
        };
        mounts::separate()?;
        mounts::over(over.place, &What::File(over.file.path()))
            .with_context(|| format!("cannot mount over {place}"))?;
        Ok(over)
    }

    fn write(&self, text: &str) -> io::Result<()> {
        // In place: another file would not be the one that is mounted.
        fs::write(self.file.path(), text)
    }
}

impl Drop for Over {
    fn drop(&mut self) {
        mounts::remove(self.place);
    }
}
