//! An agent whose gateways are other people's: mTLS with the application's bytes inside.

use egress_lab::Site;
use egress_lab::deployment::Record;

use crate::clients::{ACCESS_DENIED, INTERNAL_ERROR, curl};
use crate::peers::{PORT, Peer};
use crate::world::{DE, EN, IBM, Identity, WIKIPEDIA, WIKIPEDIA_AND_IBM, Wish, World};

const PEERS: [Peer; 3] = [Peer::Envoy, Peer::Haproxy, Peer::StunnelAndNginx];
const WITHOUT_HEADER: &[&str] = &["protocol: raw"];
const WITH_HEADER: &[&str] = &["protocol: raw", "proxy_header: true"];

/// A world whose agent knows but the peer. It does not become ready before the peer is there, which
/// comes later.
fn world(agent: &[&str], agent_policy: &str, agent_identity: Identity) -> World {
    World::with(&Wish {
        agent,
        agent_policy,
        agent_identity,
        agent_answers: "/healthz",
        gateways: &[PORT],
        ..Wish::default()
    })
}

fn arrivals(world: &World, site: Site) -> usize {
    let arrived = world.origins.arrived(&world.lab, site.name).unwrap();
    for arrival in &arrived {
        assert_eq!(arrival.client.ip(), world.lab.gateway.v4, "{arrival:?}");
    }
    arrived.len()
}

/// The agent's records; our own gateway has nothing to do with it.
fn finish<const N: usize>(world: World) -> [Record; N] {
    let records = world.finish();
    assert_eq!(records.gateway, []);
    let agent = <[Record; N]>::try_from(records.agent);
    agent.unwrap_or_else(|agent| panic!("{N} records, not {agent:#?}"))
}

fn assert_outcome(record: &Record, verdict: &str, reason: &str) {
    assert_eq!(record.text("verdict"), verdict, "{record}");
    assert_eq!(record.text("reason"), reason, "{record}");
}

#[test]
fn others_carry_what_is_allowed_and_see_nothing_of_what_is_not() {
    for peer in PEERS {
        let world = world(WITHOUT_HEADER, WIKIPEDIA, Identity::Own);
        let running = peer.start(&world, false);
        curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);
        curl(&world, IBM.name, IBM.v4.into()).assert_alert(ACCESS_DENIED);
        assert_eq!(arrivals(&world, EN), 1, "{peer:?}");
        world.assert_nothing_arrived(IBM);
        assert!(!running.output().contains(IBM.name), "{peer:?}");

        let gateway = world.lab.gateway.v4;
        let [carried, refused] = finish(world);
        assert_outcome(&carried, "allowed", "");
        assert_eq!(carried.text("gateway"), format!("{gateway}:{PORT}"));
        let peer = carried.text("peer");
        assert_eq!(peer, "spiffe://egress.local/gateway/default");
        assert!(carried.number("bytes_to_client") > Some(1000), "{carried}");
        assert_outcome(&refused, "refused", "no_rule");
    }
}

/// The address that the application chose is told, and not dialled.
#[test]
fn others_can_read_the_header() {
    for peer in [Peer::Envoy, Peer::Haproxy] {
        let world = world(WITH_HEADER, WIKIPEDIA, Identity::Own);
        let running = peer.start(&world, true);
        curl(&world, EN.name, DE.v4.into()).assert_page_of(EN.name);
        assert_eq!(arrivals(&world, EN), 1, "{peer:?}");
        world.assert_nothing_arrived(DE);
        running.says(&format!("for {}:443 name {}", DE.v4, EN.name));
        let said = running.output();

        let [carried] = finish(world);
        assert_outcome(&carried, "allowed", "");
        let from = format!("from {} ", carried.text("client"));
        assert!(said.contains(&from), "{from}: {said}");
    }
}

/// Nobody says why: there is but the close.
#[test]
fn what_the_peer_refuses_is_a_close() {
    for peer in PEERS {
        let world = world(WITHOUT_HEADER, WIKIPEDIA_AND_IBM, Identity::Own);
        let _running = peer.start(&world, false);
        curl(&world, IBM.name, IBM.v4.into()).assert_alert(INTERNAL_ERROR);
        world.assert_nothing_arrived(IBM);
        let [refused] = finish(world);
        assert_outcome(&refused, "failed", "gateway_closed");
    }
}

/// One side of it means a header and the other does not.
#[test]
fn a_header_that_only_one_side_means_gets_nobody_anywhere() {
    for peer in PEERS {
        for (agent, taken) in [(WITHOUT_HEADER, true), (WITH_HEADER, false)] {
            let world = world(agent, WIKIPEDIA, Identity::Own);
            let _running = peer.start(&world, taken);
            curl(&world, EN.name, EN.v4.into()).assert_alert(INTERNAL_ERROR);
            world.assert_nothing_arrived(EN);
            let [refused] = finish(world);
            assert_outcome(&refused, "failed", "gateway_closed");
        }
    }
}

#[test]
fn others_turn_a_foreign_agent_away() {
    for peer in PEERS {
        let world = world(WITHOUT_HEADER, WIKIPEDIA, Identity::Foreign);
        let _running = peer.start(&world, false);
        curl(&world, EN.name, EN.v4.into()).assert_alert(INTERNAL_ERROR);
        world.assert_nothing_arrived(EN);
        let [refused] = finish(world);
        assert_outcome(&refused, "failed", "own_certificate_unknown_issuer");
    }
}

/// Whatever its certificate says.
#[test]
fn our_own_gateway_takes_no_raw_stream_unless_told_to() {
    let world = World::with(&Wish {
        agent: WITHOUT_HEADER,
        agent_answers: "/healthz",
        ..Wish::default()
    });
    curl(&world, EN.name, EN.v4.into()).assert_alert(INTERNAL_ERROR);
    world.assert_nothing_arrived(EN);
    world.assert_no_name_was_asked_for();
    let records = world.finish();
    let [agent] = &records.agent[..] else {
        panic!("one record, not {:?}", records.agent);
    };
    assert_outcome(agent, "failed", "gateway_closed");
    for record in &records.gateway {
        assert_outcome(record, "refused", "alpn_mismatch");
    }
    assert!(!records.gateway.is_empty());
}
