use super::*;

use std::sync::Arc;

fn recorder() -> (Recorder, Arc<Tally>) {
    let tally = Arc::new(Tally::default());
    let recorder = Recorder::silent(Arc::new(Metrics::default())).with_tally(tally.clone());
    (recorder, tally)
}

#[test]
fn every_way_out_writes_one_record() {
    let (recorder, tally) = recorder();
    let open = || Pending::open(&recorder, Hop::Agent, ConnectionId::new());
    open().carried();
    open().refused(Refusal::new(Class::Denied, "no_rule"));
    open().closed_before_hello();
    drop(open());
    assert_eq!(tally.total(), 4);
}

/// However often the policy changes meanwhile.
#[test]
fn a_scrape_sees_one_policy() {
    let metrics = Metrics::default();
    metrics.policy_in_force("0");
    std::thread::scope(|scope| {
        let changes = scope.spawn(|| {
            for number in 1..20_000 {
                metrics.policy_in_force(&number.to_string());
            }
        });
        while !changes.is_finished() {
            let text = metrics.encode();
            let lines = text.lines();
            let of_policy: Vec<_> = lines
                .filter(|line| line.starts_with("egress_policy{"))
                .collect();
            assert!(
                matches!(of_policy[..], [one] if one.ends_with("} 1")),
                "{of_policy:?}"
            );
        }
    });
}

#[test]
fn a_dropped_record_says_aborted() {
    let (recorder, tally) = recorder();
    drop(Pending::open(&recorder, Hop::Agent, ConnectionId::new()));
    let rows = tally.rows();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].verdict, Verdict::Failed);
    assert_eq!(rows[0].reason.as_deref(), Some("aborted"));
}

#[test]
fn audit_keeps_the_reason() {
    let (recorder, tally) = recorder();
    let mut pending = Pending::open(&recorder, Hop::Agent, ConnectionId::new());
    pending.would_refuse = Some(Cow::Borrowed("no_rule"));
    pending.carried();
    assert_eq!(tally.rows()[0].verdict, Verdict::WouldRefuse);
    assert_eq!(tally.rows()[0].reason.as_deref(), Some("no_rule"));
}

#[test]
fn the_rule_of_a_refusal_takes_the_place_of_an_earlier_one() {
    let (recorder, _) = recorder();
    let mut pending = Pending::open(&recorder, Hop::Agent, ConnectionId::new());
    pending.rule = Some("allows".into());
    let refusal = Refusal {
        rule: Some("denies".into()),
        ..Refusal::new(Class::Denied, "policy_changed")
    };
    pending.note_refusal(refusal);
    assert_eq!(pending.rule.as_deref(), Some("denies"));
}

#[test]
fn serialises_flat_and_without_empty_fields() {
    let mut record = Record::new(Hop::Gateway, ConnectionId::new(), Instant::now());
    record.timings.dns = Some(Duration::from_micros(1500).into());
    let json = serde_json::to_value(&record).unwrap();
    assert_eq!(json["hop"], "gateway");
    assert_eq!(json["dns_ms"], 1.5);
    assert!(json.get("sni").is_none() && json.get("workload").is_none());
    let time = json["time"].as_str().unwrap();
    assert!(time.ends_with('Z') && time.contains('T'), "{time}");
}
