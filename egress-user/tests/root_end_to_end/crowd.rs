//! Little room, and those who take what they can of it: strangers at a gateway, a workload at an
//! agent.

use std::fs;

use egress_lab::deployment::{ADMIN, TUNNEL_PORT};
use egress_lab::{Process, http, tools, wait};

use crate::clients::curl;
use crate::world::{EN, Wish, World};

/// Connects and says nothing.
const SILENT: &str = "
import socket, sys, time
address, count = (sys.argv[1], int(sys.argv[2])), int(sys.argv[3])
held = []
for _ in range(count):
    try:
        held.append(socket.create_connection(address))
    except ConnectionError:
        # Turned away before it knew that it is connected.
        pass
print('connected', flush=True)
time.sleep(600)
";

#[test]
fn descriptors_that_strangers_hold_are_not_missed() {
    let world = World::with(&Wish {
        gateway_descriptors: Some(256),
        ..Wish::default()
    });
    let mut strangers = world.lab.internet.command("python3").unwrap();
    let gateway = world.lab.gateway.v4.to_string();
    strangers.args(["-c", SILENT, &gateway, &TUNNEL_PORT.to_string(), "400"]);
    let mut strangers = Process::start(strangers, "strangers", world.lab.directory()).unwrap();
    strangers.says("connected").unwrap();
    for _ in 0..5 {
        curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);
    }
    // Those that wait in the queue are not turned away yet.
    wait::until("the strangers are turned away", || {
        let metrics = http::get(&world.lab.gateway.namespace, ADMIN, "/metrics").unwrap();
        let crowded = metrics.body.lines().find_map(|line| {
            let count = line.strip_prefix("egress_tunnels_total{event=\"crowded\"} ")?;
            count.parse::<u32>().ok()
        });
        (crowded? > 300).then_some(())
    })
    .unwrap();
    let log = world.deployment.gateway.output();
    assert!(!log.contains("cannot accept an agent"), "{log}");
    drop(strangers);
    let records = world.finish();
    for records in [&records.agent, &records.gateway] {
        let carried = records
            .iter()
            .filter(|record| record.text("sni") == EN.name);
        assert_eq!(
            carried
                .filter(|record| record.text("verdict") == "allowed")
                .count(),
            5
        );
    }
}

/// Connects so often and says nothing, and waits until only as many are left as it is let have.
const GREEDY: &str = "
import select, socket, sys, time
address, count, left = (sys.argv[1], 443), int(sys.argv[2]), int(sys.argv[3])
held, poll = {}, select.poll()
for _ in range(count):
    try:
        connection = socket.create_connection(address)
    except ConnectionError:
        # Turned away before it knew that it is connected.
        continue
    held[connection.fileno()] = connection
    poll.register(connection, select.POLLRDHUP)
while len(held) > left:
    for descriptor, _ in poll.poll():
        poll.unregister(descriptor)
        held.pop(descriptor).close()
print('held', flush=True)
time.sleep(600)
";

/// Places for 168 connections: one workload comes to hold 40, as many as are left to its namespace.
#[test]
fn a_workload_that_says_nothing_leaves_room_for_another_in_its_namespace() {
    let world = World::with(&Wish {
        agent_descriptors: Some(512),
        ..Wish::default()
    });
    let greedy = world.cgroup.path().join("greedy");
    fs::create_dir(&greedy).unwrap();
    let mut command = world.uncaptured("sh");
    let join = "echo $$ > \"$0/cgroup.procs\"; exec \"$@\"";
    command.args(["-c", join]).arg(&greedy);
    command.arg(tools::locate("python3").unwrap().path);
    command.args(["-c", GREEDY, &EN.v4.to_string(), "300", "40"]);
    let mut command = Process::start(command, "greedy", world.lab.directory()).unwrap();
    command.says("held").unwrap();
    for _ in 0..5 {
        curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);
    }
    assert_eq!(world.origins.arrived(&world.lab, EN.name).unwrap().len(), 5);
    drop(command);
    let records = world.finish();
    let with = |field: &'static str, value: &'static str| {
        let records = records.agent.iter();
        records.filter(move |record| record.text(field) == value)
    };
    assert_eq!(with("verdict", "allowed").count(), 5);
    let shed: Vec<_> = with("reason", "workload_connection_limit").collect();
    // All but 40, and fewer only when those were so slow that some of them ran out of time.
    assert!(shed.len() > 40, "{}", shed.len());
    assert!(
        shed.iter()
            .all(|record| record.text("verdict") == "refused")
    );
}

/// Begins a ClientHello of the largest kind so often, never ends one, and waits until as many as
/// that were turned away.
const ENDLESS: &str = "
import select, socket, struct, sys, time
address, count, refused = (sys.argv[1], 443), int(sys.argv[2]), int(sys.argv[3])
message = (b'\\x01' + struct.pack('>I', 65000)[1:]).ljust(64000, b'\\0')
pieces = [message[at:at + 16000] for at in range(0, len(message), 16000)]
hello = b''.join(b'\\x16\\x03\\x01' + struct.pack('>H', len(piece)) + piece for piece in pieces)
held, poll = {}, select.poll()
for _ in range(count):
    try:
        connection = socket.create_connection(address)
    except ConnectionError:
        # Turned away before it knew that it is connected.
        continue
    try:
        connection.sendall(hello)
    except ConnectionError:
        pass
    held[connection.fileno()] = connection
    poll.register(connection, select.POLLRDHUP)
while len(held) > count - refused:
    for descriptor, _ in poll.poll():
        poll.unregister(descriptor)
        held.pop(descriptor).close()
print('held', flush=True)
time.sleep(600)
";

/// A workload may hold 4 MiB of them, beyond 4 KiB of each: that is 69.
#[test]
fn large_hellos_that_do_not_end_are_turned_away_and_others_are_served() {
    let world = World::new();
    let mut command = world.captured("python3");
    command.args(["-c", ENDLESS, &EN.v4.to_string(), "100", "31"]);
    let mut command = Process::start(command, "endless", world.lab.directory()).unwrap();
    command.says("held").unwrap();
    curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);
    assert_eq!(world.origins.arrived(&world.lab, EN.name).unwrap().len(), 1);
    drop(command);
    let records = world.finish();
    let turned_away = records
        .agent
        .iter()
        .filter(|record| record.text("reason") == "large_hello_limit");
    let verdicts: Vec<_> = turned_away.map(|record| record.text("verdict")).collect();
    assert!(!verdicts.is_empty() && verdicts.iter().all(|verdict| *verdict == "failed"));
    assert_eq!(records.gateway.len(), 1, "{:?}", records.gateway);
}
