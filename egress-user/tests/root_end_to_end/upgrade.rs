//! A new agent takes over from the one that runs, while 200 clients connect all the time.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Stdio};

use egress_lab::BpfFs;

use crate::clients::curl;
use crate::world::{EN, IBM, Wish, World, egress};

/// Connects from 200 threads, again and again, and counts answers and everything else. The answer
/// to a name that is not allowed is an alert of the agent's own. Says a line each time that every
/// client had another answer, and ends with its standard input.
const CLIENTS: &str = r#"
import collections, ssl, socket, sys, threading
address, name = sys.argv[1:3]
answers, others, stop = [0] * 200, collections.Counter(), threading.Event()
context = ssl.create_default_context()

def client(number):
    while not stop.is_set():
        try:
            with socket.create_connection((address, 443), timeout=30) as plain:
                context.wrap_socket(plain, server_hostname=name)
            others["let through"] += 1
        except ssl.SSLError as error:
            if "ACCESS_DENIED" in str(error): answers[number] += 1
            else: others[str(error)] += 1
        except OSError as error:
            others[repr(error)] += 1

def tell():
    told = 0
    while not stop.is_set():
        if min(answers) > told or others:
            told = min(answers)
            print("round", told, dict(others), flush=True)
        stop.wait(0.02)

threads = [threading.Thread(target=client, args=(number,)) for number in range(200)]
for thread in threads + [threading.Thread(target=tell)]: thread.start()
sys.stdin.read()
stop.set()
for thread in threads: thread.join()
print("end", sum(answers), dict(others), flush=True)
"#;

struct Clients {
    process: Child,
    lines: BufReader<ChildStdout>,
}

impl Clients {
    fn start(world: &World) -> Clients {
        let mut command = world.captured("python3");
        command.args(["-c", CLIENTS, &IBM.v4.to_string(), IBM.name]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap());
        Clients { process, lines }
    }

    /// Waits until every client has had another answer, and none has had anything else.
    fn another_round(&mut self) {
        let line = self.line();
        assert!(
            line.starts_with("round ") && line.ends_with(" {}"),
            "{line}"
        );
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the clients ended");
        line.trim_end().to_owned()
    }

    /// How many answers there were.
    fn finish(mut self) -> usize {
        drop(self.process.stdin.take());
        loop {
            let line = self.line();
            if let Some(rest) = line.strip_prefix("end ") {
                let (answers, others) = rest.split_once(' ').unwrap();
                assert_eq!(others, "{}");
                self.process.wait().unwrap();
                return answers.parse().unwrap();
            }
        }
    }
}

#[test]
fn an_upgrade_refuses_no_connection() {
    let bpf_fs = BpfFs::mount().unwrap();
    let pin = format!("pin: {}", bpf_fs.path().join("egress").display());
    let folder = tempfile::tempdir().unwrap();
    let handover = format!("handover: {}", folder.path().join("handover").display());
    let mut world = World::with(&Wish {
        capture: &[&pin, &handover],
        ..Wish::default()
    });
    let mut clients = Clients::start(&world);
    clients.another_round();
    for _ in 0..2 {
        let mut before = world
            .deployment
            .upgrade_agent(&world.lab, egress())
            .unwrap();
        let ended = before.ended().unwrap();
        assert!(ended.success(), "{}", before.output());
        clients.another_round();
        clients.another_round();
    }
    let answers = clients.finish();
    curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);
    world.assert_nothing_arrived(IBM);

    let records = world.finish();
    let refused = records.agent.iter();
    let refused = refused.filter(|record| record.text("reason") == "no_rule");
    assert_eq!(refused.count(), answers);
}
