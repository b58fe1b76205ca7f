use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::policy::rule::{Effect, Scope, Terms};
use crate::policy::rules;

/// Hosts of rules, by the positions of the rules, as a list and as an index.
fn index(listed: &[(Host, usize)], effects: &[Effect]) -> Index {
    let scope = Scope {
        from: None,
        ports: [].into(),
    };
    let mut rules = rules::Builder::default();
    for &effect in effects {
        let scope = scope.clone();
        let terms = rules.terms(Terms { effect, scope });
        rules.add("rule", terms);
    }
    let mut builder = Builder::default();
    for (host, rule) in listed {
        builder.insert(host, *rule);
    }
    builder.finish(&rules.finish())
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
            let found: Vec<_> = index.rules(&name).map(|(_, listing)| listing.position).collect();
            prop_assert_eq!(found, scan(&listed, &effects, &name), "{}", name);
        }
    }
}

/// More names than there is room for, so that many have their tags in the next group or, behind
/// the last, in the first; and in the end no place is free.
#[test]
fn many_names_are_all_found_and_no_other() {
    let keys = Keys::default();
    let mut table = Table::with_capacity(20_000);
    let mut wanted = BTreeMap::new();
    for number in 0.. {
        let name = format!("host{number}.example.org");
        let Some(chain) = table.chain_mut(&name, keys.of(&name)) else {
            break;
        };
        assert!(!chain.is_some());
        chain.rule = number;
        wanted.insert(name, number);
    }
    assert!(
        wanted.len() >= 24_000 && wanted.len() % 32 == 0,
        "{}",
        wanted.len()
    );
    assert_eq!(table.names().count(), wanted.len());
    for (name, &number) in &wanted {
        let key = keys.of(name);
        assert_eq!(table.find(name, key).rule, number);
        assert_eq!(table.chain_mut(name, key).unwrap().rule, number);
        // In a full table such a search looks at every group.
        if number % 100 == 0 {
            let other = format!("x{name}");
            assert_eq!(table.find(&other, keys.of(&other)).rule, NONE);
        }
    }
    let empty = Table::with_capacity(0);
    let key = keys.of("a.org");
    assert_eq!(empty.find("a.org", key).rule, NONE);
    assert_eq!(empty.fetch(key), 0);
}

/// Whoever has the key of another is told from it by the name.
#[test]
fn names_with_one_key_are_told_apart() {
    let key = Keys::default().of("a.org");
    let mut table = Table::with_capacity(8);
    let names = [
        "a.org".to_owned(),
        "b.org".to_owned(),
        "c".repeat(60),
        "d".repeat(60),
    ];
    for (name, rule) in names.iter().zip(0..) {
        table.chain_mut(name, key).unwrap().rule = rule;
    }
    for (name, rule) in names.iter().zip(0..) {
        assert_eq!(table.find(name, key).rule, rule);
    }
    assert_eq!(table.find("e.org", key).rule, NONE);
    assert_eq!(table.find(&"e".repeat(60), key).rule, NONE);
}

/// What a look-up of a name computes for its parents is what each was stored by.
#[test]
fn keys_go_on_from_the_parents() {
    let keys = Keys::default();
    let deep = vec!["a"; 40].join(".");
    for name in ["a", "a.b", "www.example.org", "..", "a..b", "", &deep] {
        let suffixes = keys.suffixes(name);
        let found: Vec<_> = iter::once(suffixes.whole())
            .chain(suffixes.parents())
            .collect();
        let expected: Vec<_> = iter::once(name)
            .chain(parents(name))
            .map(|suffix| (suffix, keys.of(suffix)))
            .collect();
        assert_eq!(found, expected, "{name}");
    }
}

/// More labels than keys are made for in one go.
#[test]
fn names_with_many_labels_are_found() {
    let name = |labels| vec!["a"; labels].join(".");
    let exact = (1..=127).map(|labels| Host::Exact(name(labels).into()));
    let below = (1..=127).map(|labels| Host::Below(name(labels).into()));
    let listed: Vec<_> = exact.chain(below).zip(0..).collect();
    let index = index(&listed, &[Effect::Allow; 254]);
    for labels in 1..=127 {
        let name = name(labels);
        let found: Vec<_> = index
            .rules(&name)
            .map(|(_, listing)| listing.position)
            .collect();
        let below = (0..labels - 1).rev().map(|parent| 127 + parent);
        let expected: Vec<_> = iter::once(labels - 1).chain(below).collect();
        assert_eq!(found, expected);
    }
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
        let found: Vec<_> = index
            .rules(&name)
            .map(|(listed, listing)| (listed, listing.position))
            .collect();
        assert_eq!(found, [(Listed::Exact(&name), length - 1)]);
    }
    assert_eq!(index.rules(&"a".repeat(254)).count(), 0);
}
