//! Why a connection would be admitted or refused, rule by rule.

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;

use super::columns;
use super::host::Host;
use super::index::{Listed, is_inside};
use super::rule::{Effect, Rule};
use super::selector::Fit;
use super::text;
use super::{Mode, Policy, Request};
use crate::document::{Mistakes, Value};
use crate::workload::Workload;

/// The most near misses that are told.
const NEAR: usize = 8;

/// The most edits between a name and one that was perhaps meant.
const TYPOS: usize = 2;

/// The judgement of one connection, and what led to it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Explanation {
    /// The name.
    pub name: String,
    /// The port.
    pub port: u16,
    /// Who connects, as far as it is known.
    pub workload: Workload,
    /// `allowed`, `would_refuse` or `refused`, as in records.
    pub verdict: &'static str,
    /// The reason of a refusal, as in records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The rule that decides or came nearest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Every rule that lists the name, the most specific host first.
    pub rules: Vec<RuleNote>,
    /// Hosts that do not list the name, and nearly do.
    pub near_misses: Vec<NearMiss>,
}

/// What one rule that lists the name has to do with the connection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct RuleNote {
    /// The rule.
    pub rule: String,
    /// The line of the host in the document.
    pub line: u32,
    /// `allow`, `deny`, or `deny (audit)`.
    pub action: &'static str,
    /// The host by which it lists the name.
    pub host: String,
    /// Its ports.
    pub ports: String,
    /// Whom it is for.
    pub from: String,
    /// What that means here.
    pub outcome: &'static str,
}

/// A host that nearly lists the name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct NearMiss {
    /// A rule that has the host.
    pub rule: String,
    /// The line of the host in the document.
    pub line: u32,
    /// The host.
    pub host: String,
    /// Why it does not list the name.
    pub why: &'static str,
}

impl Policy {
    /// Reads a policy file, judges one connection by it and says why. Reads every host of the
    /// policy: for people, not for connections.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the file.
    pub fn explain(
        text: &str,
        label: &str,
        request: &Request<'_>,
    ) -> Result<Explanation, Mistakes> {
        let policy = Policy::parse(text, label)?.policy;
        let mut notes = policy.notes(request);
        let mut near = policy.near_misses(request.name.as_str());
        let mut lines = Lines::default();
        for (rule, note) in &mut notes {
            lines.want(*rule, &note.host, &mut note.line);
        }
        for (rule, miss) in &mut near {
            lines.want(*rule, &miss.host, &mut miss.line);
        }
        text::each_rule(text, label, |value| lines.look_at(value))?;
        let rules = notes.into_iter().map(|(_, note)| note).collect();
        let near = near.into_iter().map(|(_, miss)| miss).collect();
        Ok(policy.explanation(request, rules, near))
    }

    fn explanation(
        &self,
        request: &Request<'_>,
        rules: Vec<RuleNote>,
        near_misses: Vec<NearMiss>,
    ) -> Explanation {
        let decided = self.decide(request);
        let (verdict, rule, refusal) = match &decided {
            Ok((rule, None)) => ("allowed", Some(rule.name()), None),
            Ok((rule, Some(refusal))) => ("would_refuse", Some(rule.name()), Some(refusal)),
            Err(refusal) => {
                let verdict = match self.mode {
                    Mode::Enforce => "refused",
                    Mode::Audit => "would_refuse",
                };
                (verdict, refusal.rule.as_deref(), Some(refusal))
            }
        };
        Explanation {
            name: request.name.to_string(),
            port: request.port,
            workload: request.workload.clone(),
            verdict,
            reason: refusal.map(|refusal| refusal.reason.to_string()),
            rule: rule.map(ToString::to_string),
            rules,
            near_misses,
        }
    }

    /// The rules that list the name, with their positions.
    fn notes(&self, request: &Request<'_>) -> Vec<(usize, RuleNote)> {
        let decided = self.decide(request);
        let decides = match &decided {
            Ok((rule, _)) => Some(rule.name()),
            Err(refusal) => refusal.rule.as_deref(),
        };
        let mut notes: Vec<(usize, RuleNote)> = Vec::new();
        for (listed, listing) in self.index.rules(request.name.as_str()) {
            let position = listing.position;
            // A more specific host of the same rule came already.
            let known = notes.iter().any(|&(known, _)| known == position);
            let Some(rule) = self.rules.listed(listing).filter(|_| !known) else {
                continue;
            };
            let note = RuleNote {
                rule: rule.name().to_string(),
                line: 0,
                action: rule.effect().as_str(),
                host: listed.to_string(),
                ports: rule.scope().ports_text(),
                from: rule.scope().whom_text(),
                outcome: outcome(rule, request, decides == Some(rule.name())),
            };
            notes.push((position, note));
        }
        notes
    }

    /// Hosts that nearly list the name, with the positions of their rules.
    fn near_misses(&self, name: &str) -> Vec<(usize, NearMiss)> {
        let mut near = Vec::new();
        for host in self.index.hosts() {
            let Some((closeness, why)) = nearness(host, name) else {
                continue;
            };
            let rules = self.index.rules_of(host);
            let mut rules =
                rules.filter_map(|listing| Some((listing.position, self.rules.listed(listing)?)));
            // What `*` leaves out is denied by it all the same.
            let rule = rules.find(|(_, rule)| host != Listed::Any || !rule.effect().is_deny());
            near.extend(rule.map(|(position, rule)| {
                let miss = NearMiss {
                    rule: rule.name().to_string(),
                    line: 0,
                    host: host.to_string(),
                    why,
                };
                (closeness, position, miss)
            }));
        }
        near.sort_by(|(a, _, x), (b, _, y)| (a, &x.host).cmp(&(b, &y.host)));
        near.truncate(NEAR);
        let near = near.into_iter();
        near.map(|(_, position, miss)| (position, miss)).collect()
    }
}

/// Looks up the lines of some hosts.
#[derive(Default)]
struct Lines<'n> {
    /// Position of a rule → hosts whose lines are wanted.
    wanted: HashMap<usize, Vec<(&'n str, &'n mut u32)>>,
    position: usize,
}

impl<'n> Lines<'n> {
    fn want(&mut self, rule: usize, host: &'n str, line: &'n mut u32) {
        self.wanted.entry(rule).or_default().push((host, line));
    }

    fn look_at(&mut self, rule: Value<'_>) {
        let wanted = self.wanted.get_mut(&self.position);
        self.position += 1;
        let Some(wanted) = wanted else { return };
        for value in rule.get("hosts").into_iter().flat_map(Value::items) {
            let Some(host) = value.word().and_then(|word| Host::parse(word).ok()) else {
                continue;
            };
            let host = host.to_string();
            for (wanted, line) in wanted.iter_mut() {
                if **line == 0 && *wanted == host {
                    **line = value.line();
                }
            }
        }
    }
}

fn outcome(rule: Rule<'_>, request: &Request<'_>, decides: bool) -> &'static str {
    let fit = rule.scope().fit(request.workload);
    let fits = (rule.is_for(request.workload), rule.has_port(request.port));
    match (fits, rule.effect(), decides) {
        ((true, true), Effect::Allow, true) => "allows it",
        ((true, true), Effect::Allow, false) => "would allow it, and another rule decides",
        ((true, true), Effect::Deny, _) if fit == Fit::Unknown => {
            "denies it: the workload may be one of these"
        }
        ((true, true), Effect::Deny, true) => "denies it",
        ((true, true), Effect::Deny, false) => "denies it, too",
        ((true, true), Effect::TryDeny, _) => "would deny it, were it not on trial",
        ((true, false), ..) => "for other ports",
        ((false, true), ..) if fit == Fit::Unknown => "not known to be for this workload",
        ((false, true), ..) => "for other workloads",
        ((false, false), ..) => "for other ports and workloads",
    }
}

/// How near a host is to a name that it does not list, and what is between them.
fn nearness(host: Listed<'_>, name: &str) -> Option<(usize, &'static str)> {
    let is_below = |parent: &str| {
        let rest = name.strip_suffix(parent);
        rest.is_some_and(|rest| rest.ends_with('.'))
    };
    match host {
        Listed::Below(parent) if parent == name => {
            Some((0, "lists the names below it, and not the name itself"))
        }
        Listed::Any if is_inside(name) => Some((
            0,
            "lists no names that only mean something inside a network",
        )),
        Listed::Exact(parent) if parent != name && is_below(parent) => {
            Some((1, "lists itself alone, and no names below it"))
        }
        Listed::Exact(other) if other != name && typos(other, name) <= TYPOS => {
            Some((2, "is spelt nearly the same"))
        }
        Listed::Below(parent) if !is_below(parent) => {
            let labels = parent.split('.').count();
            let tail = name.rmatch_indices('.').nth(labels - 1);
            let tail = tail.and_then(|(at, _)| name.get(at + 1..))?;
            (typos(parent, tail) <= TYPOS).then_some((3, "is spelt nearly the same"))
        }
        Listed::Any | Listed::Exact(_) | Listed::Below(_) => None,
    }
}

/// How many letters differ, are too many or missing; more than [`TYPOS`] is just many. Short
/// names are all alike, so that they are never near.
fn typos(a: &str, b: &str) -> usize {
    let many = TYPOS + 1;
    if a.len().abs_diff(b.len()) > TYPOS || a.len().min(b.len()) < 3 * many {
        return many;
    }
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let equal = |(x, y): &(&u8, &u8)| x == y;
    let head = a.iter().zip(b).take_while(equal).count();
    let tail = a.iter().rev().zip(b.iter().rev());
    let tail = tail
        .take(a.len().min(b.len()) - head)
        .take_while(equal)
        .count();
    // What is between the equal ends: an upper bound, and exact for one typo.
    a.len().max(b.len()) - head - tail
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} {}", self.name, self.port, self.verdict)?;
        if let Some(reason) = &self.reason {
            write!(f, ", {reason}")?;
        }
        if let Some(rule) = &self.rule {
            write!(f, " (rule {rule})")?;
        }
        writeln!(f, "\nfor {}\n", whom(&self.workload))?;
        if self.rules.is_empty() {
            f.write_str("no rule lists the name\n")?;
        } else {
            columns::write(f, &self.rows())?;
        }
        if self.near_misses.is_empty() {
            return Ok(());
        }
        f.write_str("\nnear misses\n")?;
        let rows = self.near_misses.iter().map(|near| {
            [
                format!("line {}", near.line),
                format!("rule {}", near.rule),
                near.host.clone(),
                near.why.to_owned(),
            ]
        });
        columns::write(f, &rows.collect::<Vec<_>>())
    }
}

impl Explanation {
    fn rows(&self) -> Vec<[String; 7]> {
        let head = ["LINE", "RULE", "ACTION", "HOST", "PORTS", "FROM", "HERE"];
        let rows = self.rules.iter().map(|note| {
            [
                note.line.to_string(),
                note.rule.clone(),
                note.action.to_owned(),
                note.host.clone(),
                note.ports.clone(),
                note.from.clone(),
                note.outcome.to_owned(),
            ]
        });
        let head = std::iter::once(head.map(str::to_owned));
        head.chain(rows).collect()
    }
}

/// A workload in the words of `from`.
fn whom(workload: &Workload) -> String {
    let fields = [
        ("namespace", workload.namespace.clone()),
        ("serviceAccount", workload.service_account.clone()),
        ("cgroup", workload.cgroup.clone()),
        ("uid", workload.uid.map(|uid| uid.to_string())),
    ];
    let known = fields.iter().filter_map(|(key, value)| {
        let value = value.as_ref()?;
        Some(format!("{key} {value}"))
    });
    let mut known: Vec<_> = known.collect();
    let whole = known.len() == fields.len() && workload.labels.is_some();
    if let Some(labels) = &workload.labels {
        known.extend(
            labels
                .iter()
                .map(|(key, value)| format!("label {key}={value}")),
        );
        if labels.iter().len() == 0 {
            known.push("no label".to_owned());
        }
    }
    match known.as_slice() {
        [] => "a workload of which nothing is known".to_owned(),
        known if whole => known.join(", "),
        known => format!("{}, nothing else known", known.join(", ")),
    }
}

#[cfg(test)]
mod tests;
