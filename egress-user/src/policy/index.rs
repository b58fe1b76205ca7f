//! From a name to the rules that list it, the most specific host first.

use std::collections::HashMap;
use std::iter;

use super::host::Host;
use super::rule::{Effect, Rule};

/// Suffixes of names that mean something else in every network: loopback (RFC 6761 §6.3),
/// multicast DNS and with it the usual cluster domain (RFC 6762 §3), the private-use top
/// level (ICANN board resolution 2024.07.29.06) and home networks (RFC 8375).
const INSIDE: [&str; 4] = ["localhost", "local", "internal", "home.arpa"];

/// All hosts of all rules.
///
/// A name costs one look-up for itself and one for each of its parents. The rules of a host
/// are a chain of links, so that a host costs one link a rule, and a million hosts of one
/// rule are no million vectors.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// A name, and the head of the chain of the rules that list it.
    exact: HashMap<Box<str>, Chain>,
    /// A parent, and the rules that list `*.parent`.
    below: HashMap<Box<str>, Chain>,
    /// The rules that list `*`.
    any: Chain,
    /// Those of them that reach names inside, too.
    any_inside: Chain,
    links: Vec<Link>,
}

/// The position of the first link of a chain; no link is there if the chain is empty.
#[derive(Clone, Copy, Debug)]
struct Chain(usize);

impl Default for Chain {
    fn default() -> Chain {
        Chain(usize::MAX)
    }
}

#[derive(Debug)]
struct Link {
    /// A position in the list of rules.
    rule: usize,
    next: Chain,
}

impl Index {
    /// An index of rules, each with its hosts.
    pub(super) fn new(rules: &[Rule], hosts: Vec<Vec<Host>>) -> Index {
        let mut index = Index::with_room_for(&hosts);
        // From the last to the first, since a chain grows at its head.
        let numbered = rules.iter().zip(hosts).enumerate();
        for (number, (rule, hosts)) in numbered.rev() {
            for host in hosts {
                index.insert(host, number, rule.effect);
            }
        }
        index
    }

    /// The rules that list a name, by position, the most specific host first and those of
    /// one host in the order of the document. A rule that lists it twice may come twice.
    pub(super) fn rules(&self, name: &str) -> impl Iterator<Item = usize> {
        let exact = self.exact.get(name).copied();
        let below = parents(name).filter_map(|parent| self.below.get(parent).copied());
        let any = if is_inside(name) {
            self.any_inside
        } else {
            self.any
        };
        exact
            .into_iter()
            .chain(below)
            .chain([any])
            .flat_map(|chain| self.walk(chain))
    }

    fn walk(&self, chain: Chain) -> impl Iterator<Item = usize> {
        let link = |chain: Chain| self.links.get(chain.0);
        iter::successors(link(chain), move |last| link(last.next)).map(|link| link.rule)
    }

    fn with_room_for(hosts: &[Vec<Host>]) -> Index {
        let count = |of: fn(&Host) -> bool| hosts.iter().flatten().filter(|host| of(host)).count();
        Index {
            exact: HashMap::with_capacity(count(|host| matches!(host, Host::Exact(_)))),
            below: HashMap::with_capacity(count(|host| matches!(host, Host::Below(_)))),
            links: Vec::with_capacity(count(|_| true)),
            ..Index::default()
        }
    }

    fn insert(&mut self, host: Host, rule: usize, effect: Effect) {
        let links = &mut self.links;
        match host {
            Host::Exact(name) => prepend(links, self.exact.entry(name).or_default(), rule),
            Host::Below(parent) => prepend(links, self.below.entry(parent).or_default(), rule),
            Host::Any => {
                prepend(links, &mut self.any, rule);
                // A wildcard must not open what nobody thought of; closing it does no harm.
                if effect != Effect::Allow {
                    prepend(links, &mut self.any_inside, rule);
                }
            }
        }
    }
}

fn prepend(links: &mut Vec<Link>, chain: &mut Chain, rule: usize) {
    let next = *chain;
    *chain = Chain(links.len());
    links.push(Link { rule, next });
}

/// `b.c` and `c` for `a.b.c`.
fn parents(name: &str) -> impl Iterator<Item = &str> {
    iter::successors(parent(name), |name| parent(name))
}

fn parent(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, parent)| parent)
}

/// Whether a name means something only inside some network.
fn is_inside(name: &str) -> bool {
    let below = |suffix: &str| {
        let rest = name.strip_suffix(suffix);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    !name.contains('.') || INSIDE.into_iter().any(below)
}
