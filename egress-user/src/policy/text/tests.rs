use crate::document::Mistake;
use crate::policy::Policy;
use crate::policy::tests::{loaded, sentences};

#[test]
fn a_star_alone_is_warned_of() {
    let loaded = loaded(
        "- {name: all, hosts: ['*']}\n- {name: none, action: deny, hosts: ['*'], ports: [25]}",
    );
    let warnings: Vec<_> = loaded.warnings.iter().map(Mistake::to_string).collect();
    assert_eq!(
        warnings,
        [
            "policy.yaml:3:23: `*` allows every name except those that only mean something \
             inside a network, such as `localhost` and `*.local`\n  \
             3 | - {name: all, hosts: ['*']}\n    |                       ^^^",
            "policy.yaml:4:38: `*` denies every name\n  \
             4 | - {name: none, action: deny, hosts: ['*'], ports: [25]}\n    \
             |                                      ^^^",
        ]
    );
}

#[test]
fn a_policy_that_allows_nothing_is_warned_of() {
    for rules in [" []", "- {name: a, action: deny, hosts: [a.org]}"] {
        let warnings = loaded(rules).warnings;
        let warnings: Vec<_> = warnings.iter().map(Mistake::to_string).collect();
        let sentence = "policy: no rule allows anything, so every connection is refused";
        assert_eq!(warnings, [sentence]);
    }
    assert!(loaded("- {name: a, hosts: [a.org]}").warnings.is_empty());
}

#[test]
fn what_a_document_must_have() {
    let told = |text: &str| {
        let mistakes = Policy::parse(text, "p").unwrap_err();
        let sentences: Vec<_> = mistakes.iter().map(|m| m.sentence.as_str()).collect();
        sentences.join("; ")
    };
    assert_eq!(told(""), "the document is empty");
    assert_eq!(told("version: 1"), "`rules` is missing");
    assert_eq!(told("rules: []"), "`version` is missing");
    assert_eq!(
        told("version: 2\nrules: []"),
        "version 2 of the policy document is not known here, only version 1"
    );
    assert_eq!(
        told("version: 1\nrules:\n"),
        "`rules` should be a list, found no value"
    );
    assert_eq!(
        told("version: 1\nmode: off\nrules: []"),
        "`mode` should be one of `enforce`, `audit`, found `off`"
    );
    assert_eq!(
        told("version: 1\nrules: [{}]"),
        "`name` is missing; `hosts` is missing"
    );
}

#[test]
fn what_a_rule_may_say() {
    let name = "`name` should be at most 63 lower-case letters, digits and `-`, found ";
    let kubernetes = "should be a name of lower-case letters, digits, `-` and `.`, found ";
    let uid = "`uid` should be a number from 0 to 4294967294, found ";
    for (rule, told) in [
        ("- {name: A, hosts: [a.org]}", format!("{name}`A`")),
        ("- {name: a_b, hosts: [a.org]}", format!("{name}`a_b`")),
        ("- {name: a, hosts: []}", "`hosts` lists nothing".to_owned()),
        (
            "- {name: a, hosts: [a.org], ports: []}",
            "`ports` lists nothing".to_owned(),
        ),
        (
            "- {name: a, hosts: [a.org], ports: [0]}",
            "`0` in `ports`: a port is a number from 1 to 65535, and a range two of them, such \
             as 8000-8100"
                .to_owned(),
        ),
        (
            "- {name: a, hosts: [a.org], ports: [9-8]}",
            "`9-8` in `ports`: the range ends before it begins".to_owned(),
        ),
        (
            "- {name: a, hosts: [a.org], from: []}",
            "`from` lists nothing".to_owned(),
        ),
        (
            "- {name: a, hosts: [a.org], from: }",
            "`from` should be a list, found no value".to_owned(),
        ),
        (
            "- {name: a, hosts: [a.org], from: [{}]}",
            "an empty entry would mean everyone; leave `from` out for that".to_owned(),
        ),
        (
            "- {name: a, hosts: [a.org], from: [{namespace: 'w*'}]}",
            format!("`namespace` {kubernetes}the text \"w*\""),
        ),
        (
            "- {name: a, hosts: [a.org], from: [{serviceAccount: W}]}",
            format!("`serviceAccount` {kubernetes}`W`"),
        ),
        (
            "- {name: a, hosts: [a.org], from: [{uid: 4294967295}]}",
            format!("{uid}`4294967295`"),
        ),
        (
            "- {name: a, hosts: [a.org], from: [{cgroup: a}]}",
            "`a` in `cgroup`: a cgroup is a path below the cgroup mount point, and starts with \
             `/`"
            .to_owned(),
        ),
        (
            "- {name: a, hosts: [a.org], from: [{service_account: a}]}",
            "unknown key `service_account`, did you mean `serviceAccount`?".to_owned(),
        ),
        (
            "- {name: a, hosts: [a.org], action: block}",
            "`action` should be one of `allow`, `deny`, found `block`".to_owned(),
        ),
        (
            "- {name: a, hosts: [a.org]}\n- {name: a, hosts: [b.org]}",
            "the rule on line 3 is named `a` too".to_owned(),
        ),
    ] {
        assert_eq!(sentences(rule), [told], "{rule}");
    }
    let long = format!("- {{name: {}, hosts: [a.org]}}", "a".repeat(64));
    assert_eq!(sentences(&long), [format!("{name}`{}…`", "a".repeat(60))]);
}
