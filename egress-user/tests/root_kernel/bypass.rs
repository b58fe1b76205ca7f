//! Ways round `connect` and `sendmsg`. A tap on the wire to the origin shows what arrives there:
//! nothing that the capture owes to stop, and, from a process outside of the cgroup, the very
//! same packet.

use std::net::SocketAddr;

use egress_user::agent::capture::Fallback;
use egress_user::netns::Netns;

use crate::client::{DCCP, ICMP, ICMPV6, Outcome, SCTP, Script, Step, TCP, UDP};
use crate::craft::{ACK, Above, Craft, RST, SYN, Tap, Way};
use crate::world::{World, attached, options, read_all};

const EVERY_DST: [&str; 2] = ["192.0.2.1:443", "[2001:db8::1]:443"];

fn craft(way: Way, dst: &str, above: Above, text: &str) -> Craft {
    Craft {
        way,
        dst: dst.parse().unwrap(),
        above,
        text: text.to_owned(),
    }
}

fn script_of(craft: &Craft) -> Script {
    Script::new(false, TCP).then(Step::Craft(craft.clone()))
}

/// Sends the packet from inside and from outside of the cgroup; says what came of the first, and
/// whether it arrived. The second must.
fn try_it(world: &World, tap: &Tap, craft: &Craft) -> (Outcome, bool) {
    let outcomes = world.run(&script_of(craft));
    let mut control = craft.clone();
    control.text = "control".to_owned();
    let outside = world.place.start_outside(&script_of(&control)).outcomes();
    assert_eq!(outside, [Outcome::Done], "{craft:?}");
    let arrived = !tap.seen(&[&craft.text], "control").is_empty();
    (outcomes[0], arrived)
}

#[test]
fn raw_sockets_do_not_reach_captured_ports() {
    let mut world = World::new();
    let mut events = world.capture.events().unwrap();
    let tap = world.place.origin.tap();
    let mut tries = 0;
    for dst in EVERY_DST {
        for way in [Way::Raw, Way::RawHeader] {
            for above in [
                Above::Tcp(SYN),
                Above::Tcp(ACK),
                Above::Tcp(RST),
                Above::Tcp(SYN | ACK),
                Above::Udp,
            ] {
                let craft = craft(way, dst, above, "bypass");
                let (outcome, arrived) = try_it(&world, &tap, &craft);
                assert!(!arrived, "{craft:?}");
                assert_eq!(outcome, Outcome::REFUSED, "{craft:?}");
                tries += 1;
                if let Some(event) = events.take() {
                    assert_eq!(event.reason, "drop_raw");
                    assert_eq!(event.original_dst.unwrap().to_string(), dst);
                    assert_eq!(event.process.unwrap().comm, "egress-client");
                    assert_eq!(event.cgroup, world.cgroup.id().unwrap());
                    assert_eq!(event.netns, world.place.cookie.get());
                }
            }
        }
    }
    assert_eq!(world.counter("drop_raw"), tries);
    assert!(world.counter("event_withheld") < tries);
}

#[test]
fn raw_packets_that_hide_their_ports_do_not_leave() {
    let world = World::new();
    let tap = world.place.origin.tap();
    for craft in [
        craft(
            Way::RawHeader,
            "192.0.2.1:8080",
            Above::LaterFragment,
            "later4",
        ),
        craft(
            Way::RawHeader,
            "[2001:db8::1]:8080",
            Above::LaterFragment,
            "later6",
        ),
        craft(
            Way::RawHeader,
            "[2001:db8::1]:443",
            Above::BehindExtensions,
            "behind",
        ),
    ] {
        let (outcome, arrived) = try_it(&world, &tap, &craft);
        assert!(!arrived, "{craft:?}");
        assert_eq!(outcome, Outcome::REFUSED, "{craft:?}");
    }
    assert_eq!(world.counter("drop_raw"), 3);
}

#[test]
fn raw_sockets_may_do_the_rest() {
    let world = World::new();
    let tap = world.place.origin.tap();
    for craft in [
        craft(Way::Raw, "192.0.2.1:0", Above::Ping, "ping4"),
        craft(Way::Raw, "[2001:db8::1]:0", Above::Ping, "ping6"),
        craft(Way::Raw, "192.0.2.1:8080", Above::Tcp(SYN), "other"),
        craft(Way::RawHeader, "192.0.2.1:8080", Above::Udp, "datagram"),
    ] {
        let (outcome, arrived) = try_it(&world, &tap, &craft);
        assert!(arrived, "{craft:?}");
        assert_eq!(outcome, Outcome::Done, "{craft:?}");
    }
    assert_eq!(world.counter("drop_raw"), 0);
}

#[test]
fn raw_sockets_do_not_reach_other_ports_where_those_are_refused() {
    let world = World::with(&options(), |scope| {
        scope.other_ports = Fallback::Refuse;
    });
    let tap = world.place.origin.tap();
    for dst in ["192.0.2.1:8080", "[2001:db8::1]:53"] {
        for above in [Above::Tcp(SYN), Above::Udp] {
            let craft = craft(Way::Raw, dst, above, "bypass");
            let (outcome, arrived) = try_it(&world, &tap, &craft);
            assert!(!arrived, "{craft:?}");
            assert_eq!(outcome, Outcome::REFUSED);
        }
    }
}

/// There is no guard here: the programs of the cgroup see what the socket itself wrote.
#[test]
fn raw_packets_of_no_version_of_ip_go_with_other_ports() {
    for fallback in [Fallback::Pass, Fallback::Refuse] {
        let world = World::with(&options(), |scope| scope.other_ports = fallback);
        let tap = world.place.origin.tap();
        for dst in ["192.0.2.1:8080", "[2001:db8::1]:8080"] {
            let craft = craft(Way::RawUnversioned, dst, Above::Udp, "bypass");
            let (outcome, arrived) = try_it(&world, &tap, &craft);
            match fallback {
                Fallback::Pass => assert_eq!((outcome, arrived), (Outcome::Done, true)),
                Fallback::Refuse => assert_eq!((outcome, arrived), (Outcome::REFUSED, false)),
            }
        }
        let drops = u64::from(fallback == Fallback::Refuse) * 2;
        assert_eq!(world.counter("drop_frame"), drops);
    }
}

const PINGS: [(&str, i32); 2] = [("192.0.2.1:0", ICMP), ("[2001:db8::1]:0", ICMPV6)];

/// A client that pings, by a socket that may do nothing else.
fn ping(world: &World, dst: &str, protocol: i32, text: &str) -> Script {
    let range = "0 2147483647";
    let ordinary = &world.place.workload;
    ordinary.sysctl("ipv4/ping_group_range", range).unwrap();
    let dst: SocketAddr = dst.parse().unwrap();
    Script::new(dst.is_ipv6(), protocol).then(Step::Ping(dst, text.to_owned()))
}

#[test]
fn ping_sockets_go_with_other_ports() {
    for fallback in [Fallback::Pass, Fallback::Refuse] {
        let mut world = World::with(&options(), |scope| scope.other_ports = fallback);
        let mut events = world.capture.events().unwrap();
        let tap = world.place.origin.tap();
        for (dst, protocol) in PINGS {
            let outcomes = world.run(&ping(&world, dst, protocol, "bypass"));
            let control = ping(&world, dst, protocol, "control");
            let control = world.place.start_outside(&control).outcomes();
            assert_eq!(control, [Outcome::Done], "{dst}");
            let arrived = !tap.seen(&["bypass"], "control").is_empty();
            if fallback == Fallback::Pass {
                assert_eq!(outcomes, [Outcome::Done]);
                assert!(arrived, "{dst}");
                continue;
            }
            assert!(!arrived, "{dst}");
            // The kernel does not tell an IPv6 one.
            if protocol == ICMP {
                assert_eq!(outcomes, [Outcome::REFUSED]);
            }
            let event = events.take().unwrap();
            assert_eq!(event.reason, "drop_protocol");
            assert_eq!(i32::from(event.protocol), protocol);
            let asked: SocketAddr = dst.parse().unwrap();
            assert_eq!(event.original_dst.unwrap().ip(), asked.ip());
            assert_eq!(event.process.unwrap().comm, "egress-client");
        }
        let drops = u64::from(fallback == Fallback::Refuse) * 2;
        assert_eq!(world.counter("drop_protocol"), drops);
        assert_eq!(events.take(), None);
    }
}

/// Kernels without the protocol make no such socket. The guests of `cargo xtask kernel-test` have
/// them, and say so: there each must have been made, and dropped.
#[test]
fn sctp_and_dccp_do_not_reach_captured_ports() {
    for protocol in [SCTP, DCCP] {
        let world = World::new();
        let tap = world.place.origin.tap();
        let script = Script::new(false, protocol)
            .then(Step::NonBlocking)
            .then(Step::Connect("192.0.2.1:443".parse().unwrap()));
        let outcome = world.run(&script).pop().unwrap();
        let none = [libc::EPROTONOSUPPORT, libc::ESOCKTNOSUPPORT].map(Outcome::Failed);
        let made = !none.contains(&outcome);
        let must_be = std::env::var_os("EGRESS_TEST_EVERY_PROTOCOL").is_some();
        assert!(made || !must_be, "{outcome:?}");
        assert_ne!(outcome, Outcome::Done);
        assert_eq!(world.counter("drop_protocol") > 0, made, "{outcome:?}");
        let control = craft(Way::Frame, "192.0.2.1:0", Above::Ping, "control");
        world.place.start_outside(&script_of(&control)).outcomes();
        let protocols = tap.protocols("control");
        let protocol = u8::try_from(protocol).unwrap();
        assert!(!protocols.contains(&protocol), "{protocols:?}");
    }
}

/// Its `connect` was never judged, but each of its datagrams is: by the programs of the cgroup
/// where the kernel tells them the namespace, by the guard everywhere.
#[test]
fn a_datagram_socket_that_was_connected_before_capture() {
    let World {
        place,
        capture,
        cgroup,
        ..
    } = World::new();
    drop(capture);
    let dst: SocketAddr = "192.0.2.1:443".parse().unwrap();
    let script = Script::new(false, UDP)
        .then(Step::Connect(dst))
        .then(Step::Send)
        .then(Step::Pause)
        .then(Step::Send);
    let mut client = place.start(&cgroup, &script);
    client.paused();
    place.origin.received("192.0.2.1:443");
    let tap = place.origin.tap();
    let mut capture = attached(&cgroup, &options());
    capture.add_scope(place.cookie, &place.scope()).unwrap();
    let netns = Netns::at(place.workload.path()).unwrap();
    capture.guard_interfaces(&netns).unwrap();
    client.go_on();
    let _refused_or_dropped = client.outcomes();
    let ping = craft(Way::Frame, "192.0.2.1:0", Above::Ping, "control");
    let control = place.start_outside(&script_of(&ping)).outcomes();
    assert_eq!(control, [Outcome::Done]);
    assert!(tap.seen(&["data"], "control").is_empty());
    let totals = capture.counters().totals();
    assert!(totals.contains(&("drop_socket", 1)), "{totals:?}");
}

/// What stood before is left alone.
#[test]
fn a_connection_that_stood_before_capture_goes_on() {
    let World {
        place,
        capture,
        cgroup,
        ..
    } = World::new();
    drop(capture);
    let script = Script::connect("192.0.2.1:443")
        .then(Step::Pause)
        .then(Step::Send);
    let mut client = place.start(&cgroup, &script);
    client.paused();
    let stream = place.origin.stream("192.0.2.1:443");
    let mut capture = attached(&cgroup, &options());
    capture.add_scope(place.cookie, &place.scope()).unwrap();
    client.go_on();
    assert_eq!(client.outcomes()[2], Outcome::Done);
    assert_eq!(read_all(stream), b"data");
}
