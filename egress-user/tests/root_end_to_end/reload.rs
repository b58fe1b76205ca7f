//! A policy file that changes while connections are open.

use egress_lab::deployment::{ADMIN, Hop};
use egress_lab::{http, wait};

use crate::clients::{ACCESS_DENIED, curl};
use crate::drain::{client_in_two_halves, origin_in_two_halves};
use crate::world::{EN, IBM, RAW, WIKIPEDIA, WIKIPEDIA_AND_IBM, World};

/// Everything that [`WIKIPEDIA`] allows but the name of the test's own origin.
const WITHOUT_RAW: &str = r#"
version: 1
rules:
  - name: wikipedia
    hosts: ["*.wikipedia.org"]
  - name: not-raw
    action: deny
    hosts: [raw.wikipedia.org]
"#;

const BOTH: [Hop; 2] = [Hop::Agent, Hop::Gateway];

fn metrics(world: &World, hop: Hop) -> String {
    let namespace = &hop.host(&world.lab).namespace;
    http::get(namespace, ADMIN, "/metrics").unwrap().body
}

pub(crate) fn until_metric(world: &World, hop: Hop, line: &str) {
    wait::until(line, || {
        metrics(world, hop).lines().any(|l| l == line).then_some(())
    })
    .unwrap();
}

/// The digest in force, from the metrics.
fn in_force(world: &World, hop: Hop) -> String {
    let text = metrics(world, hop);
    let mut lines = text
        .lines()
        .filter(|line| line.starts_with("egress_policy{"));
    let line = lines.next().unwrap_or_else(|| panic!("{text}"));
    assert_eq!(lines.next(), None, "one policy is in force");
    line.to_owned()
}

fn replace(world: &World, hop: Hop, policy: &str) {
    let before = in_force(world, hop);
    world.deployment.replace_policy(hop, policy).unwrap();
    wait::until("the policy is in force", || {
        (in_force(world, hop) != before).then_some(())
    })
    .unwrap();
}

#[test]
fn a_new_policy_judges_new_connections() {
    let world = World::new();
    curl(&world, IBM.name, IBM.v4.into()).assert_alert(ACCESS_DENIED);
    world.assert_nothing_arrived(IBM);
    for hop in BOTH {
        replace(&world, hop, WIKIPEDIA_AND_IBM);
    }
    curl(&world, IBM.name, IBM.v4.into()).assert_page_of(IBM.name);
    for hop in BOTH {
        replace(&world, hop, WIKIPEDIA);
    }
    curl(&world, IBM.name, IBM.v4.into()).assert_alert(ACCESS_DENIED);
    assert_eq!(
        world.origins.arrived(&world.lab, IBM.name).unwrap().len(),
        1
    );
    world.finish();
}

#[test]
fn what_a_new_policy_of_the_agent_refuses_is_closed() {
    closes_what_it_refuses(Hop::Agent);
}

#[test]
fn what_a_new_policy_of_the_gateway_refuses_is_closed() {
    closes_what_it_refuses(Hop::Gateway);
}

fn closes_what_it_refuses(hop: Hop) {
    let world = World::new();
    let (origin, proceed) = origin_in_two_halves(&world);
    let mut client = client_in_two_halves(&world);
    client.says("half").unwrap();

    replace(&world, hop, WITHOUT_RAW);
    client.ended().unwrap();
    assert!(
        !client.output().contains("all 2097152"),
        "{}",
        client.output()
    );
    // The others do not notice.
    curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);
    let _ = proceed.send(());
    origin.join().unwrap();

    let records = world.finish();
    for records in [&records.agent, &records.gateway] {
        let record = records.iter().find(|record| record.text("sni") == RAW.name);
        let record = record.unwrap();
        assert_eq!(record.text("verdict"), "refused", "{record}");
        assert_eq!(record.text("reason"), "policy_changed", "{record}");
    }
}

#[test]
fn a_new_policy_that_still_allows_closes_nothing() {
    let world = World::new();
    let (origin, proceed) = origin_in_two_halves(&world);
    let mut client = client_in_two_halves(&world);
    client.says("half").unwrap();
    for hop in BOTH {
        replace(&world, hop, WIKIPEDIA_AND_IBM);
    }
    proceed.send(()).unwrap();
    assert!(client.ended().unwrap().success(), "{}", client.output());
    assert!(
        client.output().contains("all 2097152"),
        "{}",
        client.output()
    );
    origin.join().unwrap();
    world.finish();
}

#[test]
fn a_difference_between_the_hops_shows() {
    let world = World::new();
    let differs = |hop| metrics(&world, hop).contains("egress_policy_differs_total{");
    curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);
    wait::until("the connection is over", || {
        let records = world.deployment.records(Hop::Gateway).unwrap();
        (records.len() == 1).then_some(())
    })
    .unwrap();
    assert!(!differs(Hop::Agent) && !differs(Hop::Gateway));

    replace(&world, Hop::Agent, WIKIPEDIA_AND_IBM);
    curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);
    for hop in BOTH {
        until_metric(
            &world,
            hop,
            &format!("egress_policy_differs_total{{hop=\"{hop}\"}} 1"),
        );
    }
    let records = world.finish();
    for records in [&records.agent, &records.gateway] {
        let record = records.last().unwrap();
        assert_ne!(
            record.text("policy"),
            record.text("peer_policy"),
            "{record}"
        );
    }
}

#[test]
fn a_bad_file_changes_nothing_and_raises_an_alarm() {
    let world = World::new();
    for hop in BOTH {
        let before = in_force(&world, hop);
        for bad in ["", "version: 1\nrules: [{name: a, hots: [b.c]}]\n", "{"] {
            world.deployment.replace_policy(hop, bad).unwrap();
            until_metric(&world, hop, "egress_policy_reload_failed 1");
            assert_eq!(in_force(&world, hop), before);
        }
    }
    curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);
    curl(&world, IBM.name, IBM.v4.into()).assert_alert(ACCESS_DENIED);
    world.assert_nothing_arrived(IBM);
    for hop in BOTH {
        world.deployment.replace_policy(hop, WIKIPEDIA).unwrap();
        until_metric(&world, hop, "egress_policy_reload_failed 0");
    }
    world.finish();
}
