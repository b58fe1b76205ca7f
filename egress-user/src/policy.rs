//! The policy room: name, port and workload in, admitted or refused out.
//!
//! One document for both hops. It is read once ([`Policy::parse`]), compiled to an immutable
//! [`Policy`] that all threads share, and asked by [`Policy::judge`]. Pure: no socket, no
//! runtime, no clock, no file; who watches the file and swaps policies lives elsewhere.
//!
//! ```yaml
//! version: 1
//! mode: enforce                   # or audit: let everything through, say what would not be
//! rules:
//!   - name: wikipedia
//!     from: [{namespace: web, serviceAccount: crawler}]   # absent: everyone
//!     hosts: ["*.wikipedia.org", upload.wikimedia.org]
//!     ports: [443, 8000-8100]     # absent: 443
//!   - name: never-paste
//!     action: deny                # absent: allow
//!     hosts: ["*.pastebin.com"]
//! ```
//!
//! A connection is refused if a deny rule fits it, else admitted if an allow rule fits it,
//! else refused. A rule fits if one of its hosts, one of its ports and one of its `from` do;
//! what is not known of the workload counts against it, so that an allow rule fits who is
//! certainly meant, and a deny rule who may be.
//! Of several rules the one with the most specific host is named: an exact host before a
//! wildcard, a longer wildcard before a shorter one, and the first in the document before a
//! later one.

mod columns;
mod diff;
mod digest;
mod explain;
mod flags;
mod host;
pub mod import;
mod index;
mod known;
mod learn;
mod lint;
mod rule;
mod rules;
mod selector;
mod suffix;
mod text;
mod verdict;
mod write;

mod workloads;

pub use diff::{Change, Difference, Row};
pub use digest::Digest;
pub use explain::{Explanation, NearMiss, RuleNote};
pub use flags::Flags;
pub use known::{KnownWorkload, KnownWorkloads};
pub use learn::{Learner, Learnt, LeftOut, Options as LearnOptions, Wildcard};
pub use verdict::{
    Admitted, DENIED_BY_RULE, NO_RULE, NOT_FOR_THIS_WORKLOAD, PORT_NOT_ALLOWED, Request, Verdict,
};
pub use write::{NewHost, NewRule, Subject};

pub use workloads::Workloads;

use std::fmt;

use serde::Serialize;

use crate::document::{self, Mistake, Mistakes};
use index::Index;
use rule::Effect;
use rules::Rules;
use text::Draft;

/// The port of a rule that names none.
pub const DEFAULT_PORT: u16 = 443;

/// What becomes of a refusal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It is carried out.
    #[default]
    Enforce,
    /// The connection is let through, and the refusal is only recorded.
    Audit,
}

impl Mode {
    /// The word in policies and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Enforce => "enforce",
            Mode::Audit => "audit",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A compiled policy: immutable, and asked from all threads.
#[derive(Debug)]
pub struct Policy {
    mode: Mode,
    digest: Digest,
    rules: Rules,
    index: Index,
}

/// A policy, and what its author should know about it.
#[derive(Debug)]
pub struct Loaded {
    /// The policy.
    pub policy: Policy,
    /// Things that are allowed and probably not meant.
    pub warnings: Vec<Mistake>,
}

impl Policy {
    /// Reads the text of a policy file. `label` names it in mistakes, usually by its path.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn parse(text: &str, label: &str) -> Result<Loaded, Mistakes> {
        Policy::parse_with_flags(text, label, &Flags::default())
    }

    /// Reads a policy file and puts the rules of flags behind its own; a mode among the flags
    /// replaces that of the file.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the file and with the flags.
    pub fn parse_with_flags(
        text: &str,
        label: &str,
        flags: &Flags<'_>,
    ) -> Result<Loaded, Mistakes> {
        let document = text::read(text, label, flags);
        Policy::compile(document, Digest::of(&[text, &flags.canonical()]), flags)
    }

    /// Makes a policy of flags alone.
    ///
    /// # Errors
    ///
    /// Every flag that cannot be understood.
    pub fn from_flags(flags: &Flags<'_>) -> Result<Loaded, Mistakes> {
        let nothing = document::Loaded::default();
        Policy::compile(Ok(nothing), Digest::of(&[&flags.canonical()]), flags)
    }

    fn compile(
        document: Result<document::Loaded<(Mode, Draft)>, Mistakes>,
        digest: Digest,
        flags: &Flags<'_>,
    ) -> Result<Loaded, Mistakes> {
        let document = match document {
            Ok(document) => document,
            // What is wrong with the flags is said in the same breath.
            Err(mistakes) => match flags.add_to(&mut Draft::default()) {
                Ok(_) => return Err(mistakes),
                Err(flagged) => return Err(mistakes.and(flagged)),
            },
        };
        let (mode, mut draft) = document.value;
        let mut warnings = document.warnings;
        warnings.extend(flags.add_to(&mut draft)?);
        let Draft { rules, hosts } = draft;
        let rules = rules.finish();
        if !rules.iter().any(|rule| rule.effect() == Effect::Allow) {
            let sentence = "no rule allows anything, so every connection is refused";
            warnings.push(Mistake::new("policy", sentence));
        }
        let policy = Policy {
            mode: flags.mode.unwrap_or(mode),
            digest,
            index: hosts.finish(&rules),
            rules,
        };
        Ok(Loaded { policy, warnings })
    }

    /// What identifies the policy in records and between agent and gateway.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// What becomes of its refusals.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// How many rules it has.
    pub fn rule_count(&self) -> usize {
        self.rules.len()
    }
}

#[cfg(test)]
mod tests;
