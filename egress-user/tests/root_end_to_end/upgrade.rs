//! A new agent takes over from the one that runs, while 200 clients connect all the time.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};

use egress_lab::deployment::ADMIN;
use egress_lab::{BpfFs, lab, tools, wait};
use rustix::process::Signal;

use crate::clients::curl;
use crate::steady::Clients;
use crate::world::{EN, IBM, Wish, World, egress};

#[test]
fn an_upgrade_refuses_no_connection() {
    let bpf_fs = BpfFs::mount().unwrap();
    let pin = format!("pin: {}", bpf_fs.path().join("egress").display());
    let folder = lab::scratch().unwrap();
    let handover = format!("handover: {}", folder.path().join("handover").display());
    let mut world = World::with(&Wish {
        capture: &[&pin, &handover],
        ..Wish::default()
    });
    let mut clients = Clients::start(&world);
    let mut answers = clients.another("answer", &[]);
    for _ in 0..2 {
        let mut before = world
            .deployment
            .upgrade_agent(&world.lab, egress())
            .unwrap();
        let ended = before.ended().unwrap();
        assert!(ended.success(), "{}", before.output());
        answers += clients.another("answer", &[]);
        answers += clients.another("answer", &[]);
    }
    answers += clients.finish();
    curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);
    world.assert_nothing_arrived(IBM);

    let records = world.finish();
    let (carried, refused): (Vec<_>, Vec<_>) = records
        .agent
        .iter()
        .partition(|record| record.text("verdict") == "allowed");
    assert_eq!(carried.len(), 1);
    let mut told = 0;
    for record in refused {
        assert_eq!(record.text("reason"), "no_rule", "{record}");
        told += 1 + record.number("withheld").unwrap_or_default();
    }
    // Not more: what each agent withheld after its last record of them is on none.
    assert!((1..=answers).contains(&told), "{told} of {answers}");
}

/// In an agent's place: holds its admin address, lets its successor wait for longer than the
/// heartbeat, and gives the address away when its standard input ends.
const PREDECESSOR: &str = r#"
import json, socket, sys, threading, time
path, host, port = sys.argv[1:]
admin = socket.create_server((host, int(port)))
def answer_nothing():
    while True: admin.accept()[0].close()
threading.Thread(target=answer_nothing, daemon=True).start()
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.bind(path)
server.listen(1)
print("ready", flush=True)
successor, _ = server.accept()
assert json.loads(successor.recv(256)) == "take"
time.sleep(2)
successor.send(b'"end"')
assert json.loads(successor.recv(256)) == "done"
print("done", flush=True)
sys.stdin.read()
"#;

/// Connects once for each line of its standard input, and says what came of it.
const CONNECTS: &str = r#"
import socket, sys
for _ in sys.stdin:
    with socket.socket() as client:
        print(client.connect_ex((sys.argv[1], 443)), flush=True)
"#;

/// A Python program that is told lines and says some.
struct Script {
    process: Child,
    lines: BufReader<ChildStdout>,
}

impl Script {
    fn start(mut command: Command, text: &str, arguments: &[&str]) -> Script {
        command.args(["-c", text]).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap());
        Script { process, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn ask(&mut self) -> String {
        let stdin = self.process.stdin.as_mut().unwrap();
        stdin.write_all(b"\n").unwrap();
        self.line()
    }

    fn end(mut self) {
        drop(self.process.stdin.take());
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// The kernel hears of the agent from the moment on that it captures, however long the rest of its
/// start takes.
#[test]
fn a_start_that_takes_its_time_refuses_no_connection() {
    let bpf_fs = BpfFs::mount().unwrap();
    let pin = format!("pin: {}", bpf_fs.path().join("egress").display());
    let folder = lab::scratch().unwrap();
    let path = folder.path().join("handover");
    let handover = format!("handover: {}", path.display());
    let mut world = World::with(&Wish {
        capture: &[&pin, &handover, "heartbeat: 1s"],
        ..Wish::default()
    });
    let address = EN.v4.to_string();
    let mut client = Script::start(world.captured("python3"), CONNECTS, &[&address]);
    // Between two beats of an agent on a slow machine there may be more than its heartbeat.
    wait::until("the agent serves", || (client.ask() == "0").then_some(())).unwrap();
    world.deployment.agent.signal(Signal::KILL).unwrap();
    world.deployment.agent.ended().unwrap();
    std::fs::remove_file(&path).unwrap();

    let mut command = tools::locate("python3").unwrap().command();
    world.lab.node.namespace.enter(&mut command).unwrap();
    let (host, port) = (ADMIN.ip().to_string(), ADMIN.port().to_string());
    let arguments = [path.to_str().unwrap(), &host, &port];
    let mut predecessor = Script::start(command, PREDECESSOR, &arguments);
    assert_eq!(predecessor.line(), "ready");
    let _dead = world
        .deployment
        .upgrade_agent(&world.lab, egress())
        .unwrap();
    assert_eq!(predecessor.line(), "done");
    // It captures, and waits for its admin address. The kernel lets go of the dead agent's programs,
    // which refuse, in its own time.
    wait::until("it is redirected", || (client.ask() == "0").then_some(())).unwrap();
    predecessor.end();
    client.end();
    curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);
}
