//! What becomes of records when there are many, and of their file when somebody puts it away.

use std::fs;

use egress_lab::deployment::{ADMIN, Hop, read_records};
use egress_lab::{http, wait};

use crate::clients::{curl, python_script};
use crate::world::{EN, IBM, World};

/// Nobody's record is missed that let something out, nor the first ones of somebody else.
#[test]
fn a_loop_of_refusals_is_sampled_and_the_counters_are_exact() {
    const COUNT: u64 = 1000;
    const SCRIPT: &str = "
import socket, ssl, sys
address, name, count = sys.argv[1:4]
context = ssl.create_default_context()
for _ in range(int(count)):
    try:
        context.wrap_socket(socket.create_connection((address, 443)), server_hostname=name)
    except ssl.SSLError as error:
        assert 'ACCESS_DENIED' in str(error), error
    else:
        raise SystemExit('not refused')
";
    let world = World::new();
    let arguments = [&IBM.v4.to_string(), IBM.name, &COUNT.to_string()];
    let answer = python_script(&world, SCRIPT, &arguments);
    assert!(answer.success, "{answer:#?}");
    curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);

    let withheld = wait::until("every connection is counted", || {
        let metrics = http::get(&world.lab.node.namespace, ADMIN, "/metrics").ok()?;
        let counter = |name: &str| {
            let line = metrics
                .body
                .lines()
                .find_map(|line| line.strip_prefix(name))?;
            line.trim().parse::<u64>().ok()
        };
        let refused =
            counter(r#"egress_connections_total{hop="agent",verdict="refused",reason="no_rule"}"#)?;
        (refused == COUNT).then(|| counter(r#"egress_records_withheld_total{hop="agent"}"#))?
    })
    .unwrap();
    let records = world.finish().agent;
    let of = |verdict: &'static str| {
        let records = records.iter();
        records.filter(move |record| record.text("verdict") == verdict)
    };
    assert_eq!(of("allowed").count(), 1);
    let refused = u64::try_from(of("refused").count()).unwrap();
    assert_eq!(refused + withheld, COUNT);
    assert!(withheld > 0 && refused >= 256, "{refused}");
    let told: u64 = of("refused")
        .filter_map(|record| record.number("withheld"))
        .sum();
    assert!(told <= withheld, "{told} of {withheld}");
}

#[test]
fn a_log_that_is_put_away_is_begun_anew() {
    let world = World::new();
    let log = world.lab.directory().join("egress/agent.jsonl");
    let old = log.with_extension("old");
    let carry = |count: usize| {
        curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);
        wait::until("the connection is on record", || {
            let records = read_records(&log).ok()?;
            (records.len() == count).then_some(())
        })
        .unwrap();
    };
    carry(1);
    fs::rename(&log, &old).unwrap();
    carry(1);
    carry(2);
    assert_eq!(read_records(&old).unwrap().len(), 1);
    fs::remove_file(&log).unwrap();
    carry(1);
    // What cannot be put on record anywhere is not let out.
    fs::remove_file(&log).unwrap();
    fs::create_dir(&log).unwrap();
    let mut answer = curl(&world, EN.name, EN.v4.into());
    if answer.success {
        answer = curl(&world, EN.name, EN.v4.into());
    }
    assert!(!answer.success, "{answer:#?}");
    fs::remove_dir(&log).unwrap();
    wait::until("the log is found again", || {
        curl(&world, EN.name, EN.v4.into()).success.then_some(())
    })
    .unwrap();
    let records = world.deployment.records(Hop::Agent).unwrap();
    let reasons: Vec<&str> = records.iter().map(|record| record.text("reason")).collect();
    assert!(reasons.contains(&"log_unwritable"), "{reasons:?}");
    world.finish();
}
