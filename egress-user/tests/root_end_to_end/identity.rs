//! Agent and gateway must each prove who they are.

use std::net::SocketAddr;

use egress_lab::deployment::{ADMIN, Hop, Record, TUNNEL_PORT};
use egress_lab::{http, wait};

use crate::clients::{ACCESS_DENIED, INTERNAL_ERROR, curl, run};
use crate::drain::{client_in_two_halves, origin_in_two_halves};
use crate::world::{DE, EN, Identity, Wish, World, is_left};

#[test]
fn an_agent_with_a_foreign_certificate_is_turned_away() {
    let world = World::with(&Wish {
        agent_identity: Identity::Foreign,
        agent_answers: "/healthz",
        ..Wish::default()
    });
    is_turned_away(&world, "peer_certificate_unknown_issuer");
    curl(&world, EN.name, EN.v4.into()).assert_alert(INTERNAL_ERROR);
    world.assert_nothing_arrived(EN);
    world.assert_no_name_was_asked_for();

    let records = world.finish();
    let [agent] = &records.agent[..] else {
        panic!("one record, not {:?}", records.agent);
    };
    assert_eq!(agent.text("verdict"), "failed");
    assert_eq!(agent.text("reason"), "own_certificate_unknown_issuer");
}

/// In TLS 1.3 the agent's side of the handshake ends before the gateway has seen who it is: an agent
/// that was turned away must not believe that it is ready. Each of its attempts leaves a line at the
/// gateway; how many it makes is its own affair.
fn is_turned_away(world: &World, reason: &str) {
    wait::until("the agent has tried", || {
        let records = world.deployment.records(Hop::Gateway).unwrap();
        let mut judged = records.iter().filter(|record| !is_left(record)).peekable();
        let some = judged.peek().is_some();
        for record in judged {
            assert_eq!(record.text("verdict"), "refused", "{record}");
            assert_eq!(record.text("reason"), reason, "{record}");
        }
        some.then_some(())
    })
    .unwrap();
    let ready = http::get(&world.lab.node.namespace, ADMIN, "/readyz").unwrap();
    assert_ne!(ready.status, 200, "{ready:?}");
}

#[test]
fn an_agent_that_is_not_listed_is_told_so() {
    let world = World::with(&Wish {
        gateway: &["agents: [spiffe://egress.local/agent/other]"],
        agent_answers: "/healthz",
        ..Wish::default()
    });
    is_turned_away(&world, "agent_not_allowed");
    curl(&world, EN.name, EN.v4.into()).assert_alert(ACCESS_DENIED);
    world.assert_nothing_arrived(EN);
    world.assert_no_name_was_asked_for();

    let records = world.finish();
    let [agent] = &records.agent[..] else {
        panic!("one record, not {:?}", records.agent);
    };
    assert_eq!(agent.text("verdict"), "refused");
    assert_eq!(agent.text("reason"), "agent_not_allowed");
    let peer = records.gateway[0].text("peer");
    assert_eq!(peer, "spiffe://egress.local/agent/default");
}

/// The agent is good, and claims a workload that is not one of its own.
#[test]
fn an_agent_speaks_for_its_own_workloads_only() {
    let world = World::with(&Wish {
        gateway: &["agents: [{id: spiffe://egress.local/agent/*, workloads: [{namespace: web}]}]"],
        ..Wish::default()
    });
    curl(&world, EN.name, EN.v4.into()).assert_alert(ACCESS_DENIED);
    world.assert_nothing_arrived(EN);
    world.assert_no_name_was_asked_for();

    let records = world.finish();
    let (agent, gateway) = records.one_each();
    for record in [agent, gateway] {
        assert_eq!(record.text("verdict"), "refused");
        assert_eq!(record.text("reason"), "may_not_speak_for");
    }
}

#[test]
fn an_agent_speaks_for_whom_it_may_speak() {
    let world = World::with(&Wish {
        gateway: &["agents: [{id: spiffe://egress.local/agent/*, workloads: [{uid: 0}]}]"],
        ..Wish::default()
    });
    curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);
    let records = world.finish();
    records.one_each();
}

/// Names made up under a wildcard carry data out: by the limit nobody asks for them.
#[test]
fn a_workload_may_ask_for_so_many_names_a_minute() {
    let world = World::with(&Wish {
        gateway: &["limits: {workload: {names: 1}}"],
        ..Wish::default()
    });
    for _ in 0..2 {
        curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);
    }
    curl(&world, DE.name, DE.v4.into()).assert_alert(ACCESS_DENIED);
    world.assert_nothing_arrived(DE);
    let queries = world.names.queries();
    assert!(
        !queries.iter().any(|query| query.contains(DE.name)),
        "{queries:?}"
    );
    let records = world.finish();
    for records in [&records.agent, &records.gateway] {
        let record = records.iter().find(|record| record.text("sni") == DE.name);
        let record = record.unwrap();
        assert_eq!(record.text("verdict"), "refused", "{record}");
        assert_eq!(record.text("reason"), "workload_name_limit", "{record}");
    }
}

#[test]
fn a_workload_may_have_so_many_connections_at_once() {
    let world = World::with(&Wish {
        gateway: &["limits: {workload: {connections: 1}}"],
        ..Wish::default()
    });
    let (origin, proceed) = origin_in_two_halves(&world);
    let mut client = client_in_two_halves(&world);
    client.says("half").unwrap();
    curl(&world, EN.name, EN.v4.into()).assert_alert(ACCESS_DENIED);
    world.assert_nothing_arrived(EN);
    proceed.send(()).unwrap();
    assert!(client.ended().unwrap().success(), "{}", client.output());
    origin.join().unwrap();
    // Its place is free once the gateway knows that it has ended.
    wait::until("there is room again", || {
        curl(&world, EN.name, EN.v4.into()).success.then_some(())
    })
    .unwrap();

    let records = world.finish();
    let refused = |record: &&Record| record.text("reason") == "workload_connection_limit";
    for records in [&records.agent, &records.gateway] {
        let record = records.iter().find(refused).unwrap();
        assert_eq!(record.text("verdict"), "refused", "{record}");
    }
}

#[test]
fn a_gateway_with_a_foreign_certificate_is_told_nothing() {
    let world = World::with(&Wish {
        gateway_identity: Identity::Foreign,
        // Without a gateway that it trusts an agent is alive and not ready.
        agent_answers: "/healthz",
        ..Wish::default()
    });
    let ready = http::get(&world.lab.node.namespace, ADMIN, "/readyz").unwrap();
    assert_ne!(ready.status, 200, "{ready:?}");
    curl(&world, EN.name, EN.v4.into()).assert_alert(INTERNAL_ERROR);
    world.assert_nothing_arrived(EN);
    world.assert_no_name_was_asked_for();

    let records = world.finish();
    let [agent] = &records.agent[..] else {
        panic!("one record, not {:?}", records.agent);
    };
    assert_eq!(agent.text("verdict"), "failed");
    assert_eq!(agent.text("reason"), "peer_certificate_unknown_issuer");
    for record in &records.gateway {
        assert_eq!(
            record.text("sni"),
            "",
            "the gateway learnt a name: {record}"
        );
    }
}

#[test]
fn a_stranger_without_a_certificate_is_turned_away_at_the_gateway_s_door() {
    let world = World::new();
    let mut stranger = world.lab.node.namespace.command("openssl").unwrap();
    let gateway = SocketAddr::from((world.lab.gateway.v4, TUNNEL_PORT)).to_string();
    stranger.args([
        "s_client", "-tls1_3", "-alpn", "egress/1", "-ign_eof", "-connect", &gateway,
    ]);
    let answer = run(&mut stranger);
    assert!(
        answer.stderr.contains("alert certificate required"),
        "{answer:#?}"
    );

    let records = world.finish();
    assert!(records.agent.is_empty());
    let [record] = &records.gateway[..] else {
        panic!("one record, not {:?}", records.gateway);
    };
    assert_eq!(record.text("verdict"), "refused");
    assert_eq!(record.text("reason"), "no_peer_certificate");
}
