//! What breaks outside of the two processes, or is taken from them.

use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::thread;

use egress_lab::deployment::{ADMIN, Hop, Record};
use egress_lab::{BpfFs, Hosts, Names, ResolvConf, http, wait};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use socket2::SockRef;

use crate::clients::{ACCESS_DENIED, INTERNAL_ERROR, curl, python_script, run};
use crate::drain::{client_in_two_halves, origin_in_two_halves};
use crate::half_close::{HELLO, accept, listen};
use crate::world::{DE, EN, IBM, RAW, WIKIPEDIA_AND_IBM, Wish, World};

fn assert_failed(record: &Record, reason: &str) {
    assert_eq!(record.text("verdict"), "failed", "{record}");
    assert_eq!(record.text("reason"), reason, "{record}");
}

#[test]
fn an_origin_that_resets_resets_the_client() {
    let world = World::new();
    let listener = listen(&world);
    let origin = thread::spawn(move || {
        let mut stream = accept(&listener);
        stream.read_exact(&mut [0]).unwrap();
        stream.write_all(b"x").unwrap();
        let (mut got, mut part) = (Vec::new(), [0; 4096]);
        while !got.ends_with(b"more") {
            let count = stream.read(&mut part).unwrap();
            assert_ne!(count, 0, "the client ended");
            got.extend_from_slice(part.get(..count).unwrap());
        }
        SockRef::from(&stream)
            .set_linger(Some(std::time::Duration::ZERO))
            .unwrap();
    });
    let script = format!(
        "{HELLO}
s.recv(1)
s.sendall(b'more')
try:
    print('ended after', read_all())
except ConnectionResetError:
    print('reset')
"
    );
    let answer = python_script(&world, &script, &[RAW.name, &RAW.v4.to_string()]);
    origin.join().unwrap();
    assert_eq!(answer.stdout, "reset\n", "{answer:#?}");
    let records = world.finish();
    let (agent, gateway) = records.one_each();
    assert_failed(agent, "origin_reset");
    assert_failed(gateway, "origin_reset");
}

#[test]
fn without_a_name_server_no_name_leads_anywhere() {
    let mut world = World::new();
    world.names.stop().unwrap();
    curl(&world, EN.name, EN.v4.into()).assert_alert(INTERNAL_ERROR);
    world.assert_nothing_arrived(EN);
    let records = world.finish();
    let (agent, gateway) = records.one_each();
    assert!(gateway.text("reason").starts_with("dns_"), "{gateway}");
    assert_failed(gateway, gateway.text("reason"));
    assert_failed(agent, gateway.text("reason"));
}

#[test]
fn a_gateway_whose_name_leads_nowhere() {
    let _hosts = Hosts::mount("other.test", &[Ipv4Addr::LOCALHOST.into()]).unwrap();
    let _servers = ResolvConf::mount(&format!("nameserver {}\n", Names::ADDRESS.ip())).unwrap();
    let world = World::with(&Wish {
        gateway_names: &["nowhere.test"],
        agent_answers: "/healthz",
        ..Wish::default()
    });
    curl(&world, EN.name, EN.v4.into()).assert_alert(INTERNAL_ERROR);
    world.assert_nothing_arrived(EN);
    assert_failed(world.finish().agent_alone(), "gateway_unresolved");
}

/// What was resolved before is known, and nothing is left to dial it with.
#[test]
fn a_gateway_that_is_out_of_descriptors_says_so() {
    let world = World::new();
    curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);
    let pid = Pid::from_raw(world.deployment.gateway.id().try_into().unwrap());
    let none = Rlimit {
        current: Some(1),
        ..getrlimit(Resource::Nofile)
    };
    let before = prlimit(pid, Resource::Nofile, none).unwrap();
    curl(&world, EN.name, EN.v4.into()).assert_alert(INTERNAL_ERROR);
    let arrived = world.origins.arrived(&world.lab, EN.name).unwrap();
    assert_eq!(arrived.len(), 1, "{arrived:?}");
    prlimit(pid, Resource::Nofile, before).unwrap();
    curl(&world, DE.name, DE.v6.into()).assert_page_of(DE.name);

    let records = world.finish();
    for records in [&records.agent, &records.gateway] {
        let mut failed = records
            .iter()
            .filter(|record| record.text("verdict") == "failed");
        assert_failed(failed.next().unwrap(), "out_of_descriptors");
        assert_eq!(failed.next(), None);
    }
}

/// Who connects to the agent's own listener, where nothing was redirected.
#[test]
fn a_connection_that_was_not_redirected_is_reset_and_counted() {
    const SCRIPT: &str = r#"
import socket, sys
for line in open("/proc/self/net/tcp").readlines()[1:]:
    address, state = line.split()[1], line.split()[3]
    if state == "0A" and address.startswith("0100007F:"):
        s = socket.create_connection(("127.0.0.1", int(address.split(":")[1], 16)))
        try:
            print("ended after", len(s.recv(1)))
        except ConnectionResetError:
            print("reset")
"#;
    let world = World::new();
    let mut python = world.uncaptured("python3");
    let answer = run(python.args(["-c", SCRIPT]));
    assert_eq!(answer.stdout, "reset\n", "{answer:#?}");
    let metrics = http::get(&world.lab.node.namespace, ADMIN, "/metrics").unwrap();
    let counted = metrics
        .body
        .lines()
        .any(|line| line == "egress_unclaimed_total 1");
    assert!(counted, "{}", metrics.body);
    let records = world.finish();
    assert_eq!((records.agent, records.gateway), (vec![], vec![]));
}

/// Its programs are pinned: what was captured is refused from now on, and what was carried is cut.
#[test]
fn an_agent_that_is_killed_lets_nothing_through() {
    let bpf_fs = BpfFs::mount().unwrap();
    let pin = format!("pin: {}", bpf_fs.path().join("egress").display());
    let mut world = World::with(&Wish {
        capture: &[&pin],
        ..Wish::default()
    });
    let (origin, proceed) = origin_in_two_halves(&world);
    let mut client = client_in_two_halves(&world);
    client.says("half").unwrap();

    world.deployment.agent.signal(Signal::KILL).unwrap();
    world.deployment.agent.ended().unwrap();
    client.ended().unwrap();
    let said = client.output();
    assert!(!said.contains("all 2097152"), "{said}");
    let answer = curl(&world, EN.name, EN.v4.into());
    assert!(!answer.success, "{answer:#?}");
    world.assert_nothing_arrived(EN);
    assert_eq!(world.application_sent(), []);
    let _ = proceed.send(());
    origin.join().unwrap();

    let gateway = wait::until("the gateway has noticed", || {
        let records = world.deployment.records(Hop::Gateway).unwrap();
        records
            .into_iter()
            .find(|record| record.text("sni") == RAW.name)
    });
    assert_failed(&gateway.unwrap(), "tunnel_lost");
}

/// Without frames an alert in the stream is all that a gateway can say, and the agent does not read
/// it.
#[test]
fn a_refusal_in_a_raw_stream_is_an_answer_to_the_agent() {
    let world = World::with(&Wish {
        agent_policy: WIKIPEDIA_AND_IBM,
        agent: &["protocol: raw"],
        gateway: &["raw: {enabled: true}"],
        ..Wish::default()
    });
    curl(&world, IBM.name, IBM.v4.into()).assert_alert(ACCESS_DENIED);
    world.assert_nothing_arrived(IBM);
    let records = world.finish();
    let [agent] = &records.agent[..] else {
        panic!("one record, not {:?}", records.agent);
    };
    assert_eq!(agent.text("verdict"), "allowed", "{agent}");
    let mut gateway = records.gateway.iter();
    let refused = gateway.find(|record| record.text("verdict") == "refused");
    assert_eq!(refused.unwrap().text("reason"), "no_rule");
}
