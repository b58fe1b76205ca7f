//! What is allowed is carried, untouched, wherever the client meant to connect.

use std::net::IpAddr;

use egress_lab::Site;

use crate::clients::{
    Client, curl, node, openssl, openssl_command, openssl_get, python, python_script,
};
use crate::world::{DE, EN, IBM, World};

fn is_carried(client: Client, site: Site, address: IpAddr) {
    let world = World::new();
    client(&world, site.name, address).assert_page_of(site.name);

    let arrived = world.origins.arrived(&world.lab, site.name).unwrap();
    let [arrival] = arrived[..] else {
        panic!("one connection, not {arrived:?}");
    };
    let gateway = world.lab.gateway.addresses();
    assert!(gateway.contains(&arrival.client.ip()), "{arrival:?}");

    let records = world.finish();
    let (agent, gateway) = records.one_each();
    for record in [agent, gateway] {
        assert_eq!(record.text("verdict"), "allowed");
        assert_eq!(record.text("rule"), "wikipedia");
        assert_eq!(record.text("sni"), site.name);
        assert_eq!(record.text("dialled"), arrival.server.to_string());
    }
}

#[test]
fn curl_s() {
    is_carried(curl, EN, EN.v4.into());
}

#[test]
fn curl_s_over_ipv6() {
    is_carried(curl, EN, EN.v6.into());
}

#[test]
fn curl_s_to_an_origin_that_has_ipv6_only() {
    is_carried(curl, DE, DE.v4.into());
}

#[test]
fn openssl_s() {
    is_carried(openssl, EN, EN.v4.into());
}

#[test]
fn openssl_s_from_before_tls_1_3() {
    let old: Client = |world, name, address| {
        let mut openssl = openssl_command(world, address);
        openssl.args(["-tls1_2", "-servername", name]);
        openssl_get(openssl, name)
    };
    is_carried(old, EN, EN.v4.into());
}

#[test]
fn python_s() {
    is_carried(python, EN, EN.v4.into());
}

#[test]
fn node_s() {
    is_carried(node, EN, EN.v4.into());
}

#[test]
fn an_ipv4_address_in_ipv6_clothes() {
    is_carried(python, EN, EN.v4.to_ipv6_mapped().into());
}

#[test]
fn getpeername_still_says_what_the_application_asked_for() {
    let world = World::new();
    for address in EN.addresses() {
        let answer = python(&world, EN.name, address);
        assert!(
            answer.stdout.contains(&format!("peer {address}\n")),
            "{answer:#?}"
        );
    }
    world.finish();
}

#[test]
fn the_name_decides_and_not_the_address() {
    let world = World::new();
    // An attacker's server under an allowed name.
    curl(&world, EN.name, IBM.v4.into()).assert_page_of(EN.name);
    world.assert_nothing_arrived(IBM);

    let records = world.finish();
    let (agent, gateway) = records.one_each();
    for record in [agent, gateway] {
        assert_eq!(record.text("original_dst"), format!("{}:443", IBM.v4));
    }
    assert_eq!(gateway.at("/original_dst_resolved"), Some(&false.into()));
}

#[test]
fn a_record_tells_who_asked_and_what_was_carried() {
    let world = World::new();
    curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);
    let queries = world.names.queries();
    assert!(queries.contains(&format!("A {}", EN.name)), "{queries:?}");

    let cgroup = world
        .cgroup
        .path()
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    let records = world.finish();
    let (agent, gateway) = records.one_each();
    for record in [agent, gateway] {
        assert_eq!(record.at("/process/comm"), Some(&"curl".into()), "{record}");
        assert_eq!(record.at("/process/uid"), Some(&0.into()));
        let place = record
            .at("/workload/cgroup")
            .and_then(|place| place.as_str());
        assert_eq!(place, Some(format!("/{cgroup}").as_str()));
        assert_eq!(record.text("original_dst"), format!("{}:443", EN.v4));
        assert!(
            record.at("/alpn/0").is_some() && !record.text("ja4").is_empty(),
            "{record}"
        );
    }
    for direction in ["bytes_to_origin", "bytes_to_client"] {
        assert_eq!(agent.number(direction), gateway.number(direction));
        assert!(agent.number(direction).unwrap() > 500, "{agent}");
    }
    assert_eq!(gateway.at("/original_dst_resolved"), Some(&true.into()));
}

#[test]
fn one_tunnel_after_another_or_the_same_again() {
    let world = World::new();
    for _ in 0..10 {
        for site in [EN, DE] {
            curl(&world, site.name, site.v4.into()).assert_page_of(site.name);
        }
    }
    let records = world.finish();
    assert_eq!(records.agent.len(), 20);
    assert_eq!(records.gateway.len(), 20);
}

#[test]
fn a_child_of_a_captured_process_is_captured_too() {
    const SCRIPT: &str = r#"
import subprocess, sys
name, address, authority = sys.argv[1:]
subprocess.run(["curl", "--disable", "--silent", "--show-error", "--cacert", authority,
    "--resolve", f"{name}:443:{address}", f"https://{name}/"], check=True)
"#;
    let world = World::new();
    let answer = python_script(&world, SCRIPT, &[EN.name, &EN.v4.to_string()]);
    answer.assert_page_of(EN.name);
    world.finish().one_each();
}
