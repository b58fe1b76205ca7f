//! Sockets outlive agents: what one agent's programs remembered of a socket holds under the next.

use std::fs;
use std::path::PathBuf;

use egress_lab::{BpfFs, Cgroup};
use egress_user::agent::capture::{Capture, CaptureOptions, Claim, Fallback, Scope};

use crate::client::{Outcome, Script, Step, TCP};
use crate::craft::{Above, Craft, Tap, Way};
use crate::world::{Place, attached, options, record_of};

const DST: &str = "192.0.2.1:443";

/// A cgroup that one agent after the other captures.
struct Succession {
    place: Place,
    cgroup: Cgroup,
    dir: PathBuf,
    // After the pins' users.
    _bpf_fs: BpfFs,
}

impl Succession {
    fn new() -> Succession {
        let bpf_fs = BpfFs::mount().unwrap();
        Succession {
            place: Place::new(),
            cgroup: Cgroup::new().unwrap(),
            dir: bpf_fs.path().join("egress"),
            _bpf_fs: bpf_fs,
        }
    }

    /// Attached, but not in a predecessor's place yet.
    fn attached(&self) -> Capture {
        let options = CaptureOptions {
            pins: Some(self.dir.clone()),
            ..options()
        };
        let mut capture = attached(&self.cgroup, &options);
        let scope = Scope {
            other_ports: Fallback::Refuse,
            ..self.place.scope()
        };
        capture.add_scope(self.place.cookie, &scope).unwrap();
        capture
    }

    fn generation(&self) -> Capture {
        let mut capture = self.attached();
        capture.pin(&self.dir).unwrap();
        capture
    }
}

/// Whether the datagram has gone by on the wire until now.
fn went_out(place: &Place, tap: &Tap) -> bool {
    let ping = Script::new(false, TCP).then(Step::Craft(Craft {
        way: Way::Frame,
        dst: "192.0.2.1:0".parse().unwrap(),
        above: Above::Ping,
        text: "control".to_owned(),
    }));
    assert_eq!(place.start_outside(&ping).outcomes(), [Outcome::Done]);
    !tap.seen(&["datagram"], "control").is_empty()
}

/// Of a socket that nobody remembers, no process is known.
fn is_remembered(capture: &mut Capture) {
    let event = capture.events().unwrap().take().unwrap();
    assert_eq!(event.reason, "drop_raw");
    assert_eq!(event.process.unwrap().comm, "egress-client");
}

/// Sends by a raw socket, and again when told.
fn raw() -> Script {
    let send = || Step::SendTo("192.0.2.1:0".parse().unwrap());
    Script::new(false, TCP)
        .raw()
        .then(send())
        .then(Step::Pause)
        .then(send())
}

#[test]
fn a_raw_socket_stays_mute_under_the_next_agent() {
    let succession = Succession::new();
    let tap = succession.place.origin.tap();
    let predecessor = succession.generation();
    let mut client = succession.place.start(&succession.cgroup, &raw());
    client.paused();
    let mut successor = succession.generation();
    drop(predecessor);
    client.go_on();
    let outcomes = client.outcomes();
    assert!(!went_out(&succession.place, &tap));
    is_remembered(&mut successor);
    assert_eq!(
        outcomes,
        [Outcome::REFUSED, Outcome::Done, Outcome::REFUSED]
    );
    let totals = successor.counters().totals();
    assert!(totals.contains(&("drop_raw", 1)), "{totals:?}");

    let mut free = succession.place.start_outside(&raw());
    free.paused();
    free.go_on();
    assert_eq!(free.outcomes(), [Outcome::Done; 3]);
    assert!(went_out(&succession.place, &tap));
}

#[test]
fn a_connection_names_its_peer_under_the_next_agent() {
    let succession = Succession::new();
    let mut latest = succession.generation();
    for dst in [DST, "[2001:db8::1]:443"] {
        let script = Script::connect(dst).then(Step::Pause).then(Step::PeerName);
        let mut client = succession.place.start(&succession.cgroup, &script);
        client.paused();
        for _ in 0..2 {
            let successor = succession.generation();
            drop(latest);
            latest = successor;
        }
        client.go_on();
        assert_eq!(client.outcomes()[2], Outcome::address(dst));
    }
    succession.place.origin_is_untouched();
}

/// While one takes over from the other the programs of both judge a connect, the successor's after
/// what the predecessor's made of it.
#[test]
fn between_two_agents_a_connection_has_its_record() {
    let succession = Succession::new();
    let place = &succession.place;
    let predecessor = succession.generation();
    let successor = succession.attached();
    for (dst, v6) in [(DST, false), ("[2001:db8::1]:443", true)] {
        let script = Script::connect(dst).then(Step::PeerName);
        let outcomes = place.start(&succession.cgroup, &script).outcomes();
        assert_eq!(outcomes, [Outcome::Done, Outcome::address(dst)]);
        let (stream, client) = place.accept(v6);
        for capture in [&predecessor, &successor] {
            let claim = capture.flows().claim(place.cookie, client, &stream);
            assert_eq!(record_of(claim).unwrap().original_dst.to_string(), dst);
        }
    }
    // Who goes to the listener by itself is told apart all the same.
    let listener = place.agent.v4.local_addr().unwrap();
    let script = Script::connect(DST)
        .then(Step::Disconnect)
        .then(Step::Connect(listener));
    let outcomes = place.start(&succession.cgroup, &script).outcomes();
    assert_eq!(outcomes, [Outcome::Done; 3]);
    let _first = place.accept(false);
    let (stream, client) = place.accept(false);
    for capture in [&predecessor, &successor] {
        let claim = capture.flows().claim(place.cookie, client, &stream);
        assert_eq!(claim, Claim::Unknown);
    }
}

/// As from another version: it starts all the same, and remembers from then on.
#[test]
fn a_memory_of_another_form_is_made_anew() {
    let succession = Succession::new();
    let tap = succession.place.origin.tap();
    let predecessor = succession.generation();
    let (sockets, unjudged) = (
        succession.dir.join("egress_sockets"),
        succession.dir.join("egress_unjudged"),
    );
    fs::rename(&sockets, &unjudged).unwrap();
    let successor = succession.generation();
    drop(predecessor);
    assert!(sockets.exists());
    let mut client = succession.place.start(&succession.cgroup, &raw());
    client.paused();
    let mut latest = succession.generation();
    drop(successor);
    client.go_on();
    assert_eq!(client.outcomes()[2], Outcome::REFUSED);
    assert!(!went_out(&succession.place, &tap));
    is_remembered(&mut latest);
}
