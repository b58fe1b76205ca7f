//! A gateway with room for little, and strangers who take what they can of it.

use egress_lab::Process;
use egress_lab::deployment::{ADMIN, TUNNEL_PORT};
use egress_lab::http;

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
    let metrics = http::get(&world.lab.gateway.namespace, ADMIN, "/metrics").unwrap();
    let crowded = metrics.body.lines().find_map(|line| {
        let count = line.strip_prefix("egress_tunnels_total{event=\"crowded\"} ")?;
        count.parse::<u32>().ok()
    });
    assert!(crowded.is_some_and(|count| count > 300), "{}", metrics.body);
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
