use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::policy::rule::{Effect, Scope};

/// Hosts of rules, by the positions of the rules, as a list and as an index.
fn index(listed: &[(Host, usize)], effects: &[Effect]) -> Index {
    let scope = Arc::new(Scope {
        from: None,
        ports: [].into(),
    });
    let rules: Vec<_> = effects
        .iter()
        .map(|&effect| Rule {
            name: "rule".into(),
            effect,
            scope: Arc::clone(&scope),
        })
        .collect();
    let mut builder = Builder::default();
    for (host, rule) in listed {
        builder.insert(host, *rule);
    }
    builder.finish(&rules)
}

/// What the index should say, by looking at every host.
fn scan(listed: &[(Host, usize)], effects: &[Effect], name: &str) -> Vec<usize> {
    let inside = is_inside(name);
    let mut found = Vec::new();
    for (host, rule) in listed {
        let closeness = match host {
            Host::Exact(exact) if **exact == *name => usize::MAX,
            Host::Below(parent) if name.ends_with(&format!(".{parent}")) => parent.len(),
            Host::Any if !inside || effects[*rule] != Effect::Allow => 0,
            Host::Exact(_) | Host::Below(_) | Host::Any => continue,
        };
        found.push((usize::MAX - closeness, *rule));
    }
    found.sort_unstable();
    found.into_iter().map(|(_, rule)| rule).collect()
}

fn name() -> impl Strategy<Value = String> {
    let label = prop_oneof![3 => "[ab]", 1 => "[a-z]{1,20}"];
    prop::collection::vec(label, 1..6).prop_map(|labels| labels.join("."))
}

fn host() -> impl Strategy<Value = Host> {
    prop_oneof![
        6 => name().prop_map(|name| Host::Exact(name.into())),
        6 => name().prop_map(|name| Host::Below(name.into())),
        1 => Just(Host::Any),
    ]
}

fn effect() -> impl Strategy<Value = Effect> {
    prop_oneof![
        Just(Effect::Allow),
        Just(Effect::Deny),
        Just(Effect::TryDeny)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn the_index_finds_what_a_scan_finds(
        rules in prop::collection::vec((effect(), prop::collection::vec(host(), 0..12)), 0..20),
        asked in prop::collection::vec(name(), 1..20),
    ) {
        let effects: Vec<_> = rules.iter().map(|(effect, _)| *effect).collect();
        let listed: Vec<_> = rules
            .iter()
            .enumerate()
            .flat_map(|(number, (_, hosts))| hosts.iter().map(move |host| (host.clone(), number)))
            .collect();
        let index = index(&listed, &effects);
        let listed_names = listed.iter().filter_map(|(host, _)| match host {
            Host::Exact(name) => Some(name.to_string()),
            Host::Below(parent) => Some(format!("a.{parent}")),
            Host::Any => None,
        });
        for name in listed_names.chain(asked) {
            let found: Vec<_> = index.rules(&name).map(|(_, rule)| rule).collect();
            prop_assert_eq!(found, scan(&listed, &effects, &name), "{}", name);
        }
    }
}

/// A table that is as full as it gets, so that probing runs into neighbours and over the end.
#[test]
fn many_names_are_all_found_and_no_other() {
    let mut names = Names::default();
    let mut wanted = BTreeMap::new();
    for number in 0..20_000_u32 {
        let name = format!("host{number}.example.org");
        wanted.insert(name.clone(), (names.add(&name), number));
    }
    names.close();
    let mut table = Table::with_capacity(wanted.len());
    for &(start, number) in wanted.values() {
        table.chain_mut(start, &names).unwrap().rule = number;
    }
    for (name, &(_, number)) in &wanted {
        assert_eq!(table.find(name, &names).rule, number);
        assert_eq!(table.find(&format!("x{name}"), &names).rule, NONE);
    }
    let empty = Table::with_capacity(0);
    assert_eq!(empty.find("a.org", &names).rule, NONE);
    assert_eq!(empty.fetch("a.org"), 0);
}

/// 253 bytes, the longest there are: their length stands in one byte.
#[test]
fn names_of_every_length_are_told_apart() {
    let mut listed = Vec::new();
    for length in 1..=253 {
        listed.push((Host::Exact("a".repeat(length).into()), length - 1));
    }
    let index = index(&listed, &[Effect::Allow; 253]);
    for length in 1..=253 {
        let name = "a".repeat(length);
        let found: Vec<_> = index.rules(&name).collect();
        assert_eq!(found, [(Listed::Exact(&name), length - 1)]);
    }
    assert_eq!(index.rules(&"a".repeat(254)).count(), 0);
}
