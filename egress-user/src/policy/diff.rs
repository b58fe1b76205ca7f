//! What another policy would admit and refuse: compared by what is decided, not by text.
//!
//! All connections fall into finitely many kinds that no rule of either policy tells apart:
//! each host that is listed, and for a wildcard the names below it that nothing else lists; each
//! stretch of ports between the borders of ranges; each kind of workload that `from` tells apart
//! ([`workloads`]). One connection of every kind is put to both policies.

mod workloads;

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use super::columns;
use super::index::{Listed, parents};
use super::rule::{PortRange, Rule};
use super::{Digest, Mode, Policy, Request};
use crate::hello::ServerName;
use crate::workload::Workload;
use workloads::Kinds;

/// What changes from one policy to the next.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Difference {
    /// The digest of the old policy.
    pub old: Digest,
    /// The digest of the new one.
    pub new: Digest,
    /// The modes, if they differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<(Mode, Mode)>,
    /// What opens and closes, by name. Both policies are taken to be enforced.
    pub rows: Vec<Row>,
    /// Hosts whose rules tell more kinds of workloads apart than were tried: what opens there may
    /// be missing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_all_tried: Vec<String>,
}

/// Connections of which the new policy says something else.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Row {
    /// What happens to them.
    pub change: Change,
    /// The name; `*.parent` stands for the names below that no other row is about.
    pub name: String,
    /// The ports.
    pub ports: String,
    /// The workloads, in the words of `from`.
    pub workloads: String,
    /// The rule or the refusal in the old policy.
    pub before: String,
    /// The same in the new policy.
    pub after: String,
}

/// Which way it goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The new policy admits what the old one refuses.
    Opens,
    /// The other way round.
    Closes,
}

impl Difference {
    /// What changes when `new` takes the place of `old`.
    pub fn between(old: &Policy, new: &Policy) -> Difference {
        let mut both = Both {
            old,
            new,
            not_all_tried: Vec::new(),
        };
        let mut rows: Vec<Row> = Vec::new();
        for host in both.hosts() {
            rows.extend(both.rows(host));
        }
        rows.sort_by(|a, b| (a.change, reversed(&a.name)).cmp(&(b.change, reversed(&b.name))));
        Difference {
            old: *old.digest(),
            new: *new.digest(),
            mode: (old.mode != new.mode).then_some((old.mode, new.mode)),
            rows,
            not_all_tried: both.not_all_tried,
        }
    }

    /// Whether something is admitted that was refused, or nobody can be sure that nothing is.
    pub fn widens(&self) -> bool {
        let audit = self.mode.is_some_and(|(_, new)| new == Mode::Audit);
        let opens = self.rows.iter().any(|row| row.change == Change::Opens);
        audit || opens || !self.not_all_tried.is_empty()
    }

    /// Whether both decide alike.
    pub fn is_empty(&self) -> bool {
        self.mode.is_none() && self.rows.is_empty() && self.not_all_tried.is_empty()
    }
}

/// Labels from the right, so that names of one domain stand together.
fn reversed(name: &str) -> Vec<&str> {
    name.rsplit('.').collect()
}

struct Both<'p> {
    old: &'p Policy,
    new: &'p Policy,
    not_all_tried: Vec<String>,
}

/// The change for one kind of connection.
#[derive(Clone, PartialEq, Eq)]
struct Turn {
    change: Change,
    before: String,
    after: String,
}

impl<'p> Both<'p> {
    /// Every host, and those that `*` treats differently.
    fn hosts(&self) -> BTreeSet<Listed<'p>> {
        let hosts = self.old.index.hosts().chain(self.new.index.hosts());
        let mut hosts: BTreeSet<_> = hosts.collect();
        if hosts.contains(&Listed::Below("arpa")) {
            hosts.extend([Listed::Exact("home.arpa"), Listed::Below("home.arpa")]);
        }
        hosts
    }

    fn rows(&mut self, host: Listed<'_>) -> Vec<Row> {
        let shown = host.to_string();
        match host {
            Listed::Exact(name) => self.rows_for(name, &shown),
            Listed::Below(parent) => {
                let name = self.fresh(parent, |label| format!("{label}.{parent}"));
                self.rows_for(&name, &shown)
            }
            Listed::Any => {
                let outside = self.fresh("", |label| format!("{label}.{label}"));
                let mut rows = self.rows_for(&outside, &shown);
                let inside = self.fresh("", str::to_owned);
                rows.extend(self.rows_for(&inside, "* (single labels, *.local and the like)"));
                rows
            }
        }
    }

    /// A name that no rule lists as itself, and that is below no wildcard but `*.within` and wider
    /// ones. The empty one, which is no name, if there is none.
    fn fresh(&self, within: &str, name: impl Fn(&str) -> String) -> String {
        let has = |host: Listed<'_>| {
            let policies = [self.old, self.new];
            let mut rules = policies.map(|policy| policy.index.rules_of(host).next());
            rules.iter_mut().any(|rule| rule.is_some())
        };
        let is_listed = |name: &str| {
            let mut nearer = parents(name).take_while(|parent| *parent != within);
            has(Listed::Exact(name)) || nearer.any(|parent| has(Listed::Below(parent)))
        };
        let mut names = (1..=63).map(|length| name(&"x".repeat(length)));
        names.find(|name| !is_listed(name)).unwrap_or_default()
    }

    /// The changes for a name, which stands for all that `shown` says.
    fn rows_for(&mut self, name: &str, shown: &str) -> Vec<Row> {
        let Ok(name) = ServerName::parse(name.as_bytes()) else {
            // Nothing can be below a parent of 253 bytes.
            return Vec::new();
        };
        let rules: Vec<Rule<'_>> = [self.old, self.new]
            .into_iter()
            .flat_map(|policy| {
                let listed = policy.index.rules(name.as_str());
                listed.filter_map(|(_, listing)| policy.rules.listed(listing))
            })
            .collect();
        let kinds = Kinds::of(&rules);
        if !kinds.is_complete() {
            self.not_all_tried.push(shown.to_owned());
        }
        let mut rows: Vec<(Vec<PortRange>, Row)> = Vec::new();
        for range in stretches(&rules) {
            for (workloads, turn) in self.turns(&name, range.first, &kinds) {
                let row = Row {
                    change: turn.change,
                    name: shown.to_owned(),
                    ports: String::new(),
                    workloads,
                    before: turn.before,
                    after: turn.after,
                };
                match rows.iter_mut().find(|(_, known)| *known == row) {
                    Some((ranges, _)) => push(ranges, range),
                    None => rows.push((vec![range], row)),
                }
            }
        }
        let finished = rows.into_iter().map(|(ranges, row)| {
            let ports: Vec<_> = ranges.iter().map(ToString::to_string).collect();
            Row {
                ports: ports.join(", "),
                ..row
            }
        });
        finished.collect()
    }

    /// The changes at one port, each with those whom it is for.
    fn turns(&self, name: &ServerName, port: u16, kinds: &Kinds) -> Vec<(String, Turn)> {
        let mut groups: Vec<(Turn, Vec<bool>)> = Vec::new();
        for (number, workload) in kinds.workloads().enumerate() {
            let Some(turn) = self.turn(name, port, &workload) else {
                continue;
            };
            let group = match groups.iter().position(|(known, _)| *known == turn) {
                Some(group) => group,
                None => {
                    groups.push((turn, vec![false; kinds.len()]));
                    groups.len() - 1
                }
            };
            let member = groups
                .get_mut(group)
                .and_then(|(_, members)| members.get_mut(number));
            member.into_iter().for_each(|member| *member = true);
        }
        let groups = groups.into_iter();
        groups
            .map(|(turn, members)| (kinds.words(&members), turn))
            .collect()
    }

    fn turn(&self, name: &ServerName, port: u16, workload: &Workload) -> Option<Turn> {
        let request = Request {
            name,
            port,
            workload,
        };
        let told = |policy: &Policy| match policy.decide(&request) {
            Ok((rule, _)) => (true, format!("rule {}", rule.name())),
            Err(refusal) => (false, refusal.to_string()),
        };
        let ((admitted, before), (admits, after)) = (told(self.old), told(self.new));
        let change = match (admitted, admits) {
            (false, true) => Change::Opens,
            (true, false) => Change::Closes,
            (true, true) | (false, false) => return None,
        };
        Some(Turn {
            change,
            before,
            after,
        })
    }
}

fn push(ranges: &mut Vec<PortRange>, range: PortRange) {
    match ranges.last_mut() {
        Some(last) if last.last.checked_add(1) == Some(range.first) => last.last = range.last,
        _ => ranges.push(range),
    }
}

/// The stretches of ports that some rule is about and all rules treat alike.
fn stretches(rules: &[Rule<'_>]) -> Vec<PortRange> {
    let ranges = || rules.iter().flat_map(|rule| rule.scope().ports.iter());
    let mut starts: BTreeSet<u32> = BTreeSet::new();
    for range in ranges() {
        starts.extend([u32::from(range.first), u32::from(range.last) + 1]);
    }
    let starts: Vec<u32> = starts.into_iter().collect();
    let stretches = starts.windows(2).filter_map(|pair| {
        let &[first, end] = pair else { return None };
        Some(PortRange {
            first: u16::try_from(first).ok()?,
            last: u16::try_from(end - 1).ok()?,
        })
    });
    stretches
        .filter(|stretch| {
            ranges().any(|range| range.first <= stretch.first && stretch.last <= range.last)
        })
        .collect()
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Change::Opens => "opens",
            Change::Closes => "closes",
        })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return writeln!(f, "{} and {} decide alike", self.old, self.new);
        }
        if let Some((old, new)) = self.mode {
            let means = match new {
                Mode::Audit => "nothing is refused any more",
                Mode::Enforce => "refusals are carried out from now on",
            };
            writeln!(f, "mode: {old} → {new}, {means}")?;
        }
        let rows = self.rows.iter().map(|row| {
            [
                row.change.to_string(),
                row.name.clone(),
                row.ports.clone(),
                row.workloads.clone(),
                format!("{} → {}", row.before, row.after),
            ]
        });
        columns::write(f, &rows.collect::<Vec<_>>())?;
        self.not_all_tried.iter().try_for_each(|name| {
            writeln!(
                f,
                "{name}: too many kinds of workloads, and not all were tried"
            )
        })
    }
}

#[cfg(test)]
pub(super) mod tests;
