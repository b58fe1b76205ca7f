//! Another `/etc/hosts` for one test: what the system's resolver says to the programs that it starts.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use anyhow::Context as _;
use tempfile::NamedTempFile;

use crate::mounts::{self, What};

const PLACE: &str = "/etc/hosts";

/// A file in the place of `/etc/hosts`. Only the thread that made it sees it, with the processes that
/// it starts.
#[derive(Debug)]
pub struct Hosts {
    file: NamedTempFile,
}

impl Hosts {
    /// Puts it there; the calling thread has mounts of its own from now on.
    ///
    /// # Errors
    /// Without `CAP_SYS_ADMIN`.
    pub fn mount(name: &str, addresses: &[IpAddr]) -> anyhow::Result<Hosts> {
        let hosts = Hosts {
            file: NamedTempFile::new().context("cannot make a file")?,
        };
        hosts.lead(name, addresses)?;
        mounts::separate()?;
        mounts::over(Path::new(PLACE), &What::File(hosts.file.path()))
            .context("cannot mount over /etc/hosts")?;
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
        // In place: another file would not be the one that is mounted.
        fs::write(self.file.path(), lines.collect::<String>())
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        mounts::remove(Path::new(PLACE));
    }
}
