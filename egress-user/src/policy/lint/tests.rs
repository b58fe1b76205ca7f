use proptest::prelude::*;

use crate::policy::diff::tests::rule;
use crate::policy::{Difference, Policy};

/// Line and sentence of every warning about rules that begin on line 3.
fn warnings(rules: &str) -> Vec<String> {
    let text = format!("version: 1\nrules:\n{rules}");
    let loaded = match Policy::check(&text, "policy.yaml") {
        Ok(loaded) => loaded,
        Err(mistakes) => panic!("{mistakes}"),
    };
    let told = loaded.warnings.iter().map(|warning| {
        let line = warning.position.as_ref().map_or(0, |at| at.line);
        format!("{line}: {}", warning.sentence)
    });
    told.collect()
}

#[test]
fn a_rule_that_says_something_new_is_not_warned_of() {
    let rules = "- {name: a, hosts: ['*.example.org', example.org]}\n\
                 - {name: b, hosts: [www.example.org], from: [{uid: 1}], ports: [8443]}\n\
                 - {name: c, action: deny, hosts: [x.example.org, '*.x.example.org']}\n\
                 - {name: d, action: deny, hosts: [y.example.org], from: [{uid: 1}]}\n";
    assert_eq!(warnings(rules), Vec::<String>::new());
}

#[test]
fn rules_that_never_decide_are_named_with_what_decides() {
    let rules = "- {name: a, hosts: [a.org, b.org]}\n\
                 - {name: again, hosts: [b.org, a.org], from: [{uid: 1}]}\n\
                 - {name: in-part, hosts: [b.org, c.org]}\n\
                 - {name: denied, hosts: [www.d.org]}\n\
                 - {name: never, action: deny, hosts: ['*.d.org', d.org]}\n\
                 - {name: tried, action: deny, mode: audit, hosts: [d.org]}\n";
    assert_eq!(
        warnings(rules),
        [
            "4: rule `again` never decides anything: rule `a` on line 3 already allows all of it",
            "5: rule `a` on line 3 already allows `b.org` for the same ports and workloads",
            "6: rule `denied` never decides anything: rule `never` on line 7 denies all of it",
            "8: rule `tried` never decides anything: rule `never` on line 7 denies all of it",
        ]
    );
}

#[test]
fn a_rule_for_others_or_other_ports_decides_nothing_instead() {
    for other in [
        "ports: [8443]",
        "from: [{uid: 1}]",
        "from: [{cgroup: /jobs/*}]",
        "from: [{labels: {app: a}}]",
    ] {
        for action in ["", "action: deny, "] {
            let rules = format!(
                "- {{name: other, {action}hosts: [a.org], {other}}}\n\
                 - {{name: own, hosts: [a.org, b.org], from: [{{uid: 2}}, {{cgroup: /jobs}}]}}\n"
            );
            let found = warnings(&rules);
            assert!(!found.iter().any(|told| told.contains("own")), "{found:?}");
        }
    }
}

#[test]
fn fewer_labels_cover_more() {
    let rule = |name: &str, labels: &str| {
        format!("- {{name: {name}, hosts: [a.org], from: [{{labels: {{{labels}}}}}]}}\n")
    };
    let few_first = rule("few", "app: a") + &rule("many", "app: a, tier: b");
    assert_eq!(
        warnings(&few_first),
        ["4: rule `many` never decides anything: rule `few` on line 3 already allows all of it"]
    );
    let many_first = rule("many", "app: a, tier: b") + &rule("few", "app: a");
    assert!(
        warnings(&many_first)
            .iter()
            .all(|told| !told.contains("`few` never")),
    );
    let others = rule("b", "app: b") + &rule("a", "app: a, tier: b");
    assert_eq!(warnings(&others), Vec::<String>::new());
}

#[test]
fn ports_may_be_covered_by_several_ranges() {
    let rules = "- {name: a, hosts: [a.org], ports: [1-99, 100-200]}\n\
                 - {name: b, hosts: [a.org], ports: [90-110]}\n\
                 - {name: c, hosts: [a.org], ports: [90-201]}\n";
    assert_eq!(
        warnings(rules),
        ["4: rule `b` never decides anything: rule `a` on line 3 already allows all of it"]
    );
}

#[test]
fn hosts_that_a_rule_has_already() {
    let rules = "- name: a\n  hosts:\n  - a.org\n  - A.ORG.\n  - '*.b.org'\n  - x.b.org\n  \
                 - '*.y.b.org'\n  - b.org\n";
    assert_eq!(
        warnings(rules),
        [
            "6: `a.org` stands on line 5 already",
            "8: `*.b.org` on line 7 lists `x.b.org` already",
            "9: `*.b.org` on line 7 lists `*.y.b.org` already",
        ]
    );
}

#[test]
fn wildcards_over_names_of_many_owners() {
    let rules = "- {name: a, hosts: ['*.co.uk', '*.github.io', '*.example.org']}\n\
                 - {name: b, action: deny, hosts: ['*.com']}\n";
    assert_eq!(
        warnings(rules),
        [
            "3: `co.uk` is a public suffix: `*.co.uk` allows the names of everyone who registers \
             one there",
            "3: `github.io` is shared hosting: `*.github.io` allows what any of its customers \
             publishes; list the names that are meant",
        ]
    );
}

#[test]
fn a_denied_wildcard_leaves_out_its_apex() {
    let all = "- {name: all, hosts: ['*.org']}\n";
    let warned = |deny: &str| {
        let found = warnings(&format!("{all}{deny}"));
        found.iter().any(|told| {
            told == "4: `*.paste.org` leaves out `paste.org` itself, which rule `all` on line 3 \
                     allows; list it, too, if it is meant"
        })
    };
    assert!(warned(
        "- {name: n, action: deny, hosts: ['*.paste.org']}\n"
    ));
    assert!(!warned(
        "- {name: n, action: deny, hosts: ['*.paste.org', paste.org]}\n"
    ));
    assert!(!warned(
        "- {name: n, action: deny, hosts: ['*.paste.org'], ports: [25]}\n"
    ));
}

#[test]
fn what_is_wrong_is_told_as_by_the_reader() {
    let text = "version: 1\nrules: [{name: a, hots: [a.org]}]\n";
    let read = Policy::parse(text, "p").unwrap_err();
    assert_eq!(Policy::check(text, "p").unwrap_err(), read);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    /// A rule that is said to decide nothing can be left out: nothing opens and nothing closes.
    #[test]
    fn a_rule_that_never_decides_is_not_missed(
        rules in prop::collection::vec(rule(), 2..5),
    ) {
        let text = |left_out: Option<usize>| {
            let rules = rules.iter().enumerate().filter(|(number, _)| Some(*number) != left_out);
            let rules = rules.map(|(number, rule)| format!("- {{name: r{number}, {rule}}}\n"));
            format!("version: 1\nrules:\n{}", rules.collect::<String>())
        };
        let whole = text(None);
        let checked = Policy::check(&whole, "p");
        let checked = checked.map_err(|mistakes| TestCaseError::fail(mistakes.to_string()))?;
        for number in 0..rules.len() {
            let said = format!("rule `r{number}` never decides anything");
            if checked.warnings.iter().any(|warning| warning.sentence.starts_with(&said)) {
                let shorter = Policy::parse(&text(Some(number)), "p").unwrap().policy;
                let difference = Difference::between(&checked.policy, &shorter);
                prop_assert!(difference.is_empty(), "{number}\n{whole}\n{difference}");
            }
        }
    }
}
