//! Names of rules, from the policy that decides to the record that tells.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// The names of all rules of a policy, one behind the other.
#[derive(Debug, Default)]
pub struct RuleNames {
    text: String,
    /// Where each name ends.
    ends: Vec<u32>,
}

impl RuleNames {
    /// Adds the name of the next rule.
    pub fn push(&mut self, name: &str) {
        self.text.push_str(name);
        // No document is large enough for 4 GiB of names.
        let end = u32::try_from(self.text.len()).unwrap_or(u32::MAX);
        self.ends.push(end);
    }

    /// The name of the rule at a position; empty where there is none.
    pub fn get(&self, position: usize) -> &str {
        let end = |position: usize| self.ends.get(position).map(|&end| end as usize);
        let start = match position.checked_sub(1) {
            Some(before) => end(before),
            None => Some(0),
        };
        let range = start.zip(end(position)).map(|(start, end)| start..end);
        range
            .and_then(|range| self.text.get(range))
            .unwrap_or_default()
    }

    /// Gives back the room that is not used.
    pub fn close(&mut self) {
        self.text.shrink_to_fit();
        self.ends.shrink_to_fit();
    }
}

/// The name of one rule, as a judgement hands it out: without a copy, and without a look at its
/// text, which is in no cache where there are many rules. Reading it looks.
#[derive(Clone)]
pub struct RuleName {
    names: Arc<RuleNames>,
    position: u32,
}

impl RuleName {
    /// The name of the rule at a position.
    pub fn new(names: &Arc<RuleNames>, position: usize) -> RuleName {
        RuleName {
            names: Arc::clone(names),
            // As many rules as do not fit have no room for their names either.
            position: u32::try_from(position).unwrap_or(u32::MAX),
        }
    }
}

/// A name that comes from elsewhere: another hop's policy.
impl From<&str> for RuleName {
    fn from(name: &str) -> RuleName {
        let mut names = RuleNames::default();
        names.push(name);
        RuleName::new(&Arc::new(names), 0)
    }
}

impl Deref for RuleName {
    type Target = str;

    fn deref(&self) -> &str {
        self.names.get(self.position as usize)
    }
}

impl PartialEq for RuleName {
    fn eq(&self, other: &RuleName) -> bool {
        **self == **other
    }
}

impl Eq for RuleName {}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self)
    }
}

impl fmt::Debug for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl Serialize for RuleName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_again() {
        let mut names = RuleNames::default();
        for name in ["a", "", "third"] {
            names.push(name);
        }
        let found = [0, 1, 2, 3, usize::MAX].map(|position| names.get(position));
        assert_eq!(found, ["a", "", "third", "", ""]);
        assert_eq!(RuleNames::default().get(0), "");
    }

    #[test]
    fn names_are_equal_by_their_text() {
        let mut names = RuleNames::default();
        names.push("a");
        names.push("b");
        let names = Arc::new(names);
        assert_eq!(RuleName::new(&names, 1), RuleName::from("b"));
        assert_ne!(RuleName::new(&names, 0), RuleName::from("b"));
        assert_eq!(RuleName::new(&names, 0).to_string(), "a");
    }
}
