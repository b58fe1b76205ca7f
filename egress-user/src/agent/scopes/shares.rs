//! What the namespaces of one workload may take of the agent.
//!
//! Any user can make network namespaces, and devices in them, without end. So that those of one
//! workload do not take the descriptors and the time of all, each may have so many.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Namespaces of one workload at once. A pod has one; what runs sandboxes has as many as run at the
/// same time.
pub(super) const NAMESPACES: usize = 64;

/// Guarded devices in all the namespaces of one workload. A pod has a few, one with containers of its
/// own one for each. The kernel takes up to 25 ms to put a guard on or off one, so that all take 3 s:
/// a third of the time between two walks, and nobody is discovered meanwhile.
pub(super) const DEVICES: usize = 128;

/// Descriptors of a namespace: two handles on it, and two listeners, which are copied for a
/// successor, and once more while they go to it.
const OF_NAMESPACE: u64 = 2 + 3 * 2;

/// Descriptors of a guarded device where it takes the most, by clsact: its program and namespace.
const OF_DEVICE: u64 = 2;

/// The part of the descriptors that the namespaces of one workload may take. Where there are few, they
/// are fewer namespaces than [`NAMESPACES`].
const PART: u64 = 4;

/// Why a namespace cannot be captured too.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Excess {
    /// Its workload has enough namespaces.
    #[error("its processes are in {NAMESPACES} captured ones already, the most of one workload")]
    Namespaces,
    /// Its workload has enough devices.
    #[error(
        "there are more than {DEVICES} network devices in those of its processes, the most of one \
         workload"
    )]
    Devices,
    /// There are too few descriptors.
    #[error(
        "its part of the agent's descriptors is used up: allow the agent more open files \
         (`LimitNOFILE`, `ulimit -n`)"
    )]
    Descriptors,
}

/// What each captured namespace takes.
pub(super) struct Shares {
    /// What all may take of the process's descriptors.
    descriptors: u64,
    /// By inode.
    taken: HashMap<u64, Share>,
    /// How many of these are whose: it is asked of every namespace that is found.
    owners: HashMap<String, usize>,
}

struct Share {
    owner: String,
    devices: usize,
}

impl Shares {
    pub(super) fn new(descriptors: u64) -> Shares {
        Shares {
            descriptors,
            taken: HashMap::new(),
            owners: HashMap::new(),
        }
    }

    /// Whether the workload may have another namespace, besides so many that take time and nothing
    /// else.
    pub(super) fn has_room(&self, owner: &str, besides: usize) -> Result<(), Excess> {
        let count = self.owners.get(owner).copied().unwrap_or_default();
        match count + besides < NAMESPACES {
            true => Ok(()),
            false => Err(Excess::Namespaces),
        }
    }

    /// Counts a namespace with so many devices as one of the workload's.
    pub(super) fn take(&mut self, inode: u64, owner: &str, devices: usize) -> Result<(), Excess> {
        self.has_room(owner, 0)?;
        self.fits(inode, owner, devices)?;
        self.leave(inode);
        let owner = owner.to_owned();
        *self.owners.entry(owner.clone()).or_default() += 1;
        self.taken.insert(inode, Share { owner, devices });
        Ok(())
    }

    /// A namespace that is counted has so many devices by now. Nothing is changed where that is too
    /// many.
    pub(super) fn change(&mut self, inode: u64, devices: usize) -> Result<(), Excess> {
        let Some(share) = self.taken.get(&inode) else {
            return Ok(());
        };
        if share.devices < devices {
            self.fits(inode, &share.owner, devices)?;
        }
        if let Some(share) = self.taken.get_mut(&inode) {
            share.devices = devices;
        }
        Ok(())
    }

    pub(super) fn leave(&mut self, inode: u64) {
        let Some(share) = self.taken.remove(&inode) else {
            return;
        };
        if let Entry::Occupied(mut count) = self.owners.entry(share.owner) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    fn fits(&self, inode: u64, owner: &str, devices: usize) -> Result<(), Excess> {
        let others = |(other, _): &(&u64, &Share)| **other != inode;
        let of_all = || self.taken.iter().filter(others).map(|(_, share)| share);
        let of_owner = || of_all().filter(|share| share.owner == owner);
        let found: usize = of_owner().map(|share| share.devices).sum();
        if found + devices > DEVICES {
            return Err(Excess::Devices);
        }
        let within = |most: u64, taken: u64| taken + descriptors(devices) <= most;
        let part = within(
            self.descriptors / PART,
            of_owner().map(Share::descriptors).sum(),
        );
        match part && within(self.descriptors, of_all().map(Share::descriptors).sum()) {
            true => Ok(()),
            false => Err(Excess::Descriptors),
        }
    }
}

impl Share {
    fn descriptors(&self) -> u64 {
        descriptors(self.devices)
    }
}

/// What a namespace with so many devices takes.
fn descriptors(devices: usize) -> u64 {
    OF_NAMESPACE + OF_DEVICE * devices as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_workload_has_so_many_namespaces_and_others_have_theirs() {
        let mut shares = Shares::new(u64::MAX);
        for inode in 0..NAMESPACES as u64 {
            shares.take(inode, "/greedy", 1).unwrap();
        }
        assert_eq!(shares.has_room("/greedy", 0), Err(Excess::Namespaces));
        assert_eq!(shares.take(100, "/greedy", 0), Err(Excess::Namespaces));
        shares.take(100, "/other", 1).unwrap();
        shares.has_room("/other", NAMESPACES - 2).unwrap();
        let crowded = shares.has_room("/other", NAMESPACES - 1);
        assert_eq!(crowded, Err(Excess::Namespaces));
        shares.leave(7);
        shares.take(101, "/greedy", 1).unwrap();
    }

    #[test]
    fn the_devices_of_a_workload_are_counted_over_its_namespaces() {
        let mut shares = Shares::new(u64::MAX);
        shares.take(1, "/greedy", DEVICES - 10).unwrap();
        assert_eq!(shares.take(2, "/greedy", 11), Err(Excess::Devices));
        shares.take(2, "/greedy", 10).unwrap();
        assert_eq!(shares.change(2, 11), Err(Excess::Devices));
        shares.change(2, 10).unwrap();
        shares.change(1, 5).unwrap();
        shares.change(2, DEVICES - 5).unwrap();
        shares.take(3, "/other", DEVICES).unwrap();
        shares.leave(2);
        shares.take(4, "/greedy", DEVICES - 5).unwrap();
    }

    #[test]
    fn all_together_take_the_descriptors_that_there_are_and_one_a_part() {
        let mut shares = Shares::new(PART * descriptors(1));
        assert_eq!(shares.take(0, "/greedy", 2), Err(Excess::Descriptors));
        for inode in 0..PART {
            let owner = format!("/{inode}");
            shares.take(inode, &owner, 1).unwrap();
            assert_eq!(shares.take(100, &owner, 0), Err(Excess::Descriptors));
            assert_eq!(shares.change(inode, 2), Err(Excess::Descriptors));
        }
        assert_eq!(shares.take(100, "/last", 0), Err(Excess::Descriptors));
        shares.leave(1);
        shares.take(100, "/last", 0).unwrap();
        for inode in (0..PART).chain([100]) {
            shares.leave(inode);
        }
        assert!(shares.taken.is_empty() && shares.owners.is_empty());
    }
}
