use super::*;
use crate::document::{self, Mistakes};

fn read(text: &str) -> Result<KnownWorkloads, Mistakes> {
    let loaded = document::read(text, "agent.yaml", |map| {
        map.required("workloads", KnownWorkloads::read)
    });
    Ok(loaded?.value)
}

fn shown(known: &KnownWorkloads) -> Vec<String> {
    known.iter().map(ToString::to_string).collect()
}

const THREE: &str = "\
workloads:
  - {cgroup: /pods/web-7, namespace: web, labels: {}}
  - {cgroup: '/pods/web-*', namespace: web, serviceAccount: crawler, labels: {tier: batch, app: a}}
  - {cgroup: /pods, namespace: other}
";

#[test]
fn the_first_entry_that_covers_the_cgroup_stands() {
    let known = read(THREE).unwrap();
    let told = |cgroup: Option<&str>| {
        let mut workload = Workload {
            cgroup: cgroup.map(str::to_owned),
            uid: Some(7),
            ..Workload::default()
        };
        known.describe(&mut workload);
        assert_eq!(
            (workload.cgroup.as_deref(), workload.uid),
            (cgroup, Some(7))
        );
        let labels = workload.labels.map(|labels| {
            let labels = labels.iter().map(|(key, value)| format!("{key}={value}"));
            labels.collect::<Vec<_>>().join(",")
        });
        let words = [workload.namespace, workload.service_account, labels];
        words
            .map(|word| word.unwrap_or_else(|| "?".to_owned()))
            .join(" ")
    };
    assert_eq!(told(Some("/pods/web-7/container")), "web ? ");
    assert_eq!(told(Some("/pods/web-8")), "web crawler app=a,tier=batch");
    assert_eq!(told(Some("/pods/x/web-8")), "other ? ?");
    assert_eq!(told(Some("/podsx")), "? ? ?");
    assert_eq!(told(None), "? ? ?");
}

#[test]
fn entries_in_words() {
    assert_eq!(
        shown(&read(THREE).unwrap()),
        [
            "/pods/web-7 is namespace web, without labels",
            "/pods/web-* is namespace web, serviceAccount crawler, label app=a, label tier=batch",
            "/pods is namespace other",
        ]
    );
}

#[test]
fn entries_that_cannot_be_meant() {
    for (entries, expected) in [
        ("[]", "lists nothing"),
        ("[{namespace: a}]", "`cgroup` is missing"),
        ("[{cgroup: /a}]", "says nothing of its cgroup"),
        ("[{cgroup: a, namespace: a}]", "starts with `/`"),
        ("[{cgroup: /a, namespace: A}]", "lower-case letters"),
        ("[{cgroup: /a, labels: {a: '*'}}]", "letters, digits"),
        ("[{cgroup: /a, labels: {a b: c}}]", "the key of a label is"),
        ("[{cgroup: /a, uid: 1, namespace: a}]", "unknown key `uid`"),
        (
            "[{cgroup: '/a/*', namespace: a}, {cgroup: /a/b, namespace: b}]",
            "`/a/*` above covers `/a/b`",
        ),
    ] {
        let mistakes = read(&format!("workloads: {entries}\n")).unwrap_err();
        assert!(mistakes.to_string().contains(expected), "{mistakes}");
    }
}
