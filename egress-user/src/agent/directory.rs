//! Who a process is: from what the kernel tells of it to what rules ask about.
//!
//! What is known beyond cgroup and user comes from the agent's configuration. Whoever watches the
//! pods of a node adds what they are here.

use crate::cgroup::Cgroup2;
use crate::policy::KnownWorkloads;
use crate::workload::Workload;

/// Knows workloads by their cgroups. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Directory {
    cgroups: Cgroup2,
    known: KnownWorkloads,
}

impl Directory {
    /// One that knows what is said of these cgroups.
    pub fn new(cgroups: Cgroup2, known: KnownWorkloads) -> Directory {
        Directory { cgroups, known }
    }

    /// The workload of a process in the cgroup with this id, as far as it is known. Nothing but the
    /// user is, once the cgroup is gone.
    pub fn workload(&self, cgroup: Option<u64>, uid: Option<u32>) -> Workload {
        let mut workload = Workload {
            cgroup: cgroup.and_then(|id| self.cgroups.path_of(id)),
            uid,
            ..Workload::default()
        };
        self.known.describe(&mut workload);
        workload
    }

    /// The hierarchy in which it looks.
    pub fn cgroups(&self) -> &Cgroup2 {
        &self.cgroups
    }
}
