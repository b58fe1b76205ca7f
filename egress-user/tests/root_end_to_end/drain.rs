//! SIGTERM: what is under way is finished, nothing new begins.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use egress_lab::deployment::{ADMIN, Hop};
use egress_lab::{Process, http, wait};
use rustix::process::Signal;

use crate::clients::curl;
use crate::half_close::{HELLO, accept, listen};
use crate::world::{EN, RAW, Wish, World};

const HALF: usize = 1 << 20;

#[test]
fn the_agent_finishes_a_transfer_under_way() {
    finishes_a_transfer_under_way(Hop::Agent);
}

#[test]
fn the_gateway_finishes_a_transfer_under_way() {
    finishes_a_transfer_under_way(Hop::Gateway);
}

fn finishes_a_transfer_under_way(hop: Hop) {
    let mut world = World::new();
    let (origin, proceed) = origin_in_two_halves(&world);
    let mut client = client_in_two_halves(&world);
    client.says("half").unwrap();

    process(&mut world, hop).signal(Signal::TERM).unwrap();
    no_longer_ready(&world, hop);
    assert_eq!(
        process(&mut world, hop).status().unwrap(),
        None,
        "it still carries"
    );
    let late = curl(&world, EN.name, EN.v4.into());
    assert!(!late.success, "{late:#?}");
    world.assert_nothing_arrived(EN);

    proceed.send(()).unwrap();
    assert!(client.ended().unwrap().success(), "{}", client.output());
    assert!(
        client.output().contains(&format!("all {}", 2 * HALF)),
        "{}",
        client.output()
    );
    origin.join().unwrap();
    assert!(process(&mut world, hop).ended().unwrap().success());

    let records = world.finish();
    let of_client = |record: &&egress_lab::deployment::Record| record.text("sni") == RAW.name;
    for records in [&records.agent, &records.gateway] {
        let record = records.iter().find(of_client).unwrap();
        assert_eq!(record.text("verdict"), "allowed", "{record}");
    }
}

#[test]
fn what_does_not_finish_in_time_is_cut_and_says_so() {
    let mut world = World::with(&Wish {
        drain: "1s",
        ..Wish::default()
    });
    let (origin, proceed) = origin_in_two_halves(&world);
    let mut client = client_in_two_halves(&world);
    client.says("half").unwrap();

    world.deployment.agent.signal(Signal::TERM).unwrap();
    world.deployment.agent.ended().unwrap();
    assert!(!client.ended().unwrap().success(), "a cut is no clean end");
    // The origin is gone or told to go.
    let _ = proceed.send(());
    origin.join().unwrap();

    let records = world.deployment.records(Hop::Agent).unwrap();
    let [record] = &records[..] else {
        panic!("one record, not {records:?}");
    };
    assert_eq!(record.text("verdict"), "failed");
    assert_eq!(record.text("reason"), "drained");
    assert_eq!(world.application_sent(), []);
}

/// Sends one half, waits for the word, and sends the other.
pub(crate) fn origin_in_two_halves(world: &World) -> (JoinHandle<()>, Sender<()>) {
    let listener = listen(world);
    let (proceed, wait) = channel();
    let origin = thread::spawn(move || {
        let mut stream = accept(&listener);
        stream.read_exact(&mut [0]).unwrap();
        stream.write_all(&vec![b'1'; HALF]).unwrap();
        // No word comes when the test has failed.
        let _ = wait.recv();
        // Nobody may be there any more, which the client's side of the test judges.
        let _ = stream.write_all(&vec![b'2'; HALF]);
        let _ = stream.shutdown(Shutdown::Write);
        // What is left unread would turn the close into a reset.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    (origin, proceed)
}

pub(crate) fn client_in_two_halves(world: &World) -> Process {
    let script = format!(
        "{HELLO}
half = 0
while half < {HALF}:
    half += len(s.recv({HALF} - half))
print('half', flush=True)
print('all', half + read_all())
"
    );
    let mut python = world.captured("python3");
    python.args(["-c", &script, RAW.name, &RAW.v4.to_string()]);
    Process::start(python, "client", world.lab.directory()).unwrap()
}

pub(crate) fn process(world: &mut World, hop: Hop) -> &mut Process {
    match hop {
        Hop::Agent => &mut world.deployment.agent,
        Hop::Gateway => &mut world.deployment.gateway,
    }
}

fn no_longer_ready(world: &World, hop: Hop) {
    let namespace = &hop.host(&world.lab).namespace;
    wait::until("it is no longer ready", || {
        let answer = http::get(namespace, ADMIN, "/readyz");
        answer
            .map_or(true, |answer| answer.status != 200)
            .then_some(())
    })
    .unwrap();
}
