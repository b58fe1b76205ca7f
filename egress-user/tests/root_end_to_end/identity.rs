//! Agent and gateway must each prove who they are.

use std::net::SocketAddr;

use egress_lab::deployment::{ADMIN, TUNNEL_PORT};
use egress_lab::http;

use crate::clients::{INTERNAL_ERROR, curl, run};
use crate::world::{EN, Identity, Wish, World};

#[test]
fn an_agent_with_a_foreign_certificate_is_turned_away() {
    let world = World::with(&Wish {
        agent_identity: Identity::Foreign,
        ..Wish::default()
    });
    curl(&world, EN.name, EN.v4.into()).assert_alert(INTERNAL_ERROR);
    world.assert_nothing_arrived(EN);
    world.assert_no_name_was_asked_for();

    let records = world.finish();
    let [agent] = &records.agent[..] else {
        panic!("one record, not {:?}", records.agent);
    };
    assert_eq!(agent.text("verdict"), "failed");
    assert_eq!(agent.text("reason"), "own_certificate_unknown_issuer");
    // Each attempt of the agent leaves a line; how many it makes is its own affair.
    assert!(!records.gateway.is_empty());
    for record in &records.gateway {
        assert_eq!(record.text("verdict"), "refused");
        assert_eq!(record.text("reason"), "peer_certificate_unknown_issuer");
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
