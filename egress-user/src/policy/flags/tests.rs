use super::*;
use crate::policy::Policy;
use crate::policy::tests::judge;

#[test]
fn flags_make_two_rules() {
    let loaded = Policy::from_flags(&Flags {
        allow: &["*.a.org".to_owned(), "B.org.".to_owned()],
        deny: &["x.a.org".to_owned()],
        ..Flags::default()
    })
    .unwrap();
    let policy = loaded.policy;
    assert!(loaded.warnings.is_empty());
    assert_eq!(policy.rule_count(), 2);
    assert_eq!(policy.mode(), Mode::Enforce);
    assert_eq!(judge(&policy, "www.a.org", 443), "allow");
    assert_eq!(judge(&policy, "b.org", 443), "allow");
    assert_eq!(judge(&policy, "x.a.org", 443), "denied_by_rule (rule deny)");
    assert_eq!(
        judge(&policy, "b.org", 8443),
        "port_not_allowed (rule allow)"
    );
}

#[test]
fn flags_have_ports_and_a_mode() {
    let loaded = Policy::from_flags(&Flags {
        allow: &["*".to_owned()],
        ports: &[8443, 9443],
        mode: Some(Mode::Audit),
        ..Flags::default()
    })
    .unwrap();
    let policy = loaded.policy;
    assert_eq!(judge(&policy, "a.org", 9443), "allow");
    assert_eq!(
        judge(&policy, "a.org", 443),
        "-, would be port_not_allowed (rule allow)"
    );
    let warnings: Vec<_> = loaded.warnings.iter().map(Mistake::to_string).collect();
    assert_eq!(
        warnings,
        [
            "--allow '*': `*` allows every name except those that only mean something inside a \
             network, such as `localhost` and `*.local`"
        ]
    );
}

#[test]
fn every_mistake_among_flags_is_named() {
    let mistakes = Policy::from_flags(&Flags {
        allow: &["*foo".to_owned(), "a.org".to_owned(), "::1".to_owned()],
        deny: &["https://a.org".to_owned()],
        ports: &[0],
        mode: None,
    })
    .unwrap_err();
    assert_eq!(
        mistakes.to_string(),
        "--port 0: no connection has port 0\n\
         --allow '*foo': `*` stands for one or more whole labels at the start, as in \
         `*.example.org`, and for nothing else\n\
         --allow '::1': an address, or what can be read as one, is not a host: it is the name \
         that is judged, and a client that connects to an address sends none\n\
         --deny 'https://a.org': a host is a name alone, without scheme and path"
    );
}

#[test]
fn flags_stand_behind_a_file() {
    let text = "version: 1\nmode: audit\nrules:\n- {name: file, hosts: ['*.a.org']}";
    let flags = Flags {
        allow: &["*.a.org".to_owned(), "b.org".to_owned()],
        deny: &["c.a.org".to_owned()],
        mode: Some(Mode::Enforce),
        ..Flags::default()
    };
    let loaded = Policy::parse_with_flags(text, "p", &flags).unwrap();
    let policy = loaded.policy;
    assert_eq!(policy.rule_count(), 3);
    assert_eq!(policy.mode(), Mode::Enforce);
    assert_eq!(judge(&policy, "x.a.org", 443), "file");
    assert_eq!(judge(&policy, "b.org", 443), "allow");
    assert_eq!(judge(&policy, "c.a.org", 443), "denied_by_rule (rule deny)");

    let audited = Policy::parse_with_flags(text, "p", &Flags::default()).unwrap();
    assert_eq!(audited.policy.mode(), Mode::Audit);
}

#[test]
fn a_file_and_flags_do_not_share_a_rule_name() {
    let text =
        "version: 1\nrules:\n- {name: allow, hosts: [a.org]}\n- {name: deny, hosts: [b.org]}";
    assert!(Policy::parse(text, "p").is_ok());
    let flags = Flags {
        allow: &["c..org".to_owned()],
        ..Flags::default()
    };
    let mistakes = Policy::parse_with_flags(text, "p", &flags).unwrap_err();
    assert_eq!(
        mistakes.to_string(),
        "p:3:10: `allow` is the name of the rule that `--allow` makes; give this one another\n  \
         3 | - {name: allow, hosts: [a.org]}\n    |          ^^^^^\n\
         --allow 'c..org': the name has an empty label: it starts with a dot or has two in a row"
    );
}

#[test]
fn what_flags_change_changes_the_digest() {
    let digest = |flags: &Flags<'_>| {
        let loaded = Policy::from_flags(flags).unwrap();
        *loaded.policy.digest()
    };
    let (a, b) = ("a.org".to_owned(), "b.org".to_owned());
    let all = [
        digest(&Flags::default()),
        digest(&Flags {
            allow: std::slice::from_ref(&a),
            ..Flags::default()
        }),
        digest(&Flags {
            allow: &[a.clone(), b.clone()],
            ..Flags::default()
        }),
        digest(&Flags {
            deny: std::slice::from_ref(&a),
            ..Flags::default()
        }),
        digest(&Flags {
            allow: std::slice::from_ref(&a),
            deny: std::slice::from_ref(&b),
            ..Flags::default()
        }),
        digest(&Flags {
            allow: std::slice::from_ref(&a),
            ports: &[8443],
            ..Flags::default()
        }),
        digest(&Flags {
            mode: Some(Mode::Audit),
            ..Flags::default()
        }),
    ];
    for (position, digest) in all.iter().enumerate() {
        assert_eq!(all.iter().position(|other| other == digest), Some(position));
    }
}
