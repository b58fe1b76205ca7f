//! Packets whose header has them go by way of other addresses: sockets can ask for that, by IPv6
//! those of any user, and the hooks are told of loopback alone. A tap on the wire to the origin
//! shows what goes there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use egress_lab::Cgroup;
use egress_user::agent::capture::{CaptureOptions, Fallback};

use crate::client::{Outcome, Script, Step, TCP, UDP};
use crate::craft::{Above, Craft, Tap, Way};
use crate::world::{ORIGIN_V4, ORIGIN_V6, Place, World, attached, options};

const NOBODY: u32 = 65534;

/// Has the packets of a socket go to the origin first.
fn by_way_of_the_origin(v6: bool) -> Step {
    const IP_OPTIONS: i32 = 4;
    const IPV6_RTHDR: i32 = 57;

    if v6 {
        // RFC 8754: two segments, the second of them first; the kernel writes the other.
        let origin: Ipv6Addr = ORIGIN_V6.parse().unwrap();
        let mut header = vec![0, 4, 4, 1, 1, 0, 0, 0];
        header.extend(Ipv6Addr::LOCALHOST.octets());
        header.extend(origin.octets());
        Step::OptionBytes(libc::IPPROTO_IPV6, IPV6_RTHDR, header)
    } else {
        // RFC 791: loose source and record route, and the end.
        let origin: Ipv4Addr = ORIGIN_V4.parse().unwrap();
        let mut route = vec![131, 7, 4];
        route.extend(origin.octets());
        route.push(0);
        Step::OptionBytes(libc::IPPROTO_IP, IP_OPTIONS, route)
    }
}

fn loopback(v6: bool, port: u16) -> SocketAddr {
    let ip: IpAddr = if v6 {
        Ipv6Addr::LOCALHOST.into()
    } else {
        Ipv4Addr::LOCALHOST.into()
    };
    SocketAddr::new(ip, port)
}

fn datagram(v6: bool) -> Script {
    let script = Script::new(v6, UDP);
    // Source routes are for those with CAP_NET_RAW, routing headers for everybody.
    let script = if v6 { script.user(NOBODY) } else { script };
    script
        .then(by_way_of_the_origin(v6))
        .then(Step::SendTo(loopback(v6, 443)))
}

/// Whether `text` has gone by on the wire until now.
fn went_out(place: &Place, tap: &Tap, text: &str) -> bool {
    let ping = Script::new(false, TCP).then(Step::Craft(Craft {
        way: Way::Frame,
        dst: "192.0.2.1:0".parse().unwrap(),
        above: Above::Ping,
        text: "control".to_owned(),
    }));
    assert_eq!(place.start_outside(&ping).outcomes(), [Outcome::Done]);
    !tap.seen(&[text], "control").is_empty()
}

#[test]
fn datagrams_do_not_leave_by_way_of_loopback() {
    let mut world = World::new();
    let mut events = world.capture.events().unwrap();
    let tap = world.place.origin.tap();
    for v6 in [true, false] {
        let script = datagram(v6);
        let free = world.place.start_outside(&script).outcomes();
        assert_eq!(free, [Outcome::Done; 2], "{v6}");
        assert!(went_out(&world.place, &tap, "datagram"), "{v6}");

        let outcomes = world.run(&script);
        assert!(!went_out(&world.place, &tap, "datagram"), "{v6}");
        assert_eq!(outcomes, [Outcome::Done, Outcome::REFUSED], "{v6}");
        let event = events.take().unwrap();
        assert_eq!(event.reason, "drop_route");
        let origin = if v6 { ORIGIN_V6 } else { ORIGIN_V4 };
        let meant = SocketAddr::new(origin.parse().unwrap(), 443);
        assert_eq!(event.original_dst.unwrap().get(), meant);
        assert_eq!(event.cgroup, world.cgroup.id().unwrap());
    }
    assert_eq!(world.counter("drop_route"), 2);
}

/// It needs no judgement of the namespace, which not every kernel tells.
#[test]
fn nor_where_nothing_is_registered() {
    let place = Place::new();
    let cgroup = Cgroup::new().unwrap();
    let capture = attached(
        &cgroup,
        &CaptureOptions {
            unregistered: Fallback::Pass,
            ..options()
        },
    );
    let tap = place.origin.tap();
    for v6 in [true, false] {
        let outcomes = place.start(&cgroup, &datagram(v6)).outcomes();
        assert!(!went_out(&place, &tap, "datagram"), "{v6}");
        assert_eq!(outcomes, [Outcome::Done, Outcome::REFUSED], "{v6}");
    }
    let totals = capture.counters().totals();
    assert!(totals.contains(&("drop_route", 2)), "{totals:?}");
}

/// What was let through as a connection to loopback stays there.
#[test]
fn a_connection_to_loopback_is_not_led_astray() {
    let world = World::new();
    let tap = world.place.origin.tap();
    let listener = world.place.workload.listen(loopback(true, 8080)).unwrap();
    let script = Script::new(true, TCP)
        .user(NOBODY)
        .then(Step::Connect(listener.local_addr().unwrap()))
        .then(by_way_of_the_origin(true))
        .then(Step::Send);
    // The neighbour is known from then on: nothing waits for its answer.
    world.place.origin_is_untouched();
    assert_eq!(world.run(&script), [Outcome::Done; 3]);
    assert!(!went_out(&world.place, &tap, "data"));
    assert!(world.counter("drop_route") > 0);

    let free = world.place.start_outside(&script).outcomes();
    assert_eq!(free, [Outcome::Done; 3]);
    assert!(went_out(&world.place, &tap, "data"));
}

#[test]
fn an_exempt_cgroup_may() {
    let place = Place::new();
    let cgroup = Cgroup::new().unwrap();
    let _capture = attached(
        &cgroup,
        &CaptureOptions {
            exempt_cgroup: Some(cgroup.id().unwrap()),
            ..options()
        },
    );
    let tap = place.origin.tap();
    for v6 in [true, false] {
        let outcomes = place.start(&cgroup, &datagram(v6)).outcomes();
        assert_eq!(outcomes, [Outcome::Done; 2], "{v6}");
        assert!(went_out(&place, &tap, "datagram"), "{v6}");
    }
}
