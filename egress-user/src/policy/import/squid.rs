//! Squid: a file that `acl … dstdomain "FILE"` names, one domain a line; or a `squid.conf`, whose
//! `http_access` lines say in order which lists are allowed and denied.
//!
//! A line is read as what it decides about TLS to port 443. What else it asks for (who connects,
//! when) has no counterpart: an allow line with it is left out, a deny line with it denies always,
//! and one with nothing else narrows whatever comes behind it.

use std::collections::HashMap;

use super::super::host::Host;
use super::{File, Proposal};

/// The name of the rule for a list that no ACL names.
const LIST: &str = "squid";

/// The port that the rules are for.
const PORT: u16 = super::super::DEFAULT_PORT;

pub(super) fn read(file: &mut File<'_>, text: &str) {
    let lines = logical_lines(text);
    let is_conf = lines.iter().any(|(_, words)| {
        let first = words.first().map(String::as_str);
        matches!(first, Some("acl" | "http_access"))
    });
    if is_conf {
        configuration(file, &lines);
    } else {
        plain_list(file, &lines);
    }
}

/// The words of each line that has some, with its number. A line that ends with `\` goes on in the
/// next.
fn logical_lines(text: &str) -> Vec<(u32, Vec<String>)> {
    let mut lines: Vec<(u32, Vec<String>)> = Vec::new();
    let mut goes_on = false;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line
            .split_once('#')
            .map_or(line, |(code, _)| code)
            .trim_end();
        let (line, continues) = match line.strip_suffix('\\') {
            Some(line) => (line, true),
            None => (line, false),
        };
        let words = line.split_whitespace().map(str::to_owned);
        match lines.last_mut().filter(|_| goes_on) {
            Some((_, known)) => known.extend(words),
            None => lines.push((number, words.collect())),
        }
        goes_on = continues;
    }
    lines.retain(|(_, words)| !words.is_empty());
    lines
}

fn plain_list(file: &mut File<'_>, lines: &[(u32, Vec<String>)]) {
    let mut hosts = Vec::new();
    for (line, words) in lines {
        for word in words {
            hosts.extend(domain(file, *line, word));
        }
    }
    file.add(
        1,
        Proposal {
            name: LIST.to_owned(),
            hosts,
            ..Proposal::default()
        },
    );
}

fn configuration(file: &mut File<'_>, lines: &[(u32, Vec<String>)]) {
    let mut conf = Conf::default();
    let mut access = Vec::new();
    for (number, words) in lines {
        let number = *number;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["acl", name, kind, values @ ..] => conf.acl(file, number, name, kind, values),
            ["http_access", action @ ("allow" | "deny"), terms @ ..] => {
                access.push((number, *action, terms.to_vec()));
            }
            [word, ..] => {
                // These may deny more; a line of domains alone may belong to the one before.
                let narrows = matches!(*word, "acl" | "http_access" | "include" | "if")
                    || word.ends_with("http_access")
                    || word.contains('.');
                if narrows {
                    conf.narrowed.get_or_insert(number);
                }
                file.leave_out(number, format!("`{}`", words.join(" ")), "it is not read");
            }
            [] => {}
        }
    }
    for (number, action, terms) in access {
        conf.access(file, number, action, &terms);
    }
    conf.unused(file);
}

/// What a configuration says, up to some line.
#[derive(Default)]
struct Conf<'t> {
    acls: HashMap<&'t str, Acl>,
    /// A line that lets nothing more through.
    closed: Option<u32>,
    /// Lines that narrow what comes behind them by something that is not known here.
    narrowed: Option<u32>,
    /// Lists outside of which everything is denied.
    limits: Vec<Vec<Host>>,
}

/// A named condition.
struct Acl {
    line: u32,
    condition: Condition,
    used: bool,
}

#[derive(Clone)]
enum Condition {
    /// It holds, or does not, for all TLS to the port.
    Always(bool),
    /// It holds for these names; or for these and some more.
    Names { hosts: Vec<Host>, whole: bool },
    /// It is about something else.
    Other,
}

/// The conditions of one line, all of which must hold.
#[derive(Default)]
struct Terms {
    names: Vec<Vec<Host>>,
    not_names: Vec<Vec<Host>>,
    /// Conditions that nobody knows of here.
    others: Vec<String>,
    /// Whether a part of a list in `names` is elsewhere.
    partly: bool,
    never: bool,
}

impl<'t> Conf<'t> {
    fn acl(&mut self, file: &mut File<'_>, line: u32, name: &'t str, kind: &str, values: &[&str]) {
        let condition = match kind {
            "dstdomain" => names(file, line, values),
            "port" => Condition::Always(values.iter().any(|range| has_port(range))),
            "method" => Condition::Always(values.contains(&"CONNECT")),
            _ => Condition::Other,
        };
        match self.acls.get_mut(name) {
            None => {
                let used = false;
                let acl = Acl {
                    line,
                    condition,
                    used,
                };
                self.acls.insert(name, acl);
            }
            // Lines of one name add up.
            Some(acl) => match (&mut acl.condition, condition) {
                (
                    Condition::Names { hosts, whole },
                    Condition::Names {
                        hosts: more,
                        whole: also,
                    },
                ) => {
                    hosts.extend(more);
                    *whole &= also;
                }
                (Condition::Always(known), Condition::Always(more)) => *known |= more,
                (condition, _) => *condition = Condition::Other,
            },
        }
    }

    fn access(&mut self, file: &mut File<'_>, line: u32, action: &str, words: &[&str]) {
        let what = format!("http_access {action} {}", words.join(" "));
        let terms = self.terms(words);
        if let Some(closed) = self.closed {
            return file.leave_out(
                line,
                what,
                format!("line {closed} denies everything before"),
            );
        }
        if terms.never {
            let why = format!("it is not about TLS to port {PORT}");
            return file.leave_out(line, what, why);
        }
        match action {
            "allow" => self.allow(file, line, &what, words, terms),
            _ => self.deny(file, line, &what, words, terms),
        }
    }

    fn allow(&self, file: &mut File<'_>, line: u32, what: &str, words: &[&str], terms: Terms) {
        if let Some(narrowed) = self.narrowed {
            let why = format!("line {narrowed} denies some of it, and no rule can say which");
            if !file.widens(line, what, why) {
                return;
            }
        }
        if !terms.others.is_empty() {
            let why = format!("a rule cannot ask for {}", terms.others.join(", "));
            if !file.widens(line, what, why) {
                return;
            }
        }
        let [hosts] = terms.names.as_slice() else {
            let why = match terms.names.as_slice() {
                [] => "it would allow every name; write a rule for `*` if that is meant",
                _ => "a name must be in several lists, and a rule has one",
            };
            return file.leave_out(line, what, why);
        };
        let mut kept = Vec::new();
        for host in hosts {
            let within = |limit: &Vec<Host>| limit.iter().any(|wider| wider.covers(host));
            if self.limits.iter().all(within) {
                kept.push(host.clone());
            } else {
                let what = format!("host `{host}` of {what}");
                file.leave_out(
                    line,
                    what,
                    "a line before denies what is not in another list",
                );
            }
        }
        for hosts in terms.not_names {
            file.change(
                line,
                what,
                "what it leaves out is denied by a rule of its own",
            );
            self.rule(file, line, words, true, hosts);
        }
        self.rule(file, line, words, false, kept);
    }

    fn deny(&mut self, file: &mut File<'_>, line: u32, what: &str, words: &[&str], terms: Terms) {
        let Terms {
            names,
            not_names,
            others,
            partly,
            ..
        } = terms;
        if names.is_empty() && not_names.is_empty() && others.is_empty() {
            self.closed = Some(line);
            return;
        }
        let alone = names.len() == 1 && others.is_empty() && not_names.is_empty();
        if let Some(hosts) = names.into_iter().next() {
            if !alone {
                let why = "the rule denies the list whatever else it asks for";
                file.change(line, what, why);
            }
            if partly {
                self.narrowed.get_or_insert(line);
            }
            return self.rule(file, line, words, true, hosts);
        }
        if let Some(limit) = not_names.into_iter().next() {
            self.limits.push(limit);
            return;
        }
        let why = "a rule cannot say this; what it narrows is left out, see there";
        file.leave_out(line, what, why);
        self.narrowed.get_or_insert(line);
    }

    fn rule(&self, file: &mut File<'_>, line: u32, words: &[&str], deny: bool, hosts: Vec<Host>) {
        let is_list = |word: &&&str| {
            let acl = self.acls.get(word.trim_start_matches('!'));
            matches!(acl.map(|acl| &acl.condition), Some(Condition::Names { .. }))
        };
        let name = words.iter().find(is_list).map_or(LIST, |word| word);
        file.add(
            line,
            Proposal {
                name: name.to_owned(),
                deny,
                hosts,
                ..Proposal::default()
            },
        );
    }

    fn terms(&mut self, words: &[&str]) -> Terms {
        let mut terms = Terms::default();
        for word in words {
            let (name, wanted) = match word.strip_prefix('!') {
                Some(name) => (name, false),
                None => (*word, true),
            };
            match self.condition(name) {
                Condition::Always(holds) => terms.never |= holds != wanted,
                Condition::Names { hosts, whole } if wanted => {
                    terms.names.push(hosts);
                    terms.partly |= !whole;
                }
                Condition::Names { hosts, whole } => {
                    terms.not_names.push(hosts);
                    if !whole {
                        terms.others.push((*word).to_owned());
                    }
                }
                Condition::Other => terms.others.push((*word).to_owned()),
            }
        }
        terms
    }

    fn condition(&mut self, name: &str) -> Condition {
        if let Some(acl) = self.acls.get_mut(name) {
            acl.used = true;
            return acl.condition.clone();
        }
        match name {
            "all" | "CONNECT" => Condition::Always(true),
            // Addresses of the machine itself, which the gateway never dials.
            "manager" | "to_localhost" | "to_linklocal" => Condition::Always(false),
            _ => Condition::Other,
        }
    }

    fn unused(&self, file: &mut File<'_>) {
        let mut acls: Vec<_> = self.acls.iter().filter(|(_, acl)| !acl.used).collect();
        acls.sort_by_key(|(_, acl)| acl.line);
        for (name, acl) in acls {
            file.leave_out(
                acl.line,
                format!("acl {name}"),
                "no http_access line uses it",
            );
        }
    }
}

fn names(file: &mut File<'_>, line: u32, values: &[&str]) -> Condition {
    let mut hosts = Vec::new();
    let mut whole = true;
    for value in values.iter().filter(|value| !value.starts_with('-')) {
        if value.starts_with('"') {
            let what = format!("the list in {value}");
            file.leave_out(
                line,
                what,
                "it is a file of its own; put its lines in the place of its name",
            );
            whole = false;
        } else {
            hosts.extend(domain(file, line, value));
        }
    }
    Condition::Names { hosts, whole }
}

/// A leading dot means the domain and all below it.
fn domain(file: &mut File<'_>, line: u32, domain: &str) -> Vec<Host> {
    match domain.strip_prefix('.') {
        None => file.host(line, domain).into_iter().collect(),
        Some(name) => match file.host(line, name) {
            Some(Host::Exact(name)) => vec![Host::Below(name.clone()), Host::Exact(name)],
            _ => Vec::new(),
        },
    }
}

fn has_port(range: &str) -> bool {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let bound = |text: &str| text.parse::<u16>().ok();
    matches!((bound(first), bound(last)), (Some(first), Some(last)) if (first..=last).contains(&PORT))
}
