//! What is allowed in a policy and probably not meant.

use std::collections::HashMap;

use super::host::Host;
use super::index::{Listed, parents};
use super::rule::{Effect, PortRange, Rule, Scope};
use super::selector::Selector;
use super::suffix::{self, Zone};
use super::text;
use super::{Loaded, Policy};
use crate::document::{Mistakes, Value};

/// The most rules that are looked at for one host. A host that as many rules list is hardly
/// written by hand.
const LOOKED_AT: usize = 256;

impl Policy {
    /// Reads a policy file as [`Policy::parse`] does, and warns of more: rules and hosts that
    /// never decide, duplicates, wildcards over names of many owners, and denied wildcards
    /// whose apex stays reachable. For people: takes several times as long.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn check(text: &str, label: &str) -> Result<Loaded, Mistakes> {
        let Loaded {
            policy,
            mut warnings,
        } = Policy::parse(text, label)?;
        let mut lines = Vec::with_capacity(policy.rule_count());
        text::each_rule(text, label, |value| lines.push(value.line()))?;
        let lint = Lint {
            policy: &policy,
            lines,
        };
        let mut position = 0;
        warnings.extend(text::each_rule(text, label, |value| {
            lint.look_at(position, value);
            position += 1;
        })?);
        // What is about the file as a whole comes last.
        warnings.sort_by_key(|warning| {
            let at = warning.position.as_ref();
            at.map_or((u32::MAX, 0), |at| (at.line, at.column))
        });
        Ok(Loaded { policy, warnings })
    }
}

/// One look at a policy and the text that it comes from.
struct Lint<'p> {
    policy: &'p Policy,
    /// The line of each rule.
    lines: Vec<u32>,
}

/// Why a rule never decides about a host.
struct Overridden<'p> {
    by: Rule<'p>,
    line: u32,
}

impl<'p> Lint<'p> {
    fn look_at(&self, position: usize, value: Value<'_>) {
        let Some(rule) = self.rule(position) else {
            return;
        };
        let hosts = value.get("hosts").into_iter().flat_map(Value::items);
        let hosts: Vec<_> = hosts
            .filter_map(|value| Some((Host::parse(value.word()?).ok()?, value)))
            .collect();
        duplicates(&hosts);
        self.overridden(position, rule, value, &hosts);
        for (host, value) in &hosts {
            self.wildcard(rule, host, *value);
        }
    }

    /// Hosts about which another rule always decides; or the whole rule, if all are.
    fn overridden(
        &self,
        position: usize,
        rule: Rule<'_>,
        value: Value<'_>,
        hosts: &[(Host, Value<'_>)],
    ) {
        let found: Vec<_> = hosts
            .iter()
            .map(|(host, _)| self.decides_instead(position, rule, host))
            .collect();
        if let Some(Some(first)) = found.first()
            && found.iter().all(Option::is_some)
        {
            let also = match found
                .iter()
                .flatten()
                .any(|other| other.by.name() != first.by.name())
            {
                true => " and others",
                false => "",
            };
            value.warn(format!(
                "rule `{}` never decides anything: rule `{}` on line {}{also} {} all of it",
                rule.name(),
                first.by.name(),
                first.line,
                verb(rule, first.by)
            ));
            return;
        }
        for ((host, value), found) in hosts.iter().zip(found) {
            if let Some(Overridden { by, line }) = found {
                let (host, verb) = (host.to_string(), verb(rule, by));
                value.warn(format!(
                    "rule `{}` on line {line} {verb} `{host}` for the same ports and workloads",
                    by.name()
                ));
            }
        }
    }

    /// The rule that decides whenever this one fits by this host.
    fn decides_instead(&self, own: usize, rule: Rule<'_>, host: &Host) -> Option<Overridden<'p>> {
        let name = match host {
            Host::Exact(name) => name.to_string(),
            // Below and without the parent, any name will do.
            Host::Below(parent) => format!("_.{parent}"),
            Host::Any => "_._".to_owned(),
        };
        let whole = |listed: Listed<'_>| match (host, listed) {
            (Host::Exact(_), _) | (_, Listed::Any) => true,
            (Host::Below(_), listed) => matches!(listed, Listed::Below(_)),
            (Host::Any, _) => false,
        };
        let same = |listed: Listed<'_>| match (host, listed) {
            (Host::Exact(_), Listed::Exact(_)) | (Host::Any, Listed::Any) => true,
            (Host::Below(parent), Listed::Below(other)) => **parent == *other,
            _ => false,
        };
        self.policy
            .index
            .rules(&name)
            .take(LOOKED_AT)
            .map(|(listed, listing)| (listed, listing.position))
            .filter(|&(listed, position)| position != own && whole(listed))
            .filter_map(|(listed, position)| Some((listed, position, self.rule(position)?)))
            .find(|(listed, position, other)| {
                let denied = other.effect() == Effect::Deny && rule.effect() != Effect::Deny;
                let earlier = other.effect() == rule.effect() && same(*listed) && *position < own;
                (denied || earlier) && other.scope().covers(rule.scope())
            })
            .map(|(_, position, by)| Overridden {
                by,
                line: self.line(position),
            })
    }

    fn wildcard(&self, rule: Rule<'_>, host: &Host, value: Value<'_>) {
        let Host::Below(parent) = host else {
            return;
        };
        if rule.effect() != Effect::Allow {
            return self.apex(rule, parent, value);
        }
        match suffix::zone(parent) {
            None => {}
            Some(Zone::Registry) => value.warn(format!(
                "`{parent}` is a public suffix: `*.{parent}` allows the names of everyone who \
                 registers one there"
            )),
            Some(Zone::Hosting) => value.warn(format!(
                "`{parent}` is shared hosting: `*.{parent}` allows what any of its customers \
                 publishes; list the names that are meant"
            )),
        }
    }

    /// A denied wildcard leaves the name itself to other rules.
    fn apex(&self, rule: Rule<'_>, parent: &str, value: Value<'_>) {
        let listing = || {
            let rules = self.policy.index.rules(parent).take(LOOKED_AT);
            rules.filter_map(|(_, listing)| Some((listing.position, self.rule(listing.position)?)))
        };
        let is_denied = listing()
            .any(|(_, other)| other.effect().is_deny() && other.scope().covers(rule.scope()));
        let allowed = listing().find(|(_, other)| {
            other.effect() == Effect::Allow && other.scope().meets(rule.scope())
        });
        if let (false, Some((position, other))) = (is_denied, allowed) {
            value.warn(format!(
                "`*.{parent}` leaves out `{parent}` itself, which rule `{}` on line {} allows; \
                 list it, too, if it is meant",
                other.name(),
                self.line(position)
            ));
        }
    }

    fn rule(&self, position: usize) -> Option<Rule<'p>> {
        self.policy.rules.get(position)
    }

    fn line(&self, position: usize) -> u32 {
        self.lines.get(position).copied().unwrap_or_default()
    }
}

fn verb(rule: Rule<'_>, by: Rule<'_>) -> &'static str {
    match (rule.effect(), by.effect()) {
        (Effect::Allow | Effect::TryDeny, Effect::Deny) => "denies",
        (_, Effect::Allow) => "already allows",
        (_, Effect::Deny | Effect::TryDeny) => "already denies",
    }
}

/// Hosts that stand twice in one rule, or below a wildcard of it.
fn duplicates(hosts: &[(Host, Value<'_>)]) {
    let mut lines = HashMap::new();
    for (host, value) in hosts {
        if let Some(line) = lines.get(host) {
            value.warn(format!("`{host}` stands on line {line} already"));
        } else {
            lines.insert(host.clone(), value.line());
        }
    }
    let wider = |host: &Host| {
        let (Host::Exact(name) | Host::Below(name)) = host else {
            return None;
        };
        let mut wildcards = parents(name).map(|parent| Host::Below(parent.into()));
        wildcards.find_map(|wildcard| Some((lines.get(&wildcard)?, wildcard)))
    };
    for (host, value) in hosts {
        if let Some((line, wildcard)) = wider(host) {
            value.warn(format!(
                "`{wildcard}` on line {line} lists `{host}` already"
            ));
        }
    }
}

impl Scope {
    /// Whether every connection that the other one is about is one that this is about.
    fn covers(&self, other: &Scope) -> bool {
        let merged = merged(&self.ports);
        let port = |wanted: &PortRange| {
            merged
                .iter()
                .any(|range| range.first <= wanted.first && wanted.last <= range.last)
        };
        let from = match (&self.from, &other.from) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(ours), Some(theirs)) => theirs
                .iter()
                .all(|wanted| ours.iter().any(|selector| selector.covers(wanted))),
        };
        from && other.ports.iter().all(port)
    }

    /// Whether some connection may be one that both are about.
    fn meets(&self, other: &Scope) -> bool {
        let ports = self.ports.iter().any(|ours| {
            let mut theirs = other.ports.iter();
            theirs.any(|theirs| ours.first <= theirs.last && theirs.first <= ours.last)
        });
        let from = match (&self.from, &other.from) {
            (Some(ours), Some(theirs)) => ours
                .iter()
                .any(|ours| theirs.iter().any(|theirs| ours.meets(theirs))),
            _ => true,
        };
        ports && from
    }
}

/// Ranges with those joined that touch.
fn merged(ports: &[PortRange]) -> Vec<PortRange> {
    let mut sorted = ports.to_vec();
    sorted.sort_unstable();
    let mut merged: Vec<PortRange> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match merged.last_mut() {
            Some(last) if range.first <= last.last.saturating_add(1) => {
                last.last = last.last.max(range.last);
            }
            _ => merged.push(range),
        }
    }
    merged
}

impl Selector {
    /// Whether it fits every workload that the other one fits.
    pub(super) fn covers(&self, other: &Selector) -> bool {
        let equal =
            |ours: &Option<Box<str>>, theirs: &Option<Box<str>>| ours.is_none() || ours == theirs;
        let mut labels = self.labels.iter();
        equal(&self.namespace, &other.namespace)
            && equal(&self.service_account, &other.service_account)
            && labels.all(|(key, value)| other.labels.get(key) == Some(value))
            && (self.uid.is_none() || self.uid == other.uid)
            && self.cgroup.as_ref().is_none_or(|ours| {
                let theirs = other.cgroup.as_ref();
                theirs.is_some_and(|theirs| ours.includes(theirs))
            })
    }

    /// Whether some workload may fit both. Cgroup patterns are taken to.
    fn meets(&self, other: &Selector) -> bool {
        fn equal<T: PartialEq>(ours: &Option<T>, theirs: &Option<T>) -> bool {
            ours.is_none() || theirs.is_none() || ours == theirs
        }
        let mut labels = self.labels.iter();
        equal(&self.namespace, &other.namespace)
            && equal(&self.service_account, &other.service_account)
            && labels.all(|(key, value)| other.labels.get(key).is_none_or(|theirs| theirs == value))
            && equal(&self.uid, &other.uid)
    }
}

#[cfg(test)]
mod tests;
