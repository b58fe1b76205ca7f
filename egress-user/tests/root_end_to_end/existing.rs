//! Connections that were there before the agent was.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use egress_lab::deployment::{Hop, Record};
use egress_lab::{Process, wait};
use rustix::process::Signal;

use crate::half_close::{accept, listen};
use crate::world::{RAW, Wish, World, egress};

/// Connects, and says what becomes of the connection.
const SCRIPT: &str = "
import socket, sys
s = socket.create_connection((sys.argv[1], 443))
print('connected', flush=True)
try:
    print('heard', s.recv(10).decode(), flush=True)
except OSError as error:
    print('ended', flush=True)
";

/// Without an agent, a process of the cgroup connects; then the agent comes.
fn connected_before(wish: &Wish<'_>) -> (World, Process, TcpStream, Record) {
    let mut world = World::with(wish);
    world.deployment.agent.signal(Signal::TERM).unwrap();
    world.deployment.agent.ended().unwrap();
    let listener = listen(&world);
    let mut python = world.captured("python3");
    python.args(["-c", SCRIPT, &RAW.v4.to_string()]);
    let mut client = Process::start(python, "client", world.lab.directory()).unwrap();
    let origin = accept(&listener);
    client.says("connected").unwrap();
    world
        .deployment
        .upgrade_agent(&world.lab, egress())
        .unwrap();
    let record = wait::until("the agent records it", || {
        let records = world.deployment.records(Hop::Agent).unwrap();
        let of_before = |record: &Record| record.text("reason") == "connected_before";
        records.into_iter().find(of_before)
    })
    .unwrap();
    assert_eq!(record.text("hop"), "kernel", "{record}");
    assert_eq!(record.text("original_dst"), format!("{}:443", RAW.v4));
    assert!(record.at("/workload/cgroup").is_some(), "{record}");
    (world, client, origin, record)
}

#[test]
fn they_go_on_and_are_on_record() {
    let (_world, mut client, mut origin, record) = connected_before(&Wish::default());
    assert_eq!(record.text("verdict"), "allowed", "{record}");
    origin.write_all(b"still here").unwrap();
    client.says("heard still here").unwrap();
}

#[test]
fn they_are_ended_where_that_is_wanted() {
    let wish = Wish {
        capture: &["existing: close"],
        ..Wish::default()
    };
    let (_world, mut client, mut origin, record) = connected_before(&wish);
    assert_eq!(record.text("verdict"), "refused", "{record}");
    client.says("ended").unwrap();
    assert!(
        !matches!(origin.read(&mut [0]), Ok(1..)),
        "nothing more arrives"
    );
}
