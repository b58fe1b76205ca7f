//! One rule, ready to be asked.

use std::sync::Arc;

use super::host::Host;
use super::selector::{Fit, Selector};
use crate::workload::Workload;

/// A rule without its hosts, which the index holds.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: Arc<str>,
    pub(super) effect: Effect,
    /// Whom the rule is for; `None` is everyone.
    pub(super) from: Option<Box<[Selector]>>,
    pub(super) ports: Box<[PortRange]>,
}

/// A rule with its hosts, before they go into the index.
pub(super) type Listed = (Rule, Vec<Host>);

/// What a rule does to the connections that it fits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Effect {
    Allow,
    Deny,
    /// A deny rule that is being tried out (`mode: audit`): it refuses nothing, and what it
    /// would refuse is recorded.
    TryDeny,
}

impl Rule {
    /// A rule that does not ask who connects.
    pub(super) fn for_everyone(name: &str, effect: Effect, ports: &[PortRange]) -> Rule {
        Rule {
            name: name.into(),
            effect,
            from: None,
            ports: ports.into(),
        }
    }

    /// Whether the rule is for this workload. What is not known of it is held against it:
    /// whoever may be meant is denied, and only who is certainly meant is allowed.
    pub(super) fn is_for(&self, workload: &Workload) -> bool {
        let enough = match self.effect {
            Effect::Allow => Fit::Yes,
            Effect::Deny | Effect::TryDeny => Fit::Unknown,
        };
        self.from.as_ref().is_none_or(|selectors| {
            let mut fits = selectors.iter().map(|selector| selector.fit(workload));
            fits.any(|fit| fit >= enough)
        })
    }

    /// Whether the rule is about this port.
    pub(super) fn has_port(&self, port: u16) -> bool {
        self.ports.iter().any(|range| range.contains(port))
    }
}

/// Ports from the first to the last, both included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PortRange {
    first: u16,
    last: u16,
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

fn port(text: &str) -> Result<u16, PortError> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(port) if port != 0 && digits => Ok(port),
        _ => Err(PortError::Form),
    }
}
