//! Several gateways, of which some go and come again while connections are made without pause.

use std::net::SocketAddr;

use egress_lab::deployment::{ADMIN, Hop, Record, TUNNEL_PORT};
use egress_lab::{Process, http, wait};
use rustix::process::Signal;

use crate::world::{EN, Wish, World, egress};

const SECOND: u16 = TUNNEL_PORT + 1;
const THIRD: u16 = TUNNEL_PORT + 2;

/// Gets the page again and again, by several threads, until its input ends. Says which connections
/// failed, by the client's address, and at the end how many did not.
const LOAD: &str = r#"
import socket, ssl, sys, threading
name, address, authority = sys.argv[1:]
context = ssl.create_default_context(cafile=authority)
stop = threading.Event()
whole = []
def get(plain):
    with context.wrap_socket(plain, server_hostname=name) as tls:
        tls.sendall(f"GET / HTTP/1.0\r\nHost: {name}\r\n\r\n".encode())
        page = b""
        while part := tls.recv(65536):
            page += part
    if f"<title>{name}</title>".encode() not in page:
        raise OSError("no page")
def work():
    while not stop.is_set():
        client = "none"
        try:
            with socket.create_connection((address, 443)) as plain:
                client = "%s:%d" % plain.getsockname()
                get(plain)
            whole.append(client)
        except OSError as error:
            print("failed", client, repr(error), flush=True)
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
print("begun", flush=True)
sys.stdin.read()
stop.set()
for thread in threads: thread.join()
print("whole", len(whole), flush=True)
"#;

struct Scene {
    world: World,
    load: Process,
}

impl Scene {
    /// As many gateways as `others` and one more, and connections without pause.
    fn new(others: &[u16]) -> (Scene, Vec<Process>) {
        Scene::with(others, &Wish::default())
    }

    fn with(others: &[u16], wish: &Wish<'_>) -> (Scene, Vec<Process>) {
        let mut gateways = vec![TUNNEL_PORT];
        gateways.extend(others);
        let world = World::with(&Wish {
            gateways: &gateways,
            ..*wish
        });
        let others = others.iter().map(|port| start(&world, *port)).collect();
        // The agent was there before them.
        counted(&world, "live", gateways.len());
        let mut python = world.captured("python3");
        python
            .args(["-c", LOAD, EN.name, &EN.v4.to_string()])
            .arg(world.authority.certificate());
        let mut load = Process::start_with_input(python, "load", world.lab.directory()).unwrap();
        load.says("begun").unwrap();
        (Scene { world, load }, others)
    }

    fn agent_records(&self) -> Vec<Record> {
        self.world.deployment.records(Hop::Agent).unwrap()
    }

    /// Waits until each of these gateways has carried so many more streams to their end.
    fn carried(&self, ports: &[u16], more: usize) {
        let before = self.agent_records();
        wait::until("the gateways carry streams", || {
            let now = self.agent_records();
            let enough = |port: &u16| self.count(&now, *port) >= self.count(&before, *port) + more;
            ports.iter().all(enough).then_some(())
        })
        .unwrap();
    }

    /// How many streams a gateway has carried to their end.
    fn count(&self, records: &[Record], port: u16) -> usize {
        let gateway = self.gateway(port);
        let carried = records.iter().filter(|record| {
            record.text("gateway") == gateway && record.text("verdict") == "allowed"
        });
        carried.count()
    }

    /// Waits until the agent counts so many gateways in a state.
    fn counted(&self, state: &str, count: usize) {
        counted(&self.world, state, count);
    }

    /// Whether the agent's metrics have a line that begins so.
    fn shows(&self, line: &str) -> bool {
        let metrics = http::get(&self.world.lab.node.namespace, ADMIN, "/metrics").unwrap();
        metrics.body.lines().any(|own| own.starts_with(line))
    }

    fn gateway(&self, port: u16) -> String {
        SocketAddr::from((self.world.lab.gateway.v4, port)).to_string()
    }

    /// Ends the load and everything else; gives what it said of failures, and the agent's records.
    fn finish(mut self) -> (Vec<String>, Vec<Record>) {
        self.load.close_input();
        assert!(self.load.ended().unwrap().success());
        let said = self.load.output();
        assert!(said.contains("\nwhole "), "{said}");
        let failed = said.lines().filter(|line| line.starts_with("failed "));
        let failed = failed.map(str::to_owned).collect();
        (failed, self.world.finish().agent)
    }
}

fn counted(world: &World, state: &str, count: usize) {
    let line = format!("egress_gateways{{state=\"{state}\"}} {count}");
    wait::until(&line, || {
        let metrics = http::get(&world.lab.node.namespace, ADMIN, "/metrics").ok()?;
        metrics.body.lines().any(|own| own == line).then_some(())
    })
    .unwrap();
}

fn start(world: &World, port: u16) -> Process {
    let started = world.deployment.another_gateway(&world.lab, egress(), port);
    started.unwrap()
}

#[test]
fn streams_are_spread() {
    let (scene, _others) = Scene::new(&[SECOND, THIRD]);
    scene.carried(&[TUNNEL_PORT, SECOND, THIRD], 20);
    scene.counted("live", 3);
    let (failed, records) = scene.finish();
    assert!(failed.is_empty(), "{failed:#?}");
    let carried = |record: &&Record| record.text("verdict") == "allowed";
    assert_eq!(records.iter().filter(carried).count(), records.len());
}

#[test]
fn the_own_zone_is_left_only_while_nobody_is_there() {
    let (scene, mut others) = Scene::with(
        &[SECOND],
        &Wish {
            agent: &["zone: near"],
            gateway_zones: &["far", "near"],
            ..Wish::default()
        },
    );
    scene.carried(&[SECOND], 30);
    assert_eq!(scene.count(&scene.agent_records(), TUNNEL_PORT), 0);
    assert!(!scene.shows("egress_zone_streams_total{zone=\"other\"}"));

    let mut second = others.pop().unwrap();
    second.signal(Signal::KILL).unwrap();
    second.ended().unwrap();
    scene.carried(&[TUNNEL_PORT], 30);
    assert!(scene.shows("egress_zone_streams_total{zone=\"other\"}"));

    let _second = start(&scene.world, SECOND);
    scene.counted("live", 2);
    // What is under way ends where it is, whenever that may be.
    wait::until("the other zone is left", || {
        let far = scene.count(&scene.agent_records(), TUNNEL_PORT);
        scene.carried(&[SECOND], 20);
        let since = scene.count(&scene.agent_records(), TUNNEL_PORT);
        (since == far).then_some(())
    })
    .unwrap();
    assert!(scene.shows("egress_zone_streams_total{zone=\"own\"}"));
    scene.finish();
}

#[test]
fn one_that_is_killed_is_missed_by_nobody_but_whom_it_carried_and_is_used_again() {
    let (scene, mut others) = Scene::new(&[SECOND]);
    scene.carried(&[TUNNEL_PORT, SECOND], 10);
    let mut second = others.pop().unwrap();
    second.signal(Signal::KILL).unwrap();
    second.ended().unwrap();
    scene.carried(&[TUNNEL_PORT], 50);
    scene.counted("ejected", 1);

    let _second = start(&scene.world, SECOND);
    scene.counted("live", 2);
    scene.carried(&[TUNNEL_PORT, SECOND], 10);

    let killed = scene.gateway(SECOND);
    let (failed, records) = scene.finish();
    let cut: Vec<_> = records
        .iter()
        .filter(|record| record.text("verdict") != "allowed")
        .collect();
    for record in &cut {
        assert_eq!(record.text("gateway"), killed, "{record}");
        assert_eq!(record.text("reason"), "tunnel_lost", "{record}");
        assert_ne!(record.text("dialled"), "", "it was under way: {record}");
    }
    for line in &failed {
        let client = line.split(' ').nth(1).unwrap();
        let known = cut.iter().any(|record| record.text("client") == client);
        assert!(known, "{line}, and the agent does not know: {cut:#?}");
    }
}

#[test]
fn one_that_is_told_to_stop_is_missed_by_nobody() {
    let (scene, mut others) = Scene::new(&[SECOND]);
    scene.carried(&[TUNNEL_PORT, SECOND], 10);
    let mut second = others.pop().unwrap();
    second.signal(Signal::TERM).unwrap();
    let status = second.ended().unwrap();
    assert!(status.success(), "{status}");
    scene.carried(&[TUNNEL_PORT], 20);

    let of_second = scene.world.deployment.records_of_another(SECOND).unwrap();
    for record in of_second {
        if record.text("verdict") != "allowed" {
            assert_eq!(record.text("reason"), "draining", "{record}");
        }
    }
    let _second = start(&scene.world, SECOND);
    scene.counted("live", 2);
    scene.carried(&[SECOND], 10);

    let (failed, records) = scene.finish();
    assert!(failed.is_empty(), "{failed:#?}");
    for record in records {
        assert_eq!(record.text("verdict"), "allowed", "{record}");
    }
}
