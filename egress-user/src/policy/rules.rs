//! All rules of a policy, in the order of the document.
//!
//! There may be a million, of which most say the same: so a rule is the number of what it says,
//! and its name stands with the others' in one text.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::index::Listing;
use super::rule::{Rule, Terms};
use crate::rule_name::RuleNames;

/// Rules that are complete.
#[derive(Debug)]
pub(super) struct Rules {
    names: Arc<RuleNames>,
    /// For each rule the position of what it says in `terms`.
    said: Box<[TermsId]>,
    terms: Box<[Terms]>,
}

/// Which terms a rule has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct TermsId(u32);

impl Rules {
    /// The rule at a position.
    pub(super) fn get(&self, position: usize) -> Option<Rule<'_>> {
        let terms = self.terms_of(position)?;
        self.listed(Listing { position, terms })
    }

    /// The rule that the index names.
    pub(super) fn listed(&self, listing: Listing) -> Option<Rule<'_>> {
        let TermsId(terms) = listing.terms;
        Some(Rule {
            names: &self.names,
            position: listing.position,
            terms: self.terms.get(terms as usize)?,
        })
    }

    /// What the rule at a position says.
    pub(super) fn terms_of(&self, position: usize) -> Option<TermsId> {
        self.said.get(position).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Rule<'_>> {
        (0..self.said.len()).filter_map(|position| self.get(position))
    }

    pub(super) fn len(&self) -> usize {
        self.said.len()
    }
}

/// Rules as they are read.
#[derive(Debug, Default)]
pub(super) struct Builder {
    names: RuleNames,
    said: Vec<TermsId>,
    terms: Vec<Terms>,
    /// Positions in `terms`.
    known: HashTable<TermsId>,
    hasher: DefaultHashBuilder,
}

impl Builder {
    /// The number of these terms.
    pub(super) fn terms(&mut self, terms: Terms) -> TermsId {
        let Builder { known, hasher, .. } = self;
        let hash = |terms: &Terms| hasher.hash_one(terms);
        let at = |TermsId(position): TermsId| self.terms.get(position as usize);
        let place = known.entry(
            hash(&terms),
            |&id| at(id) == Some(&terms),
            |&id| at(id).map(hash).unwrap_or_default(),
        );
        let next = TermsId(u32::try_from(self.terms.len()).unwrap_or(u32::MAX));
        let id = *place.or_insert(next).get();
        if id == next {
            self.terms.push(terms);
        }
        id
    }

    /// Adds a rule without hosts and gives its position.
    pub(super) fn add(&mut self, name: &str, terms: TermsId) -> usize {
        self.names.push(name);
        self.said.push(terms);
        self.said.len() - 1
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.said.len()
    }

    /// The name of the rule at a position.
    pub(super) fn name(&self, position: usize) -> &str {
        self.names.get(position)
    }

    pub(super) fn finish(self) -> Rules {
        let mut names = self.names;
        names.close();
        Rules {
            names: Arc::new(names),
            said: self.said.into(),
            terms: self.terms.into(),
        }
    }
}
