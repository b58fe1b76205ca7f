//! The namespaces that were found and are not captured.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use crate::agent::scopes::{Excess, ScopeError};

/// Which they are, and whose. Why is said once: of those that there are too many of once for each
/// workload.
#[derive(Default)]
pub(super) struct Outside {
    /// By inode.
    namespaces: HashMap<u64, Left>,
    /// How many of them are tried at each walk, by owner.
    tried: HashMap<String, usize>,
    /// Workloads of which it was said that they have too many.
    crowded: HashSet<String>,
}

struct Left {
    owner: String,
    /// It takes time to find out that it cannot be captured, at each walk.
    tried: bool,
}

impl Outside {
    pub(super) fn len(&self) -> usize {
        self.namespaces.len()
    }

    /// How many others of the workload are tried at each walk.
    pub(super) fn tried_of(&self, owner: &str, inode: u64) -> usize {
        let own = self.namespaces.get(&inode);
        let own = own.is_some_and(|left| left.tried && left.owner == owner);
        let all = self.tried.get(owner).copied().unwrap_or_default();
        all.saturating_sub(usize::from(own))
    }

    pub(super) fn note(&mut self, inode: u64, owner: &str, error: ScopeError) {
        let untried = matches!(
            error,
            ScopeError::Excess {
                excess: Excess::Namespaces,
                ..
            }
        );
        let left = Left {
            owner: owner.to_owned(),
            tried: !untried,
        };
        let is_new = !self.forget(inode);
        if left.tried {
            *self.tried.entry(left.owner.clone()).or_default() += 1;
        }
        self.namespaces.insert(inode, left);
        let is_said = match &error {
            ScopeError::Excess { owner, .. } => !self.crowded.insert(owner.clone()),
            _ => !is_new,
        };
        if !is_said {
            tracing::warn!("{:#}", anyhow::Error::new(error));
        }
    }

    /// It is captured, or gone. Says whether it was known.
    pub(super) fn forget(&mut self, inode: u64) -> bool {
        let Some(left) = self.namespaces.remove(&inode) else {
            return false;
        };
        if left.tried
            && let Entry::Occupied(mut count) = self.tried.entry(left.owner)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        true
    }

    /// Only these are there.
    pub(super) fn retain(&mut self, alive: &HashSet<u64>) {
        let known = self.namespaces.keys().copied();
        let gone: Vec<u64> = known.filter(|inode| !alive.contains(inode)).collect();
        for inode in gone {
            self.forget(inode);
        }
        let owners = self.namespaces.values().map(|left| &left.owner);
        let owners: HashSet<&String> = owners.collect();
        self.crowded.retain(|owner| owners.contains(owner));
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn excess(excess: Excess) -> ScopeError {
        ScopeError::Excess {
            owner: "/greedy".to_owned(),
            excess,
        }
    }

    #[test]
    fn what_takes_time_at_each_walk_is_counted() {
        let listen = || ScopeError::Listen {
            path: "/proc/1/ns/net".into(),
            source: io::ErrorKind::AddrNotAvailable.into(),
        };
        let mut outside = Outside::default();
        for inode in 0..3 {
            outside.note(inode, "/greedy", listen());
            outside.note(inode, "/greedy", excess(Excess::Devices));
        }
        outside.note(3, "/greedy", excess(Excess::Namespaces));
        outside.note(4, "/other", listen());
        assert_eq!(outside.len(), 5);
        assert_eq!(outside.tried_of("/greedy", 0), 2);
        assert_eq!(outside.tried_of("/greedy", 3), 3);
        assert_eq!(outside.tried_of("/other", 4), 0);
        outside.note(1, "/greedy", excess(Excess::Namespaces));
        assert_eq!(outside.tried_of("/greedy", 3), 2);
        assert!(outside.forget(0) && !outside.forget(0));
        outside.retain(&HashSet::from([1, 3, 4]));
        assert_eq!((outside.len(), outside.tried_of("/greedy", 3)), (3, 0));
        outside.retain(&HashSet::new());
        assert!(outside.tried.is_empty() && outside.crowded.is_empty());
    }
}
