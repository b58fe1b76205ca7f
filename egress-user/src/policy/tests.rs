use super::*;
use crate::hello::ServerName;
use crate::refusal::{Class, Refusal};
use crate::workload::Workload;

/// A policy whose rules are the given YAML lines.
fn policy(rules: &str) -> Policy {
    loaded(rules).policy
}

pub(super) fn loaded(rules: &str) -> Loaded {
    let text = format!("version: 1\nrules:\n{rules}");
    match Policy::parse(&text, "policy.yaml") {
        Ok(loaded) => loaded,
        Err(mistakes) => panic!("{mistakes}"),
    }
}

/// The sentences of what is wrong with a rule.
pub(super) fn sentences(rule: &str) -> Vec<String> {
    let text = format!("version: 1\nrules:\n{rule}");
    let mistakes = Policy::parse(&text, "policy.yaml").unwrap_err();
    mistakes.iter().map(|m| m.sentence.clone()).collect()
}

fn judge_as(policy: &Policy, name: &str, port: u16, workload: &Workload) -> Verdict {
    let name = ServerName::parse(name.as_bytes()).unwrap();
    policy.judge(&Request {
        name: &name,
        port,
        workload,
    })
}

/// The verdict on anybody's connection, in one word or two: the rule that allows it, or the
/// reason and the rule of the refusal.
pub(super) fn judge(policy: &Policy, name: &str, port: u16) -> String {
    told(&judge_as(policy, name, port, &Workload::default()))
}

fn told(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Admitted(admitted) => {
            let rule = admitted.rule().map_or("-", |rule| rule);
            match admitted.would_refuse() {
                None => rule.to_owned(),
                Some(refusal) => format!("{rule}, would be {refusal}"),
            }
        }
        Verdict::Refused(refusal) => refusal.to_string(),
    }
}

#[test]
fn a_wildcard_is_one_or_more_labels_and_never_the_apex() {
    let policy = policy("- {name: w, hosts: ['*.example.org']}");
    assert_eq!(judge(&policy, "a.example.org", 443), "w");
    assert_eq!(judge(&policy, "a.b.c.example.org", 443), "w");
    assert_eq!(judge(&policy, "example.org", 443), NO_RULE);
    assert_eq!(judge(&policy, "badexample.org", 443), NO_RULE);
    assert_eq!(judge(&policy, "example.org.evil.com", 443), NO_RULE);
    assert_eq!(judge(&policy, "org", 443), NO_RULE);
}

#[test]
fn an_exact_host_is_itself_alone() {
    let policy = policy("- {name: e, hosts: [example.org]}");
    assert_eq!(judge(&policy, "example.org", 443), "e");
    assert_eq!(judge(&policy, "a.example.org", 443), NO_RULE);
    assert_eq!(judge(&policy, "example.org.uk", 443), NO_RULE);
}

#[test]
fn a_star_alone_admits_no_name_that_only_means_something_inside() {
    let policy = policy("- {name: all, hosts: ['*']}");
    assert_eq!(judge(&policy, "example.org", 443), "all");
    assert_eq!(judge(&policy, "notlocal.org", 443), "all");
    assert_eq!(judge(&policy, "a.mylocal", 443), "all");
    for inside in [
        "localhost",
        "kubernetes",
        "a.localhost",
        "api.default.svc.cluster.local",
        "metadata.google.internal",
        "home.arpa",
        "printer.home.arpa",
    ] {
        assert_eq!(judge(&policy, inside, 443), NO_RULE, "{inside}");
    }
}

#[test]
fn names_inside_are_admitted_where_they_are_listed() {
    let policy = policy("- {name: in, hosts: ['*', localhost, kubernetes, '*.cluster.local']}");
    assert_eq!(judge(&policy, "localhost", 443), "in");
    assert_eq!(judge(&policy, "kubernetes", 443), "in");
    assert_eq!(judge(&policy, "api.svc.cluster.local", 443), "in");
    assert_eq!(judge(&policy, "other", 443), NO_RULE);
    assert_eq!(judge(&policy, "other.local", 443), NO_RULE);
}

#[test]
fn a_star_alone_denies_names_inside_too() {
    let policy = policy(
        "- {name: in, hosts: [localhost]}\n\
         - {name: none, action: deny, hosts: ['*']}",
    );
    assert_eq!(
        judge(&policy, "localhost", 443),
        "denied_by_rule (rule none)"
    );
}

#[test]
fn deny_wins_over_a_more_specific_allow() {
    let policy = policy(
        "- {name: exact, hosts: [www.example.org]}\n\
         - {name: never, action: deny, hosts: ['*.example.org']}",
    );
    assert_eq!(
        judge(&policy, "www.example.org", 443),
        "denied_by_rule (rule never)"
    );
}

#[test]
fn a_deny_rule_is_about_its_ports_and_workloads_only() {
    let policy = policy(
        "- {name: all, hosts: ['*.example.org'], ports: [443, 8443]}\n\
         - {name: never, action: deny, hosts: ['*.example.org'], ports: [8443], from: [{uid: 7}]}",
    );
    let uid = |uid| Workload {
        uid: Some(uid),
        ..Workload::default()
    };
    let asked =
        |port, workload: &Workload| told(&judge_as(&policy, "a.example.org", port, workload));
    assert_eq!(asked(443, &uid(7)), "all");
    assert_eq!(asked(8443, &uid(7)), "denied_by_rule (rule never)");
    assert_eq!(asked(8443, &uid(8)), "all");
    assert_eq!(asked(80, &uid(7)), "port_not_allowed (rule all)");
}

#[test]
fn who_is_not_known_is_denied_what_anybody_is_denied() {
    let policy = policy(
        "- {name: all, hosts: ['*']}\n\
         - {name: never, action: deny, hosts: [a.org], from: [{cgroup: /jobs, uid: 7}]}\n\
         - {name: try, action: deny, mode: audit, hosts: [b.org], from: [{namespace: web}]}\n\
         - {name: theirs, hosts: [only], from: [{cgroup: /jobs, uid: 7}]}",
    );
    let workload = |cgroup: Option<&str>, uid| Workload {
        cgroup: cgroup.map(str::to_owned),
        uid,
        ..Workload::default()
    };
    let (denied, trial) = (
        "denied_by_rule (rule never)",
        "all, would be denied_by_rule (rule try)",
    );
    let not_theirs = "not_for_this_workload (rule theirs)";
    for (workload, a, only) in [
        (workload(Some("/jobs/1"), Some(7)), denied, "theirs"),
        (workload(None, Some(7)), denied, not_theirs),
        (workload(Some("/jobs/1"), None), denied, not_theirs),
        (workload(None, None), denied, not_theirs),
        (workload(None, Some(8)), "all", not_theirs),
        (workload(Some("/other"), None), "all", not_theirs),
    ] {
        let asked = |name| told(&judge_as(&policy, name, 443, &workload));
        assert_eq!(asked("a.org"), a, "{workload:?}");
        assert_eq!(asked("b.org"), trial, "{workload:?}");
        assert_eq!(asked("only"), only, "{workload:?}");
    }
}

#[test]
fn the_most_specific_host_names_the_rule() {
    let policy = policy(
        "- {name: any, hosts: ['*']}\n\
         - {name: short, hosts: ['*.example.org']}\n\
         - {name: long, hosts: ['*.a.example.org']}\n\
         - {name: exact, hosts: [www.a.example.org]}\n\
         - {name: deny-any, action: deny, hosts: ['*'], ports: [1]}\n\
         - {name: deny-short, action: deny, hosts: ['*.example.org'], ports: [1]}\n\
         - {name: deny-exact, action: deny, hosts: [www.a.example.org], ports: [1]}",
    );
    for (name, allows, denies) in [
        ("www.a.example.org", "exact", "deny-exact"),
        ("b.a.example.org", "long", "deny-short"),
        ("a.example.org", "short", "deny-short"),
        ("example.org", "any", "deny-any"),
    ] {
        assert_eq!(judge(&policy, name, 443), allows);
        let denied = format!("denied_by_rule (rule {denies})");
        assert_eq!(judge(&policy, name, 1), denied);
    }
}

#[test]
fn between_equal_hosts_the_first_rule_is_named() {
    let policy = policy(
        "- {name: b, hosts: ['*.example.org', example.org]}\n\
         - {name: a, hosts: [example.org, '*.example.org']}",
    );
    assert_eq!(judge(&policy, "example.org", 443), "b");
    assert_eq!(judge(&policy, "www.example.org", 443), "b");
}

#[test]
fn a_rule_that_does_not_fit_leaves_room_for_a_less_specific_one() {
    let policy = policy(
        "- {name: exact, hosts: [www.example.org], ports: [8443]}\n\
         - {name: wide, hosts: ['*.example.org']}",
    );
    assert_eq!(judge(&policy, "www.example.org", 443), "wide");
    assert_eq!(judge(&policy, "www.example.org", 8443), "exact");
}

#[test]
fn ports_are_443_unless_listed() {
    let policy = policy(
        "- {name: default, hosts: [a.org]}\n\
         - {name: listed, hosts: [b.org], ports: [22, 8000-8002, ' 9000 - 9001 ']}",
    );
    assert_eq!(judge(&policy, "a.org", 443), "default");
    assert_eq!(
        judge(&policy, "a.org", 444),
        "port_not_allowed (rule default)"
    );
    for port in [22, 8000, 8001, 8002, 9000, 9001] {
        assert_eq!(judge(&policy, "b.org", port), "listed", "{port}");
    }
    for port in [443, 7999, 8003, 0, 65535] {
        let refused = "port_not_allowed (rule listed)";
        assert_eq!(judge(&policy, "b.org", port), refused, "{port}");
    }
}

#[test]
fn from_is_one_of_several_descriptions() {
    let policy = policy(
        "- name: some\n  hosts: [a.org]\n  from:\n  \
         - {namespace: web, serviceAccount: crawler}\n  \
         - {uid: 1000}\n  \
         - {cgroup: /system.slice/crawler-*.service/}\n",
    );
    let refused = "not_for_this_workload (rule some)";
    let web = |account: Option<&str>| Workload {
        namespace: Some("web".to_owned()),
        service_account: account.map(str::to_owned),
        ..Workload::default()
    };
    let uid = |uid| Workload {
        uid: Some(uid),
        ..Workload::default()
    };
    let cgroup = |path: &str| Workload {
        cgroup: Some(path.to_owned()),
        ..Workload::default()
    };
    for (workload, expected) in [
        (web(Some("crawler")), "some"),
        (web(Some("other")), refused),
        (web(None), refused),
        (uid(1000), "some"),
        (uid(0), refused),
        (cgroup("/system.slice/crawler-1.service/child"), "some"),
        (cgroup("/system.slice/crawler.service"), refused),
        (Workload::default(), refused),
    ] {
        let verdict = judge_as(&policy, "a.org", 443, &workload);
        assert_eq!(told(&verdict), expected, "{workload:?}");
    }
}

#[test]
fn a_near_miss_at_the_port_says_more_than_one_at_the_workload() {
    let policy = policy(
        "- {name: theirs, hosts: [a.org], from: [{uid: 1}], ports: [8443]}\n\
         - {name: ours, hosts: ['*.org']}",
    );
    assert_eq!(
        judge(&policy, "a.org", 8443),
        "port_not_allowed (rule ours)"
    );
    assert_eq!(judge(&policy, "a.org", 443), "ours");
}

#[test]
fn refusals_are_denials() {
    let policy = policy(" []");
    let verdict = judge_as(&policy, "a.org", 443, &Workload::default());
    let refusal = Refusal::new(Class::Denied, "no_rule");
    assert_eq!(verdict, Verdict::Refused(refusal));
}

#[test]
fn audit_lets_through_and_says_what_it_would_refuse() {
    let text = "version: 1\nmode: audit\nrules:\n\
                - {name: some, hosts: [a.org]}\n\
                - {name: never, action: deny, hosts: [b.org]}";
    let policy = Policy::parse(text, "policy.yaml").unwrap().policy;
    assert_eq!(policy.mode(), Mode::Audit);
    assert_eq!(judge(&policy, "a.org", 443), "some");
    assert_eq!(
        judge(&policy, "a.org", 1),
        "-, would be port_not_allowed (rule some)"
    );
    assert_eq!(
        judge(&policy, "b.org", 443),
        "-, would be denied_by_rule (rule never)"
    );
    assert_eq!(judge(&policy, "c.org", 443), "-, would be no_rule");
}

#[test]
fn a_deny_rule_on_trial_refuses_nothing() {
    let policy = policy(
        "- {name: some, hosts: [a.org]}\n\
         - {name: try, action: deny, mode: audit, hosts: ['*.org']}\n\
         - {name: never, action: deny, hosts: [a.org], ports: [1]}",
    );
    assert_eq!(
        judge(&policy, "a.org", 443),
        "some, would be denied_by_rule (rule try)"
    );
    assert_eq!(judge(&policy, "a.org", 1), "denied_by_rule (rule never)");
    assert_eq!(judge(&policy, "b.org", 443), "no_rule");
    assert_eq!(
        sentences("- {name: a, hosts: [a.org], mode: audit}"),
        [
            "`mode: audit` tries out a rule with `action: deny`; to let through what no rule \
          allows, set it for the whole policy"
        ]
    );
}

#[test]
fn an_admission_carries_what_was_asked() {
    let policy = policy("- {name: some, hosts: [a.org], ports: [8443]}");
    let verdict = judge_as(&policy, "A.ORG.", 8443, &Workload::default());
    let Verdict::Admitted(admitted) = verdict else {
        panic!("{verdict:?}");
    };
    assert_eq!(admitted.name().as_str(), "a.org");
    assert_eq!(admitted.port(), 8443);
    assert_eq!(admitted.rule().map(|rule| &**rule), Some("some"));
    assert_eq!(admitted.would_refuse(), None);
}

#[test]
fn the_digest_is_that_of_the_text() {
    let text = "version: 1\nrules: []\n";
    let digest = |text: &str, flags: &Flags<'_>| {
        let loaded = Policy::parse_with_flags(text, "p", flags).unwrap();
        *loaded.policy.digest()
    };
    let plain = digest(text, &Flags::default());
    // printf 'version: 1\nrules: []\n' | sha256sum | cut -c-16
    assert_eq!(plain.to_string(), "7f2c43106364d811");
    assert_eq!(
        serde_json::to_string(&plain).unwrap(),
        format!("\"{plain}\"")
    );
    assert_eq!(Digest::from_bytes(plain.to_bytes()), plain);
    assert_ne!(plain, digest("version: 1\nrules: [] \n", &Flags::default()));
}
