//! The policy document: from YAML to rules.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable, hash_table::Entry};

use super::host::Host;
use super::rule::{Effect, PortRange, Scope, Terms};
use super::selector::{CgroupPattern, Selector};
use super::{DEFAULT_PORT, Flags, Mode, index, rules};
use crate::document::{self, Loaded, Map, Mistake, Mistakes, Value};

/// The one version of the document that there is.
const VERSION: u32 = 1;

/// The longest name of a rule. Names of rules stand in records and, as labels, in metrics.
pub(super) const MAX_NAME: usize = 63;

/// The highest user id; the one above means "none" to the kernel.
pub(super) const MAX_UID: u32 = u32::MAX - 1;

/// A policy while it is read.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// In the order of the file. A rule with a mistake holds its place.
    pub(super) rules: rules::Builder,
    pub(super) hosts: index::Builder,
}

/// Reads the text of a policy file that will stand together with some flags.
pub(super) fn read(
    text: &str,
    label: &str,
    flags: &Flags<'_>,
) -> Result<Loaded<(Mode, Draft)>, Mistakes> {
    let mut draft = Draft::default();
    let mut names = Names::new(flags);
    let whole = Cell::new(true);
    let loaded = document::read_with_items(
        text,
        label,
        "rules",
        |value| {
            let read = value.map(|map| rule(map, &mut draft, &mut names));
            whole.set(whole.get() && read.is_some());
        },
        |map| {
            let version = map.required("version", version);
            let mode = map.or("mode", Mode::Enforce, mode);
            let rules = map.required("rules", |value| value.list(Some));
            version?;
            rules?;
            whole.get().then_some(mode)
        },
    )?;
    Ok(Loaded {
        value: (loaded.value, draft),
        warnings: loaded.warnings,
    })
}

/// Shows every rule of a document that was read before, one by one.
pub(super) fn each_rule(
    text: &str,
    label: &str,
    rule: impl FnMut(Value<'_>),
) -> Result<Vec<Mistake>, Mistakes> {
    let loaded = document::read_with_items(text, label, "rules", rule, |map| {
        for key in ["version", "mode", "rules"] {
            map.optional(key, Some);
        }
        Some(())
    })?;
    Ok(loaded.warnings)
}

fn version(value: Value<'_>) -> Option<u32> {
    match value.number(1..=u32::MAX)? {
        VERSION => Some(VERSION),
        other => value.mistake(format!(
            "version {other} of the policy document is not known here, only version {VERSION}"
        )),
    }
}

fn mode(value: Value<'_>) -> Option<Mode> {
    value.one_of(&[Mode::Enforce, Mode::Audit].map(|mode| (mode.as_str(), mode)))
}

fn rule(map: &Map<'_>, draft: &mut Draft, names: &mut Names<'_>) -> Option<()> {
    let effect = effect(map);
    let from = map.optional("from", |value| {
        value.non_empty_list(|value| value.map(selector))
    });
    let ports = map.or("ports", vec![PortRange::one(DEFAULT_PORT)], |value| {
        value.non_empty_list(|value| value.parse(PortRange::parse))
    });
    let scope = Scope {
        from: from.map(Vec::into_boxed_slice),
        ports: ports.into_boxed_slice(),
    };
    let terms = draft.rules.terms(Terms { effect, scope });
    let position = map.required("name", |value| {
        let name = names.claim(value, &draft.rules)?;
        Some(draft.rules.add(name, terms))
    });
    let hosts = map.required("hosts", |value| {
        value.non_empty_list(|value| {
            let host = host(value, effect)?;
            draft.hosts.insert(&host, position?);
            Some(())
        })
    });
    hosts.map(drop)
}

fn effect(map: &Map<'_>) -> Effect {
    let action = map.or("action", Effect::Allow, |value| {
        value.one_of(&[("allow", Effect::Allow), ("deny", Effect::Deny)])
    });
    map.or("mode", action, |value| {
        value.one_of(&[("audit", ())])?;
        match action {
            Effect::Deny | Effect::TryDeny => Some(Effect::TryDeny),
            Effect::Allow => value.mistake(
                "`mode: audit` tries out a rule with `action: deny`; to let through what no \
                 rule allows, set it for the whole policy",
            ),
        }
    })
}

fn host(value: Value<'_>, effect: Effect) -> Option<Host> {
    let host = value.parse(Host::parse)?;
    if let Some(sentence) = host.warning(effect) {
        value.warn(sentence);
    }
    Some(host)
}

pub(super) fn selector(map: &Map<'_>) -> Option<Selector> {
    if map.is_empty() {
        return map.mistake("an empty entry would mean everyone; leave `from` out for that");
    }
    Some(Selector {
        namespace: map.optional("namespace", kubernetes_name),
        service_account: map.optional("serviceAccount", kubernetes_name),
        labels: map.or("labels", BTreeMap::new(), selected_labels),
        cgroup: map.optional("cgroup", |value| value.parse(CgroupPattern::parse)),
        uid: map.optional("uid", |value| value.number(0..=MAX_UID)),
    })
}

/// A name as the Kubernetes API accepts it (RFC 1123). What it would not accept, a wildcard
/// above all, would quietly fit nothing.
pub(super) fn kubernetes_name(value: Value<'_>) -> Option<Box<str>> {
    let text = value.text()?;
    if !is_kubernetes_name(text) {
        return value.expected("a name of lower-case letters, digits, `-` and `.`");
    }
    Some(text.into())
}

pub(super) fn is_kubernetes_name(text: &str) -> bool {
    let known = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    !text.is_empty() && text.len() <= 253 && text.bytes().all(known)
}

/// Labels of which at least one is asked for: none at all would be everyone.
fn selected_labels(value: Value<'_>) -> Option<BTreeMap<Box<str>, Box<str>>> {
    if value.is_map() && value.entries().next().is_none() {
        return value.mistake("`labels` names none; leave it out to ask for none");
    }
    labels(value)
}

/// Keys and values as the Kubernetes API accepts them.
pub(super) fn labels<T, S>(value: Value<'_>) -> Option<T>
where
    T: FromIterator<(S, S)>,
    S: for<'t> From<&'t str>,
{
    if !value.is_map() {
        return value.expected("a map of labels and their values");
    }
    let mut whole = true;
    let labels = value.entries().filter_map(|(key, value)| {
        let label = label(key, value);
        whole &= label.is_some();
        label
    });
    let labels = labels.collect();
    whole.then_some(labels)
}

fn label<S: for<'t> From<&'t str>>(key: &str, value: Value<'_>) -> Option<(S, S)> {
    if !is_label_key(key) {
        return value.mistake(
            "the key of a label is at most 63 letters, digits, `-`, `_` and `.` that begin and end \
             with a letter or digit, behind nothing or a DNS name and `/`",
        );
    }
    let text = value.any_text()?;
    if !is_label_value(text) {
        return value.expected(
            "at most 63 letters, digits, `-`, `_` and `.` that begin and end with a letter or digit",
        );
    }
    Some((key.into(), text.into()))
}

/// Whether the Kubernetes API accepts it as the key of a label.
pub(super) fn is_label_key(text: &str) -> bool {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    prefix.is_none_or(is_kubernetes_name) && !name.is_empty() && is_label_value(name)
}

/// Whether the Kubernetes API accepts it as the value of a label.
pub(super) fn is_label_value(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let at_end = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.iter().copied().all(inside)
        && at_end(bytes.first())
        && at_end(bytes.last())
}

/// The names of rules, each of which may be used once.
struct Names<'f> {
    flags: &'f Flags<'f>,
    /// Positions of rules, by their names.
    taken: HashTable<u32>,
    /// The line of each rule.
    lines: Vec<u32>,
    hasher: DefaultHashBuilder,
}

impl<'f> Names<'f> {
    fn new(flags: &'f Flags<'f>) -> Names<'f> {
        Names {
            flags,
            taken: HashTable::new(),
            lines: Vec::new(),
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// The name of the rule that comes next behind `rules`, if it may be had.
    fn claim<'d>(&mut self, value: Value<'d>, rules: &rules::Builder) -> Option<&'d str> {
        let name = value.text()?;
        let known = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        if name.len() > MAX_NAME || !name.bytes().all(known) {
            return value.expected(format_args!(
                "at most {MAX_NAME} lower-case letters, digits and `-`"
            ));
        }
        if self.flags.make(name) {
            return value.mistake(format!(
                "`{name}` is the name of the rule that `--{name}` makes; give this one another"
            ));
        }
        let name_of = |position: u32| rules.name(position as usize);
        let hash = |name: &str| self.hasher.hash_one(name);
        let entry = self.taken.entry(
            hash(name),
            |&position| name_of(position) == name,
            |&position| hash(name_of(position)),
        );
        match entry {
            Entry::Vacant(place) => {
                place.insert(u32::try_from(rules.len()).unwrap_or(u32::MAX));
                self.lines.push(value.line());
                Some(name)
            }
            Entry::Occupied(other) => {
                let line = self.lines.get(*other.get() as usize).unwrap_or(&0);
                value.mistake(format!("the rule on line {line} is named `{name}` too"))
            }
        }
    }
}

#[cfg(test)]
mod tests;
