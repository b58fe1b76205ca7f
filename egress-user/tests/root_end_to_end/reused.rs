//! A source port that one process leaves behind and another one takes, before the agent has accepted
//! the first.

use std::fs;
use std::process::Command;

use egress_lab::{Process, wait};
use rustix::process::Signal;

use crate::world::{DE, EN, Wish, World};

const PORT: &str = "45000";

/// Says all that it has to say at once, a ClientHello and data behind it, and resets.
const LEAVES: &str = r#"
import socket, ssl, struct, sys
name, address, port = sys.argv[1:4]
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=name)
try:
    client.do_handshake()
except ssl.SSLWantReadError:
    pass
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
s.bind(("127.0.0.1", int(port)))
s.connect((address, 443))
s.sendall(outgoing.read() + b"\x17\x03\x03\x00\x20" + bytes(32))
s.close()
"#;

/// Fetches a page from the same port.
const COMES: &str = r#"
import socket, ssl, sys
name, address, port, authority = sys.argv[1:5]
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("127.0.0.1", int(port)))
s.connect((address, 443))
print("connected", flush=True)
tls = ssl.create_default_context(cafile=authority).wrap_socket(s, server_hostname=name)
tls.sendall(f"GET / HTTP/1.0\r\nHost: {name}\r\n\r\n".encode())
page = b""
while part := tls.recv(65536): page += part
print(page.decode().split("<title>")[1].split("</title>")[0], flush=True)
"#;

/// What resets before it is accepted has left its bytes in the queue, and its port to others: nobody
/// is judged, carried or recorded as who comes after.
#[test]
fn what_a_client_left_behind_is_not_taken_for_the_next_one_s() {
    let mut world = World::with(&Wish {
        // The agent stands still for as long as both take.
        capture: &["heartbeat: 60s"],
        ..Wish::default()
    });
    stop(&mut world);
    let mut leaves = python(&world, "leaves", LEAVES);
    leaves.args([DE.name, &EN.v4.to_string(), PORT]);
    let mut leaves = Process::start(leaves, "leaves", world.lab.directory()).unwrap();
    assert!(leaves.ended().unwrap().success(), "{}", leaves.output());
    let mut comes = python(&world, "comes", COMES);
    comes.args([EN.name, &EN.v4.to_string(), PORT]);
    comes.arg(world.authority.certificate());
    let mut comes = Process::start(comes, "comes", world.lab.directory()).unwrap();
    comes.says("connected").unwrap();
    world.deployment.agent.signal(Signal::CONT).unwrap();
    assert!(comes.ended().unwrap().success(), "{}", comes.output());
    assert_eq!(comes.output(), format!("connected\n{}\n", EN.name));

    world.assert_nothing_arrived(DE);
    let records = world.finish();
    assert_eq!(records.gateway.len(), 1, "{:?}", records.gateway);
    let [left, came] = &records.agent[..] else {
        panic!("one record each, not {:?}", records.agent);
    };
    assert_eq!(left.text("verdict"), "closed", "{left}");
    assert_eq!(left.text("reason"), "closed_before_hello");
    assert_eq!(left.text("client"), format!("127.0.0.1:{PORT}"));
    for whose in ["workload", "process", "original_dst", "sni"] {
        assert_eq!(left.at(&format!("/{whose}")), None, "{left}");
    }
    assert_eq!(came.text("verdict"), "allowed", "{came}");
    assert_eq!(came.text("sni"), EN.name);
    let cgroup = came.at("/workload/cgroup").unwrap().as_str().unwrap();
    assert!(cgroup.ends_with("/comes"), "{came}");
}

fn python(world: &World, cgroup: &str, script: &str) -> Command {
    let mut python = world.uncaptured("python3");
    world.cgroup.enter_below(cgroup, &mut python).unwrap();
    python.args(["-c", script]);
    python
}

/// Stops the agent, and waits until none of its threads runs any more.
fn stop(world: &mut World) {
    let agent = &mut world.deployment.agent;
    agent.signal(Signal::STOP).unwrap();
    let tasks = format!("/proc/{}/task", agent.id());
    let is_stopped = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).unwrap();
        status.contains("State:\tT")
    };
    wait::until("the agent stands still", || {
        let mut tasks = fs::read_dir(&tasks).unwrap();
        tasks.all(|task| is_stopped(task.unwrap())).then_some(())
    })
    .unwrap();
}
