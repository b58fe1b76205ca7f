//! Connections that were there before the agent was.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use egress_lab::deployment::{Hop, Record};
use egress_lab::{Process, wait};
use rustix::process::Signal;

use crate::half_close::{accept, listen};
use crate::world::{RAW, Wish, World, egress};

/// Connects, and says what becomes of the connection.
const SCRIPT: &str = "
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
print('connected', flush=True)
try:
    print('heard', s.recv(10).decode(), flush=True)
except OSError as error:
    print('ended', flush=True)
";

fn stop_the_agent(world: &mut World) {
    world.deployment.agent.signal(Signal::TERM).unwrap();
    world.deployment.agent.ended().unwrap();
}

/// Without an agent, a process of the cgroup connects.
fn connect(world: &World, listener: &TcpListener) -> (Process, TcpStream) {
    let to = listener.local_addr().unwrap();
    let mut python = world.captured("python3");
    python.args(["-c", SCRIPT, &to.ip().to_string(), &to.port().to_string()]);
    let mut client = Process::start(python, "client", world.lab.directory()).unwrap();
    let origin = accept(listener);
    client.says("connected").unwrap();
    (client, origin)
}

/// Then the agent comes.
fn record_of_the_next_agent(world: &mut World) -> Record {
    let World {
        deployment, lab, ..
    } = world;
    deployment.upgrade_agent(lab, egress()).unwrap();
    wait::until("the agent records it", || {
        let records = world.deployment.records(Hop::Agent).unwrap();
        let of_before = |record: &Record| record.text("reason") == "connected_before";
        records.into_iter().find(of_before)
    })
    .unwrap()
}

fn connected_before(wish: &Wish<'_>) -> (World, Process, TcpStream, Record) {
    let mut world = World::with(wish);
    stop_the_agent(&mut world);
    let (client, origin) = connect(&world, &listen(&world));
    let record = record_of_the_next_agent(&mut world);
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

/// Serves one connection from outside, and says what comes by it.
const SERVER: &str = "
import socket
server = socket.create_server(('', 7000))
print('listening', flush=True)
s, _ = server.accept()
print('accepted', flush=True)
print('heard', s.recv(10).decode(), flush=True)
";

#[test]
fn those_to_other_ports_are_ended_where_other_ports_are_refused() {
    let wish = Wish {
        capture: &["existing: close"],
        ..Wish::default()
    };
    let mut world = World::with(&wish);
    stop_the_agent(&mut world);
    let listener = world.lab.internet.listen((RAW.v4, 8080).into()).unwrap();
    let (mut client, mut origin) = connect(&world, &listener);
    let mut python = world.captured("python3");
    python.args(["-c", SERVER]);
    let mut server = Process::start(python, "server", world.lab.directory()).unwrap();
    server.says("listening").unwrap();
    let node = &world.lab.node.namespace;
    let address = (world.lab.app.v4, 7000);
    let visitor = node.run(|| TcpStream::connect(address));
    let mut visitor = visitor.unwrap().unwrap();
    server.says("accepted").unwrap();

    let record = record_of_the_next_agent(&mut world);
    assert_eq!(record.text("verdict"), "refused", "{record}");
    assert_eq!(record.text("original_dst"), format!("{}:8080", RAW.v4));
    client.says("ended").unwrap();
    assert!(
        !matches!(origin.read(&mut [0]), Ok(1..)),
        "nothing more arrives"
    );
    // What others asked of it goes on.
    visitor.write_all(b"hello").unwrap();
    server.says("heard hello").unwrap();
}
