//! A strict scope: sockets that nothing would judge are not made.

use egress_lab::Cgroup;
use egress_user::agent::capture::{CaptureOptions, Fallback, Scope};
use egress_user::netns::Netns;

use crate::client::{Outcome, Script, Step, TCP, UDP};
use crate::craft::{Above, Craft, PACKET_QDISC_BYPASS, Way};
use crate::world::{Place, World, attached, options};

const INET: i32 = libc::AF_INET;
const INET6: i32 = libc::AF_INET6;

/// Family, type and protocol.
const REFUSED: [(i32, i32, i32); 6] = [
    (INET, libc::SOCK_RAW, libc::IPPROTO_TCP),
    (INET, libc::SOCK_RAW, libc::IPPROTO_RAW),
    (INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
    (INET6, libc::SOCK_RAW, libc::IPPROTO_TCP),
    (INET6, libc::SOCK_RAW, libc::IPPROTO_RAW),
    (INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6),
];

const MADE: [(i32, i32, i32); 8] = [
    (INET, libc::SOCK_STREAM, 0),
    (INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP),
    (INET, libc::SOCK_DGRAM, 0),
    (INET, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE),
    (INET6, libc::SOCK_STREAM, libc::IPPROTO_TCP),
    (INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDP),
    (libc::AF_UNIX, libc::SOCK_STREAM, 0),
    // The kernel asks no program of a cgroup about these.
    (libc::AF_PACKET, libc::SOCK_RAW, 0),
];

fn make((family, kind, protocol): (i32, i32, i32)) -> Script {
    Script::new(false, TCP).then(Step::Make(family, kind, protocol))
}

fn strict() -> World {
    World::with(&options(), |scope| scope.strict = true)
}

#[test]
fn only_what_is_judged_is_made() {
    let mut world = strict();
    let mut events = world.capture.events().unwrap();
    for socket in REFUSED {
        assert_eq!(world.run(&make(socket)), [Outcome::REFUSED], "{socket:?}");
        let event = events.take().unwrap();
        assert_eq!(event.reason, "refuse_socket");
        assert_eq!(i32::from(event.protocol), socket.2);
        assert_eq!(event.original_dst, None);
        assert_eq!(event.process.unwrap().comm, "egress-client");
    }
    assert_eq!(world.counter("refuse_socket"), 6);
    for socket in MADE {
        assert_eq!(world.run(&make(socket)), [Outcome::Done], "{socket:?}");
    }
    assert_eq!(events.take(), None);
}

#[test]
fn elsewhere_all_are_made() {
    let world = World::new();
    for socket in REFUSED.into_iter().chain(MADE) {
        assert_eq!(world.run(&make(socket)), [Outcome::Done], "{socket:?}");
    }
    let strict = strict();
    for socket in REFUSED {
        let outside = strict.place.start_outside(&make(socket)).outcomes();
        assert_eq!(outside, [Outcome::Done], "{socket:?}");
    }
}

/// What a raw socket that was made before sends is dropped, whatever it is.
#[test]
fn raw_sockets_that_are_there_already_are_mute() {
    let world = World::new();
    let tap = world.place.origin.tap();
    let ping = |text: &str| {
        Step::Craft(Craft {
            way: Way::Raw,
            dst: "192.0.2.1:0".parse().unwrap(),
            above: Above::Ping,
            text: text.to_owned(),
        })
    };
    let script = Script::new(false, libc::IPPROTO_ICMP)
        .raw()
        .then(Step::Pause)
        .then(Step::SendTo("192.0.2.1:0".parse().unwrap()));
    let mut client = world.start(&script);
    client.paused();
    let mut world = world;
    let scope = Scope {
        strict: true,
        ..world.place.scope()
    };
    world.capture.add_scope(world.place.cookie, &scope).unwrap();
    client.go_on();
    assert_eq!(client.outcomes()[1], Outcome::REFUSED);
    let control = Script::new(false, TCP).then(ping("control"));
    world.place.start_outside(&control).outcomes();
    assert!(tap.seen(&["datagram"], "control").is_empty());
    assert_eq!(world.counter("drop_raw"), 1);
}

/// They can be made, but nothing of what they send leaves.
#[test]
fn packet_sockets_are_mute() {
    let mut world = strict();
    let netns = Netns::at(world.place.workload.path()).unwrap();
    world.capture.guard_interfaces(&netns).unwrap();
    let tap = world.place.origin.tap();
    let ping = |way, text: &str| {
        Script::new(false, TCP).then(Step::Craft(Craft {
            way,
            dst: "192.0.2.1:0".parse().unwrap(),
            above: Above::Ping,
            text: text.to_owned(),
        }))
    };
    for way in [Way::Frame, Way::TaggedFrame] {
        world.run(&ping(way, "mute"));
    }
    // Nor do raw sockets of other cgroups.
    let outside = world.place.start_outside(&ping(Way::Raw, "mute"));
    assert_eq!(outside.outcomes(), [Outcome::Done]);
    let control = Script::new(false, UDP).then(Step::SendTo("192.0.2.1:8080".parse().unwrap()));
    let control = world.place.start_outside(&control);
    assert_eq!(control.outcomes(), [Outcome::Done]);
    assert!(tap.seen(&["mute"], "datagram").is_empty());
    assert_eq!(world.counter("drop_frame"), 2);
    assert_eq!(world.counter("drop_raw"), 1);
}

/// In every captured namespace, strict or not: with it, frames would pass the device's guard.
#[test]
fn the_option_that_passes_the_guard_is_refused() {
    const PACKET_TX_RING: i32 = 13;
    const PACKET_LOSS: i32 = 14;

    let mut world = World::new();
    let mut events = world.capture.events().unwrap();
    let script = |option| Script::new(false, TCP).then(Step::PacketOption(option));
    let bypass = script(PACKET_QDISC_BYPASS);
    assert_eq!(world.run(&bypass), [Outcome::REFUSED]);
    assert_eq!(events.take().unwrap().reason, "refuse_option");
    assert_eq!(world.run(&script(PACKET_TX_RING)), [Outcome::REFUSED]);
    assert_eq!(world.counter("refuse_option"), 2);
    assert_eq!(world.run(&script(PACKET_LOSS)), [Outcome::Done]);
    let outside = world.place.start_outside(&bypass).outcomes();
    assert_eq!(outside, [Outcome::Done]);
}

/// A socket that has it from before the capture would keep it.
#[test]
fn nor_may_it_be_set_before_the_capture_where_that_is_refused() {
    let bypass = Script::new(false, TCP).then(Step::PacketOption(PACKET_QDISC_BYPASS));
    for (unregistered, expected) in [
        (Fallback::Refuse, Outcome::REFUSED),
        (Fallback::Pass, Outcome::Done),
    ] {
        let options = CaptureOptions {
            unregistered,
            ..options()
        };
        let place = Place::new();
        let cgroup = Cgroup::new().unwrap();
        let _capture = attached(&cgroup, &options);
        assert_eq!(place.start(&cgroup, &bypass).outcomes(), [expected]);
    }
}
