//! Much at once: many bytes, many connections.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::process::Stdio;

use egress_lab::deployment::{Hop, Record};
use egress_lab::{tools, wait};

use crate::clients::{curl_command, python_script, run};
use crate::world::{EN, World};

const GIBIBYTE: u64 = 1 << 30;

#[test]
fn a_gibibyte_each_way_at_once() {
    let world = World::new();
    let file = world.origins.files().join("big");
    fill(&file, GIBIBYTE);
    let expected = sha256_of_file(&file);

    let url = format!("https://{}", EN.name);
    let mut up = curl_command(&world, EN.name, EN.v4.into());
    up.arg("--upload-file")
        .arg(&file)
        .arg(format!("{url}/upload/big"));
    let mut down = curl_command(&world, EN.name, EN.v4.into());
    down.arg(format!("{url}/files/big")).stdout(Stdio::piped());

    let mut up = up.spawn().unwrap();
    let mut down = down.spawn().unwrap();
    let received = sha256(down.stdout.take().unwrap());
    assert!(down.wait().unwrap().success());
    assert!(up.wait().unwrap().success());
    assert_eq!(received, expected);
    assert_eq!(
        sha256_of_file(&world.origins.uploads().join("big")),
        expected
    );

    let records = world.finish();
    assert_eq!(connections(&records.agent).len(), 2);
    assert_eq!(connections(&records.agent), connections(&records.gateway));
    for field in ["bytes_to_origin", "bytes_to_client"] {
        let most = |records: &[Record]| records.iter().filter_map(|r| r.number(field)).max();
        assert!(most(&records.agent).unwrap() > GIBIBYTE);
        assert_eq!(most(&records.agent), most(&records.gateway));
    }
}

#[test]
fn five_hundred_connections_at_once() {
    // All sessions are up before the first of them asks for anything.
    const SCRIPT: &str = r#"
const tls = require("tls"), fs = require("fs");
const [name, address, authority] = process.argv.slice(1);
const options = { host: address, port: 443, servername: name, ca: fs.readFileSync(authority) };
const count = 500, sockets = [];
let open = 0, closed = 0, pages = 0;
for (let i = 0; i < count; i++) {
    const socket = tls.connect(options, () => {
        if (++open < count) return;
        sockets.forEach((each) => each.write(`GET / HTTP/1.0\r\nHost: ${name}\r\n\r\n`));
    });
    let text = "";
    socket.on("data", (part) => { text += part; });
    socket.on("error", (error) => { console.error(error.message); process.exit(1); });
    socket.on("close", () => {
        if (text.includes(`<title>${name}</title>`)) pages++;
        if (++closed === count) console.log(open, pages);
    });
    sockets.push(socket);
}
"#;
    let world = World::new();
    let mut node = world.captured("node");
    node.args(["-e", SCRIPT, EN.name, &EN.v4.to_string()])
        .arg(world.authority.certificate());
    let answer = run(&mut node);
    assert_eq!(answer.stdout, "500 500\n", "{answer:#?}");
    assert_eq!(
        world.origins.arrived(&world.lab, EN.name).unwrap().len(),
        500
    );

    let records = world.finish();
    assert_eq!((records.agent.len(), records.gateway.len()), (500, 500));
    assert_eq!(connections(&records.agent).len(), 500);
    assert_eq!(connections(&records.agent), connections(&records.gateway));
    let all = records.agent.iter().chain(&records.gateway);
    let verdicts: BTreeSet<&str> = all.map(|record| record.text("verdict")).collect();
    assert_eq!(verdicts, BTreeSet::from(["allowed"]));
}

#[test]
fn a_client_that_goes_without_a_word_is_no_refusal() {
    const SCRIPT: &str = "
import socket, sys
for _ in range(20):
    socket.create_connection((sys.argv[1], 443)).close()
";
    let world = World::new();
    assert!(python_script(&world, SCRIPT, &[&EN.v4.to_string()]).success);
    world.assert_nothing_arrived(EN);
    // What an agent that is told to end has not accepted yet leaves no record.
    wait::until("every connection is on record", || {
        let records = world.deployment.records(Hop::Agent).ok()?;
        (records.len() >= 20).then_some(())
    })
    .unwrap();

    let records = world.finish();
    assert_eq!((records.agent.len(), records.gateway.len()), (20, 0));
    for record in &records.agent {
        assert_eq!(record.text("verdict"), "closed");
        assert_eq!(record.text("reason"), "closed_before_hello");
    }
}

fn connections(records: &[Record]) -> BTreeSet<&str> {
    records
        .iter()
        .map(|record| record.text("connection"))
        .collect()
}

fn fill(path: &Path, length: u64) {
    let mut noise = File::open("/dev/urandom").unwrap().take(length);
    let mut file = File::create(path).unwrap();
    assert_eq!(io::copy(&mut noise, &mut file).unwrap(), length);
}

fn sha256_of_file(path: &Path) -> String {
    sha256(File::open(path).unwrap())
}

fn sha256(input: impl Into<Stdio>) -> String {
    let mut command = tools::locate("sha256sum").unwrap().command();
    let output = command.stdin(input).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}
