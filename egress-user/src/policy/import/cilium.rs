//! Cilium: `toFQDNs` and `serverNames` of network policies.
//!
//! Everything in an egress rule is a condition, so that a rule with one that has no counterpart is
//! left out as a whole. What a policy denies to the outside is denied here, to everyone in its
//! namespace.

mod endpoints;

use super::super::host::Host;
use super::kubernetes::{Object, list, word};
use super::{File, Proposal};
use crate::document::{self, Mistakes, Value};
use endpoints::Whom;

const ALL_PORTS: &str = "1-65535";

pub(super) fn read(file: &mut File<'_>, text: &str) -> Result<(), Mistakes> {
    document::read_foreign(text, file.label, |documents| {
        for object in Object::all(documents, file) {
            match object.kind {
                "CiliumNetworkPolicy" | "CiliumClusterwideNetworkPolicy" => policy(file, object),
                kind => {
                    let why = format!("a {kind} allows no outside name");
                    file.leave_out(object.line, object.title(), why);
                }
            }
        }
        Some(())
    })?;
    Ok(())
}

fn policy(file: &mut File<'_>, object: Object<'_>) {
    let mut specs = vec![object.spec];
    specs.extend(list(object.whole, "specs"));
    for spec in specs {
        for (key, why) in [
            ("ingress", "it is about connections that come in"),
            ("ingressDeny", "it is about connections that come in"),
            ("nodeSelector", "it is about hosts, not about workloads"),
        ] {
            if let Some(value) = spec.get(key) {
                file.leave_out(value.line(), format!("{key} of {}", object.title()), why);
            }
        }
        if spec.get("nodeSelector").is_some() {
            continue;
        }
        let whom = Whom::of(object, spec);
        for rule in list(spec, "egressDeny") {
            deny(file, object, rule, &whom);
        }
        let egress = list(spec, "egress");
        if egress.is_empty() || !whom.may_be_allowed(file, object) {
            continue;
        }
        for rule in egress {
            allow(file, object, rule, &whom);
        }
    }
}

/// What is denied to the outside as a whole closes every name; addresses are none.
fn deny(file: &mut File<'_>, object: Object<'_>, rule: Value<'_>, whom: &Whom) {
    let what = format!("egressDeny of {}", object.title());
    if !is_about_the_outside(rule) {
        let why = "it denies addresses or what is in the cluster, and the name decides here";
        return file.leave_out(rule.line(), what, why);
    }
    file.change(
        rule.line(),
        what,
        "it denies every name, also to pods that it leaves out",
    );
    file.add(
        rule.line(),
        Proposal {
            name: format!("{}-deny", object.name),
            deny: true,
            from: whom.denied(),
            hosts: vec![Host::Any],
            ports: denied_ports(rule),
        },
    );
}

fn is_about_the_outside(rule: Value<'_>) -> bool {
    let all = |value: Value<'_>| {
        let text = value
            .word()
            .or_else(|| word(value, "cidr"))
            .unwrap_or_default();
        matches!(text, "world" | "all" | "world-ipv4" | "world-ipv6") || text.ends_with("/0")
    };
    let mut everywhere = true;
    for (key, value) in rule.entries() {
        match key {
            "toPorts" => {}
            "toEntities" | "toCIDR" | "toCIDRSet" if value.items().any(all) => return true,
            _ => everywhere = false,
        }
    }
    everywhere
}

/// All ports, unless each that is denied is a number.
fn denied_ports(rule: Value<'_>) -> Vec<String> {
    let mut ports = Vec::new();
    for to_port in list(rule, "toPorts") {
        let listed = list(to_port, "ports");
        for port in &listed {
            let bound = |key| word(*port, key).and_then(|port| port.parse::<u16>().ok());
            match (bound("port"), bound("endPort")) {
                (Some(first @ 1..), None) => ports.push(first.to_string()),
                (Some(first @ 1..), Some(last)) if last >= first => {
                    ports.push(format!("{first}-{last}"));
                }
                _ => return vec![ALL_PORTS.to_owned()],
            }
        }
        if listed.is_empty() {
            return vec![ALL_PORTS.to_owned()];
        }
    }
    match ports.is_empty() {
        true => vec![ALL_PORTS.to_owned()],
        false => ports,
    }
}

fn allow(file: &mut File<'_>, object: Object<'_>, rule: Value<'_>, whom: &Whom) {
    let title = object.title();
    for (key, value) in rule.entries() {
        let why = match key {
            "toFQDNs" | "toPorts" => continue,
            "toEntities" if value.items().all(|entity| entity.word() == Some("world")) => continue,
            "toEntities" | "toCIDR" | "toCIDRSet" | "toNodes" => {
                "a rule allows names, no addresses"
            }
            "toEndpoints" | "toServices" | "toGroups" => {
                "it is about connections inside the cluster"
            }
            "icmps" => "it is about ICMP",
            "authentication" => "a tunnel authenticates agent and gateway, not workloads",
            _ => "it has no counterpart",
        };
        return file.leave_out(
            value.line(),
            format!("an egress rule of {title} with {key}"),
            why,
        );
    }
    let fqdns = rule.get("toFQDNs").map(|fqdns| {
        let hosts = fqdns.items().filter_map(|fqdn| fqdn_host(file, fqdn));
        hosts.collect::<Vec<Host>>()
    });
    let to_ports = list(rule, "toPorts");
    if to_ports.is_empty() {
        match fqdns.clone() {
            Some(hosts) => {
                let why = "it allows every port, and the rule 443";
                file.change(rule.line(), format!("toFQDNs of {title}"), why);
                add(file, object, rule, whom, hosts, Vec::new());
            }
            None => file.leave_out(
                rule.line(),
                format!("an egress rule of {title}"),
                "it allows all names; write a rule for `*` if that is meant",
            ),
        }
    }
    for to_port in to_ports {
        port_rule(file, object, to_port, whom, fqdns.as_deref());
    }
}

fn port_rule(
    file: &mut File<'_>,
    object: Object<'_>,
    to_port: Value<'_>,
    whom: &Whom,
    fqdns: Option<&[Host]>,
) {
    let title = object.title();
    for (key, why) in [
        (
            "rules",
            "it allows only some of what is inside, which is not read",
        ),
        ("terminatingTLS", "TLS is never opened"),
        ("originatingTLS", "TLS is never opened"),
        ("listener", "there is no Envoy"),
    ] {
        if let Some(value) = to_port.get(key)
            && !file.widens(value.line(), format!("toPorts of {title} with {key}"), why)
        {
            return;
        }
    }
    let names = to_port.get("serverNames").map(|names| {
        let hosts = names
            .items()
            .filter_map(|name| pattern(file, name.line(), name.word()?));
        hosts.collect::<Vec<Host>>()
    });
    let hosts = match (names, fqdns) {
        (Some(names), None) => names,
        (None, Some(fqdns)) => fqdns.to_vec(),
        // The name must be one of both.
        (Some(names), Some(fqdns)) => {
            let both = |host: &Host| fqdns.iter().any(|fqdn| fqdn.covers(host));
            let (both, others): (Vec<_>, Vec<_>) = names.into_iter().partition(both);
            for host in others {
                let why = "no toFQDNs beside it has it";
                file.leave_out(
                    to_port.line(),
                    format!("serverName `{host}` of {title}"),
                    why,
                );
            }
            both
        }
        (None, None) => {
            let why = "it names no outside host";
            return file.leave_out(to_port.line(), format!("toPorts of {title}"), why);
        }
    };
    if let Some(ports) = ports(file, to_port, &title) {
        add(file, object, to_port, whom, hosts, ports);
    }
}

fn add(
    file: &mut File<'_>,
    object: Object<'_>,
    at: Value<'_>,
    whom: &Whom,
    hosts: Vec<Host>,
    ports: Vec<String>,
) {
    file.add(
        at.line(),
        Proposal {
            name: object.name.to_owned(),
            from: whom.allowed(),
            hosts,
            ports,
            ..Proposal::default()
        },
    );
}

fn fqdn_host(file: &mut File<'_>, fqdn: Value<'_>) -> Option<Host> {
    if let Some(name) = word(fqdn, "matchName") {
        return file.host(fqdn.line(), name);
    }
    let Some(text) = word(fqdn, "matchPattern") else {
        file.leave_out(
            fqdn.line(),
            "an entry of toFQDNs",
            "it has neither matchName nor matchPattern",
        );
        return None;
    };
    pattern(file, fqdn.line(), text)
}

/// In a pattern `*` stands for letters of one label, `**.` for one or more labels.
fn pattern(file: &mut File<'_>, line: u32, pattern: &str) -> Option<Host> {
    if let Some(parent) = pattern.strip_prefix("**.") {
        return file.host(line, &format!("*.{parent}"));
    }
    let host = file.host(line, pattern)?;
    if let Host::Below(_) = host {
        let why = "it is one label there, and one or more labels here";
        return file
            .widens(line, format!("`{pattern}`"), why)
            .then_some(host);
    }
    Some(host)
}

/// The TCP ports of a `toPorts`; `None` if it is about others alone.
fn ports(file: &mut File<'_>, to_port: Value<'_>, title: &str) -> Option<Vec<String>> {
    let listed = list(to_port, "ports");
    if listed.is_empty() {
        let why = "it allows every port, and the rule 443";
        file.change(to_port.line(), format!("toPorts of {title}"), why);
        return Some(Vec::new());
    }
    let mut ports = Vec::new();
    for port in listed {
        let number = word(port, "port").unwrap_or_default();
        let protocol = word(port, "protocol").unwrap_or("ANY");
        let what = format!("port {number}/{protocol} of {title}");
        if !matches!(protocol, "TCP" | "ANY") {
            file.leave_out(port.line(), what, "only TCP carries TLS here");
            continue;
        }
        let Some(first) = number.parse::<u16>().ok().filter(|&port| port != 0) else {
            file.leave_out(port.line(), what, "ports are numbers from 1 here");
            continue;
        };
        match word(port, "endPort").and_then(|last| last.parse::<u16>().ok()) {
            Some(last) if last > first => ports.push(format!("{first}-{last}")),
            _ => ports.push(first.to_string()),
        }
    }
    (!ports.is_empty()).then_some(ports)
}
