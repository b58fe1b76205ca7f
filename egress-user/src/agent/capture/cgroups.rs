//! The cgroups whose processes are captured, and what becomes of one that is made anew.

use std::fs::{self, File};
use std::mem;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use aya::Ebpf;

use tracing::warn;

use super::link::Link;
use super::{Capture, CaptureError, programs};
use crate::cgroup::Cgroup2;

/// A cgroup that the programs are attached to.
#[derive(Debug)]
pub(super) struct Captured {
    path: PathBuf,
    directory: File,
    /// Whether the kernel could not be had to ask about it at its security hooks.
    unasked: bool,
}

/// Whether programs can be attached to what is at `path`.
///
/// # Errors
/// Fails when nothing is there, or no cgroup v2 directory.
pub fn check_cgroup(path: &Path) -> Result<(), CaptureError> {
    Captured::at(path).map(drop)
}

impl Captured {
    fn at(path: &Path) -> Result<Captured, CaptureError> {
        let directory = File::open(path).map_err(|source| CaptureError::OpenCgroup {
            path: path.to_owned(),
            source,
        })?;
        match rustix::fs::fstatfs(&directory) {
            Ok(stat) if stat.f_type == libc::CGROUP2_SUPER_MAGIC => Ok(Captured {
                path: path.to_owned(),
                directory,
                unasked: false,
            }),
            _ => Err(CaptureError::NotCgroup2 {
                path: path.to_owned(),
                mount: Cgroup2::find().ok().map(|found| found.mount().to_owned()),
            }),
        }
    }

    fn attach(&mut self, ebpf: &Ebpf) -> Result<Vec<(String, Link)>, CaptureError> {
        let mut links = programs::attach(ebpf, &self.directory, &self.path)?;
        let security = programs::attach_security(ebpf, &self.directory);
        self.unasked = security.is_err();
        match security {
            Ok(security) => links.extend(security),
            Err(error) => warn!(
                cgroup = %self.path.display(), %error,
                "the kernel cannot ask at its security hooks: {}", programs::UNASKED
            ),
        }
        Ok(links)
    }

    /// Whether the kernel could not be had to ask about it at its security hooks.
    pub(super) fn is_unasked(&self) -> bool {
        self.unasked
    }

    /// Whether no cgroup has its path.
    fn is_gone(&self) -> bool {
        !self.path.is_dir()
    }

    /// Whether another cgroup has its path now. The kernel never gives a number again.
    fn is_another(&self) -> bool {
        let now = fs::metadata(&self.path).map(|metadata| metadata.ino());
        let then = self.directory.metadata().map(|metadata| metadata.ino());
        now.is_ok_and(|now| then.is_ok_and(|then| now != then))
    }
}

impl Capture {
    /// Attaches every program to the cgroup whose directory is `cgroup`: sockets made in it and
    /// below it are judged from now on.
    ///
    /// # Errors
    /// Fails when `cgroup` is not a cgroup v2 directory, or the kernel refuses; nothing is
    /// attached then.
    pub fn attach(&mut self, cgroup: &Path) -> Result<(), CaptureError> {
        let mut captured = Captured::at(cgroup)?;
        self.links.extend(captured.attach(&self.ebpf)?);
        self.cgroups.push(captured);
        Ok(())
    }

    /// As [`attach`](Self::attach), for as long as the cgroup is there, whoever ends before:
    /// removing the cgroup is the only way back.
    ///
    /// # Errors
    /// As there, but what was attached before the failure stays.
    pub fn attach_to_stay(&mut self, cgroup: &Path) -> Result<(), CaptureError> {
        let captured = Captured::at(cgroup)?;
        programs::attach_to_stay(&self.ebpf, &captured.directory, cgroup)?;
        self.cgroups.push(captured);
        Ok(())
    }

    /// Attaches the programs to those cgroups of which another has taken the place since: removing
    /// a cgroup takes what is attached to it along. Gives the paths of these.
    ///
    /// # Errors
    /// As [`attach`](Self::attach) and [`pin`](Self::pin); to be called again then.
    pub fn follow_cgroups(&mut self) -> Result<Vec<PathBuf>, CaptureError> {
        let mut followed = Vec::new();
        for captured in &mut self.cgroups {
            if captured.is_another() {
                let mut anew = Captured::at(&captured.path)?;
                self.links.extend(anew.attach(&self.ebpf)?);
                followed.push(anew.path.clone());
                *captured = anew;
            }
        }
        if let Some(dir) = self.pinned.clone()
            && !self.links.is_empty()
        {
            // These hold the programs until the pins do.
            let held = mem::take(&mut self.links);
            if let Err(error) = self.reclaim(&dir) {
                self.links = held;
                return Err(error);
            }
        }
        Ok(followed)
    }

    /// Attaches the programs again and [pins](Self::pin) them in `dir`: a successor may have
    /// replaced the pins, and with them ended what this process had attached, before it failed.
    /// The guards follow when [their turn](Self::guard_interfaces) comes again; until then those of
    /// the successor hold, which drop what these would.
    ///
    /// # Errors
    /// As [`attach`](Self::attach) and [`pin`](Self::pin).
    pub fn reclaim(&mut self, dir: &Path) -> Result<(), CaptureError> {
        for captured in &mut self.cgroups {
            self.links.extend(captured.attach(&self.ebpf)?);
        }
        self.pin_links(dir)?;
        self.guards.begin_anew();
        Ok(())
    }

    /// What keeps connections from being captured, by the kernel's word, not by what was done once;
    /// empty when nothing does. Before Linux 6.15 it enters every namespace that has guards.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for captured in &self.cgroups {
            let path = captured.path.display();
            if captured.is_gone() {
                faults.push(format!("the cgroup {path} is not there any more"));
                continue;
            }
            let missing = programs::missing(&self.ebpf, &captured.directory, !captured.unasked);
            let missing = missing.into_iter();
            faults.extend(
                missing.map(|name| format!("the kernel program {name} is not attached to {path}")),
            );
        }
        let unguarded = self.guards.missing().into_iter();
        faults.extend(
            unguarded.map(|device| format!("the network device {device} has lost its guard")),
        );
        if self.cgroups.is_empty() {
            faults.push("no kernel program is attached".to_owned());
        }
        if self.heartbeat.is_stale() {
            faults.push("the kernel has not heard of the agent for too long".to_owned());
        }
        faults
    }
}
