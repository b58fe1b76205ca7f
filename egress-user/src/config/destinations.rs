//! Rules about destinations, made into what the kernel looks up: one entry a prefix.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use egress_common::{PrefixAction, PrefixRule};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::document::{Map, Value};

/// The words for [`PrefixAction`]s.
const ACTIONS: &[(&str, PrefixAction)] = &[
    ("redirect", PrefixAction::Redirect),
    ("pass", PrefixAction::Pass),
    ("refuse", PrefixAction::Refuse),
];

/// What becomes of connections into these prefixes, to these ports.
struct Destination {
    to: Vec<IpNet>,
    /// Every port when absent.
    ports: Option<Vec<u16>>,
    action: PrefixAction,
}

/// Reads the list. Of the rules that speak about an address and port, the one with the longest
/// prefix decides, and of those with the same prefix one that names the port.
pub(super) fn read(value: Value<'_>) -> Option<Vec<(IpNet, PrefixRule)>> {
    let destinations = value.list(|item| item.map(destination))?;
    match compile(&destinations) {
        Ok(rules) => Some(rules),
        Err(sentence) => value.mistake(sentence),
    }
}

fn destination(map: &Map<'_>) -> Option<Destination> {
    let to = map.required("to", |value| value.non_empty_list(prefix));
    let ports = map.optional("ports", |value| value.non_empty_list(Value::port));
    let action = map.required("action", |value| value.one_of(ACTIONS));
    Some(Destination {
        to: to?,
        ports,
        action: action?,
    })
}

/// The kernel's map holds IPv4 as `::ffff:0:0/96`, so that one of the two forms must do.
fn prefix(value: Value<'_>) -> Option<IpNet> {
    let net = value.ip_net()?;
    match net {
        IpNet::V6(v6) if mapped_v4().is_some_and(|mapped| mapped.contains(&v6)) => {
            value.expected("an IPv4 prefix in IPv4's own form")
        }
        IpNet::V4(_) | IpNet::V6(_) => Some(net),
    }
}

fn compile(destinations: &[Destination]) -> Result<Vec<(IpNet, PrefixRule)>, String> {
    refuse_contradictions(destinations)?;
    let prefixes = destinations.iter().flat_map(|each| &each.to);
    let mut prefixes: BTreeSet<IpNet> = prefixes.copied().collect();
    let above_v4 = |net: &IpNet| match net {
        IpNet::V6(v6) => mapped_v4().is_some_and(|mapped| v6.contains(&mapped)),
        IpNet::V4(_) => false,
    };
    if prefixes.iter().any(above_v4) {
        // What is said of `::/0` is not said of IPv4.
        prefixes.insert(IpNet::V4(Ipv4Net::default()));
    }
    prefixes
        .into_iter()
        .map(|prefix| {
            let rule = rule(prefix, destinations);
            let rule = rule.map_err(|error| format!("{error}, and {prefix} has more"))?;
            Ok((prefix, rule))
        })
        .collect()
}

/// What all destinations together say of addresses for which `prefix` is the longest one.
fn rule(
    prefix: IpNet,
    destinations: &[Destination],
) -> Result<PrefixRule, egress_common::TooManyPrefixPorts> {
    let mut around: Vec<(IpNet, &Destination)> = destinations
        .iter()
        .flat_map(|each| each.to.iter().map(move |net| (*net, each)))
        .filter(|(net, _)| net.contains(&prefix))
        .collect();
    around.sort_by_key(|(net, each)| (Reverse(net.prefix_len()), each.ports.is_none()));
    let last = around.iter().position(|(_, each)| each.ports.is_none());
    let rest = last.and_then(|last| around.get(last));
    let rest = rest.map_or(PrefixAction::Judge, |(_, each)| each.action);
    let with_ports = around.iter().take(last.unwrap_or(around.len()));
    with_ports
        .flat_map(|(_, each)| {
            let ports = each.ports.iter().flatten();
            ports.map(|port| (*port, each.action))
        })
        .try_fold(PrefixRule::new(rest), |rule, (port, action)| {
            rule.with_port(port, action)
        })
}

fn refuse_contradictions(destinations: &[Destination]) -> Result<(), String> {
    let mut said = HashMap::new();
    for each in destinations {
        let ports = match &each.ports {
            Some(ports) => ports.iter().copied().map(Some).collect(),
            None => vec![None],
        };
        for net in &each.to {
            for port in &ports {
                let before = said.insert((*net, *port), each.action);
                if before.is_some_and(|before| before != each.action) {
                    let port = port.map_or_else(String::new, |port| format!(" port {port}"));
                    return Err(format!("two actions for {net}{port}: leave one of them"));
                }
            }
        }
    }
    Ok(())
}

/// `::ffff:0:0/96`.
fn mapped_v4() -> Option<Ipv6Net> {
    Ipv6Net::new(std::net::Ipv4Addr::UNSPECIFIED.to_ipv6_mapped(), 96).ok()
}

#[cfg(test)]
mod tests {
    use egress_common::Port;

    use super::*;
    use crate::document;

    fn load(text: &str) -> Result<Vec<(IpNet, PrefixRule)>, String> {
        let text = format!("destinations:\n{text}");
        let loaded = document::read(&text, "agent.yaml", |map| {
            map.required("destinations", read)
        });
        loaded
            .map(|loaded| loaded.value)
            .map_err(|mistakes| mistakes.to_string())
    }

    fn action(rules: &[(IpNet, PrefixRule)], net: &str, port: u16) -> PrefixAction {
        let net: IpNet = net.parse().unwrap();
        let (_, rule) = rules.iter().find(|(each, _)| *each == net).unwrap();
        rule.action(Port::from_host(port))
    }

    #[test]
    fn the_longest_prefix_that_speaks_of_the_port_decides() {
        let rules = load(
            "\
- {to: [10.0.0.0/8], action: pass}
- {to: [10.1.0.0/16], ports: [5432], action: refuse}
- {to: [10.1.2.0/24, 2001:db8::/32], ports: [8443], action: redirect}
- {to: [10.1.2.0/24], action: refuse}
",
        )
        .unwrap();
        assert_eq!(action(&rules, "10.0.0.0/8", 5432), PrefixAction::Pass);
        assert_eq!(action(&rules, "10.1.0.0/16", 5432), PrefixAction::Refuse);
        assert_eq!(action(&rules, "10.1.0.0/16", 443), PrefixAction::Pass);
        assert_eq!(action(&rules, "10.1.2.0/24", 8443), PrefixAction::Redirect);
        assert_eq!(action(&rules, "10.1.2.0/24", 5432), PrefixAction::Refuse);
        assert_eq!(
            action(&rules, "2001:db8::/32", 8443),
            PrefixAction::Redirect
        );
        assert_eq!(action(&rules, "2001:db8::/32", 443), PrefixAction::Judge);
        assert_eq!(rules.len(), 4);
    }

    #[test]
    fn what_is_said_of_ipv6_is_not_said_of_ipv4() {
        let rules = load("- {to: [\"::/0\"], action: refuse}\n").unwrap();
        assert_eq!(action(&rules, "::/0", 443), PrefixAction::Refuse);
        assert_eq!(action(&rules, "0.0.0.0/0", 443), PrefixAction::Judge);
        let mistakes = load("- {to: [\"::ffff:10.0.0.0/104\"], action: pass}\n").unwrap_err();
        assert!(mistakes.contains("IPv4's own form"), "{mistakes}");
    }

    #[test]
    fn contradictions_and_too_many_ports_are_mistakes() {
        let twice = load(
            "\
- {to: [10.0.0.0/8], ports: [443], action: pass}
- {to: [10.0.0.0/8], ports: [80, 443], action: refuse}
",
        );
        let twice = twice.unwrap_err();
        assert!(
            twice.contains("two actions for 10.0.0.0/8 port 443"),
            "{twice}"
        );
        let many = load(
            "- {to: [10.0.0.0/8], ports: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], action: pass}\n",
        );
        let many = many.unwrap_err();
        assert!(many.contains("at most 10 ports"), "{many}");
    }
}
