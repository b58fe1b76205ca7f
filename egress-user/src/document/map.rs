//! One map of a document: keys are asked for, and what nobody asked for is a mistake.

use std::cell::RefCell;

use super::ledger::{Ledger, Place};
use super::suggest;
use super::tree::Entry;
use super::value::{Subject, Value, shown};

/// A map of the document, while its keys are being asked for.
///
/// When the function that asks has returned, keys that it did not ask for are reported as
/// unknown, so it must ask for every key it knows, whatever it found so far.
pub struct Map<'d> {
    entries: &'d [Entry<'d>],
    place: Place,
    ledger: &'d Ledger,
    asked: RefCell<Vec<&'static str>>,
    missing: RefCell<Vec<&'static str>>,
}

impl<'d> Map<'d> {
    pub(super) fn new(entries: &'d [Entry<'d>], place: Place, ledger: &'d Ledger) -> Map<'d> {
        Map {
            entries,
            place,
            ledger,
            asked: RefCell::default(),
            missing: RefCell::default(),
        }
    }

    /// The value of a key that must be there. `None` means a mistake, which is noted.
    pub fn required<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(Value<'d>) -> Option<T>,
    ) -> Option<T> {
        match self.find(key) {
            Some(value) => read(value),
            None => {
                self.missing.borrow_mut().push(key);
                None
            }
        }
    }

    /// The value of a key that may be absent. `None` means absent, or a mistake, which is
    /// noted.
    pub fn optional<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(Value<'d>) -> Option<T>,
    ) -> Option<T> {
        self.find(key).and_then(read)
    }

    /// The value of a key, or `default` where it is absent.
    pub fn or<T>(
        &self,
        key: &'static str,
        default: T,
        read: impl FnOnce(Value<'d>) -> Option<T>,
    ) -> T {
        self.optional(key, read).unwrap_or(default)
    }

    /// Whether the key is there, with whatever value.
    pub fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    /// Whether it has no key at all.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Notes a mistake about the map as a whole, such as two keys that exclude each other.
    /// Always `None`, to be returned.
    pub fn mistake<T>(&self, sentence: impl Into<String>) -> Option<T> {
        self.ledger.mistake(self.place, sentence.into());
        None
    }

    /// Notes something that is allowed and probably not meant.
    pub fn warn(&self, sentence: impl Into<String>) {
        self.ledger.warning(self.place, sentence.into());
    }

    fn find(&self, key: &'static str) -> Option<Value<'d>> {
        self.asked.borrow_mut().push(key);
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(Value::new(&entry.value, Subject::Key(key), self.ledger))
    }

    /// Reports unknown and missing keys; a key that is missing because it is misspelt is
    /// reported once.
    pub(super) fn finish(self) {
        let asked = self.asked.into_inner();
        let mut missing = self.missing.into_inner();
        for entry in self.entries {
            let key = &*entry.key;
            if asked.contains(&key) {
                continue;
            }
            let typed = shown(key);
            let sentence = match suggest::nearest(key, &asked) {
                Some(meant) => {
                    missing.retain(|&key| key != meant);
                    format!("unknown key `{typed}`, did you mean `{meant}`?")
                }
                None => format!("unknown key `{typed}`; known here: {}", listed(&asked)),
            };
            self.ledger.mistake(entry.place, sentence);
        }
        for key in missing {
            self.ledger
                .mistake(self.place, format!("`{key}` is missing"));
        }
    }
}

/// Words as they stand in a sentence.
pub(super) fn listed(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
    quoted.join(", ")
}
