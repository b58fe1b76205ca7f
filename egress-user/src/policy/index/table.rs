//! A hash table for a million names of which few are asked for.
//!
//! What a look-up costs is the memory it waits for, and no cache holds a million names. So all
//! that is known of a name stands in one line of memory, and which line it is, or that there is
//! none, is told by tags that are few enough to stay in the caches (a little over two bytes a
//! name). The tags of several look-ups can be fetched together ([`Table::fetch`]).

use std::hash::{BuildHasher, Hasher};

use hashbrown::DefaultHashBuilder;

use super::Chain;

/// Tags in a line of the caches, which are 64 bytes wide.
const GROUP: usize = 32;

/// What is left for the name in the line of memory where it stands.
const INLINE: usize = 51;

/// Labels of a name for which keys are made in one go; few names have more than six. Each costs
/// sixteen bytes to clear.
const USUAL: usize = 8;

/// Names and the chains of their rules.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// A name has a tag in the group that its key points to, or where that is full in the next
    /// that is not.
    groups: Box<[Group]>,
    /// For each tag what it stands for.
    entries: Box<[Entry]>,
    /// The names that are longer than [`INLINE`].
    long: Vec<u8>,
}

/// The taken tags first.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Group([Tag; GROUP]);

/// A part of a key, or 0 where no name stands.
type Tag = u16;

const FREE: Tag = 0;

/// A name, and the rules that list it.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Entry {
    chain: Chain,
    /// The length of the name.
    len: u8,
    /// The name; or if it is longer, where it starts among the long ones.
    name: [u8; INLINE],
}

const _: () = assert!(size_of::<Group>() == 64 && size_of::<Entry>() == 64);

/// The hash of a name: the upper half says where its tag stands, and the lowest bits are its tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Key(u64);

/// Makes the keys of names.
#[derive(Debug, Default)]
pub(super) struct Keys(DefaultHashBuilder);

/// A name and its parents, with their keys.
pub(super) struct Suffixes<'i, 'n> {
    keys: &'i Keys,
    name: &'n str,
    /// By how many labels a suffix has, less one: where it starts, and its key.
    usual: [(u16, Key); USUAL],
    labels: usize,
}

impl Keys {
    /// A name and its parents. Each byte is looked at once, since the hash of a name goes on from
    /// its parent's.
    pub(super) fn suffixes<'n>(&self, name: &'n str) -> Suffixes<'_, 'n> {
        let mut hasher = self.0.build_hasher();
        let mut usual = [(0, Key(0)); USUAL];
        let mut labels = 0;
        let mut start = name.len() + 1;
        for label in labels_from_the_end(name) {
            start -= label.len() + 1;
            if let Some(suffix) = usual.get_mut(labels) {
                hasher.write(label);
                // What is longer is no name.
                let start = u16::try_from(start).unwrap_or(u16::MAX);
                *suffix = (start, Key(hasher.finish()));
            }
            labels += 1;
        }
        Suffixes {
            keys: self,
            name,
            usual,
            labels,
        }
    }

    /// The key of one name.
    pub(super) fn of(&self, name: &str) -> Key {
        let mut hasher = self.0.build_hasher();
        for label in labels_from_the_end(name) {
            hasher.write(label);
        }
        Key(hasher.finish())
    }
}

fn labels_from_the_end(name: &str) -> impl Iterator<Item = &[u8]> {
    name.as_bytes().rsplit(|&byte| byte == b'.')
}

impl<'n> Suffixes<'_, 'n> {
    /// The name itself.
    pub(super) fn whole(&self) -> (&'n str, Key) {
        self.at(self.labels - 1)
    }

    /// The parents, the longest first.
    pub(super) fn parents(&self) -> impl Iterator<Item = (&'n str, Key)> {
        (0..self.labels - 1).rev().map(|place| self.at(place))
    }

    /// How many labels the name has.
    pub(super) fn labels(&self) -> usize {
        self.labels
    }

    /// The suffix of one label at place 0, and so on.
    pub(super) fn at(&self, place: usize) -> (&'n str, Key) {
        match self.usual.get(place) {
            Some(&(start, key)) => (self.name.get(usize::from(start)..).unwrap_or_default(), key),
            None => {
                let longer = self.labels - 1 - place;
                let suffix = self.name.splitn(longer + 1, '.').last().unwrap_or_default();
                (suffix, self.keys.of(suffix))
            }
        }
    }
}

impl Table {
    /// A table with room for so many names.
    pub(super) fn with_capacity(names: usize) -> Table {
        // Five sixths full, one look-up in nine goes to a second group.
        let groups = (names * 6 / 5).div_ceil(GROUP);
        let free = Entry {
            chain: Chain::default(),
            len: 0,
            name: [0; INLINE],
        };
        Table {
            groups: vec![Group([FREE; GROUP]); groups].into(),
            entries: vec![free; groups * GROUP].into(),
            long: Vec::new(),
        }
    }

    /// The chain of a name; an empty one if the name is not there.
    pub(super) fn find(&self, name: &str, key: Key) -> Chain {
        let entry = self
            .place(name, key)
            .and_then(|place| self.entries.get(place));
        entry.map_or_else(Chain::default, |entry| entry.chain)
    }

    /// Asks memory for what [`Table::find`] will read first. The value means nothing; it makes
    /// the read happen.
    pub(super) fn fetch(&self, key: Key) -> Tag {
        let group = self.groups.get(self.home(key));
        group.map_or(FREE, |group| group.0[0])
    }

    /// The chain of a name, to be changed. The name is added if it is not there; `None` if more
    /// names are added than there is room for.
    pub(super) fn chain_mut(&mut self, name: &str, key: Key) -> Option<&mut Chain> {
        let place = match self.place(name, key) {
            Some(known) => known,
            None => self.add(name, key)?,
        };
        let entry = self.entries.get_mut(place)?;
        Some(&mut entry.chain)
    }

    /// All names.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let entries = self.entries.iter().filter(|entry| entry.chain.is_some());
        entries.map(|entry| str::from_utf8(self.name(entry)).unwrap_or_default())
    }

    fn place(&self, name: &str, key: Key) -> Option<usize> {
        let home = self.home(key);
        for step in 0..self.groups.len() {
            let (number, group) = self.group(home, step)?;
            for lane in group.lanes(key.tag()) {
                let place = number * GROUP + lane;
                let entry = self.entries.get(place)?;
                if self.name(entry) == name.as_bytes() {
                    return Some(place);
                }
            }
            if !group.is_full() {
                return None;
            }
        }
        None
    }

    fn add(&mut self, name: &str, key: Key) -> Option<usize> {
        let home = self.home(key);
        let mut groups = (0..self.groups.len()).filter_map(|step| self.group(home, step));
        let (number, _) = groups.find(|(_, group)| !group.is_full())?;
        let group = self.groups.get_mut(number)?;
        let free = group.0.iter().position(|&tag| tag == FREE)?;
        *group.0.get_mut(free)? = key.tag();
        let place = number * GROUP + free;
        let entry = self.entries.get_mut(place)?;
        // A name has at most 253 bytes.
        entry.len = u8::try_from(name.len()).ok()?;
        match entry.name.get_mut(..name.len()) {
            Some(inline) => inline.copy_from_slice(name.as_bytes()),
            None => {
                // A document is too small for 4 GiB of names.
                let start = u32::try_from(self.long.len()).ok()?;
                *entry.name.first_chunk_mut()? = start.to_ne_bytes();
                self.long.extend_from_slice(name.as_bytes());
            }
        }
        Some(place)
    }

    fn name<'t>(&'t self, entry: &'t Entry) -> &'t [u8] {
        let len = usize::from(entry.len);
        if let Some(inline) = entry.name.get(..len) {
            return inline;
        }
        let start = entry
            .name
            .first_chunk()
            .map_or(0, |start| u32::from_ne_bytes(*start));
        let long = self
            .long
            .get(start as usize..)
            .and_then(|rest| rest.get(..len));
        long.unwrap_or_default()
    }

    /// The group that is so many steps behind this one, and its number.
    fn group(&self, home: usize, step: usize) -> Option<(usize, &Group)> {
        let number = home + step;
        let number = number.checked_sub(self.groups.len()).unwrap_or(number);
        Some((number, self.groups.get(number)?))
    }

    /// The upper half of the key as a fraction of 2³², times the number of groups.
    fn home(&self, Key(key): Key) -> usize {
        (((key >> 32) * self.groups.len() as u64) >> 32) as usize
    }
}

impl Key {
    /// Any but [`FREE`].
    #[expect(clippy::cast_possible_truncation, reason = "the lowest bits")]
    fn tag(self) -> Tag {
        (self.0 as Tag).max(1)
    }
}

impl Group {
    /// Where this tag is. Mostly it is not, and that is told by a few comparisons of many tags
    /// each, as long as nobody asks which.
    fn lanes(&self, tag: Tag) -> impl Iterator<Item = usize> {
        let has = self
            .0
            .iter()
            .fold(false, |has, &other| has | (other == tag));
        let lanes = if has { 0..GROUP } else { 0..0 };
        lanes.filter(move |&lane| self.0.get(lane) == Some(&tag))
    }

    fn is_full(&self) -> bool {
        let [.., last] = self.0;
        last != FREE
    }
}
