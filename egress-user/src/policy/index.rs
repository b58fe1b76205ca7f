//! From a name to the rules that list it, the most specific host first.

mod table;

use std::fmt;
use std::hint::black_box;
use std::iter;

use super::host::Host;
use super::rules::{Rules, TermsId};
use table::{Keys, Suffixes, Table};

/// Suffixes of names that mean something else in every network: loopback (RFC 6761 §6.3),
/// multicast DNS and with it the usual cluster domain (RFC 6762 §3), the private-use top
/// level (ICANN board resolution 2024.07.29.06) and home networks (RFC 8375).
const INSIDE: [&str; 4] = ["localhost", "local", "internal", "home.arpa"];

/// All hosts of all rules.
///
/// A name costs one look-up for itself and one for each of its parents.
#[derive(Debug, Default)]
pub(super) struct Index {
    keys: Keys,
    /// Names, with the rules that list them.
    exact: Table,
    /// Parents, with the rules that list `*.parent`.
    below: Table,
    /// The rules that list `*`.
    any: Chain,
    /// Those of them that reach names inside, too.
    any_inside: Chain,
    links: Vec<Link>,
}

/// How a rule lists a name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Listed<'n> {
    /// As itself.
    Exact(&'n str),
    /// By `*.parent`, which is this parent.
    Below(&'n str),
    /// By `*`.
    Any,
}

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listed::Exact(name) => f.write_str(name),
            Listed::Below(parent) => write!(f, "*.{parent}"),
            Listed::Any => f.write_str("*"),
        }
    }
}

/// A rule that lists a name: where it stands in the document, and what it says. The latter is
/// known as well from where it stands, but would have to be waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listing {
    pub(super) position: usize,
    pub(super) terms: TermsId,
}

/// Rules in the order of the document: the first, and the position of the link to the next
/// one. Neither is there in an empty chain.
#[derive(Clone, Copy, Debug)]
struct Chain {
    rule: u32,
    terms: TermsId,
    next: u32,
}

/// No rule, or no link.
const NONE: u32 = u32::MAX;

/// What stands behind the first rule of a chain.
type Link = Chain;

impl Default for Chain {
    fn default() -> Chain {
        Chain {
            rule: NONE,
            terms: TermsId::default(),
            next: NONE,
        }
    }
}

impl Chain {
    fn is_some(&self) -> bool {
        self.rule != NONE
    }
}

impl Index {
    /// The rules that list a name, the most specific host first and those of one host in the
    /// order of the document. A rule that lists it twice may come twice.
    pub(super) fn rules<'n>(&self, name: &'n str) -> impl Iterator<Item = (Listed<'n>, Listing)> {
        let suffixes = self.keys.suffixes(name);
        // First everything that the look-ups will wait for, so that they wait once.
        let (_, whole) = suffixes.whole();
        black_box(
            suffixes
                .parents()
                .fold(self.exact.fetch(whole), |fetched, (_, key)| {
                    fetched ^ self.below.fetch(key)
                }),
        );
        let mut left = suffixes.labels() + 1;
        let (mut listed, mut chain) = (Listed::Any, Chain::default());
        iter::from_fn(move || {
            while !chain.is_some() {
                left = left.checked_sub(1)?;
                (listed, chain) = self.listed(&suffixes, left);
            }
            let Chain { rule, terms, next } = chain;
            chain = self.links.get(next as usize).copied().unwrap_or_default();
            let position = rule as usize;
            Some((listed, Listing { position, terms }))
        })
    }

    /// What lists a name by so many of its labels.
    fn listed<'n>(&self, name: &Suffixes<'_, 'n>, labels: usize) -> (Listed<'n>, Chain) {
        let Some(place) = labels.checked_sub(1) else {
            let any = match self.any.is_some() && is_inside(name.whole().0) {
                true => self.any_inside,
                false => self.any,
            };
            return (Listed::Any, any);
        };
        let (suffix, key) = name.at(place);
        match labels == name.labels() {
            true => (Listed::Exact(suffix), self.exact.find(suffix, key)),
            false => (Listed::Below(suffix), self.below.find(suffix, key)),
        }
    }

    /// The rules that have exactly this host, in the order of the document.
    pub(super) fn rules_of(&self, host: Listed<'_>) -> impl Iterator<Item = Listing> {
        self.walk(match host {
            Listed::Exact(name) => self.exact.find(name, self.keys.of(name)),
            Listed::Below(parent) => self.below.find(parent, self.keys.of(parent)),
            Listed::Any => self.any,
        })
    }

    /// Every host, in no particular order.
    pub(super) fn hosts(&self) -> impl Iterator<Item = Listed<'_>> {
        let (exact, below) = (self.exact.names(), self.below.names());
        let any = self.any.is_some().then_some(Listed::Any);
        exact
            .map(Listed::Exact)
            .chain(below.map(Listed::Below))
            .chain(any)
    }

    fn walk(&self, chain: Chain) -> impl Iterator<Item = Listing> {
        let first = chain.is_some().then_some(chain);
        // `NONE` is a position, too: one that no link is at.
        iter::successors(first, |last| self.links.get(last.next as usize).copied()).map(|link| {
            Listing {
                position: link.rule as usize,
                terms: link.terms,
            }
        })
    }
}

/// Hosts as they are read, before their order is known to be complete.
#[derive(Debug, Default)]
pub(super) struct Builder {
    names: Names,
    exact: Vec<Noted>,
    below: Vec<Noted>,
    any: Vec<u32>,
}

/// A host of one rule.
#[derive(Debug)]
struct Noted {
    name: u32,
    rule: u32,
}

/// Names one behind the other, each after its length in one byte.
#[derive(Debug, Default)]
struct Names(Vec<u8>);

impl Builder {
    /// Notes a host of the rule that stands at this position.
    pub(super) fn insert(&mut self, host: &Host, rule: usize) {
        // A document is much too small for as many rules.
        let rule = u32::try_from(rule).unwrap_or(NONE);
        match host {
            Host::Exact(name) => {
                let name = self.names.add(name);
                self.exact.push(Noted { name, rule });
            }
            Host::Below(parent) => {
                let name = self.names.add(parent);
                self.below.push(Noted { name, rule });
            }
            Host::Any => self.any.push(rule),
        }
    }

    /// The index of all that was noted.
    pub(super) fn finish(self, rules: &Rules) -> Index {
        let Builder { names, any, .. } = self;
        let mut index = Index::default();
        index.exact = index.table(self.exact, &names, rules);
        index.below = index.table(self.below, &names, rules);
        for &rule in any.iter().rev() {
            prepend(&mut index.any, rule, rules, &mut index.links);
            // A wildcard must not open what nobody thought of; closing it does no harm.
            if rules
                .get(rule as usize)
                .is_some_and(|rule| rule.effect().is_deny())
            {
                prepend(&mut index.any_inside, rule, rules, &mut index.links);
            }
        }
        index.links.shrink_to_fit();
        index
    }
}

impl Index {
    fn table(&mut self, noted: Vec<Noted>, names: &Names, rules: &Rules) -> Table {
        let mut table = Table::with_capacity(noted.len());
        // From the last to the first, since a chain grows at its head.
        for Noted { name, rule } in noted.into_iter().rev() {
            let name = names.at(name);
            if let Some(chain) = table.chain_mut(name, self.keys.of(name)) {
                prepend(chain, rule, rules, &mut self.links);
            }
        }
        table
    }
}

fn prepend(chain: &mut Chain, rule: u32, rules: &Rules, links: &mut Vec<Link>) {
    let next = match chain.is_some() {
        false => NONE,
        true => {
            links.push(*chain);
            u32::try_from(links.len() - 1).unwrap_or(NONE)
        }
    };
    if let Some(terms) = rules.terms_of(rule as usize) {
        *chain = Chain { rule, terms, next };
    }
}

impl Names {
    /// Adds a name and gives its place.
    fn add(&mut self, name: &str) -> u32 {
        // A document is too small for 4 GiB of names, and a name has at most 253 bytes.
        let start = u32::try_from(self.0.len()).unwrap_or(NONE);
        self.0.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        self.0.extend_from_slice(name.as_bytes());
        start
    }

    /// The name at a place.
    fn at(&self, start: u32) -> &str {
        let name = self.0.get(start as usize..).and_then(|rest| {
            let (&len, rest) = rest.split_first()?;
            rest.get(..usize::from(len))
        });
        name.and_then(|name| str::from_utf8(name).ok())
            .unwrap_or_default()
    }
}

/// `b.c` and `c` for `a.b.c`.
pub(super) fn parents(name: &str) -> impl Iterator<Item = &str> {
    iter::successors(parent(name), |name| parent(name))
}

/// `b.c` for `a.b.c`.
fn parent(name: &str) -> Option<&str> {
    // By bytes: on labels as short as these, a search made for long texts takes longer.
    let dot = name.bytes().position(|byte| byte == b'.')?;
    name.get(dot + 1..)
}

/// Whether a name means something only inside some network.
pub(super) fn is_inside(name: &str) -> bool {
    let below = |suffix: &str| {
        let rest = name.strip_suffix(suffix);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    !name.contains('.') || INSIDE.into_iter().any(below)
}

#[cfg(test)]
mod tests;
