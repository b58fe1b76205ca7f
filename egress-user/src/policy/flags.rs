//! A policy as it is typed: `--allow '*.wikipedia.org' --deny upload.wikimedia.org`.

use super::host::Host;
use super::rule::{Effect, PortRange, Scope, Terms};
use super::text::Draft;
use super::{DEFAULT_PORT, Mode};
use crate::document::{Mistake, Mistakes};

/// The flags that make or change a policy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flags<'a> {
    /// The values of `--allow`: hosts of one rule named `allow`.
    pub allow: &'a [String],
    /// The values of `--deny`: hosts of one rule named `deny`.
    pub deny: &'a [String],
    /// The ports of both rules; none means [`DEFAULT_PORT`].
    pub ports: &'a [u16],
    /// The mode, if the flags name one.
    pub mode: Option<Mode>,
}

impl Flags<'_> {
    /// Adds the rules that the flags make to a draft.
    pub(super) fn add_to(&self, draft: &mut Draft) -> Result<Vec<Mistake>, Mistakes> {
        let mut mistakes = Vec::new();
        let mut warnings = Vec::new();
        let scope = Scope {
            from: None,
            ports: self.port_ranges(&mut mistakes).into(),
        };
        for (name, effect, typed) in self.named() {
            let terms = draft.rules.terms(Terms {
                effect,
                scope: scope.clone(),
            });
            let rule = draft.rules.add(name, terms);
            for text in typed {
                let label = format!("--{name} '{text}'");
                match Host::parse(text) {
                    Ok(host) => {
                        let warning = host.warning(effect);
                        warnings.extend(warning.map(|sentence| Mistake::new(label, sentence)));
                        draft.hosts.insert(&host, rule);
                    }
                    Err(error) => mistakes.push(Mistake::new(label, error.to_string())),
                }
            }
        }
        Mistakes::check(mistakes)?;
        Ok(warnings)
    }

    /// Whether the flags make a rule of this name.
    pub(super) fn make(&self, rule: &str) -> bool {
        self.named().any(|(name, ..)| name == rule)
    }

    /// What the flags say, for the digest: behind any document, since no YAML holds a NUL, and
    /// empty without flags.
    pub(super) fn canonical(&self) -> String {
        let mut text = String::new();
        for (name, _, hosts) in self.named() {
            for host in hosts {
                text.extend(["\0", name, " ", host]);
            }
            for port in self.ports {
                text.push_str(&format!("\0{port}"));
            }
        }
        if let Some(mode) = self.mode {
            text.extend(["\0", mode.as_str()]);
        }
        text
    }

    fn named(&self) -> impl Iterator<Item = (&'static str, Effect, &[String])> {
        [
            ("allow", Effect::Allow, self.allow),
            ("deny", Effect::Deny, self.deny),
        ]
        .into_iter()
        .filter(|(_, _, hosts)| !hosts.is_empty())
    }

    fn port_ranges(&self, mistakes: &mut Vec<Mistake>) -> Vec<PortRange> {
        if self.ports.is_empty() {
            return vec![PortRange::one(DEFAULT_PORT)];
        }
        if self.ports.contains(&0) {
            mistakes.push(Mistake::new("--port 0", "no connection has port 0"));
        }
        self.ports.iter().copied().map(PortRange::one).collect()
    }
}

#[cfg(test)]
mod tests;
