//! One rule, ready to be asked.

use std::fmt;
use std::sync::Arc;

use super::selector::{Fit, Selector};
use crate::rule_name::{RuleName, RuleNames};
use crate::workload::Workload;

/// A rule without its hosts, which the index holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule<'p> {
    pub(super) names: &'p Arc<RuleNames>,
    pub(super) position: usize,
    pub(super) terms: &'p Terms,
}

/// What a rule says beside its name and its hosts.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Terms {
    pub(super) effect: Effect,
    pub(super) scope: Scope,
}

/// Whom and which ports a rule is about.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Scope {
    /// Whom the rule is for; `None` is everyone.
    pub(super) from: Option<Box<[Selector]>>,
    pub(super) ports: Box<[PortRange]>,
}

impl Scope {
    /// How a workload compares with those that are meant.
    pub(super) fn fit(&self, workload: &Workload) -> Fit {
        match &self.from {
            None => Fit::Yes,
            Some(selectors) => {
                let fits = selectors.iter().map(|selector| selector.fit(workload));
                fits.max().unwrap_or(Fit::No)
            }
        }
    }

    /// The ports in words.
    pub(super) fn ports_text(&self) -> String {
        let ports: Vec<_> = self.ports.iter().map(ToString::to_string).collect();
        ports.join(", ")
    }

    /// The workloads in words.
    pub(super) fn whom_text(&self) -> String {
        match &self.from {
            None => "everyone".to_owned(),
            Some(from) => {
                let from: Vec<_> = from.iter().map(Selector::to_string).collect();
                from.join(" or ")
            }
        }
    }
}

/// What a rule does to the connections that it fits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Effect {
    Allow,
    Deny,
    /// A deny rule that is being tried out (`mode: audit`): it refuses nothing, and what it
    /// would refuse is recorded.
    TryDeny,
}

impl Effect {
    /// The words for it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Effect::Allow => "allow",
            Effect::Deny => "deny",
            Effect::TryDeny => "deny (audit)",
        }
    }

    /// Whether it is about refusing, in earnest or on trial.
    pub(super) fn is_deny(self) -> bool {
        match self {
            Effect::Allow => false,
            Effect::Deny | Effect::TryDeny => true,
        }
    }
}

impl<'p> Rule<'p> {
    pub(super) fn name(self) -> &'p str {
        self.names.get(self.position)
    }

    /// The name for whoever outlives the look at the policy.
    pub(super) fn shared_name(self) -> RuleName {
        RuleName::new(self.names, self.position)
    }

    pub(super) fn effect(self) -> Effect {
        self.terms.effect
    }

    pub(super) fn scope(self) -> &'p Scope {
        &self.terms.scope
    }

    /// Whether the rule is for this workload. What is not known of it is held against it:
    /// whoever may be meant is denied, and only who is certainly meant is allowed.
    pub(super) fn is_for(self, workload: &Workload) -> bool {
        let enough = match self.effect() {
            Effect::Allow => Fit::Yes,
            Effect::Deny | Effect::TryDeny => Fit::Unknown,
        };
        self.scope().fit(workload) >= enough
    }

    /// Whether the rule is about this port.
    pub(super) fn has_port(self, port: u16) -> bool {
        self.scope().ports.iter().any(|range| range.contains(port))
    }
}

/// Ports from the first to the last, both included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct PortRange {
    pub(super) first: u16,
    pub(super) last: u16,
}

/// What is wrong with a port or range.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum PortError {
    #[error("a port is a number from 1 to 65535, and a range two of them, such as 8000-8100")]
    Form,
    #[error("the range ends before it begins")]
    Reversed,
}

impl PortRange {
    /// One port.
    pub(super) fn one(port: u16) -> PortRange {
        PortRange {
            first: port,
            last: port,
        }
    }

    /// Reads `443` or `8000-8100`.
    pub(super) fn parse(text: &str) -> Result<PortRange, PortError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (port(first.trim())?, port(last.trim())?);
        if first > last {
            return Err(PortError::Reversed);
        }
        Ok(PortRange { first, last })
    }

    fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

fn port(text: &str) -> Result<u16, PortError> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(port) if port != 0 && digits => Ok(port),
        _ => Err(PortError::Form),
    }
}
