//! The reference: a policy as a list of rules, each of which is looked at for every question.

use std::cmp::Reverse;

use egress_user::policy::Verdict;
use egress_user::workload::{Labels, Workload};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

/// A policy as the reference sees it.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    audit: bool,
    rules: Vec<ModelRule>,
}

#[derive(Clone, Debug)]
struct ModelRule {
    action: Action,
    hosts: Vec<&'static str>,
    ports: Vec<(u16, u16)>,
    from: Option<Vec<Entry>>,
}

/// Namespace, the value of the label `l`, and uid.
type Entry = (Option<&'static str>, Option<&'static str>, Option<u32>);

/// What is known of a workload: namespace, labels, and uid.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whose {
    pub(crate) namespace: Option<&'static str>,
    pub(crate) labels: Option<&'static [(&'static str, &'static str)]>,
    pub(crate) uid: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    Allow,
    Deny,
    TryDeny,
}

/// Few labels, so that names and hosts meet often.
const HOSTS: [&str; 18] = [
    "*",
    "a",
    "localhost",
    "a.x",
    "b.x",
    "b.a.x",
    "a.a.x",
    "a.b.a.x",
    "a.local",
    "*.x",
    "*.a.x",
    "*.b.x",
    "*.b.a.x",
    "*.a.a.x",
    "*.local",
    "*.a.local",
    "*.localhost",
    "*.a",
];

pub(crate) const NAMES: [&str; 16] = [
    "a",
    "x",
    "localhost",
    "a.localhost",
    "a.x",
    "b.x",
    "a.a.x",
    "b.a.x",
    "a.b.x",
    "a.a.a.x",
    "a.b.a.x",
    "b.b.a.x",
    "aa.x",
    "a.local",
    "b.a.local",
    "a.internal",
];

pub(crate) fn model() -> impl Strategy<Value = Model> {
    (any::<bool>(), prop::collection::vec(model_rule(), 0..8))
        .prop_map(|(audit, rules)| Model { audit, rules })
}

fn model_rule() -> impl Strategy<Value = ModelRule> {
    let action = prop_oneof![
        4 => Just(Action::Allow),
        2 => Just(Action::Deny),
        1 => Just(Action::TryDeny),
    ];
    let port = (442u16..446, 0u16..3).prop_map(|(first, more)| (first, first + more));
    let selector = (
        select(vec![None, Some("p"), Some("q")]),
        select(vec![None, None, Some("p"), Some("q")]),
        select(vec![None, Some(1), Some(2)]),
    )
        .prop_filter("an empty selector is a mistake", |entry| {
            *entry != (None, None, None)
        });
    (
        action,
        subsequence(HOSTS.to_vec(), 1..5).prop_shuffle(),
        prop_oneof![Just(vec![]), prop::collection::vec(port, 1..3),],
        prop::option::of(prop::collection::vec(selector, 1..3)),
    )
        .prop_map(|(action, hosts, ports, from)| ModelRule {
            action,
            hosts,
            ports,
            from,
        })
}

impl Model {
    pub(crate) fn text(&self) -> String {
        let mode = if self.audit { "audit" } else { "enforce" };
        let mut text = format!("version: 1\nmode: {mode}\nrules: [\n");
        for (number, rule) in self.rules.iter().enumerate() {
            text += &format!("  {{name: r{number}, hosts: {:?}", rule.hosts);
            text += match rule.action {
                Action::Allow => "",
                Action::Deny => ", action: deny",
                Action::TryDeny => ", action: deny, mode: audit",
            };
            if !rule.ports.is_empty() {
                let ports: Vec<_> = rule.ports.iter().map(|(a, b)| format!("{a}-{b}")).collect();
                text += &format!(", ports: {ports:?}");
            }
            if let Some(from) = &rule.from {
                let entries: Vec<_> = from.iter().map(|entry| entry_text(*entry)).collect();
                text += &format!(", from: [{}]", entries.join(", "));
            }
            text += "},\n";
        }
        text + "  ]\n"
    }

    /// The naive judgement: every rule is looked at, label by label.
    pub(crate) fn judge(&self, name: &str, port: u16, whose: Whose) -> Told {
        let mut listing: Vec<_> = self
            .rules
            .iter()
            .enumerate()
            .filter_map(|(number, rule)| {
                let closest = rule
                    .hosts
                    .iter()
                    .filter_map(|host| closeness(host, name, rule.action));
                closest
                    .max()
                    .map(|closeness| (Reverse(closeness), number, rule))
            })
            .collect();
        listing.sort_by_key(|&(closeness, number, _)| (closeness, number));
        let first = |action: Action, port_fits: bool, workload_fits: bool| {
            let found = listing.iter().find(|(_, _, rule)| {
                rule.action == action
                    && rule.has_port(port) == port_fits
                    && rule.is_for(whose) == workload_fits
            });
            found.map(|(_, number, _)| format!("r{number}"))
        };
        let other_workload = listing
            .iter()
            .find(|(_, _, rule)| rule.action == Action::Allow && !rule.is_for(whose));
        let refusal = if let Some(rule) = first(Action::Deny, true, true) {
            format!("denied_by_rule (rule {rule})")
        } else if let Some(rule) = first(Action::Allow, true, true) {
            return Told {
                rule: Some(rule),
                refusal: first(Action::TryDeny, true, true)
                    .map(|rule| format!("denied_by_rule (rule {rule})")),
                admitted: true,
            };
        } else if let Some(rule) = first(Action::Allow, false, true) {
            format!("port_not_allowed (rule {rule})")
        } else if let Some((_, number, _)) = other_workload {
            format!("not_for_this_workload (rule r{number})")
        } else {
            "no_rule".to_owned()
        };
        Told {
            rule: None,
            refusal: Some(refusal),
            admitted: self.audit,
        }
    }
}

fn entry_text((namespace, label, uid): Entry) -> String {
    let namespace = namespace.map(|namespace| format!("namespace: {namespace}"));
    let label = label.map(|value| format!("labels: {{l: {value}}}"));
    let uid = uid.map(|uid| format!("uid: {uid}"));
    let fields: Vec<_> = namespace.into_iter().chain(label).chain(uid).collect();
    format!("{{{}}}", fields.join(", "))
}

/// What may be known of labels.
pub(crate) const LABELS: [Option<&[(&str, &str)]>; 5] = [
    None,
    Some(&[]),
    Some(&[("l", "p")]),
    Some(&[("l", "q"), ("m", "p")]),
    Some(&[("m", "p")]),
];

impl Whose {
    pub(crate) fn workload(self) -> Workload {
        let labels = self.labels.map(|labels| labels.iter());
        Workload {
            namespace: self.namespace.map(str::to_owned),
            labels: labels.map(|labels| {
                let owned = labels.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
                Labels::from_iter(owned)
            }),
            uid: self.uid,
            ..Workload::default()
        }
    }
}

impl ModelRule {
    fn has_port(&self, port: u16) -> bool {
        let listed = self
            .ports
            .iter()
            .any(|&(first, last)| first <= port && port <= last);
        listed || self.ports.is_empty() && port == 443
    }

    fn is_for(&self, whose: Whose) -> bool {
        let Whose {
            namespace,
            labels,
            uid,
        } = whose;
        // Who is not known may be the one who is denied, and is not the one who is allowed.
        let unknown = self.action != Action::Allow;
        self.from.as_ref().is_none_or(|from| {
            from.iter()
                .any(|&(wanted_namespace, wanted_label, wanted_uid)| {
                    let label =
                        |wanted| labels.map_or(unknown, |known| known.contains(&("l", wanted)));
                    wanted_label.is_none_or(label)
                        && wanted_namespace
                            .is_none_or(|wanted| namespace.map_or(unknown, |ns| ns == wanted))
                        && wanted_uid.is_none_or(|wanted| uid.map_or(unknown, |uid| uid == wanted))
                })
        })
    }
}

/// How closely a host of a rule describes a name; `None` if it does not.
fn closeness(host: &str, name: &str, action: Action) -> Option<usize> {
    let labels: Vec<_> = name.split('.').collect();
    let inside =
        labels.len() == 1 || matches!(labels.last(), Some(&("local" | "localhost" | "internal")));
    if host == "*" {
        return (action != Action::Allow || !inside).then_some(0);
    }
    let wanted: Vec<_> = host.split('.').collect();
    match wanted.split_first() {
        Some((&"*", parent)) => {
            (labels.len() > parent.len() && labels.ends_with(parent)).then_some(parent.len())
        }
        _ => (labels == wanted).then_some(usize::MAX),
    }
}

/// A judgement in a form that both sides can give.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Told {
    pub(crate) admitted: bool,
    pub(crate) rule: Option<String>,
    pub(crate) refusal: Option<String>,
}

impl From<Verdict> for Told {
    fn from(verdict: Verdict) -> Told {
        match verdict {
            Verdict::Admitted(admitted) => Told {
                admitted: true,
                rule: admitted.rule().map(|rule| rule.to_string()),
                refusal: admitted.would_refuse().map(ToString::to_string),
            },
            Verdict::Refused(refusal) => Told {
                admitted: false,
                rule: None,
                refusal: Some(refusal.to_string()),
            },
        }
    }
}
