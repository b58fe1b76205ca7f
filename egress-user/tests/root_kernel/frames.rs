//! Frames that have no IP packet in them, or hide it. A tap on the wire to the origin shows what goes
//! there.

use egress_user::agent::capture::{Fallback, Scope};
use egress_user::netns::Netns;

use crate::client::{Outcome, Script, Step, TCP};
use crate::craft::Tap;
use crate::world::{World, options};

/// What comes before an IPv4 packet, so that nobody finds it who does not know how.
const COVERS: [&[u8]; 8] = [
    // MPLS, PPPoE, three VLAN tags, another tag, an LLC header.
    &[0x88, 0x47, 0, 0, 0x11, 0x40],
    &[0x88, 0x64, 0x11, 0, 0, 1, 0, 62, 0, 0x21],
    &[0x81, 0, 0, 1, 0x81, 0, 0, 1, 0x81, 0, 0, 1, 8, 0],
    &[0x91, 0, 0, 1, 8, 0],
    &[0, 68, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0],
    // A type for experiments, something that is no ARP, an IP packet of no version.
    &[0x88, 0xb5],
    &[8, 6],
    &[8, 0, 0],
];

/// A question about an IPv4 address, with room for a text.
const ARP: [u8; 10] = [8, 6, 0, 1, 8, 0, 6, 4, 0, 1];

fn frame(cover: &[u8]) -> Step {
    // A datagram to a captured port.
    let packet = [
        &[
            0x45, 0, 0, 40, 0, 7, 0, 0, 64, 17, 0, 0, 192, 0, 2, 2, 192, 0, 2, 1,
        ],
        [0xc0, 1, 1, 0xbb, 0, 20, 0, 0].as_slice(),
        b"covered",
    ];
    Step::Frame([cover, &packet.concat()].concat())
}

fn arp(text: &str) -> Step {
    let mut bytes = [ARP.as_slice(), text.as_bytes()].concat();
    bytes.resize(30, 0);
    Step::Frame(bytes)
}

fn every_cover() -> Script {
    let script = Script::new(false, TCP);
    COVERS
        .into_iter()
        .fold(script, |script, cover| script.then(frame(cover)))
}

fn guarded(change: impl FnOnce(&mut Scope)) -> World {
    let mut world = World::with(&options(), change);
    let netns = Netns::at(world.place.workload.path()).unwrap();
    world.capture.guard_interfaces(&netns).unwrap();
    world
}

/// How many frames with a cover came along before the ARP that shows that nothing is under way.
fn arrived(tap: &Tap) -> usize {
    tap.count("covered", "control")
}

#[test]
fn nothing_unreadable_leaves_a_closed_or_strict_scope() {
    for strict in [false, true] {
        let mut world = guarded(|scope| {
            scope.strict = strict;
            scope.other_ports = if strict {
                Fallback::Pass
            } else {
                Fallback::Refuse
            };
        });
        let mut events = world.capture.events().unwrap();
        let tap = world.place.origin.tap();
        let mut outcomes = world.run(&every_cover().then(arp("control")));
        assert_eq!(arrived(&tap), 0);
        assert_eq!(
            outcomes.pop(),
            Some(Outcome::Done),
            "a packet socket may ask for addresses"
        );
        assert_eq!(outcomes, [Outcome::Failed(libc::ENOBUFS); COVERS.len()]);
        assert_eq!(world.counter("drop_frame"), 8);
        let event = events.take().unwrap();
        assert_eq!(event.reason, "drop_frame");
        assert_eq!((event.protocol, event.original_dst), (0, None));
        assert_eq!(event.cgroup, world.cgroup.id().unwrap());
        assert_eq!(event.netns, world.place.cookie.get());
    }
}

/// They are other protocols.
#[test]
fn elsewhere_they_leave() {
    let world = guarded(|_| {});
    let tap = world.place.origin.tap();
    world.run(&every_cover().then(arp("control")));
    assert_eq!(arrived(&tap), COVERS.len());
    assert_eq!(world.counter("drop_frame"), 0);
}

/// Frames that a bridge carries have no socket; the link's own are let by.
#[test]
fn nor_through_a_bridge() {
    for other_ports in [Fallback::Refuse, Fallback::Pass] {
        let mut world = World::with(&options(), |scope| scope.other_ports = other_ports);
        let behind = world.place.bridged();
        let netns = Netns::at(world.place.workload.path()).unwrap();
        world.capture.guard_interfaces(&netns).unwrap();
        let tap = world.place.origin.tap();
        let script = every_cover().then(arp("control"));
        script
            .start(|command| behind.enter(command).unwrap())
            .outcomes();
        let passes = other_ports == Fallback::Pass;
        // Bridges carry most of them.
        assert_eq!(arrived(&tap) > 0, passes);
        assert_eq!(world.counter("drop_frame") == 0, passes);
    }
}
