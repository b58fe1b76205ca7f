//! The policy room from outside: against a naive reference, its whole output for a broken
//! file, and what a judgement costs.

#[path = "policy/model.rs"]
mod model;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use egress_user::hello::ServerName;
use egress_user::policy::{Policy, Request};
use egress_user::workload::{Labels, Workload};
use proptest::prelude::*;
use proptest::sample::select;

use model::{LABELS, NAMES, Told, Whose, model};

#[test]
fn every_mistake_of_a_file_at_once() {
    let text = r#"version: 2
mod: audit
rules:
  - name: Wikipedia
    hosts: ["*.wikipedia.org", "up*.wikimedia.org", https://de.wikipedia.org/wiki]
    ports: [443, 70000]
  - name: never-paste
    action: block
    hots: ["*.pastebin.com"]
  - name: never-paste
    from:
      - {namespace: web, uid: root}
      - {}
    hosts: 10.0.0.1
    hosts: [10.0.0.1, "bücher.example", "exa mple.org"]
  - hosts: []
    ports: 443
"#;
    let expected = r#"policy.yaml:1:10: version 2 of the policy document is not known here, only version 1
  1 | version: 2
    |          ^
policy.yaml:2:1: unknown key `mod`, did you mean `mode`?
  2 | mod: audit
    | ^^^
policy.yaml:4:11: `name` should be at most 63 lower-case letters, digits and `-`, found `Wikipedia`
  4 |   - name: Wikipedia
    |           ^^^^^^^^^
policy.yaml:5:32: `up*.wikimedia.org` in `hosts`: `*` stands for one or more whole labels at the start, as in `*.example.org`, and for nothing else
  5 |     hosts: ["*.wikipedia.org", "up*.wikimedia.org", https://de.wikipedia.org/wiki]
    |                                ^^^^^^^^^^^^^^^^^^^
policy.yaml:5:53: `https://de.wikipedia.org/wiki` in `hosts`: a host is a name alone, without scheme and path
  5 |     hosts: ["*.wikipedia.org", "up*.wikimedia.org", https://de.wikipedia.org/wiki]
    |                                                     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
policy.yaml:6:18: `70000` in `ports`: a port is a number from 1 to 65535, and a range two of them, such as 8000-8100
  6 |     ports: [443, 70000]
    |                  ^^^^^
policy.yaml:8:13: `action` should be one of `allow`, `deny`, found `block`
  8 |     action: block
    |             ^^^^^
policy.yaml:9:5: unknown key `hots`, did you mean `hosts`?
  9 |     hots: ["*.pastebin.com"]
    |     ^^^^
policy.yaml:10:11: the rule on line 7 is named `never-paste` too
  10 |   - name: never-paste
     |           ^^^^^^^^^^^
policy.yaml:12:31: `uid` should be a number from 0 to 4294967294, found `root`
  12 |       - {namespace: web, uid: root}
     |                               ^^^^
policy.yaml:13:9: an empty entry would mean everyone; leave `from` out for that
  13 |       - {}
     |         ^
policy.yaml:14:12: `hosts` should be a list, found `10.0.0.1`
  14 |     hosts: 10.0.0.1
     |            ^^^^^^^^
policy.yaml:15:5: `hosts` stands on line 14 already
  15 |     hosts: [10.0.0.1, "bücher.example", "exa mple.org"]
     |     ^^^^^
policy.yaml:16:5: `name` is missing
  16 |   - hosts: []
     |     ^
policy.yaml:16:12: `hosts` lists nothing
  16 |   - hosts: []
     |            ^
policy.yaml:17:12: `ports` should be a list, found `443`
  17 |     ports: 443
     |            ^^^
"#;
    let mistakes = Policy::parse(text, "policy.yaml").unwrap_err();
    assert_eq!(mistakes.to_string(), expected.trim_end());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Every name, at some ports, by every workload there is: more than 2,500 questions a policy, more than a million in all.
    #[test]
    fn the_index_agrees_with_a_scan_of_all_rules(model in model()) {
        let text = model.text();
        let loaded = Policy::parse(&text, "policy.yaml");
        let policy = loaded.map_err(|mistakes| TestCaseError::fail(mistakes.to_string()))?.policy;
        for name in NAMES {
            let server = ServerName::parse(name.as_bytes()).unwrap();
            for port in [442, 443, 444, 446] {
                for namespace in [None, Some("p"), Some("q")] {
                    for labels in LABELS {
                        for uid in [None, Some(1), Some(2)] {
                            let whose = Whose { namespace, labels, uid };
                            let workload = whose.workload();
                            let request = Request { name: &server, port, workload: &workload };
                            let told = Told::from(policy.judge(&request));
                            let expected = model.judge(name, port, whose);
                            prop_assert_eq!(told, expected, "{} {} {:?}\n{}", name, port, whose, text);
                        }
                    }
                }
            }
        }
    }
}

/// Everything that `from` can ask about, for workloads that are known wholly or in part.
#[derive(Clone, Debug)]
struct Known {
    workload: Workload,
    /// The same workload, of which less is known.
    less: Workload,
}

fn known() -> impl Strategy<Value = Known> {
    let name = || prop::option::weighted(0.9, select(vec!["p", "q"]));
    let path = select(vec!["/s", "/s/a", "/s/a/b", "/t"]);
    (
        (name(), name(), prop::option::weighted(0.9, path)),
        prop::option::weighted(0.9, 1u32..3),
        select(LABELS.to_vec()),
        any::<[bool; 5]>(),
    )
        .prop_map(|((namespace, account, path), uid, labels, keep)| {
            let workload = Workload {
                namespace: namespace.map(str::to_owned),
                service_account: account.map(str::to_owned),
                cgroup: path.map(str::to_owned),
                uid,
                labels: Whose {
                    namespace: None,
                    labels,
                    uid: None,
                }
                .workload()
                .labels,
                ..Workload::default()
            };
            let less = Workload {
                namespace: workload.namespace.clone().filter(|_| keep[0]),
                service_account: workload.service_account.clone().filter(|_| keep[1]),
                cgroup: workload.cgroup.clone().filter(|_| keep[2]),
                uid: workload.uid.filter(|_| keep[3]),
                labels: workload.labels.clone().filter(|_| keep[4]),
                ..Workload::default()
            };
            Known { workload, less }
        })
}

/// A rule about one name, for some.
fn rule_for_some() -> impl Strategy<Value = String> {
    let field = |key: &'static str, values: Vec<&'static str>| {
        prop::option::of(select(values))
            .prop_map(move |value| value.map(|value| format!("{key}: {value}")))
    };
    let selector = (
        field("namespace", vec!["p", "q"]),
        field("serviceAccount", vec!["p", "q"]),
        field("cgroup", vec!["/s", "/s/a", "/*/a", "/t"]),
        field("uid", vec!["1", "2"]),
        field("labels", vec!["{l: p}", "{l: q, m: p}", "{m: p}"]),
    )
        .prop_map(|(a, b, c, d, e)| [a, b, c, d, e].into_iter().flatten().collect::<Vec<_>>())
        .prop_filter("an empty selector is a mistake", |fields| {
            !fields.is_empty()
        })
        .prop_map(|fields| format!("{{{}}}", fields.join(", ")));
    let effect = select(vec!["", ", action: deny", ", action: deny, mode: audit"]);
    let from = prop::option::weighted(0.8, prop::collection::vec(selector, 1..4));
    (effect, from).prop_map(|(effect, from)| {
        let from = from.map(|from| format!(", from: [{}]", from.join(", ")));
        format!("hosts: [a.x]{effect}{}", from.unwrap_or_default())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    /// Nor does it turn what an audit would refuse into what it lets through without a word.
    #[test]
    fn not_knowing_a_workload_never_opens_anything(
        audit: bool,
        rules in prop::collection::vec(rule_for_some(), 1..5),
        known in known(),
    ) {
        let mode = if audit { "audit" } else { "enforce" };
        let rules = rules.iter().enumerate();
        let rules: Vec<_> = rules.map(|(n, rule)| format!("- {{name: r{n}, {rule}}}\n")).collect();
        let text = format!("version: 1\nmode: {mode}\nrules:\n{}", rules.concat());
        let loaded = Policy::parse(&text, "policy.yaml");
        let policy = loaded.map_err(|mistakes| TestCaseError::fail(mistakes.to_string()))?.policy;
        let name = ServerName::parse(b"a.x").unwrap();
        let ask = |workload| {
            Told::from(policy.judge(&Request { name: &name, port: 443, workload }))
        };
        let (whole, less) = (ask(&known.workload), ask(&known.less));
        prop_assert!(whole.admitted || !less.admitted, "{known:?}\n{text}");
        prop_assert!(whole.refusal.is_none() || less.refusal.is_some(), "{known:?}\n{text}");
    }
}

#[test]
fn a_judgement_allocates_nothing() {
    let text = "version: 1\nrules:\n\
                - {name: exact, hosts: [a.b.example.org], from: [{namespace: web, labels: {app: a}}]}\n\
                - {name: wide, hosts: ['*.example.org', '*'], ports: [443, 8000-8100]}\n\
                - {name: never, action: deny, hosts: ['*.b.example.org'], ports: [8001]}\n";
    let policy = Policy::parse(text, "policy.yaml").unwrap().policy;
    let workload = Workload {
        namespace: Some("web".to_owned()),
        labels: Some(Labels::from_iter([("app".to_owned(), "a".to_owned())])),
        ..Workload::default()
    };
    for name in ["a.b.example.org", "c.example.org", "other.com", "localhost"] {
        let name = ServerName::parse(name.as_bytes()).unwrap();
        for port in [443, 8001, 22] {
            let request = Request {
                name: &name,
                port,
                workload: &workload,
            };
            let before = ALLOCATIONS.get();
            let verdict = std::hint::black_box(policy.judge(&request));
            assert_eq!(ALLOCATIONS.get(), before, "{verdict:?}");
        }
    }
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(ALLOCATIONS.get(), before + 1, "the counter counts");
}

thread_local! {
    /// Allocations of this thread.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counting.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is passed on unchanged to the system's allocator, which keeps the
// contract; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block came from `alloc` above, with this layout.
        unsafe { System.dealloc(block, layout) }
    }
}
