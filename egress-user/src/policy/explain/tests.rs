use super::*;
use crate::hello::ServerName;

const RULES: &str = "\
version: 1
rules:
  - name: wiki
    hosts:
      - '*.wikipedia.org'
      - en.wikipedia.org
  - name: crawl
    from: [{namespace: web, serviceAccount: crawler}]
    hosts: ['*.wikipedia.org', wikimedia.org]
    ports: [443, 8443]
  - name: never
    action: deny
    from: [{uid: 7}]
    hosts: [de.wikipedia.org]
  - name: inside
    hosts: ['*', localhost]
    ports: [1]
";

fn explained(name: &str, port: u16, workload: &Workload) -> Explanation {
    let name = ServerName::parse(name.as_bytes()).unwrap();
    let request = Request {
        name: &name,
        port,
        workload,
    };
    Policy::explain(RULES, "policy.yaml", &request).unwrap()
}

fn web() -> Workload {
    Workload {
        namespace: Some("web".to_owned()),
        service_account: Some("crawler".to_owned()),
        uid: Some(1),
        ..Workload::default()
    }
}

#[test]
fn every_rule_that_lists_the_name_is_there_with_its_line() {
    let text = explained("en.wikipedia.org", 443, &web()).to_string();
    let expected = "\
en.wikipedia.org:443 allowed (rule wiki)
for namespace web, serviceAccount crawler, uid 1, nothing else known

LINE  RULE    ACTION  HOST              PORTS      FROM                                   HERE
6     wiki    allow   en.wikipedia.org  443        everyone                               allows it
9     crawl   allow   *.wikipedia.org   443, 8443  namespace web, serviceAccount crawler  would allow it, and another rule decides
16    inside  allow   *                 1          everyone                               for other ports

near misses
line 14  rule never  de.wikipedia.org  is spelt nearly the same
";
    assert_eq!(text, expected);
}

/// What the table says of one rule.
fn here(explanation: &Explanation, rule: &str) -> &'static str {
    let note = explanation.rules.iter().find(|note| note.rule == rule);
    note.unwrap().outcome
}

#[test]
fn what_is_not_known_is_said() {
    let nobody = explained("de.wikipedia.org", 443, &Workload::default());
    assert_eq!(nobody.verdict, "refused");
    assert_eq!(nobody.reason.as_deref(), Some("denied_by_rule"));
    assert_eq!(
        here(&nobody, "never"),
        "denies it: the workload may be one of these"
    );
    assert_eq!(here(&nobody, "crawl"), "not known to be for this workload");
    assert!(
        nobody
            .to_string()
            .contains("\nfor a workload of which nothing is known\n")
    );

    let uid = |uid| Workload {
        uid: Some(uid),
        ..web()
    };
    let denied = explained("de.wikipedia.org", 443, &uid(7));
    assert_eq!(here(&denied, "never"), "denies it");
    assert_eq!(
        here(&denied, "wiki"),
        "would allow it, and another rule decides"
    );
    let allowed = explained("de.wikipedia.org", 443, &uid(8));
    assert_eq!((allowed.verdict, allowed.reason), ("allowed", None));
    assert_eq!(
        here(&explained("de.wikipedia.org", 8443, &uid(8)), "wiki"),
        "for other ports"
    );
}

#[test]
fn an_explanation_decides_as_the_judgement_does() {
    let policy = Policy::parse(RULES, "p").unwrap().policy;
    for name in [
        "en.wikipedia.org",
        "de.wikipedia.org",
        "wikimedia.org",
        "localhost",
        "x.y",
    ] {
        for port in [1, 443, 8443] {
            for workload in [Workload::default(), web()] {
                let explanation = explained(name, port, &workload);
                let name = ServerName::parse(name.as_bytes()).unwrap();
                let verdict = policy.judge(&Request {
                    name: &name,
                    port,
                    workload: &workload,
                });
                let (rule, reason) = match verdict {
                    crate::policy::Verdict::Admitted(admitted) => (admitted.rule().cloned(), None),
                    crate::policy::Verdict::Refused(refusal) => {
                        (refusal.rule.clone(), Some(refusal.reason.to_string()))
                    }
                };
                assert_eq!(explanation.rule.as_deref(), rule.as_deref());
                assert_eq!(explanation.reason, reason);
            }
        }
    }
}

#[test]
fn near_misses_say_what_is_between() {
    let near = |name: &str| {
        let explanation = explained(name, 443, &Workload::default());
        let near = explanation.near_misses.into_iter();
        let told = near.map(|near| format!("{} {}: {}", near.line, near.host, near.why));
        told.collect::<Vec<_>>()
    };
    assert_eq!(
        near("wikipedia.org"),
        [
            "5 *.wikipedia.org: lists the names below it, and not the name itself",
            "9 wikimedia.org: is spelt nearly the same",
        ]
    );
    assert_eq!(
        near("up.wikimedia.org"),
        [
            "9 wikimedia.org: lists itself alone, and no names below it",
            "5 *.wikipedia.org: is spelt nearly the same",
        ]
    );
    assert_eq!(
        near("en.wikipedla.org"),
        [
            "6 en.wikipedia.org: is spelt nearly the same",
            "5 *.wikipedia.org: is spelt nearly the same",
        ]
    );
    assert_eq!(
        near("printer.local"),
        ["16 *: lists no names that only mean something inside a network"]
    );
    assert_eq!(near("example.com"), Vec::<String>::new());
}
