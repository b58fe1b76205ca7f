use super::*;
use crate::policy::{Policy, Request, Verdict};
use crate::workload;

fn learnt(options: Options, lines: &[&str]) -> Learnt {
    let mut learner = Learner::new(options);
    for line in lines {
        learner.line(line).unwrap();
    }
    learner.finish()
}

fn everyone() -> Options {
    Options {
        for_everyone: true,
        ..Options::default()
    }
}

/// A record of audit mode.
fn record(connection: &str, name: &str, port: u16, workload: &str) -> String {
    format!(
        r#"{{"connection":"{connection}","hop":"agent","verdict":"would_refuse","reason":"no_rule","sni":"{name}","port":{port},"workload":{workload}}}"#
    )
}

fn of_records(options: Options, records: &[String]) -> Learnt {
    let lines: Vec<_> = records.iter().map(String::as_str).collect();
    learnt(options, &lines)
}

/// Only those that are asked for: a pod has others that are gone with it.
#[test]
fn labels_tell_workloads_apart_where_they_are_asked_for() {
    let records = [
        record(
            "1",
            "a.example.org",
            443,
            r#"{"namespace":"web","labels":{"app":"mirror","pod-template-hash":"7"},"uid":1}"#,
        ),
        record("2", "b.example.org", 443, r#"{"namespace":"web","uid":1}"#),
        record(
            "3",
            "c.example.org",
            443,
            r#"{"labels":{"app":"x"},"cgroup":"/a","uid":1}"#,
        ),
    ];
    let from = |options| {
        let learnt = of_records(options, &records);
        Policy::parse(&learnt.to_string(), "p").unwrap();
        let text = learnt.to_string();
        let lines = text.lines().filter(|line| line.starts_with("      - {"));
        lines
            .map(|line| line.trim_start().to_owned())
            .collect::<Vec<_>>()
    };
    let by_app = Options {
        labels: vec!["app".to_owned()],
        ..Options::default()
    };
    assert_eq!(
        from(by_app),
        [
            r#"- {labels: {"app": "x"}}"#,
            r#"- {namespace: "web"}"#,
            r#"- {namespace: "web", labels: {"app": "mirror"}}"#,
        ]
    );
    assert_eq!(
        from(Options::default()),
        [r#"- {cgroup: "/a"}"#, r#"- {namespace: "web"}"#]
    );
}

#[test]
fn rules_are_written_to_be_pasted() {
    let web = r#"{"namespace":"web","service_account":"crawler","uid":1}"#;
    let learnt = of_records(
        Options::default(),
        &[
            record("1", "a.example.org", 443, web),
            // The gateway's record of the same connection.
            record("1", "a.example.org", 443, web),
            record("2", "a.example.org", 443, web),
            record("3", "b.example.org", 8443, web),
            record(
                "4",
                "c.example.org",
                443,
                r#"{"cgroup":"/jobs/nightly.service","uid":0}"#,
            ),
            record(
                "5",
                "d.example.org",
                443,
                r#"{"cgroup":"/u/egress-run-7","uid":1000}"#,
            ),
        ],
    );
    let expected = "\
# Learnt from 5 connections.
version: 1
rules:
  - name: uid-1000
    from:
      - {uid: 1000}
    hosts:
      - \"d.example.org\"  # 1 connection
  - name: nightly-service
    from:
      - {cgroup: \"/jobs/nightly.service\"}
    hosts:
      - \"c.example.org\"  # 1 connection
  - name: web-crawler
    from:
      - {namespace: \"web\", serviceAccount: \"crawler\"}
    hosts:
      - \"a.example.org\"  # 2 connections
  - name: web-crawler-2
    from:
      - {namespace: \"web\", serviceAccount: \"crawler\"}
    hosts:
      - \"b.example.org\"  # 1 connection
    ports: [8443]
";
    assert_eq!(learnt.to_string(), expected);
    assert!(Policy::check(expected, "p").unwrap().warnings.is_empty());
}

#[test]
fn many_names_of_one_owner_become_a_wildcard() {
    let mut records = Vec::new();
    for zone in ["wikipedia.org", "github.io"] {
        for label in ["a", "b", "c", "d", "x.e"] {
            records.push(record(zone, &format!("{label}.{zone}"), 443, "{}"));
        }
    }
    records.push(record("apex", "wikipedia.org", 443, "{}"));
    let hosts = |options| {
        let learnt = of_records(options, &records);
        let hosts = learnt.rules.iter().flat_map(|rule| &rule.hosts);
        hosts.map(|host| host.host.clone()).collect::<Vec<_>>()
    };
    let github = [
        "a.github.io",
        "b.github.io",
        "c.github.io",
        "d.github.io",
        "x.e.github.io",
    ];
    let found = hosts(everyone());
    assert_eq!(found[..5], github, "{found:?}");
    assert_eq!(found[5..], ["wikipedia.org", "*.wikipedia.org"]);
    let learnt = of_records(everyone(), &records);
    let [wildcard] = learnt.wildcards.as_slice() else {
        panic!("{:?}", learnt.wildcards);
    };
    assert_eq!(wildcard.names.len(), 5);
    let text = learnt.to_string();
    let note = "# 5 names (a.wikipedia.org, b.wikipedia.org, c.wikipedia.org, …), 1 connection";
    assert!(text.contains(note), "{text}");
    let none = Options {
        wildcard_at: 0,
        ..everyone()
    };
    assert!(hosts(none).iter().all(|host| !host.starts_with('*')));
}

#[test]
fn what_no_rule_is_made_of_is_counted() {
    let learnt = learnt(
        Options::default(),
        &[
            "",
            r#"{"verdict":"refused","reason":"no_rule","sni":"a.org","port":443,"workload":{"uid":1}}"#,
            r#"{"verdict":"refused","reason":"no_rule","sni":"b.org","port":443,"workload":{"uid":1}}"#,
            r#"{"verdict":"would_refuse","reason":"denied_by_rule","rule":"never","sni":"a.org","port":443,"workload":{"uid":1}}"#,
            r#"{"verdict":"would_refuse","reason":"no_sni","port":443,"workload":{"uid":1}}"#,
            r#"{"verdict":"allowed","sni":"a.org","workload":{"uid":1}}"#,
            r#"{"verdict":"allowed","sni":"a.org","port":443}"#,
            r#"{"verdict":"allowed","sni":"a.org","port":443,"workload":{"cgroup":"/"}}"#,
            r#"{"verdict":"allowed","sni":"a.org","port":443,"workload":{"cgroup":"/a*"}}"#,
            r#"{"verdict":"allowed","sni":"a.org","port":443,"workload":{"cgroup":"/\ufffd"}}"#,
            r#"{"verdict":"allowed","sni":"a.org","port":443,"workload":{"namespace":"x: y"}}"#,
            r#"{"verdict":"allowed","sni":"a b","port":443,"workload":{"uid":1}}"#,
        ],
    );
    assert_eq!(learnt.rules, []);
    assert_eq!(learnt.connections, 0);
    let left_out: usize = learnt
        .left_out
        .iter()
        .map(|left_out| left_out.records)
        .sum();
    assert_eq!(left_out, 11);
    let text = learnt.to_string();
    assert!(text.contains("#   2 records: the connection was not carried (refused)\n"));
    assert!(text.contains("#   1 record: rule `never` denies it\n"));
    assert!(text.contains("#   3 records: a rule cannot be written for its workload alone\n"));
    assert!(text.contains("#   2 records: the record does not say who connected"));
    assert!(Policy::parse(&text, "p").is_ok(), "{text}");
    let mut learner = Learner::new(Options::default());
    assert!(learner.line("no json").is_err());
}

/// A record may say anything: nothing of it gets out of the quotes and comments it stands in.
#[test]
fn a_record_cannot_write_rules() {
    let evil = "x\\nrules: []\\u2028- {name: all, hosts: ['*']}";
    let lines = [
        format!(
            r#"{{"verdict":"would_refuse","reason":"denied_by_rule","rule":"{evil}","sni":"a.org","port":443,"workload":{{"uid":1}}}}"#
        ),
        format!(r#"{{"verdict":"{evil}","sni":"a.org","port":443,"workload":{{"uid":1}}}}"#),
        format!(
            r#"{{"verdict":"allowed","sni":"b.org","port":443,"workload":{{"cgroup":"/{evil}"}}}}"#
        ),
        r#"{"verdict":"allowed","sni":"a.org","port":443,"workload":{"cgroup":"/a\"}, # '"}}"#
            .to_owned(),
    ];
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    let text = learnt(Options::default(), &lines).to_string();
    let policy = Policy::parse(&text, "p").unwrap().policy;
    let admits = |name: &[u8], cgroup: &str| {
        let name = ServerName::parse(name).unwrap();
        let workload = workload::Workload {
            cgroup: Some(cgroup.to_owned()),
            ..workload::Workload::default()
        };
        let verdict = policy.judge(&Request {
            name: &name,
            port: 443,
            workload: &workload,
        });
        matches!(verdict, Verdict::Admitted(_))
    };
    assert!(admits(b"a.org", "/a\"}, # '"), "{text}");
    assert!(!admits(b"a.org", "/b"));
    assert!(!admits(b"c.org", "/a\"}, # '"));
}
