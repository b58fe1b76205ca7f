//! Allow-lists of other programs as rules, with a list of what could not be carried over.
//!
//! Nothing is carried over that would allow more than the original does, unless it is said: where
//! a restriction has no counterpart, what it restricts is left out.

mod cilium;
mod istio;
mod squid;

use std::fmt;

use serde::Serialize;

use super::DEFAULT_PORT;
use super::host::Host;
use super::rule::PortRange;
use super::text::is_kubernetes_name;
use super::write::{self, NewHost, NewRule, RuleNames, Subject};
use crate::document::{Mistakes, Value};

/// How much is carried over.
#[derive(Clone, Copy, Default, Debug)]
pub struct Options {
    /// Rules for pods with certain labels become rules for their namespace.
    pub ignore_labels: bool,
}

/// Where a list comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Istio's ServiceEntry, VirtualService, Gateway, Sidecar and EnvoyFilter.
    Istio,
    /// CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy.
    Cilium,
    /// A Squid list of `dstdomain`, or a `squid.conf` with such ACLs.
    Squid,
}

/// Rules made of files.
#[derive(Debug, Default)]
pub struct Importer {
    options: Options,
    names: RuleNames,
    rules: Vec<NewRule>,
    left_out: Vec<LeftOut>,
    notes: Vec<LeftOut>,
}

/// The result.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Imported {
    /// The rules.
    pub rules: Vec<NewRule>,
    /// What was carried over with another meaning.
    pub changed: Vec<LeftOut>,
    /// What was not carried over.
    pub not_carried_over: Vec<LeftOut>,
}

/// Something in a file that is not, or not quite, carried over.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct LeftOut {
    /// The file.
    pub file: String,
    /// The line in it.
    pub line: u32,
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
}

impl Importer {
    /// One that has read nothing.
    pub fn new(options: Options) -> Importer {
        Importer {
            options,
            ..Importer::default()
        }
    }

    /// Reads one file. `label` names it.
    ///
    /// # Errors
    ///
    /// What is no YAML, where YAML is asked for.
    pub fn read(&mut self, origin: Origin, text: &str, label: &str) -> Result<(), Mistakes> {
        let mut file = File {
            importer: self,
            label,
        };
        match origin {
            Origin::Istio => istio::read(&mut file, text),
            Origin::Cilium => cilium::read(&mut file, text),
            Origin::Squid => {
                squid::read(&mut file, text);
                Ok(())
            }
        }
    }

    /// What was made of all files.
    pub fn finish(self) -> Imported {
        Imported {
            rules: self.rules,
            changed: self.notes,
            not_carried_over: self.left_out,
        }
    }
}

/// A file that is being read.
struct File<'i> {
    importer: &'i mut Importer,
    label: &'i str,
}

impl File<'_> {
    /// Notes what is not carried over.
    fn leave_out(&mut self, line: u32, what: impl Into<String>, why: impl Into<String>) {
        let left_out = self.entry(line, what, why);
        self.importer.left_out.push(left_out);
    }

    /// Notes what is carried over with another meaning.
    fn note(&mut self, line: u32, what: impl Into<String>, why: impl Into<String>) {
        let note = self.entry(line, what, why);
        self.importer.notes.push(note);
    }

    fn entry(&self, line: u32, what: impl Into<String>, why: impl Into<String>) -> LeftOut {
        LeftOut {
            file: self.label.to_owned(),
            line,
            what: what.into(),
            why: why.into(),
        }
    }

    /// A host in its canonical form, if it can be one of ours.
    fn host(&mut self, line: u32, text: &str) -> Option<String> {
        match Host::parse(text) {
            Ok(host) => Some(host.to_string()),
            Err(error) => {
                self.leave_out(line, format!("host `{text}`"), error.to_string());
                None
            }
        }
    }

    /// Adds a rule for hosts that no earlier rule has for the same workloads and ports.
    fn add(&mut self, line: u32, rule: Proposal) {
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
            return self.leave_out(line, name, format!("`{port}` is no port"));
        }
        let named = |subject: &Subject| {
            let names = [&subject.namespace, &subject.service_account];
            names.into_iter().flatten().all(|name| is_kubernetes_name(name))
        };
        if !from.iter().all(named) {
            let why = "its namespace or service account is no name that Kubernetes accepts";
            return self.leave_out(line, name, why);
        }
        let mut kept: Vec<NewHost> = Vec::new();
        for host in hosts {
            let known = self.importer.rules.iter().find(|rule| {
                (rule.deny, &rule.from, &rule.ports) == (deny, &from, &ports)
                    && rule.hosts.iter().any(|known| known.host == host)
            });
            if let Some(rule) = known {
                let why = format!("rule `{}` has it already", rule.name);
                self.leave_out(line, format!("host `{host}` of {name}"), why);
            } else if !kept.iter().any(|known| known.host == host) {
                kept.push(NewHost { host, note: None });
            }
        }
        if kept.is_empty() {
            return;
        }
        let name = self.importer.names.claim(&name);
        self.importer.rules.push(NewRule {
            name,
            deny,
            from,
            hosts: kept,
            ports,
        });
    }
}

/// A rule before it is known whether it says something new.
#[derive(Default)]
struct Proposal {
    name: String,
    deny: bool,
    from: Vec<Subject>,
    hosts: Vec<String>,
    /// None means the default port.
    ports: Vec<String>,
}

/// One object of a Kubernetes file.
#[derive(Clone, Copy)]
struct Object<'d> {
    kind: &'d str,
    name: &'d str,
    namespace: &'d str,
    spec: Value<'d>,
    line: u32,
}

impl<'d> Object<'d> {
    /// The objects of all documents, those of lists included.
    fn all(documents: &[Value<'d>], file: &mut File<'_>) -> Vec<Object<'d>> {
        let mut values = Vec::new();
        for &document in documents {
            if document.get("items").is_some() {
                values.extend(document.get("items").into_iter().flat_map(Value::items));
            } else if document.entries().next().is_some() {
                values.push(document);
            }
        }
        let mut objects = Vec::new();
        for value in values {
            let word = |value: Value<'d>, key| value.get(key).and_then(Value::word);
            let Some(kind) = word(value, "kind") else {
                file.leave_out(value.line(), "a document", "it is no Kubernetes object");
                continue;
            };
            let metadata = value.get("metadata");
            let of = |key| metadata.and_then(|metadata| word(metadata, key));
            objects.push(Object {
                kind,
                name: of("name").unwrap_or("unnamed"),
                namespace: of("namespace").unwrap_or_default(),
                spec: value.get("spec").unwrap_or(value),
                line: value.line(),
            });
        }
        objects
    }

    fn title(self) -> String {
        format!("{} {}", self.kind, self.name)
    }

    /// Everyone in its namespace. Where it names none, nobody can be meant for sure.
    fn own_namespace(self, file: &mut File<'_>) -> Option<Subject> {
        if self.namespace.is_empty() {
            let why = "it is about its own namespace, and names none";
            file.leave_out(self.line, self.title(), why);
            return None;
        }
        Some(Subject::namespace(self.namespace))
    }
}

/// The items of a list below a key, or nothing.
fn list<'d>(value: Value<'d>, key: &str) -> Vec<Value<'d>> {
    value
        .get(key)
        .into_iter()
        .flat_map(Value::items)
        .collect()
}

fn word<'d>(value: Value<'d>, key: &str) -> Option<&'d str> {
    value.get(key)?.word()
}

impl fmt::Display for Imported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write::Document(&self.rules).fmt(f)?;
        for (head, entries) in [
            ("Carried over with another meaning", &self.changed),
            ("Not carried over", &self.not_carried_over),
        ] {
            if entries.is_empty() {
                continue;
            }
            writeln!(f, "# {head}:")?;
            for LeftOut { file, line, what, why } in entries {
                let text = format!("{file}:{line}: {what}: {why}");
                writeln!(f, "#   {}", write::on_one_line(&text))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
