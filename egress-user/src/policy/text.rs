//! The policy document: from YAML to rules.

use std::cell::RefCell;
use std::collections::HashMap;

use super::host::Host;
use super::rule::{Effect, Listed, PortRange, Rule};
use super::selector::{CgroupPattern, Selector};
use super::{DEFAULT_PORT, Flags, Mode};
use crate::document::{self, Loaded, Map, Mistakes, Value};

/// The one version of the document that there is.
const VERSION: u32 = 1;

/// The longest name of a rule. Names of rules stand in records and, as labels, in metrics.
const MAX_NAME: usize = 63;

/// The highest user id; the one above means "none" to the kernel.
const MAX_UID: u32 = u32::MAX - 1;

/// What a policy file says.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) mode: Mode,
    /// In the order of the file.
    pub(super) rules: Vec<Listed>,
}

/// Reads the text of a policy file that will stand together with some flags.
pub(super) fn read(
    text: &str,
    label: &str,
    flags: &Flags<'_>,
) -> Result<Loaded<Document>, Mistakes> {
    document::read(text, label, |map| {
        let names = Names::new(flags);
        let version = map.required("version", version);
        let mode = map.or("mode", Mode::Enforce, mode);
        let rules = map.required("rules", |value| {
            value.list(|value| value.map(|map| rule(map, &names)))
        });
        version?;
        Some(Document {
            mode,
            rules: rules?,
        })
    })
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

fn rule<'d>(map: &Map<'d>, names: &Names<'d, '_>) -> Option<Listed> {
    let name = map.required("name", |value| names.claim(value));
    let effect = effect(map);
    let from = map.optional("from", |value| {
        value.non_empty_list(|value| value.map(selector))
    });
    let hosts = map.required("hosts", |value| {
        value.non_empty_list(|value| host(value, effect))
    });
    let ports = map.or("ports", vec![PortRange::one(DEFAULT_PORT)], |value| {
        value.non_empty_list(|value| value.parse(PortRange::parse))
    });
    let rule = Rule {
        name: name?.into(),
        effect,
        from: from.map(Vec::into_boxed_slice),
        ports: ports.into_boxed_slice(),
    };
    Some((rule, hosts?))
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

fn selector(map: &Map<'_>) -> Option<Selector> {
    if map.is_empty() {
        return map.mistake("an empty entry would mean everyone; leave `from` out for that");
    }
    Some(Selector {
        namespace: map.optional("namespace", kubernetes_name),
        service_account: map.optional("serviceAccount", kubernetes_name),
        cgroup: map.optional("cgroup", |value| value.parse(CgroupPattern::parse)),
        uid: map.optional("uid", |value| value.number(0..=MAX_UID)),
    })
}

/// A name as the Kubernetes API accepts it (RFC 1123). What it would not accept, a wildcard
/// above all, would quietly fit nothing.
fn kubernetes_name(value: Value<'_>) -> Option<Box<str>> {
    let text = value.text()?;
    let known = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    if text.len() > 253 || !text.bytes().all(known) {
        return value.expected("a name of lower-case letters, digits, `-` and `.`");
    }
    Some(text.into())
}

/// The names of rules, each of which may be used once.
struct Names<'d, 'f> {
    flags: &'f Flags<'f>,
    /// Name to line.
    taken: RefCell<HashMap<&'d str, u32>>,
}

impl<'d, 'f> Names<'d, 'f> {
    fn new(flags: &'f Flags<'f>) -> Names<'d, 'f> {
        Names {
            flags,
            taken: RefCell::default(),
        }
    }

    fn claim(&self, value: Value<'d>) -> Option<&'d str> {
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
        match self.taken.borrow_mut().insert(name, value.line()) {
            None => Some(name),
            Some(line) => value.mistake(format!("the rule on line {line} is named `{name}` too")),
        }
    }
}

#[cfg(test)]
mod tests;
