//! Who is at the door: connections that have not said yet who they are. Nobody may fill it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::addr::{AgentAddr, host_of};

/// One source may have this part of the unfinished handshakes. Agents may share an address, and come
/// back all at once.
const PART: usize = 4;

/// Counts unfinished handshakes.
pub(super) struct Door {
    room: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    all: usize,
    by_source: HashMap<IpAddr, usize>,
}

impl Door {
    /// A door at which `room` may wait.
    pub(super) fn new(room: usize) -> Arc<Door> {
        Arc::new(Door {
            room,
            waiting: Mutex::default(),
        })
    }

    /// Lets a connection wait there until the result is dropped; none when there is no room.
    pub(super) fn enter(self: &Arc<Self>, from: AgentAddr) -> Option<AtDoor> {
        let source = host_of(from.ip());
        let mut waiting = self.lock();
        let of_source = waiting.by_source.get(&source).copied().unwrap_or_default();
        if waiting.all >= self.room || of_source >= self.room.div_ceil(PART) {
            return None;
        }
        waiting.all += 1;
        waiting.by_source.insert(source, of_source + 1);
        Some(AtDoor {
            door: self.clone(),
            source,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that is waiting at the door.
pub(super) struct AtDoor {
    door: Arc<Door>,
    source: IpAddr,
}

impl Drop for AtDoor {
    fn drop(&mut self) {
        let mut waiting = self.door.lock();
        waiting.all = waiting.all.saturating_sub(1);
        let left = waiting.by_source.get(&self.source).copied();
        match left.unwrap_or_default() {
            0 | 1 => waiting.by_source.remove(&self.source),
            more => waiting.by_source.insert(self.source, more - 1),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(ip: &str) -> AgentAddr {
        AgentAddr::new(format!("{ip}:1").parse().unwrap())
    }

    #[test]
    fn one_source_leaves_room_for_others() {
        let door = Door::new(8);
        let first = [(); 2].map(|()| door.enter(from("192.0.2.1")).unwrap());
        assert!(door.enter(from("192.0.2.1")).is_none());
        assert!(door.enter(from("[::ffff:192.0.2.1]")).is_none());
        assert!(door.enter(from("192.0.2.2")).is_some());
        drop(first);
        assert!(door.enter(from("192.0.2.1")).is_some());
        assert!(door.lock().by_source.is_empty());
    }

    #[test]
    fn a_network_of_64_bits_is_one_source() {
        let door = Door::new(4);
        let _first = door.enter(from("[2001:db8::1]")).unwrap();
        assert!(door.enter(from("[2001:db8::2]")).is_none());
        assert!(door.enter(from("[2001:db8:0:1::1]")).is_some());
    }

    #[test]
    fn many_sources_do_not_fill_more_than_the_room() {
        let door = Door::new(2);
        let _one = door.enter(from("192.0.2.1")).unwrap();
        let _two = door.enter(from("192.0.2.2")).unwrap();
        assert!(door.enter(from("192.0.2.3")).is_none());
    }
}
