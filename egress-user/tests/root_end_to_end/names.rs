//! Gateways that the agent knows by names, and what becomes of it when names lead elsewhere.

use std::net::{Ipv4Addr, SocketAddr};

use egress_lab::deployment::{ADMIN, Hop, TUNNEL_PORT};
use egress_lab::{Hosts, Lab, Names, ResolvConf, http, process, wait};
use rustix::process::Signal;

use crate::clients::curl;
use crate::world::{EN, Wish, World, egress};

const SECOND: u16 = TUNNEL_PORT + 1;

/// An address that the gateways' host has besides its own once it was [added](add_address).
const NEW: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(Ipv4Addr::new(198, 51, 100, 77)),
    TUNNEL_PORT,
);

/// The lab's name server, and more lines.
fn resolv_conf(more: &str) -> ResolvConf {
    ResolvConf::mount(&format!("nameserver {}\n{more}", Names::ADDRESS.ip())).unwrap()
}

/// The gateways' host answers at the new address too.
fn add_address(world: &World) {
    let (lab, ip) = (&world.lab, NEW.ip());
    let host = &lab.gateway.namespace;
    host.ip(&format!("addr add {ip}/32 dev lo\n")).unwrap();
    let route = format!("route add {ip}/32 via {}\n", lab.gateway.v4);
    lab.internet.ip(&route).unwrap();
}

/// Gets a page, and says which gateway carried it.
fn carrier(world: &World) -> String {
    let before = world.deployment.records(Hop::Agent).unwrap().len();
    curl(world, EN.name, EN.v4.into()).assert_page_of(EN.name);
    let record = wait::until("the stream is on record", || {
        world
            .deployment
            .records(Hop::Agent)
            .ok()?
            .into_iter()
            .nth(before)
    });
    record.unwrap().text("gateway").to_owned()
}

fn carried_by_the_new_address(world: &World) {
    wait::until("the new address carries streams", || {
        (carrier(world) == NEW.to_string()).then_some(())
    })
    .unwrap();
}

/// How often the name server was asked for a name's IPv4 address.
fn asked(world: &World, name: &str) -> usize {
    let queries = world.names.queries();
    let query = format!("A {name}");
    queries.iter().filter(|asked| **asked == query).count()
}

fn unresolved(world: &World, count: usize) {
    let line = format!("egress_gateway_names_unresolved {count}");
    wait::until(&line, || {
        let metrics = http::get(&world.lab.node.namespace, ADMIN, "/metrics").ok()?;
        metrics.body.lines().any(|own| own == line).then_some(())
    })
    .unwrap();
}

/// One is good for no time, the other for an hour: while the former is asked for again and again, and
/// found to lead elsewhere, the latter is not.
#[test]
fn each_name_is_looked_up_when_its_own_ttl_ends() {
    const SHORT: &str = "short.test";
    const LONG: &str = "long.test";
    let _servers = resolv_conf("");
    let mut world = World::with(&Wish {
        gateways: &[TUNNEL_PORT, SECOND],
        gateway_names: &[SHORT, LONG],
        names: &[(SHORT, Lab::GATEWAY_V4)],
        lasting: &[(LONG, std::net::IpAddr::V4(Lab::GATEWAY_V4), 3600)],
        ..Wish::default()
    });
    let second = world
        .deployment
        .another_gateway(&world.lab, egress(), SECOND);
    let _second = second.unwrap();
    let again = |times| {
        let wanted = asked(&world, SHORT) + times;
        let enough = || (asked(&world, SHORT) >= wanted).then_some(());
        wait::until("the name is asked for again", enough).unwrap();
    };
    again(1);
    let long = asked(&world, LONG);
    assert_ne!(long, 0);
    again(2);

    add_address(&world);
    world.names.lead(SHORT, &[NEW.ip()]).unwrap();
    carried_by_the_new_address(&world);
    // The one that the name has left lives, and is left alone.
    let left = SocketAddr::from((Lab::GATEWAY_V4, TUNNEL_PORT)).to_string();
    for _ in 0..8 {
        assert_ne!(carrier(&world), left);
    }
    assert_eq!(asked(&world, LONG), long);
    world.finish();
}

#[test]
fn names_that_are_gone_keep_their_addresses_until_they_are_back() {
    const NAME: &str = "gateways.test";
    let _servers = resolv_conf("");
    let mut world = World::with(&Wish {
        gateway_names: &[NAME],
        names: &[(NAME, Lab::GATEWAY_V4)],
        ..Wish::default()
    });
    unresolved(&world, 0);
    world.names.lead(NAME, &[]).unwrap();
    unresolved(&world, 1);
    let before = SocketAddr::from((Lab::GATEWAY_V4, TUNNEL_PORT)).to_string();
    assert_eq!(carrier(&world), before);

    add_address(&world);
    world.names.lead(NAME, &[NEW.ip()]).unwrap();
    carried_by_the_new_address(&world);
    unresolved(&world, 0);

    // What the gateway knows of origins serves it while nobody answers.
    world.names.stop().unwrap();
    unresolved(&world, 1);
    assert_eq!(carrier(&world), NEW.to_string());
    world.finish();
}

/// In the order of resolv.conf; and `--check` says the same.
#[test]
fn search_domains_are_appended() {
    let _servers = resolv_conf("search b.test a.test\n");
    let world = World::with(&Wish {
        gateway_names: &["gateway"],
        names: &[("gateway.a.test", Lab::GATEWAY_V4)],
        ..Wish::default()
    });
    carrier(&world);
    let queries = world.names.queries();
    let at = |query: &str| queries.iter().position(|asked| asked == query);
    let (first, second) = (at("A gateway.b.test"), at("A gateway.a.test"));
    assert!(first.is_some() && first < second, "{queries:?}");

    let mut check = process::command(egress());
    world.lab.node.namespace.enter(&mut check).unwrap();
    let file = world.lab.directory().join("egress/agent.yaml");
    let output = check
        .args(["agent", "--check", "--config"])
        .arg(file)
        .output();
    let said = String::from_utf8(output.unwrap().stdout).unwrap();
    let wanted = format!("gateway:{TUNNEL_PORT}, now at {}", Lab::GATEWAY_V4);
    assert!(said.contains(&wanted), "{said}");
    world.finish();
}

/// The gateway moves: its name leads elsewhere, and nobody answers at the address of before. What
/// name servers say of it is not asked.
#[test]
fn a_hosts_file_is_followed_and_comes_before_name_servers() {
    const NAME: &str = "gateways.test";
    let _servers = resolv_conf("");
    // The world's gateway host has the first of these; it is known once the lab is made.
    let hosts = Hosts::mount(NAME, &[Lab::GATEWAY_V4.into()]).unwrap();
    let mut world = World::with(&Wish {
        gateway_names: &[NAME],
        names: &[(NAME, Ipv4Addr::LOCALHOST)],
        ..Wish::default()
    });
    curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);

    world.deployment.gateway.signal(Signal::KILL).unwrap();
    world.deployment.gateway.ended().unwrap();
    hosts.lead(NAME, &[NEW.ip()]).unwrap();
    add_address(&world);
    let moved = world
        .deployment
        .another_gateway_at(&world.lab, egress(), NEW);
    let _moved = moved.unwrap();
    wait::until("the name is followed", || {
        let answer = curl(&world, EN.name, EN.v4.into());
        answer.success.then_some(())
    })
    .unwrap();
    world.deployment.agent.signal(Signal::TERM).unwrap();
    assert!(world.deployment.agent.ended().unwrap().success());
    let records = world.deployment.records(Hop::Agent).unwrap();
    let last = records.last().unwrap();
    assert_eq!(last.text("verdict"), "allowed", "{last}");
    assert_eq!(last.text("gateway"), NEW.to_string(), "{last}");
    assert_eq!(asked(&world, NAME), 0);
    assert_eq!(world.application_sent(), []);
}
