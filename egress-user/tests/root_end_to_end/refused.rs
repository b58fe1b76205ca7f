//! What is refused: the application is told by an alert, nothing arrives, nothing leaves, and each
//! hop that saw the connection says why.

use std::net::{IpAddr, SocketAddr};

use egress_lab::deployment::{Hop, TUNNEL_PORT};
use egress_lab::wait;
use egress_lab::wire::{TCP, Target};
use rustix::process::Signal;

use crate::clients::{
    ACCESS_DENIED, Client, INTERNAL_ERROR, UNRECOGNIZED_NAME, curl, curl_command, node, openssl,
    openssl_command, openssl_get, python, python_script, run,
};
use crate::world::{DOWN, EN, IBM, LOOPBACK, METADATA, WIKIPEDIA_AND_IBM, Wish, World, egress};

fn is_refused_by_the_agent(client: Client, address: IpAddr) {
    let world = World::new();
    client(&world, IBM.name, address).assert_alert(ACCESS_DENIED);
    world.assert_nothing_arrived(IBM);
    world.assert_no_name_was_asked_for();

    let records = world.finish();
    let record = records.agent_alone();
    assert_eq!(record.text("verdict"), "refused");
    assert_eq!(record.text("reason"), "no_rule");
    assert_eq!(record.text("sni"), IBM.name);
    assert_eq!(
        record.text("original_dst"),
        SocketAddr::from((address, 443)).to_string()
    );
    assert_eq!(record.number("bytes_to_origin"), Some(0));
}

#[test]
fn by_the_agent_curl() {
    is_refused_by_the_agent(curl, IBM.v4.into());
}

#[test]
fn by_the_agent_curl_over_ipv6() {
    is_refused_by_the_agent(curl, IBM.v6.into());
}

#[test]
fn by_the_agent_openssl() {
    is_refused_by_the_agent(openssl, IBM.v4.into());
}

#[test]
fn by_the_agent_python() {
    is_refused_by_the_agent(python, IBM.v4.into());
}

#[test]
fn by_the_agent_node() {
    is_refused_by_the_agent(node, IBM.v4.into());
}

#[test]
fn by_the_gateway_alone() {
    let world = World::with(&Wish {
        agent_policy: WIKIPEDIA_AND_IBM,
        ..Wish::default()
    });
    curl(&world, IBM.name, IBM.v4.into()).assert_alert(ACCESS_DENIED);
    world.assert_nothing_arrived(IBM);
    world.assert_no_name_was_asked_for();

    let records = world.finish();
    let (agent, gateway) = records.one_each();
    for record in [agent, gateway] {
        assert_eq!(record.text("verdict"), "refused");
        assert_eq!(record.text("reason"), "no_rule");
        assert_eq!(record.text("sni"), IBM.name);
    }
    assert_ne!(agent.text("policy"), gateway.text("policy"));
}

#[test]
fn a_deny_rule_wins() {
    let policy = r#"
version: 1
rules:
  - name: everything-of-wikipedia
    hosts: ["*.wikipedia.org"]
  - name: never-english
    action: deny
    hosts: [en.wikipedia.org]
"#;
    let world = World::with(&Wish {
        agent_policy: policy,
        ..Wish::default()
    });
    curl(&world, EN.name, EN.v4.into()).assert_alert(ACCESS_DENIED);
    world.assert_nothing_arrived(EN);

    let records = world.finish();
    let record = records.agent_alone();
    assert_eq!(record.text("verdict"), "refused");
    assert_eq!(record.text("rule"), "never-english");
}

#[test]
fn a_hello_without_a_name() {
    let world = World::new();
    let mut client = openssl_command(&world, EN.v4.into());
    client.arg("-noservername");
    openssl_get(client, EN.name).assert_alert(ACCESS_DENIED);
    world.assert_nothing_arrived(EN);

    let records = world.finish();
    let record = records.agent_alone();
    assert_eq!(record.text("verdict"), "refused");
    assert_eq!(record.text("reason"), "no_sni");
}

#[test]
fn what_is_not_tls() {
    let world = World::new();
    let mut client = curl_command(&world, EN.name, EN.v4.into());
    let answer = run(client.arg(format!("http://{}:443/", EN.name)));
    assert!(!answer.success, "{answer:#?}");
    world.assert_nothing_arrived(EN);

    let records = world.finish();
    let record = records.agent_alone();
    assert_eq!(record.text("verdict"), "refused");
    assert_eq!(record.text("reason"), "plain_http");
}

#[test]
fn a_name_that_does_not_exist() {
    let name = "nowhere.wikipedia.org";
    let world = World::new();
    curl(&world, name, EN.v4.into()).assert_alert(UNRECOGNIZED_NAME);
    world.assert_nothing_arrived(EN);
    let queries = world.names.queries();
    assert!(queries.contains(&format!("A {name}")), "{queries:?}");

    let records = world.finish();
    let (agent, gateway) = records.one_each();
    for record in [agent, gateway] {
        assert_eq!(record.text("verdict"), "refused");
        assert_eq!(record.text("reason"), "name_not_found");
    }
}

#[test]
fn a_name_that_leads_to_the_gateway_s_own_loopback() {
    leads_to_a_forbidden_address(LOOPBACK);
}

#[test]
fn a_name_that_leads_to_the_metadata_service() {
    leads_to_a_forbidden_address(METADATA);
}

/// Somebody listens there, within the gateway's reach: it must be the gateway that holds back.
fn leads_to_a_forbidden_address((name, address): (&str, std::net::Ipv4Addr)) {
    let world = World::new();
    let host = &world.lab.gateway.namespace;
    host.ip(&format!("addr replace {address}/32 dev lo\n"))
        .unwrap();
    let service = host.listen((address, 443).into()).unwrap();
    service.set_nonblocking(true).unwrap();

    curl(&world, name, EN.v4.into()).assert_alert(UNRECOGNIZED_NAME);

    let accepted = service.accept().map(|(_, client)| client);
    let nobody = accepted.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(nobody, "the gateway connected to {address}");
    world.assert_nothing_arrived(EN);
    world.assert_gateway_sent_nothing_to(address.into());

    let records = world.finish();
    let (agent, gateway) = records.one_each();
    for record in [agent, gateway] {
        assert_eq!(record.text("verdict"), "refused");
        assert_eq!(record.text("reason"), "forbidden_address");
    }
    assert_eq!(
        gateway.at("/forbidden/0"),
        Some(&address.to_string().into())
    );
    assert_eq!(gateway.text("dialled"), "");
}

#[test]
fn an_origin_that_is_down() {
    let world = World::new();
    curl(&world, DOWN.name, EN.v4.into()).assert_alert(INTERNAL_ERROR);
    world.assert_nothing_arrived(EN);

    let records = world.finish();
    let (agent, gateway) = records.one_each();
    for record in [agent, gateway] {
        assert_eq!(record.text("verdict"), "failed");
        assert_eq!(record.text("reason"), "connect_refused");
    }
}

#[test]
fn when_the_gateway_is_gone() {
    let mut world = World::new();
    // The agent holds a tunnel to it, which it must find dead.
    curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);
    wait::until("the connection is over", || {
        let records = world.deployment.records(Hop::Agent).unwrap();
        (records.len() == 1).then_some(())
    })
    .unwrap();
    world.deployment.gateway.signal(Signal::KILL).unwrap();
    world.deployment.gateway.ended().unwrap();
    let before = world.origins.arrived(&world.lab, EN.name).unwrap();
    curl(&world, EN.name, EN.v4.into()).assert_alert(INTERNAL_ERROR);
    assert_eq!(world.origins.arrived(&world.lab, EN.name).unwrap(), before);

    world.deployment.agent.signal(Signal::TERM).unwrap();
    assert!(world.deployment.agent.ended().unwrap().success());
    assert_eq!(world.application_sent(), []);
    let records = world.deployment.records(Hop::Agent).unwrap();
    let verdicts: Vec<&str> = records
        .iter()
        .map(|record| record.text("verdict"))
        .collect();
    assert_eq!(verdicts, ["allowed", "failed"], "{records:?}");
}

/// The gateway is there and takes the stream, but says nothing. The hello is still in hand.
#[test]
fn a_gateway_that_hangs_is_not_the_last_word() {
    const OTHER: u16 = TUNNEL_PORT + 1;
    let mut world = World::with(&Wish {
        gateways: &[TUNNEL_PORT, OTHER],
        ..Wish::default()
    });
    let _other = world
        .deployment
        .another_gateway(&world.lab, egress(), OTHER)
        .unwrap();
    world.deployment.gateway.signal(Signal::STOP).unwrap();
    curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);
    world.deployment.gateway.signal(Signal::CONT).unwrap();

    world.deployment.finish().unwrap();
    let records = world.deployment.records(Hop::Agent).unwrap();
    let [record] = records.as_slice() else {
        panic!("{records:?}");
    };
    assert_eq!(record.text("verdict"), "allowed", "{record}");
    let gateway = SocketAddr::from((world.lab.gateway.v4, OTHER));
    assert_eq!(record.text("gateway"), gateway.to_string());
}

#[test]
fn quic() {
    const SCRIPT: &str = r#"
import errno, socket, sys
for family, address in [(socket.AF_INET, sys.argv[1]), (socket.AF_INET6, sys.argv[2]),
        (socket.AF_INET6, "::ffff:" + sys.argv[1])]:
    for how in ["sendto", "connect"]:
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            try:
                if how == "sendto":
                    s.sendto(b"initial", (address, 443))
                else:
                    s.connect((address, 443))
            except OSError as error:
                print(address, how, errno.errorcode[error.errno])
            else:
                print(address, how, "went")
"#;
    let world = World::new();
    let answer = python_script(&world, SCRIPT, &[&EN.v4.to_string(), &EN.v6.to_string()]);
    let lines: Vec<&str> = answer.stdout.lines().collect();
    assert_eq!(lines.len(), 6, "{answer:#?}");
    assert!(
        lines.iter().all(|line| line.ends_with(" EPERM")),
        "{lines:#?}"
    );
    world.assert_nothing_arrived(EN);

    let records = world.finish();
    assert!(records.agent.is_empty() && records.gateway.is_empty());
}

const CONNECT_ELSEWHERE: &str = r#"
import errno, socket, sys
try:
    socket.create_connection((sys.argv[1], 8444))
except OSError as error:
    print(errno.errorcode[error.errno])
"#;

#[test]
fn another_port_when_other_ports_are_refused() {
    let world = World::with(&Wish {
        capture: &["other_ports: refuse"],
        ..Wish::default()
    });
    let answer = python_script(&world, CONNECT_ELSEWHERE, &[&EN.v4.to_string()]);
    assert_eq!(answer.stdout, "EPERM\n", "{answer:#?}");
    let records = world.finish();
    assert!(records.agent.is_empty() && records.gateway.is_empty());
}

#[test]
fn another_port_may_pass_when_other_ports_pass() {
    let mut world = World::with(&Wish {
        capture: &["other_ports: pass"],
        ..Wish::default()
    });
    let answer = python_script(&world, CONNECT_ELSEWHERE, &[&EN.v4.to_string()]);
    // The origin has nothing there; what matters is who says so.
    assert_eq!(answer.stdout, "ECONNREFUSED\n", "{answer:#?}");
    let expected = Target {
        protocol: TCP,
        address: EN.v4.into(),
        port: 8444,
    };
    assert_eq!(world.application_sent(), [expected]);
    world.deployment.finish().unwrap();
}
