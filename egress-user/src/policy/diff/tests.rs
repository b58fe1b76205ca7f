use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;
use crate::policy::Policy;
use crate::workload::Labels;

fn policy(rules: &str) -> Policy {
    match Policy::parse(&format!("version: 1\nrules:\n{rules}"), "policy.yaml") {
        Ok(loaded) => loaded.policy,
        Err(mistakes) => panic!("{mistakes}"),
    }
}

/// The rows without the decisions, and with the old and new policies in turn.
fn difference(old: &str, new: &str) -> Vec<String> {
    let difference = Difference::between(&policy(old), &policy(new));
    let rows = difference.rows.iter();
    let told = rows.map(|row| {
        let Row {
            change,
            name,
            ports,
            workloads,
            ..
        } = row;
        format!("{change} {name} {ports} {workloads}")
    });
    let told: Vec<_> = told.collect();
    let opens = told.iter().any(|row| row.starts_with("opens"));
    assert_eq!(difference.widens(), opens);
    assert_eq!(difference.is_empty(), told.is_empty());
    told
}

#[test]
fn rules_that_are_moved_split_or_renamed_make_no_difference() {
    let old = "- {name: a, hosts: [a.org, '*.b.org', x.b.org], ports: [1-10]}\n\
               - {name: n, action: deny, hosts: [c.org]}\n";
    let new = "- {name: x, hosts: ['*.b.org'], ports: [6-10, 1-5]}\n\
               - {name: y, hosts: [a.org], ports: [1-5]}\n\
               - {name: z, hosts: [a.org], ports: [6-10]}\n";
    assert_eq!(difference(old, new), Vec::<String>::new());
    let (old, new) = (policy(old), policy(new));
    let text = Difference::between(&old, &new).to_string();
    assert_eq!(
        text,
        format!("{} and {} decide alike\n", old.digest(), new.digest())
    );
}

#[test]
fn names_open_and_close() {
    let old = "- {name: a, hosts: [a.org, '*.b.org'], ports: [443, 8000-8010]}\n";
    let new = "- {name: a, hosts: ['*.a.org', '*.b.org', b.org], ports: [443, 8005-8020]}\n\
               - {name: n, action: deny, hosts: [x.b.org, '*.y.b.org'], ports: [443]}\n";
    assert_eq!(
        difference(old, new),
        [
            "opens *.a.org 443, 8005-8020 everyone",
            "opens b.org 443, 8005-8020 everyone",
            "opens *.b.org 8011-8020 everyone",
            "opens x.b.org 8011-8020 everyone",
            "opens *.y.b.org 8011-8020 everyone",
            "closes a.org 443, 8000-8010 everyone",
            "closes *.b.org 8000-8004 everyone",
            // For different reasons, thus in lines of their own.
            "closes x.b.org 443 everyone",
            "closes x.b.org 8000-8004 everyone",
            "closes *.y.b.org 443 everyone",
            "closes *.y.b.org 8000-8004 everyone",
        ]
    );
}

#[test]
fn decisions_stand_beside_what_they_decide() {
    let old = policy("- {name: a, hosts: [a.org]}\n");
    let new = policy("- {name: n, action: deny, hosts: [a.org]}\n- {name: b, hosts: [bb.org]}\n");
    assert_eq!(
        Difference::between(&old, &new).to_string(),
        "opens   bb.org  443  everyone  no_rule → rule b\n\
         closes  a.org   443  everyone  rule a → denied_by_rule (rule n)\n"
    );
}

#[test]
fn workloads_are_described_exactly() {
    let nobody = "- {name: a, hosts: [b.org]}\n- {name: n, action: deny, hosts: [b.org]}\n";
    let rule = |rest: &str| format!("{nobody}- {{name: r, hosts: [a.org], {rest}}}\n");
    let opens = |old: &str, new: &str| {
        let rows = difference(&rule(old), &rule(new));
        let rows = rows.into_iter();
        let rows = rows.map(|row| row.replace("a.org 443 ", ""));
        rows.collect::<Vec<_>>().join("; ")
    };
    for (old, new, expected) in [
        (
            "from: [{namespace: web}]",
            "ports: [443]",
            "opens other namespace",
        ),
        (
            "from: [{namespace: web}]",
            "from: [{namespace: web, uid: 1}]",
            "closes namespace web, other uid",
        ),
        (
            "from: [{namespace: web, serviceAccount: a}]",
            "from: [{namespace: web}, {uid: 1}]",
            "opens namespace web, other serviceAccount or other namespace, uid 1 or \
             serviceAccount a, other namespace, uid 1",
        ),
        (
            "from: [{labels: {app: a}}]",
            "from: [{namespace: web}, {labels: {app: a, tier: b}}]",
            "opens namespace web, other label app; closes other namespace, label app=a, other label tier",
        ),
        (
            "from: [{cgroup: /a/b}]",
            "from: [{cgroup: /a}]",
            "opens cgroup /a and not /a/b",
        ),
        (
            "from: [{cgroup: /a/*}]",
            "from: [{cgroup: /*/b}]",
            "opens cgroup /*/b and not /a/*; closes cgroup /a/* and not /*/b",
        ),
        (
            "from: [{cgroup: /*}]",
            "ports: [443]",
            "opens cgroup not known",
        ),
        (
            "from: [{cgroup: /a/b}, {cgroup: /a}]",
            "from: [{cgroup: /a}]",
            "",
        ),
    ] {
        if expected.contains("serviceAccount") {
            // Several shortest descriptions are right; that it is exact is tested below.
            assert!(opens(old, new).starts_with("opens "));
        } else {
            assert_eq!(opens(old, new), expected, "{old} {new}");
        }
    }
}

#[test]
fn a_mode_is_a_change() {
    let text = |mode: &str| format!("version: 1\nmode: {mode}\nrules: []\n");
    let policy = |mode| Policy::parse(&text(mode), "p").unwrap().policy;
    let (enforce, audit) = (policy("enforce"), policy("audit"));
    let opens = Difference::between(&enforce, &audit);
    assert!(opens.widens());
    assert_eq!(
        opens.to_string(),
        "mode: enforce → audit, nothing is refused any more\n"
    );
    let closes = Difference::between(&audit, &enforce);
    assert!(!closes.widens() && !closes.is_empty());
}

#[test]
fn what_star_leaves_out_is_told_apart() {
    let old = "- {name: a, hosts: ['*.arpa']}\n- {name: n, action: deny, hosts: ['*']}\n";
    let new = "- {name: a, hosts: ['*']}\n";
    assert_eq!(
        difference(old, new),
        ["opens * 443 everyone", "opens *.arpa 443 everyone"]
    );
}

#[test]
fn where_not_all_is_tried_it_is_said_and_counts() {
    let from = |start: u32| {
        let each = (start..start + 30)
            .map(|n| format!("{{namespace: n{n}, serviceAccount: s{n}, uid: {n}, cgroup: /c{n}}}"));
        each.collect::<Vec<_>>().join(", ")
    };
    let rule = |start| {
        policy(&format!(
            "- {{name: r, hosts: [a.org], from: [{}]}}\n",
            from(start)
        ))
    };
    let same = Difference::between(&rule(0), &rule(0));
    assert_eq!(same.not_all_tried, ["a.org"]);
    assert!(same.widens());
    assert!(
        same.to_string()
            .contains("a.org: too many kinds of workloads")
    );
}

/// A rule about few names, for few workloads, so that rules meet.
pub(in crate::policy) fn rule() -> impl Strategy<Value = String> {
    let field = |key: &'static str, values: Vec<&'static str>| {
        prop::option::weighted(0.4, select(values))
            .prop_map(move |value| value.map(|value| format!("{key}: {value}")))
    };
    let selector = (
        field("namespace", vec!["p", "q"]),
        field("cgroup", vec!["/s", "/s/a", "/*/a", "/*", "/s/*"]),
        field("uid", vec!["1", "2"]),
        field("labels", vec!["{l: p}", "{l: q, m: p}", "{m: p}"]),
    )
        .prop_map(|(a, b, c, d)| [a, b, c, d].into_iter().flatten().collect::<Vec<_>>())
        .prop_filter("an empty selector is a mistake", |fields| {
            !fields.is_empty()
        })
        .prop_map(|fields| format!("{{{}}}", fields.join(", ")));
    let effect = select(vec!["", ", action: deny", ", action: deny, mode: audit"]);
    let from = prop::option::of(prop::collection::vec(selector, 1..3));
    let hosts = vec!["'*'", "'*.x'", "'*.a.x'", "a.x", "b.a.x", "'*.local'"];
    let ports = select(vec!["443", "442-444", "443, 445"]);
    (effect, from, subsequence(hosts, 1..4), ports).prop_map(|(effect, from, hosts, ports)| {
        let from = from.map(|from| format!(", from: [{}]", from.join(", ")));
        let (from, hosts) = (from.unwrap_or_default(), hosts.join(", "));
        format!("hosts: [{hosts}], ports: [{ports}]{effect}{from}")
    })
}

fn rules() -> impl Strategy<Value = String> {
    prop::collection::vec(rule(), 0..4).prop_map(|rules| {
        let rules = rules.iter().enumerate();
        let rules: Vec<_> = rules
            .map(|(n, rule)| format!("- {{name: r{n}, {rule}}}\n"))
            .collect();
        match rules.as_slice() {
            [] => " []".to_owned(),
            rules => rules.concat(),
        }
    })
}

/// A workload of which each attribute may be one that rules name, another, or not known.
fn workload() -> impl Strategy<Value = Workload> {
    let namespace = select(vec![None, Some("p"), Some("q"), Some("r")]);
    let cgroup = select(vec![
        None,
        Some("/s"),
        Some("/s/a"),
        Some("/s/b"),
        Some("/t/a"),
        Some("/t"),
    ]);
    let uid = select(vec![None, Some(1), Some(2), Some(3)]);
    let label = |value| (String::from("l"), String::from(value));
    let m = || (String::from("m"), String::from("p"));
    let labels = select(vec![
        None,
        Some(vec![]),
        Some(vec![label("p")]),
        Some(vec![label("q"), m()]),
        Some(vec![label("r"), m()]),
    ]);
    (namespace, cgroup, uid, labels).prop_map(|(namespace, cgroup, uid, labels)| Workload {
        labels: labels.map(Labels::from_iter),
        namespace: namespace.map(str::to_owned),
        cgroup: cgroup.map(str::to_owned),
        uid,
        ..Workload::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    /// Whatever connection is decided differently, there is a row that goes the same way for its
    /// name and port; and what is in no row is decided alike.
    #[test]
    fn every_change_is_in_a_row(
        old in rules(),
        new in rules(),
        workloads in prop::collection::vec(workload(), 1..12),
    ) {
        let (old, new) = (policy(&old), policy(&new));
        let difference = Difference::between(&old, &new);
        for name in ["a.x", "b.a.x", "c.a.x", "c.x", "x", "y.z", "y.local", "local"] {
            let server = ServerName::parse(name.as_bytes()).unwrap();
            for port in 441..447 {
                for workload in &workloads {
                    let request = Request { name: &server, port, workload };
                    let admits = |policy: &Policy| policy.decide(&request).is_ok();
                    let change = match (admits(&old), admits(&new)) {
                        (false, true) => Change::Opens,
                        (true, false) => Change::Closes,
                        _ => continue,
                    };
                    let found = difference.rows.iter().any(|row| {
                        row.change == change && stands_for(row, name, port)
                    });
                    prop_assert!(found, "{name} {port} {workload:?}\n{difference}");
                }
            }
        }
        prop_assert!(difference.not_all_tried.is_empty());
    }
}

/// Whether the row with the closest host for the name is this one.
fn stands_for(row: &Row, name: &str, port: u16) -> bool {
    let host = match name {
        "a.x" | "b.a.x" => vec![name, "*.a.x", "*.x", "*"],
        "c.a.x" => vec!["*.a.x", "*.x", "*"],
        "c.x" => vec!["*.x", "*"],
        "y.z" => vec!["*"],
        "y.local" => vec!["*.local", "* (single labels, *.local and the like)"],
        _ => vec!["* (single labels, *.local and the like)"],
    };
    let ports = row.ports.split(", ").any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        (first.parse::<u16>().unwrap()..=last.parse().unwrap()).contains(&port)
    });
    host.contains(&&*row.name) && ports
}

/// Words are said of members alone, and of all of them.
#[test]
fn words_cover_exactly_what_they_describe() {
    let policy = policy(
        "- {name: r, hosts: [a.org], from: [{namespace: p, uid: 1}, {cgroup: /s/a}, \
         {cgroup: /*/a, labels: {l: q}}, {cgroup: /s}]}\n",
    );
    let rules: Vec<Rule<'_>> = policy.rules.iter().collect();
    let kinds = Kinds::of(&rules);
    let all = kinds.len();
    assert!(kinds.is_complete() && all >= 24, "{all}");
    assert_eq!(kinds.words(&vec![true; all]), "everyone");
    assert_eq!(kinds.words(&vec![false; all]), "");
    let mut seed = 1_u32;
    for _ in 0..200 {
        let members: Vec<bool> = (0..all)
            .map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                seed >> 30 != 0
            })
            .collect();
        assert_eq!(kinds.described(&members), members);
    }
}
