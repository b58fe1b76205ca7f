//! How often agent and gateway wait for each other before an origin is dialled.

use std::process::{Command, Stdio};

use egress_lab::{tools, wait};

use crate::clients::{Answer, curl_command};
use crate::world::{EN, World};

/// Keeps every segment that carries data from leaving the port of the tunnels. Acknowledgements
/// pass: the kernel sends them by itself, and they carry nothing. The last segment of a write has
/// PSH, and none that has not is as short as the longest acknowledgement.
const MUTE: &str = "
table inet mute {
    chain output {
        type filter hook output priority 0;
        tcp sport 8443 tcp flags & psh == psh counter drop
        tcp sport 8443 meta length > 88 counter drop
    }
}
";

/// On a warm tunnel the gateway dials the origin upon what the agent says of itself: OPEN and the
/// hello need no answer in between.
#[test]
fn a_warm_tunnel_adds_no_round_trip() {
    let world = World::new();
    // The agent is ready, so it has a tunnel on which READY has come.
    nft(&world, MUTE);
    let address = EN.v4.into();
    let mut curl = curl_command(&world, EN.name, address);
    curl.arg(format!("https://{}/", EN.name));
    let curl = curl.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut curl = curl.unwrap();
    world.gateway_dials(address);

    // What the gateway had to say since then is all of the origin's, and has not come through.
    wait::until("the origin's answer is kept back", || {
        let mut list = in_gateway(&world);
        let listed = list.args(["list", "table", "inet", "mute"]).output().ok()?;
        let listed = String::from_utf8(listed.stdout).ok()?;
        listed
            .split("counter packets ")
            .skip(1)
            .any(|counter| !counter.starts_with("0 "))
            .then_some(())
    })
    .unwrap();
    assert_eq!(curl.try_wait().unwrap(), None);
    nft(&world, "delete table inet mute");
    Answer::from(curl.wait_with_output().unwrap()).assert_page_of(EN.name);
    world.finish().one_each();
}

fn nft(world: &World, rules: &str) {
    let file = world.lab.directory().join("mute.nft");
    std::fs::write(&file, rules).unwrap();
    let mut nft = in_gateway(world);
    let output = nft.arg("--file").arg(file).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn in_gateway(world: &World) -> Command {
    let mut command = tools::locate("nft").unwrap().command();
    world.lab.gateway.namespace.enter(&mut command).unwrap();
    command
}
