//! The kinds of workloads that rules tell apart, and the words for some of them.
//!
//! A workload has four attributes, and each label that rules ask for is one more. Each has the values that `from` asks for, and one more for all
//! others; of cgroups, whose patterns overlap, also what lies in several at once. Not knowing an
//! attribute is a kind of its own only where a pattern leaves no other cgroups: elsewhere there is
//! a value that decides alike.

use std::collections::{BTreeMap, BTreeSet};

use super::super::rule::Rule;
use super::super::selector::{CgroupPattern, Selector};
use crate::workload::{Labels, Workload};

/// The most kinds that are tried for one name.
const KINDS: usize = 10_000;

/// The most cgroup patterns, those for what lies in several included.
const PATTERNS: usize = 64;

/// A name that no rule can ask for, and a part of a path that none does: there is no such character.
const OTHER: &str = "\u{10ffff}";

/// A user id that no rule can ask for.
const OTHER_UID: u32 = u32::MAX;

/// All kinds of workloads: every combination of values, the last attribute turning fastest.
pub(super) struct Kinds {
    axes: Vec<Axis>,
    complete: bool,
}

/// One attribute.
struct Axis {
    samples: Vec<Sample>,
    /// Words for some of the values, those for more of them first.
    terms: Vec<Term>,
}

/// A value, for all that are treated alike.
#[derive(Clone)]
enum Sample {
    Namespace(String),
    ServiceAccount(String),
    /// `None` is not known.
    Cgroup(Option<String>),
    Uid(u32),
    /// Key and value; that of others stands for none, too.
    Label(String, String),
}

struct Term {
    /// Which samples it is about.
    covers: Vec<bool>,
    /// Empty for all of them.
    words: String,
}

impl Kinds {
    /// Those that the rules tell apart.
    pub(super) fn of(rules: &[Rule<'_>]) -> Kinds {
        let selectors: Vec<&Selector> = rules
            .iter()
            .filter_map(|rule| rule.scope().from.as_deref())
            .flatten()
            .collect();
        let names = |field: fn(&Selector) -> Option<&str>| {
            let names: BTreeSet<_> = selectors.iter().filter_map(|s| field(s)).collect();
            names.into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        let namespaces = names(|selector| selector.namespace.as_deref());
        let accounts = names(|selector| selector.service_account.as_deref());
        let uids: BTreeSet<_> = selectors.iter().filter_map(|s| s.uid).collect();
        let (cgroups, overlaps) = cgroups(&selectors);
        let other = || OTHER.to_owned();
        let mut axes = vec![
            axis("namespace", " ", other(), &namespaces, Sample::Namespace),
            axis(
                "serviceAccount",
                " ",
                other(),
                &accounts,
                Sample::ServiceAccount,
            ),
        ];
        axes.extend(labels(&selectors).into_iter().map(|(key, values)| {
            let values: Vec<String> = values.into_iter().map(str::to_owned).collect();
            let sample = |value| Sample::Label(key.to_owned(), value);
            axis(&format!("label {key}"), "=", other(), &values, sample)
        }));
        axes.push(cgroups);
        let uids = Vec::from_iter(uids);
        axes.push(axis("uid", " ", OTHER_UID, &uids, Sample::Uid));
        let mut kinds = Kinds {
            axes,
            complete: overlaps,
        };
        while kinds.len() > KINDS {
            kinds.complete = false;
            kinds.halve();
        }
        kinds
    }

    /// Whether there is one for every workload.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    pub(super) fn len(&self) -> usize {
        let lengths = self.axes.iter().map(|axis| axis.samples.len());
        lengths.fold(1, usize::saturating_mul)
    }

    /// One workload of each kind.
    pub(super) fn workloads(&self) -> impl Iterator<Item = Workload> {
        (0..self.len()).map(|number| {
            let mut workload = Workload::default();
            let mut labels = Vec::new();
            for (axis, value) in self.axes.iter().zip(self.values(number)) {
                match axis.samples.get(value).cloned() {
                    Some(Sample::Namespace(name)) => workload.namespace = Some(name),
                    Some(Sample::ServiceAccount(name)) => workload.service_account = Some(name),
                    Some(Sample::Cgroup(path)) => workload.cgroup = path,
                    Some(Sample::Uid(uid)) => workload.uid = Some(uid),
                    Some(Sample::Label(key, value)) => labels.push((key, value)),
                    None => {}
                }
            }
            workload.labels = Some(Labels::from_iter(labels));
            workload
        })
    }

    /// Words for some of the kinds, and for no other.
    pub(super) fn words(&self, members: &[bool]) -> String {
        let blocks = self.blocks(members);
        let words = blocks.iter().map(|terms| {
            let said = terms.iter().map(|term| term.words.as_str());
            match said.filter(|words| !words.is_empty()).collect::<Vec<_>>() {
                said if said.is_empty() => "everyone".to_owned(),
                said => said.join(", "),
            }
        });
        words.collect::<Vec<_>>().join(" or ")
    }

    /// The members, in blocks of a term for each attribute.
    fn blocks(&self, members: &[bool]) -> Vec<Vec<&Term>> {
        let mut blocks: Vec<Vec<&Term>> = Vec::new();
        for (number, _) in members.iter().enumerate().filter(|(_, member)| **member) {
            if !blocks.iter().any(|terms| self.covers(terms, number)) {
                blocks.push(self.widest(number, members));
            }
        }
        blocks
    }

    /// The kinds that [`Kinds::words`] speaks of.
    #[cfg(test)]
    pub(super) fn described(&self, members: &[bool]) -> Vec<bool> {
        let blocks = self.blocks(members);
        let covered = |number| blocks.iter().any(|terms| self.covers(terms, number));
        (0..members.len()).map(covered).collect()
    }

    /// A term for each attribute that together cover this kind and nothing but members.
    fn widest(&self, number: usize, members: &[bool]) -> Vec<&Term> {
        let values = self.values(number);
        let narrowest = self.axes.iter().zip(values.iter().copied());
        let mut terms: Vec<&Term> = narrowest
            .filter_map(|(axis, value)| axis.terms.iter().rev().find(|term| term.has(value)))
            .collect();
        for (place, (axis, value)) in self.axes.iter().zip(values).enumerate() {
            for term in axis.terms.iter().filter(|term| term.has(value)) {
                let mut wider = terms.clone();
                wider.splice(place..=place, [term]);
                let stays = |(number, is_member): (usize, &bool)| {
                    *is_member || !self.covers(&wider, number)
                };
                if members.iter().enumerate().all(stays) {
                    terms = wider;
                    break;
                }
            }
        }
        terms
    }

    fn covers(&self, terms: &[&Term], number: usize) -> bool {
        let values = self.values(number);
        terms
            .iter()
            .zip(values)
            .all(|(term, value)| term.has(value))
    }

    /// The values of a kind.
    fn values(&self, number: usize) -> Vec<usize> {
        let mut rest = number;
        let lengths = self.axes.iter().map(|axis| axis.samples.len().max(1));
        let mut values: Vec<usize> = lengths.collect();
        for value in values.iter_mut().rev() {
            let length = *value;
            (*value, rest) = (rest % length, rest / length);
        }
        values
    }

    /// Forgets half of the values of the attribute that has most.
    fn halve(&mut self) {
        let longest = self.axes.iter_mut().max_by_key(|axis| axis.samples.len());
        if let Some(axis) = longest {
            axis.samples.truncate(axis.samples.len() / 2);
        }
    }
}

impl Term {
    fn all(samples: usize) -> Term {
        Term {
            covers: vec![true; samples],
            words: String::new(),
        }
    }

    fn has(&self, value: usize) -> bool {
        self.covers.get(value) == Some(&true)
    }
}

/// An attribute whose values are equal or not.
fn axis<T: ToString + Clone>(
    key: &str,
    is: &str,
    other: T,
    wanted: &[T],
    sample: impl Fn(T) -> Sample,
) -> Axis {
    let samples = std::iter::once(other).chain(wanted.iter().cloned());
    let samples: Vec<T> = samples.collect();
    let mut terms = vec![Term::all(samples.len())];
    for value in 0..samples.len() {
        let covers = (0..samples.len()).map(|other| other == value).collect();
        let words = match value.checked_sub(1).and_then(|value| wanted.get(value)) {
            Some(value) => format!("{key}{is}{}", value.to_string()),
            None => format!("other {key}"),
        };
        terms.push(Term { covers, words });
    }
    Axis {
        samples: samples.into_iter().map(sample).collect(),
        terms,
    }
}

/// The labels that are asked for, with their values.
fn labels<'s>(selectors: &[&'s Selector]) -> BTreeMap<&'s str, BTreeSet<&'s str>> {
    let mut labels: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (key, value) in selectors.iter().flat_map(|selector| &selector.labels) {
        labels.entry(key).or_default().insert(value);
    }
    labels
}

/// The cgroups, and whether all their overlaps are among them.
fn cgroups(selectors: &[&Selector]) -> (Axis, bool) {
    let wanted: BTreeSet<_> = selectors.iter().filter_map(|s| s.cgroup.as_ref()).collect();
    let wanted: Vec<&CgroupPattern> = wanted.into_iter().collect();
    let mut all: Vec<CgroupPattern> = wanted.iter().copied().cloned().collect();
    let mut complete = true;
    let mut next = 1;
    while let Some((last, before)) = all.get(..=next).and_then(|all| all.split_last()) {
        let meets = before.iter().filter_map(|other| last.meet(other));
        let new: BTreeSet<_> = meets.filter(|meet| !all.contains(meet)).collect();
        all.extend(new);
        if all.len() > PATTERNS.max(wanted.len()) {
            complete = false;
            break;
        }
        next += 1;
    }
    // Whatever the same patterns cover is one value.
    let covering = |path: &str| wanted.iter().map(|pattern| pattern.covers(path)).collect();
    let other = format!("/{OTHER}");
    let mut values: Vec<(Option<String>, Vec<bool>)> = Vec::new();
    for path in std::iter::once(other).chain(all.iter().map(|pattern| pattern.example(OTHER))) {
        let covered: Vec<bool> = covering(&path);
        if !values.iter().any(|(_, known)| *known == covered) {
            values.push((Some(path), covered));
        }
    }
    let nobody = values
        .first()
        .is_some_and(|(_, covered)| covered.contains(&true));
    if nobody {
        values.push((None, vec![false; wanted.len()]));
    }
    let mut terms = vec![Term::all(values.len())];
    for (number, pattern) in wanted.iter().enumerate() {
        let covers = values
            .iter()
            .map(|(_, covered)| covered.get(number) == Some(&true));
        terms.push(Term {
            covers: covers.collect(),
            words: format!("cgroup {pattern}"),
        });
    }
    for (value, (path, covered)) in values.iter().enumerate() {
        terms.push(Term {
            covers: (0..values.len()).map(|other| other == value).collect(),
            words: exactly(&wanted, path.as_deref(), covered),
        });
    }
    let samples = values.into_iter().map(|(path, _)| Sample::Cgroup(path));
    let axis = Axis {
        samples: samples.collect(),
        terms,
    };
    (axis, complete)
}

/// Words for what these patterns cover and no other.
fn exactly(wanted: &[&CgroupPattern], path: Option<&str>, covered: &[bool]) -> String {
    let of = |yes: bool| {
        let patterns = wanted.iter().zip(covered);
        let patterns = patterns.filter(move |(_, covered)| **covered == yes);
        patterns
            .map(|(pattern, _)| pattern.to_string())
            .collect::<Vec<_>>()
    };
    let (inside, outside) = (of(true), of(false));
    match (path, inside.as_slice(), outside.as_slice()) {
        (None, ..) => "cgroup not known".to_owned(),
        (Some(_), [], _) => "other cgroup".to_owned(),
        (Some(_), inside, []) => format!("cgroup {}", inside.join(" and ")),
        (Some(_), inside, outside) => format!(
            "cgroup {} and not {}",
            inside.join(" and "),
            outside.join(" nor ")
        ),
    }
}
