//! A bpf file system for one test.

use std::path::Path;

use anyhow::Context as _;
use tempfile::TempDir;

use crate::lab;
use crate::mounts::{self, What};

/// A bpf file system in a directory of its own. Only the thread that made it sees it, with the
/// processes that it starts, so that it ends with the test, however that ends.
#[derive(Debug)]
pub struct BpfFs {
    directory: TempDir,
}

impl BpfFs {
    /// Mounts one; the calling thread has mounts of its own from now on.
    ///
    /// # Errors
    /// Without `CAP_SYS_ADMIN`.
    pub fn mount() -> anyhow::Result<BpfFs> {
        let directory = lab::scratch()?;
        mounts::separate()?;
        mounts::over(directory.path(), &What::New(c"bpf"))
            .context("cannot mount a bpf file system")?;
        Ok(BpfFs { directory })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        mounts::remove(self.path());
    }
}
