//! From a name to the rules that list it, the most specific host first.

mod table;

use std::fmt;
use std::hint::black_box;
use std::iter;

use super::host::Host;
use super::rule::Rule;
use table::{Names, Table};

/// Suffixes of names that mean something else in every network: loopback (RFC 6761 §6.3),
/// multicast DNS and with it the usual cluster domain (RFC 6762 §3), the private-use top
/// level (ICANN board resolution 2024.07.29.06) and home networks (RFC 8375).
const INSIDE: [&str; 4] = ["localhost", "local", "internal", "home.arpa"];

/// All hosts of all rules.
///
/// A name costs one look-up for itself and one for each of its parents.
#[derive(Debug, Default)]
pub(super) struct Index {
    names: Names,
    /// A name, and the rules that list it.
    exact: Table,
    /// A parent, and the rules that list `*.parent`.
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

/// Rules in the order of the document: the first, and the position of the link to the next
/// one. Neither is there in an empty chain.
#[derive(Clone, Copy, Debug)]
struct Chain {
    rule: u32,
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
            next: NONE,
        }
    }
}

impl Index {
    /// The rules that list a name, by position, the most specific host first and those of
    /// one host in the order of the document. A rule that lists it twice may come twice.
    pub(super) fn rules<'n>(&self, name: &'n str) -> impl Iterator<Item = (Listed<'n>, usize)> {
        // First everything that the look-ups will wait for, so that they wait once.
        let fetched = parents(name).fold(self.exact.fetch(name), |fetched, parent| {
            fetched ^ self.below.fetch(parent)
        });
        black_box(fetched);
        let exact = self.exact.find(name, &self.names);
        let below = parents(name)
            .map(|parent| (Listed::Below(parent), self.below.find(parent, &self.names)));
        let any = if is_inside(name) {
            self.any_inside
        } else {
            self.any
        };
        iter::once((Listed::Exact(name), exact))
            .chain(below)
            .chain([(Listed::Any, any)])
            .flat_map(|(listed, chain)| self.walk(chain).map(move |rule| (listed, rule)))
    }

    /// The rules that have exactly this host, in the order of the document.
    pub(super) fn rules_of(&self, host: Listed<'_>) -> impl Iterator<Item = usize> {
        self.walk(match host {
            Listed::Exact(name) => self.exact.find(name, &self.names),
            Listed::Below(parent) => self.below.find(parent, &self.names),
            Listed::Any => self.any,
        })
    }

    /// Every host, in no particular order.
    pub(super) fn hosts(&self) -> impl Iterator<Item = Listed<'_>> {
        let exact = self.exact.names().map(|name| self.names.at(name));
        let below = self.below.names().map(|name| self.names.at(name));
        let any = (self.any.rule != NONE).then_some(Listed::Any);
        exact
            .map(Listed::Exact)
            .chain(below.map(Listed::Below))
            .chain(any)
    }

    fn walk(&self, chain: Chain) -> impl Iterator<Item = usize> {
        let first = (chain.rule != NONE).then_some(chain);
        // `NONE` is a position, too: one that no link is at.
        iter::successors(first, |last| self.links.get(last.next as usize).copied())
            .map(|link| link.rule as usize)
    }
}

/// Hosts as they are read, before their order is known to be complete.
#[derive(Debug, Default)]
pub(super) struct Builder {
    names: Names,
    exact: Vec<Listing>,
    below: Vec<Listing>,
    any: Vec<u32>,
}

/// A host of one rule.
#[derive(Debug)]
struct Listing {
    name: u32,
    rule: u32,
}

impl Builder {
    /// Notes a host of the rule that stands at this position.
    pub(super) fn insert(&mut self, host: &Host, rule: usize) {
        // A document is much too small for as many rules, and for names of 4 GiB.
        let rule = u32::try_from(rule).unwrap_or(NONE);
        match host {
            Host::Exact(name) => {
                let name = self.names.add(name);
                self.exact.push(Listing { name, rule });
            }
            Host::Below(parent) => {
                let name = self.names.add(parent);
                self.below.push(Listing { name, rule });
            }
            Host::Any => self.any.push(rule),
        }
    }

    /// The index of all that was noted.
    pub(super) fn finish(self, rules: &[Rule]) -> Index {
        let mut names = self.names;
        names.close();
        let mut links = Vec::new();
        let mut index = Index {
            exact: table(self.exact, &names, &mut links),
            below: table(self.below, &names, &mut links),
            names,
            links,
            ..Index::default()
        };
        for &rule in self.any.iter().rev() {
            prepend(&mut index.any, rule, &mut index.links);
            // A wildcard must not open what nobody thought of; closing it does no harm.
            if rules
                .get(rule as usize)
                .is_some_and(|rule| rule.effect.is_deny())
            {
                prepend(&mut index.any_inside, rule, &mut index.links);
            }
        }
        index.links.shrink_to_fit();
        index
    }
}

fn table(listings: Vec<Listing>, names: &Names, links: &mut Vec<Link>) -> Table {
    let mut table = Table::with_capacity(listings.len());
    // From the last to the first, since a chain grows at its head.
    for Listing { name, rule } in listings.into_iter().rev() {
        if let Some(chain) = table.chain_mut(name, names) {
            prepend(chain, rule, links);
        }
    }
    table
}

fn prepend(chain: &mut Chain, rule: u32, links: &mut Vec<Link>) {
    let next = match chain.rule {
        NONE => NONE,
        _ => {
            links.push(*chain);
            u32::try_from(links.len() - 1).unwrap_or(NONE)
        }
    };
    *chain = Chain { rule, next };
}

/// `b.c` and `c` for `a.b.c`.
pub(super) fn parents(name: &str) -> impl Iterator<Item = &str> {
    iter::successors(parent(name), |name| parent(name))
}

/// `b.c` for `a.b.c`.
fn parent(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, parent)| parent)
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
