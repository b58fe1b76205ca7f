//! A hash table for a million names of which few are asked for.
//!
//! What a look-up costs is the memory it waits for, since no cache holds a table of this size.
//! So an entry is 16 bytes and stands where its hash points, with 32 bits of the hash beside it:
//! a name that is not there is told by one cache line, and the text of a name is read only where
//! it will be equal. The lines of several look-ups can be fetched together ([`Table::fetch`]).

use std::hash::BuildHasher;

use hashbrown::DefaultHashBuilder;

use super::{Chain, NONE};

/// Names and the chains of their rules. The names themselves stand in a [`Names`].
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Open addressing with linear probing; half of it is free, so that a search ends in the line
    /// it began in or the next.
    entries: Box<[Entry]>,
    hasher: DefaultHashBuilder,
}

/// One name, or a free place.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The lower half of the hash; the upper half says where the entry stands.
    tag: u32,
    /// Where the name starts; [`NONE`] in a free place.
    name: u32,
    chain: Chain,
}

/// The text of all names of one index. Before each stands its length in one byte.
#[derive(Debug, Default)]
pub(super) struct Names(Vec<u8>);

impl Names {
    /// Adds a name and gives its place.
    pub(super) fn add(&mut self, name: &str) -> u32 {
        // A document is too small for 4 GiB of names, and a name has at most 253 bytes.
        let start = u32::try_from(self.0.len()).unwrap_or(NONE);
        self.0.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        self.0.extend_from_slice(name.as_bytes());
        start
    }

    /// The name at a place.
    pub(super) fn at(&self, start: u32) -> &str {
        let name = self.0.get(start as usize..).and_then(|rest| {
            let (&len, rest) = rest.split_first()?;
            rest.get(..usize::from(len))
        });
        name.and_then(|name| str::from_utf8(name).ok())
            .unwrap_or_default()
    }

    fn is_at(&self, start: u32, name: &str) -> bool {
        let rest = self.0.get(start as usize..).unwrap_or_default();
        rest.split_first().is_some_and(|(&len, rest)| {
            usize::from(len) == name.len() && rest.starts_with(name.as_bytes())
        })
    }

    /// Gives back the room that is not used.
    pub(super) fn close(&mut self) {
        self.0.shrink_to_fit();
    }
}

impl Table {
    /// A table with room for so many names.
    pub(super) fn with_capacity(names: usize) -> Table {
        let free = Entry {
            tag: 0,
            name: NONE,
            chain: Chain::default(),
        };
        let places = 2 * names;
        Table {
            entries: vec![free; places].into_boxed_slice(),
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// The chain of a name; an empty one if the name is not there.
    pub(super) fn find(&self, name: &str, names: &Names) -> Chain {
        let (home, tag) = self.place(name);
        let found = self
            .from(home)
            .take_while(|entry| entry.name != NONE)
            .find(|entry| entry.tag == tag && names.is_at(entry.name, name));
        found.map_or_else(Chain::default, |entry| entry.chain)
    }

    /// Asks memory for what [`Table::find`] will read first. The value means nothing; it makes
    /// the read happen.
    pub(super) fn fetch(&self, name: &str) -> u32 {
        let (home, _) = self.place(name);
        self.entries.get(home).map_or(0, |entry| entry.tag)
    }

    /// The chain of a name that stands at a place, to be changed. The name is added if it is not
    /// there; `None` if more names are added than there is room for.
    pub(super) fn chain_mut(&mut self, start: u32, names: &Names) -> Option<&mut Chain> {
        let name = names.at(start);
        let (home, tag) = self.place(name);
        let (before, behind) = self.entries.split_at_mut_checked(home)?;
        let entry = behind.iter_mut().chain(before).find(|entry| {
            entry.name == NONE || entry.tag == tag && names.is_at(entry.name, name)
        })?;
        if entry.name == NONE {
            (entry.tag, entry.name) = (tag, start);
        }
        Some(&mut entry.chain)
    }

    /// The places of all names.
    pub(super) fn names(&self) -> impl Iterator<Item = u32> {
        let names = self.entries.iter().map(|entry| entry.name);
        names.filter(|&name| name != NONE)
    }

    fn from(&self, home: usize) -> impl Iterator<Item = &Entry> {
        let (before, behind) = self
            .entries
            .split_at_checked(home)
            .unwrap_or((&self.entries, &[]));
        behind.iter().chain(before)
    }

    /// Where the entry of a name stands or the search for it starts, and its tag.
    #[expect(clippy::cast_possible_truncation, reason = "the halves of a hash")]
    fn place(&self, name: &str) -> (usize, u32) {
        let hash = self.hasher.hash_one(name);
        let (upper, tag) = (hash >> 32, hash as u32);
        // The upper half as a fraction of 2³², times the number of places.
        let home = (upper * self.entries.len() as u64) >> 32;
        (home as usize, tag)
    }
}
