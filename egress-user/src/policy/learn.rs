//! From records of audit mode to the rules that would have allowed what was seen.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::DENIED_BY_RULE;
use super::host::Host;
use super::suffix;
use super::write::{self, NewHost, NewRule, RuleNames, Subject};

use crate::hello::ServerName;

/// How the cgroups of `egress run` begin, which are gone when it ends.
const RUN_PREFIX: &str = "egress-run-";

/// How rules are made of what was seen.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many labels below one parent make a wildcard; 0 makes none.
    pub wildcard_at: usize,
    /// Keys of labels by which workloads are told apart.
    pub labels: Vec<String>,
    /// Whether the rules are for everyone, whoever connected.
    pub for_everyone: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            // Fewer are soon listed, and a wildcard opens more than was seen.
            wildcard_at: 5,
            labels: Vec::new(),
            for_everyone: false,
        }
    }
}

/// Takes records, and makes rules of them.
#[derive(Debug)]
pub struct Learner {
    options: Options,
    /// Workload → name → what was seen.
    seen: BTreeMap<Subject, BTreeMap<String, Seen>>,
    /// Both hops write a record of a connection.
    connections: HashSet<String>,
    left_out: BTreeMap<String, usize>,
}

#[derive(Debug, Default)]
struct Seen {
    ports: BTreeSet<u16>,
    connections: usize,
}

/// The rules that would have allowed what was seen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Learnt {
    /// How many connections they are made of.
    pub connections: usize,
    /// The rules.
    pub rules: Vec<NewRule>,
    /// How many names each wildcard stands for.
    pub wildcards: Vec<Wildcard>,
    /// What no rule was made of, and how many records there were of it.
    pub left_out: Vec<LeftOut>,
}

/// A wildcard and the names that were seen below it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Wildcard {
    /// The rule that lists it.
    pub rule: String,
    /// The wildcard.
    pub host: String,
    /// The names.
    pub names: Vec<String>,
}

/// Records of which no rule was made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct LeftOut {
    /// How many.
    pub records: usize,
    /// Why.
    pub why: String,
}

/// What is read of a record; whatever else it says is passed over.
#[derive(Deserialize)]
struct Record {
    connection: Option<String>,
    verdict: String,
    reason: Option<String>,
    rule: Option<String>,
    sni: Option<String>,
    port: Option<u16>,
    #[serde(default)]
    workload: Workload,
}

#[derive(Default, Deserialize)]
struct Workload {
    namespace: Option<String>,
    service_account: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    cgroup: Option<String>,
    uid: Option<u32>,
}

impl Learner {
    /// One that has seen nothing.
    pub fn new(options: Options) -> Learner {
        Learner {
            options,
            seen: BTreeMap::new(),
            connections: HashSet::new(),
            left_out: BTreeMap::new(),
        }
    }

    /// Takes one line of a log. Empty lines are passed over.
    ///
    /// # Errors
    ///
    /// What makes the line no record.
    pub fn line(&mut self, line: &str) -> Result<(), serde_json::Error> {
        if line.trim().is_empty() {
            return Ok(());
        }
        let record: Record = serde_json::from_str(line)?;
        if let Err(why) = self.take(record) {
            *self.left_out.entry(why).or_default() += 1;
        }
        Ok(())
    }

    fn take(&mut self, record: Record) -> Result<(), String> {
        match record.verdict.as_str() {
            "allowed" | "would_refuse" => {}
            other => return Err(format!("the connection was not carried ({other})")),
        }
        if record.reason.as_deref() == Some(DENIED_BY_RULE) {
            let rule = record.rule.as_deref().unwrap_or("?");
            return Err(format!("rule `{rule}` denies it"));
        }
        let Some(sni) = &record.sni else {
            return Err("the record has no server name".to_owned());
        };
        let name = ServerName::parse(sni.as_bytes()).map_err(|error| error.to_string())?;
        let Some(port) = record.port.filter(|&port| port != 0) else {
            return Err("the record has no port".to_owned());
        };
        let subject = self.subject(record.workload)?;
        let names = self.seen.entry(subject).or_default();
        let seen = names.entry(name.to_string()).or_default();
        seen.ports.insert(port);
        let new = record
            .connection
            .is_none_or(|id| self.connections.insert(id));
        seen.connections += usize::from(new);
        Ok(())
    }

    /// Whom a rule is for: the words that outlive the workload come first.
    fn subject(&self, mut workload: Workload) -> Result<Subject, String> {
        if self.options.for_everyone {
            return Ok(Subject::default());
        }
        let mut labels = std::mem::take(&mut workload.labels);
        labels.retain(|key, _| self.options.labels.contains(key));
        let nobody = Subject {
            labels,
            ..Subject::default()
        };
        let lasts = |path: &str| !path.split('/').any(|name| name.starts_with(RUN_PREFIX));
        let subject = match workload {
            Workload {
                namespace: Some(namespace),
                service_account,
                ..
            } => Subject {
                namespace: Some(namespace),
                service_account,
                ..nobody
            },
            _ if !nobody.labels.is_empty() => nobody,
            Workload {
                cgroup: Some(cgroup),
                ..
            } if cgroup != "/" && lasts(&cgroup) => Subject {
                cgroup: Some(cgroup),
                ..nobody
            },
            Workload { uid, .. } => Subject { uid, ..nobody },
        };
        if subject == Subject::default() {
            let why = "the record does not say who connected; --everyone makes rules for all";
            return Err(why.to_owned());
        }
        if !subject.is_sound() {
            return Err("a rule cannot be written for its workload alone".to_owned());
        }
        Ok(subject)
    }

    /// The rules.
    pub fn finish(self) -> Learnt {
        let mut names = RuleNames::default();
        let mut rules = Vec::new();
        let mut wildcards = Vec::new();
        let mut connections = 0;
        for (subject, seen) in self.seen {
            connections += seen.values().map(|seen| seen.connections).sum::<usize>();
            let mut by_ports: BTreeMap<BTreeSet<u16>, Tree> = BTreeMap::new();
            for (name, Seen { ports, connections }) in seen {
                let tree = by_ports.entry(ports).or_default();
                tree.insert(&name, connections);
            }
            for (ports, tree) in by_ports {
                let name = names.claim(&subject.short());
                let mut hosts = Vec::new();
                tree.hosts("", self.options.wildcard_at, &mut hosts);
                hosts.sort_by(|a, b| a.host.rsplit('.').cmp(b.host.rsplit('.')));
                for host in hosts.iter().filter(|host| !host.names.is_empty()) {
                    wildcards.push(Wildcard {
                        rule: name.clone(),
                        host: host.host.clone(),
                        names: host.names.clone(),
                    });
                }
                rules.push(NewRule {
                    name,
                    deny: false,
                    from: match subject == Subject::default() {
                        true => Vec::new(),
                        false => vec![subject.clone()],
                    },
                    hosts: hosts.into_iter().map(Found::written).collect(),
                    ports: ports.iter().map(ToString::to_string).collect(),
                });
            }
        }
        let left_out = self.left_out.into_iter();
        Learnt {
            connections,
            rules,
            wildcards,
            left_out: left_out
                .map(|(why, records)| LeftOut { records, why })
                .collect(),
        }
    }
}

impl Subject {
    /// A word or two for the name of a rule.
    fn short(&self) -> String {
        let Subject {
            namespace,
            service_account,
            labels,
            cgroup,
            uid,
        } = self;
        let words = [namespace, service_account].into_iter().flatten();
        let words = words.chain(labels.values().filter(|value| !value.is_empty()));
        let words: Vec<_> = words.map(String::as_str).collect();
        if !words.is_empty() {
            return words.join("-");
        }
        if let Some(cgroup) = cgroup {
            let last = cgroup.trim_end_matches('/').rsplit('/').next();
            return last.unwrap_or_default().to_owned();
        }
        uid.map_or_else(|| "seen".to_owned(), |uid| format!("uid-{uid}"))
    }
}

/// Names as a tree of labels from the right.
#[derive(Debug, Default)]
struct Tree {
    /// Connections to the name that ends here, if one does.
    here: Option<usize>,
    below: BTreeMap<String, Tree>,
}

/// A host for the names that were seen.
struct Found {
    host: String,
    /// The names that a wildcard stands for.
    names: Vec<String>,
    connections: usize,
}

impl Tree {
    fn insert(&mut self, name: &str, connections: usize) {
        let mut tree = self;
        for label in name.rsplit('.') {
            tree = tree.below.entry(label.to_owned()).or_default();
        }
        *tree.here.get_or_insert(0) += connections;
    }

    /// The hosts for what was seen at this name and below. A wildcard stands where enough
    /// labels part, the highest such place first, and never where others own the names.
    fn hosts(&self, name: &str, wildcard_at: usize, found: &mut Vec<Found>) {
        if let Some(connections) = self.here {
            found.push(Found {
                host: name.to_owned(),
                names: Vec::new(),
                connections,
            });
        }
        let many = wildcard_at > 0 && self.below.len() >= wildcard_at;
        if many && suffix::has_owner(name) {
            let mut inside = Vec::new();
            for (label, tree) in &self.below {
                tree.hosts(&format!("{label}.{name}"), 0, &mut inside);
            }
            found.push(Found {
                host: format!("*.{name}"),
                connections: inside.iter().map(|found| found.connections).sum(),
                names: inside.into_iter().map(|found| found.host).collect(),
            });
            return;
        }
        for (label, tree) in &self.below {
            let name = match name {
                "" => label.clone(),
                name => format!("{label}.{name}"),
            };
            tree.hosts(&name, wildcard_at, found);
        }
    }
}

impl Found {
    fn written(self) -> NewHost {
        let plural = if self.connections == 1 { "" } else { "s" };
        let connections = format!("{} connection{plural}", self.connections);
        let note = match self.names.as_slice() {
            [] => connections,
            names => {
                let shown: Vec<_> = names.iter().take(3).map(String::as_str).collect();
                let more = if names.len() > 3 { ", …" } else { "" };
                let shown = shown.join(", ");
                format!("{} names ({shown}{more}), {connections}", names.len())
            }
        };
        debug_assert!(Host::parse(&self.host).is_ok(), "{}", self.host);
        NewHost {
            host: self.host,
            note: Some(note),
        }
    }
}

impl fmt::Display for Learnt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# Learnt from {} connections.", self.connections)?;
        write::Document(&self.rules).fmt(f)?;
        if self.left_out.is_empty() {
            return Ok(());
        }
        writeln!(f, "# Left out:")?;
        for LeftOut { records, why } in &self.left_out {
            let plural = if *records == 1 { "" } else { "s" };
            writeln!(
                f,
                "#   {records} record{plural}: {}",
                write::on_one_line(why)
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
