use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;
use crate::hello::ServerName;
use crate::policy::{Request, Verdict};
use crate::workload::Workload;

#[test]
fn a_plain_list() {
    let imported = imported(
        Origin::Squid,
        "# what is allowed\n.example.org\na.org b.org # two\n\nhttp://x.org/\n192.0.2.1\n*.c.org\n",
    );
    assert_eq!(
        rules(&imported),
        ["squid [] *.example.org,example.org,a.org,b.org,*.c.org 443"]
    );
    assert_eq!(notes(&imported.not_carried_over, "x.org")[0].0, 5);
    assert_eq!(notes(&imported.not_carried_over, "192.0.2.1")[0].0, 6);
}

#[test]
fn a_configuration() {
    let conf = "\
acl localnet src 10.0.0.0/8
acl SSL_ports port 443
acl Safe_ports port 80 443
acl allowed dstdomain .example.org \\
    a.org
acl never dstdomain evil.example.org
acl unused dstdomain .u.org
http_port 3128
http_access deny !Safe_ports
http_access deny CONNECT !SSL_ports
http_access deny never
http_access allow CONNECT allowed
http_access allow localnet
http_access deny all
http_access allow unused2
";
    let imported = imported(Origin::Squid, conf);
    assert_eq!(
        rules(&imported),
        [
            "never deny [] evil.example.org 443",
            "allowed [] *.example.org,example.org,a.org 443",
        ]
    );
    let left_out = &imported.not_carried_over;
    for (what, line) in [
        ("`http_port 3128`", 8),
        ("deny !Safe_ports", 9),
        ("deny CONNECT !SSL_ports", 10),
        ("allow localnet", 13),
        ("allow unused2", 15),
        ("acl unused", 7),
    ] {
        assert_eq!(
            notes(left_out, what).first().map(|note| note.0),
            Some(line),
            "{what}"
        );
    }
}

#[test]
fn what_would_allow_more_is_left_out() {
    let acls = "acl good dstdomain .good.org\nacl bad dstdomain .bad.org\nacl night time 20:00-24:00\n\
                acl part dstdomain \"/etc/squid/part\" .part.org\n";
    let of = |access: &str| rules(&imported(Origin::Squid, &format!("{acls}{access}")));
    let good = ["good [] *.good.org,good.org 443"];
    assert_eq!(of("http_access allow good\n"), good);
    for access in [
        "",
        "http_access allow good night\n",
        "http_access allow good !night\n",
        "http_access allow good bad\n",
        "http_access allow good !part\n",
        "http_access allow all\n",
        "http_access deny all\nhttp_access allow good\n",
        "http_access deny night\nhttp_access allow good\n",
        "http_access deny !bad\nhttp_access allow good\n",
        "http_access allow good\ninclude /etc/squid/conf.d/*.conf\n",
        "http_access allow good\nadapted_http_access deny night\n",
        "http_access allow good\n  .evil.org\n",
    ] {
        assert_eq!(of(access), [""; 0], "{access}");
    }
    assert_eq!(
        of("http_access deny bad night\n"),
        ["bad deny [] *.bad.org,bad.org 443"]
    );
    assert_eq!(
        of("http_access deny part\nhttp_access allow good\n").len(),
        1
    );
    let widened = with(
        Origin::Squid,
        Options { widen: true },
        &format!("{acls}http_access allow good night\n"),
    );
    assert_eq!(rules(&widened), good);
    assert_eq!(widened.widened.len(), 1);
}

/// One `http_access` line: whether it allows, and its terms, each wanted or not.
type Access = (bool, Vec<(&'static str, bool)>);

const LISTS: [(&str, &[&str]); 3] = [
    ("one", &[".x.org", "a.org"]),
    ("two", &["a.x.org", ".b.x.org", "b.org"]),
    ("three", &[".org"]),
];

fn access() -> impl Strategy<Value = Vec<Access>> {
    let names = vec![
        "one", "two", "three", "who", "night", "ssl", "plain", "all", "CONNECT",
    ];
    let terms = subsequence(names, 1..4).prop_flat_map(|names| {
        let signs = prop::collection::vec(prop::bool::weighted(0.7), names.len());
        signs.prop_map(move |signs| names.iter().copied().zip(signs).collect::<Vec<_>>())
    });
    prop::collection::vec((any::<bool>(), terms), 1..6)
}

/// What Squid does about TLS to port 443 (http_access: the first line whose terms all hold; if none
/// does, the opposite of the last one).
fn allows(access: &[Access], name: &str, who: bool, night: bool) -> bool {
    let holds = |term: &str| match term {
        "who" => who,
        "night" => night,
        "ssl" | "all" | "CONNECT" => true,
        "plain" => false,
        list => LISTS
            .iter()
            .filter(|(known, _)| *known == list)
            .any(|(_, domains)| {
                domains.iter().any(|domain| match domain.strip_prefix('.') {
                    Some(parent) => name == parent || name.ends_with(domain),
                    None => name == *domain,
                })
            }),
    };
    for (allows, terms) in access {
        if terms.iter().all(|(term, wanted)| holds(term) == *wanted) {
            return *allows;
        }
    }
    access.last().is_some_and(|(allows, _)| !allows)
}

fn conf(access: &[Access]) -> String {
    let mut text = String::from(
        "acl who src 10.0.0.0/8\nacl night time 20:00-24:00\nacl ssl port 443\nacl plain port 80\n",
    );
    for (name, domains) in LISTS {
        text += &format!("acl {name} dstdomain {}\n", domains.join(" "));
    }
    for (allows, terms) in access {
        let action = if *allows { "allow" } else { "deny" };
        let terms: Vec<_> = terms
            .iter()
            .map(|(term, wanted)| format!("{}{term}", if *wanted { "" } else { "!" }))
            .collect();
        text += &format!("http_access {action} {}\n", terms.join(" "));
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// What the rules admit, Squid allows to every client at any time.
    #[test]
    fn rules_never_allow_more(
        access in access(),
        name in select(vec!["x.org", "a.x.org", "b.x.org", "c.b.x.org", "a.org", "b.org", "c.org", "d.com"]),
    ) {
        let text = conf(&access);
        let rules = imported(Origin::Squid, &text).to_string();
        let policy = Policy::parse(&rules, "p").unwrap().policy;
        let server = ServerName::parse(name.as_bytes()).unwrap();
        let workload = Workload::default();
        let request = Request { name: &server, port: 443, workload: &workload };
        if let Verdict::Admitted(_) = policy.judge(&request) {
            for (who, night) in [(false, false), (false, true), (true, false), (true, true)] {
                prop_assert!(allows(&access, name, who, night), "{name}\n{text}\n{rules}");
            }
        }
    }
}
