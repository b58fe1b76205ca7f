//! Allow-lists of other programs as rules, with a list of what could not be carried over.
//!
//! What comes out never allows more than what went in: where a restriction has no counterpart
//! here, what it restricts is left out, and said, line by line. [`Options::widen`] asks for the
//! other way out, and that is said, too.

mod cilium;
mod istio;
mod kubernetes;
mod squid;

use std::fmt;

use serde::Serialize;

use super::DEFAULT_PORT;
use super::host::Host;
use super::rule::PortRange;
use super::write::{self, NewHost, NewRule, RuleNames, Subject};
use crate::document::Mistakes;

/// How much is carried over.
#[derive(Clone, Copy, Default, Debug)]
pub struct Options {
    /// Carries over what a rule can only say more widely: one namespace for the pods with certain
    /// labels in it, any depth of names for one label, a list without the condition that it has
    /// there.
    pub widen: bool,
}

/// Where a list comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Istio's ServiceEntry, and what narrows it: Sidecar, Gateway, AuthorizationPolicy.
    Istio,
    /// CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy.
    Cilium,
    /// A Squid list of `dstdomain`, or a `squid.conf` with such ACLs.
    Squid,
}

/// Rules made of files.
#[derive(Debug)]
pub struct Importer {
    origin: Origin,
    mesh: istio::Mesh,
    output: Output,
}

/// The result.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Imported {
    /// The rules.
    pub rules: Vec<NewRule>,
    /// What allows more than it did there, since that was asked for.
    pub widened: Vec<Note>,
    /// What allows less or is told differently.
    pub changed: Vec<Note>,
    /// What was not carried over.
    pub not_carried_over: Vec<Note>,
}

/// Something in a file that is not, or not quite, carried over.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Note {
    /// The place.
    #[serde(flatten)]
    pub place: Place,
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
}

/// A line of a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Place {
    /// The file.
    pub file: String,
    /// The line in it.
    pub line: u32,
}

impl Importer {
    /// One that has read nothing.
    pub fn new(origin: Origin, options: Options) -> Importer {
        Importer {
            origin,
            mesh: istio::Mesh::default(),
            output: Output {
                options,
                ..Output::default()
            },
        }
    }

    /// Reads one file. `label` names it.
    ///
    /// # Errors
    ///
    /// What is no YAML, where YAML is asked for.
    pub fn read(&mut self, text: &str, label: &str) -> Result<(), Mistakes> {
        let mut file = File {
            output: &mut self.output,
            label,
        };
        match self.origin {
            Origin::Istio => self.mesh.read(&mut file, text),
            Origin::Cilium => cilium::read(&mut file, text),
            Origin::Squid => {
                squid::read(&mut file, text);
                Ok(())
            }
        }
    }

    /// What was made of all files.
    pub fn finish(self) -> Imported {
        let mut output = self.output;
        self.mesh.finish(&mut output);
        Imported {
            rules: output.rules,
            widened: output.widened,
            changed: output.changed,
            not_carried_over: output.left_out,
        }
    }
}

/// What is made of files.
#[derive(Debug, Default)]
struct Output {
    options: Options,
    names: RuleNames,
    rules: Vec<NewRule>,
    widened: Vec<Note>,
    changed: Vec<Note>,
    left_out: Vec<Note>,
}

impl Output {
    /// Notes what is not carried over.
    fn leave_out(&mut self, place: Place, what: impl Into<String>, why: impl Into<String>) {
        let (what, why) = (what.into(), why.into());
        self.left_out.push(Note { place, what, why });
    }

    /// Notes what allows less, or is told differently.
    fn change(&mut self, place: Place, what: impl Into<String>, why: impl Into<String>) {
        let (what, why) = (what.into(), why.into());
        self.changed.push(Note { place, what, why });
    }

    /// Whether something is carried over although a rule says it only more widely. Notes it, one
    /// way or the other.
    fn widens(&mut self, place: Place, what: impl Into<String>, why: impl Into<String>) -> bool {
        let (what, why) = (what.into(), why.into());
        let note = Note { place, what, why };
        match self.options.widen {
            true => self.widened.push(note),
            false => self.left_out.push(note),
        }
        self.options.widen
    }

    /// A host in its canonical form, if it can be one of ours.
    fn host(&mut self, place: Place, text: &str) -> Option<Host> {
        match Host::parse(text) {
            Ok(Host::Any) => {
                let why = "it would allow every name; write a rule for `*` if that is meant";
                self.leave_out(place, "host `*`", why);
                None
            }
            Ok(host) => Some(host),
            Err(error) => {
                self.leave_out(place, format!("host `{text}`"), error.to_string());
                None
            }
        }
    }

    /// Adds a rule for hosts that no earlier rule has for the same workloads and ports.
    fn add(&mut self, place: &Place, rule: Proposal) {
        let Proposal {
            name,
            deny,
            from,
            hosts,
            mut ports,
        } = rule;
        if ports.is_empty() {
            ports.push(DEFAULT_PORT.to_string());
        }
        if let Some(port) = ports.iter().find(|port| PortRange::parse(port).is_err()) {
            let why = format!("`{port}` is no port");
            return self.leave_out(place.clone(), name, why);
        }
        if !from.iter().all(Subject::is_sound) {
            let why = "its namespace, service account or a label is none that Kubernetes accepts";
            return self.leave_out(place.clone(), name, why);
        }
        let mut kept: Vec<NewHost> = Vec::new();
        for host in hosts {
            let host = host.to_string();
            let known = self.rules.iter().find(|rule| {
                (rule.deny, &rule.from, &rule.ports) == (deny, &from, &ports)
                    && rule.hosts.iter().any(|known| known.host == host)
            });
            if let Some(rule) = known {
                let why = format!("rule `{}` has it already", rule.name);
                self.leave_out(place.clone(), format!("host `{host}` of {name}"), why);
            } else if !kept.iter().any(|known| known.host == host) {
                kept.push(NewHost { host, note: None });
            }
        }
        if kept.is_empty() {
            return;
        }
        self.rules.push(NewRule {
            name: self.names.claim(&name),
            deny,
            from,
            hosts: kept,
            ports,
        });
    }
}

/// A file that is being read.
struct File<'i> {
    output: &'i mut Output,
    label: &'i str,
}

impl File<'_> {
    fn at(&self, line: u32) -> Place {
        Place {
            file: self.label.to_owned(),
            line,
        }
    }

    fn leave_out(&mut self, line: u32, what: impl Into<String>, why: impl Into<String>) {
        let place = self.at(line);
        self.output.leave_out(place, what, why);
    }

    fn change(&mut self, line: u32, what: impl Into<String>, why: impl Into<String>) {
        let place = self.at(line);
        self.output.change(place, what, why);
    }

    fn widens(&mut self, line: u32, what: impl Into<String>, why: impl Into<String>) -> bool {
        let place = self.at(line);
        self.output.widens(place, what, why)
    }

    fn host(&mut self, line: u32, text: &str) -> Option<Host> {
        let place = self.at(line);
        self.output.host(place, text)
    }

    fn add(&mut self, line: u32, rule: Proposal) {
        let place = self.at(line);
        self.output.add(&place, rule);
    }
}

/// A rule before it is known whether it says something new.
#[derive(Default)]
struct Proposal {
    name: String,
    deny: bool,
    from: Vec<Subject>,
    hosts: Vec<Host>,
    /// None means the default port.
    ports: Vec<String>,
}

impl fmt::Display for Imported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write::Document(&self.rules).fmt(f)?;
        for (head, notes) in [
            ("Allows more than it did there", &self.widened),
            ("Carried over with another meaning", &self.changed),
            ("Not carried over", &self.not_carried_over),
        ] {
            if notes.is_empty() {
                continue;
            }
            writeln!(f, "# {head}:")?;
            for Note { place, what, why } in notes {
                let text = format!("{}:{}: {what}: {why}", place.file, place.line);
                writeln!(f, "#   {}", write::on_one_line(&text))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
