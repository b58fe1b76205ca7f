//! The judgement.

use super::rule::{Effect, Rule};
use super::{Mode, Policy};
use crate::hello::ServerName;
use crate::refusal::{Class, Refusal};
use crate::rule_name::RuleName;
use crate::workload::Workload;

/// No rule lists the name.
pub const NO_RULE: &str = "no_rule";

/// A deny rule fits.
pub const DENIED_BY_RULE: &str = "denied_by_rule";

/// A rule allows the name to this workload, at other ports.
pub const PORT_NOT_ALLOWED: &str = "port_not_allowed";

/// A rule allows the name, to other workloads.
pub const NOT_FOR_THIS_WORKLOAD: &str = "not_for_this_workload";

/// The question.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The name in the ClientHello.
    pub name: &'a ServerName,
    /// The port that the application connected to.
    pub port: u16,
    /// Who connected.
    pub workload: &'a Workload,
}

/// The answer.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub enum Verdict {
    /// The connection may be carried.
    Admitted(Admitted),
    /// The connection is refused. The rule is the one that denies it, or the one that came
    /// nearest to allowing it.
    Refused(Refusal),
}

/// The proof that policy let a connection through: only [`Policy::judge`] makes one, and what
/// carries connections asks for one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Admitted {
    name: ServerName,
    port: u16,
    rule: Option<RuleName>,
    would_refuse: Option<Refusal>,
}

impl Admitted {
    /// The name that was admitted.
    pub fn name(&self) -> &ServerName {
        &self.name
    }

    /// The port that was admitted.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The rule that allows it; none where audit mode let it through.
    pub fn rule(&self) -> Option<&RuleName> {
        self.rule.as_ref()
    }

    /// What would have been the refusal, were the policy, or the deny rule, not in audit
    /// mode.
    pub fn would_refuse(&self) -> Option<&Refusal> {
        self.would_refuse.as_ref()
    }
}

impl Policy {
    /// Judges one connection. Allocates nothing, and takes time for the labels of the name
    /// and the rules that list it, not for the size of the policy.
    pub fn judge(&self, request: &Request<'_>) -> Verdict {
        let (rule, would_refuse) = match self.decide(request) {
            Ok((rule, would_refuse)) => (Some(rule.shared_name()), would_refuse),
            Err(refusal) => match self.mode {
                Mode::Enforce => return Verdict::Refused(refusal),
                Mode::Audit => (None, Some(refusal)),
            },
        };
        Verdict::Admitted(Admitted {
            name: request.name.clone(),
            port: request.port,
            rule,
            would_refuse,
        })
    }

    /// The rule that allows the connection, with the refusal that a rule on trial stands
    /// for; or the refusal.
    pub(super) fn decide(
        &self,
        request: &Request<'_>,
    ) -> Result<(Rule<'_>, Option<Refusal>), Refusal> {
        let mut allows = None;
        let mut would_deny = None;
        let mut other_port = None;
        let mut other_workload = None;
        // The most specific host comes first, so the first rule of each kind is the one to
        // be named.
        let denied = self.rules_for(request.name).find(|&rule| {
            let workload = rule.is_for(request.workload);
            let fits = workload && rule.has_port(request.port);
            let found = match rule.effect() {
                Effect::Deny => return fits,
                Effect::TryDeny if fits => &mut would_deny,
                Effect::TryDeny => return false,
                Effect::Allow if fits => &mut allows,
                Effect::Allow if workload => &mut other_port,
                Effect::Allow => &mut other_workload,
            };
            found.get_or_insert(rule);
            false
        });
        if denied.is_some() {
            return Err(refusal(DENIED_BY_RULE, denied));
        }
        match (allows, other_port, other_workload) {
            (Some(rule), _, _) => Ok((
                rule,
                would_deny.map(|rule| refusal(DENIED_BY_RULE, Some(rule))),
            )),
            (None, Some(rule), _) => Err(refusal(PORT_NOT_ALLOWED, Some(rule))),
            (None, None, Some(rule)) => Err(refusal(NOT_FOR_THIS_WORKLOAD, Some(rule))),
            (None, None, None) => Err(refusal(NO_RULE, None)),
        }
    }

    fn rules_for(&self, name: &ServerName) -> impl Iterator<Item = Rule<'_>> {
        let listed = self.index.rules(name.as_str());
        listed.filter_map(|(_, listing)| self.rules.listed(listing))
    }
}

fn refusal(reason: &'static str, rule: Option<Rule<'_>>) -> Refusal {
    Refusal {
        rule: rule.map(|rule| rule.shared_name()),
        ..Refusal::new(Class::Denied, reason)
    }
}
