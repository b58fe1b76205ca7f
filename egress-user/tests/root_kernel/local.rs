//! Packets to loopback that leave by another device: options have them do so that any user may set,
//! and the hooks are told of loopback alone. A tap on the wire to the origin shows what goes there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use egress_lab::Cgroup;
use egress_user::agent::capture::{CaptureOptions, Fallback};
use egress_user::netns::Netns;

use crate::client::{Outcome, Script, Step, TCP, UDP};
use crate::craft::{ACK, Above, Craft, SYN, Tap, Way};
use crate::world::{
    ORIGIN_V4, ORIGIN_V6, Place, WORKLOAD_V4, WORKLOAD_V6, World, attached, options,
};

const NOBODY: u32 = 65534;

/// Everything that is on no network of the workload's goes to the origin.
fn routed(place: &Place) {
    let routes = [ORIGIN_V4, ORIGIN_V6].map(|via| format!("route add default via {via}\n"));
    place.workload.ip(&routes.concat()).unwrap();
}

fn loopback(v6: bool, port: u16) -> SocketAddr {
    let ip: IpAddr = if v6 {
        Ipv6Addr::LOCALHOST.into()
    } else {
        Ipv4Addr::LOCALHOST.into()
    };
    SocketAddr::new(ip, port)
}

fn bound_to_the_wire(v6: bool, protocol: i32) -> Script {
    let script = Script::new(v6, protocol).user(NOBODY);
    script.then(Step::BindToDevice("eth0".to_owned()))
}

/// No hook of sockets can see this option.
fn aimed_at_the_wire(place: &Place, v6: bool) -> Script {
    const IP_UNICAST_IF: (i32, i32) = (libc::IPPROTO_IP, 50);
    const IPV6_UNICAST_IF: (i32, i32) = (libc::IPPROTO_IPV6, 76);

    // SAFETY: a string that ends with a zero.
    let index = place
        .workload
        .run(|| unsafe { libc::if_nametoindex(c"eth0".as_ptr()) });
    let index = index.unwrap().to_be_bytes().to_vec();
    let (level, option) = if v6 { IPV6_UNICAST_IF } else { IP_UNICAST_IF };
    let script = Script::new(v6, UDP).user(NOBODY);
    script.then(Step::OptionBytes(level, option, index))
}

/// Whether `text` has gone by on the wire until now.
fn went_out(place: &Place, tap: &Tap, text: &str) -> bool {
    let ping = Script::new(false, TCP).then(frame("192.0.2.1:0", Above::Ping, "control"));
    assert_eq!(place.start_outside(&ping).outcomes(), [Outcome::Done]);
    !tap.seen(&[text], "control").is_empty()
}

fn frame(dst: &str, above: Above, text: &str) -> Step {
    Step::Craft(Craft {
        way: Way::Frame,
        dst: dst.parse().unwrap(),
        above,
        text: text.to_owned(),
    })
}

#[test]
fn a_socket_that_is_bound_to_a_device_is_told() {
    let mut world = World::new();
    routed(&world.place);
    let mut events = world.capture.events().unwrap();
    let tap = world.place.origin.tap();
    for v6 in [false, true] {
        for port in [443, 8080] {
            let dst = loopback(v6, port);
            let send = bound_to_the_wire(v6, UDP).then(Step::SendTo(dst));
            let free = world.place.start_outside(&send).outcomes();
            assert_eq!(free, [Outcome::Done; 2], "{dst}");
            assert!(went_out(&world.place, &tap, "datagram"), "{dst}");

            let connect = |protocol| bound_to_the_wire(v6, protocol).then(Step::Connect(dst));
            let early = bound_to_the_wire(v6, TCP).then(Step::FastOpen(dst));
            for script in [send, connect(UDP), connect(TCP), early] {
                let outcomes = world.run(&script);
                assert_eq!(outcomes, [Outcome::Done, Outcome::REFUSED], "{script:?}");
                let event = events.take().unwrap();
                assert_eq!(event.reason, "refuse_bound_device");
                assert_eq!(event.original_dst.unwrap().get(), dst);
                assert_eq!(event.process.unwrap().comm, "egress-client");
            }
            assert!(!went_out(&world.place, &tap, "datagram"), "{dst}");
        }
    }
    assert_eq!(world.counter("refuse_bound_device"), 16);
    assert_eq!(world.counter("drop_route"), 0);
}

/// Bound to loopback itself, and to nothing, they get where they mean to.
#[test]
fn what_stays_on_loopback_passes() {
    let world = World::new();
    for v6 in [false, true] {
        let listener = world.place.workload.listen(loopback(v6, 443)).unwrap();
        let dst = listener.local_addr().unwrap();
        for device in [None, Some("lo")] {
            let script = |protocol| match device {
                None => Script::new(v6, protocol),
                Some(name) => Script::new(v6, protocol).then(Step::BindToDevice(name.to_owned())),
            };
            let connect = script(TCP).then(Step::Connect(dst)).then(Step::Send);
            let outcomes = world.run(&connect);
            assert!(outcomes.iter().all(|each| *each == Outcome::Done), "{dst}");
            let send = script(UDP).then(Step::SendTo(dst));
            assert_eq!(world.run(&send).last(), Some(&Outcome::Done), "{dst}");
        }
    }
    assert_eq!(world.counter("pass_loopback"), 8);
    assert_eq!(world.counter("drop_route"), 0);
}

/// Also in a namespace that nobody registered, on kernels that do not tell packets theirs.
#[test]
fn a_datagram_whose_device_no_hook_sees_is_dropped() {
    let place = Place::new();
    routed(&place);
    let cgroup = Cgroup::new().unwrap();
    let options = CaptureOptions {
        unregistered: Fallback::Pass,
        ..options()
    };
    let mut capture = attached(&cgroup, &options);
    let mut events = capture.events().unwrap();
    let tap = place.origin.tap();
    for v6 in [false, true] {
        let dst = loopback(v6, 443);
        let script = aimed_at_the_wire(&place, v6).then(Step::SendTo(dst));
        let free = place.start_outside(&script).outcomes();
        assert_eq!(free, [Outcome::Done; 2], "{dst}");
        assert!(went_out(&place, &tap, "datagram"), "{dst}");

        let outcomes = place.start(&cgroup, &script).outcomes();
        assert_eq!(outcomes, [Outcome::Done, Outcome::REFUSED], "{dst}");
        assert!(!went_out(&place, &tap, "datagram"), "{dst}");
        let event = events.take().unwrap();
        assert_eq!(event.reason, "drop_route");
        assert_eq!(event.original_dst.unwrap().get(), dst);
        assert_eq!(event.cgroup, cgroup.id().unwrap());
    }
    let totals = capture.counters().totals();
    assert!(totals.contains(&("drop_route", 2)), "{totals:?}");
}

/// What was let through as a connection to loopback stays there.
#[test]
fn a_connection_to_loopback_is_not_moved_to_another_device() {
    let world = World::new();
    routed(&world.place);
    let tap = world.place.origin.tap();
    let listeners = [false, true].map(|v6| world.place.workload.listen(loopback(v6, 8080)));
    let scripts = listeners.each_ref().map(|listener| {
        let dst = listener.as_ref().unwrap().local_addr().unwrap();
        let own = if dst.is_ipv6() {
            WORKLOAD_V6
        } else {
            WORKLOAD_V4
        };
        Script::new(dst.is_ipv6(), TCP)
            .user(NOBODY)
            // The kernel itself keeps loopback's own addresses in.
            .then(Step::Bind((own.parse::<IpAddr>().unwrap(), 0).into()))
            .then(Step::Connect(dst))
            .then(Step::BindToDevice("eth0".to_owned()))
            .then(Step::Send)
    });
    for script in &scripts {
        let before = world.counter("drop_route");
        assert_eq!(world.run(script), [Outcome::Done; 4]);
        assert!(!went_out(&world.place, &tap, "data"));
        assert!(world.counter("drop_route") > before);
    }
    // Their kernel goes on to try when they are gone.
    for script in &scripts {
        let free = world.place.start_outside(script).outcomes();
        assert_eq!(free, [Outcome::Done; 4]);
        assert!(went_out(&world.place, &tap, "data"));
    }
}

/// The guard, which loopback has none of, needs no socket to see it.
#[test]
fn nothing_passes_the_guard_for_loopback() {
    let mut world = World::new();
    routed(&world.place);
    let tap = world.place.origin.tap();
    let netns = Netns::at(world.place.workload.path()).unwrap();
    let send = aimed_at_the_wire(&world.place, false).then(Step::SendTo(loopback(false, 8080)));
    world.place.start_outside(&send).outcomes();
    assert!(went_out(&world.place, &tap, "datagram"));
    world.capture.guard_interfaces(&netns).unwrap();
    let mut tries = 0;
    for dst in ["127.0.0.1:443", "0.0.0.0:443", "[::1]:8080", "[::]:443"] {
        let mut frames = Script::new(false, TCP);
        for above in [Above::Tcp(SYN), Above::Tcp(ACK), Above::Udp, Above::Ping] {
            frames = frames.then(frame(dst, above, "bypass"));
            tries += 1;
        }
        world.run(&frames);
        assert!(!went_out(&world.place, &tap, "bypass"), "{dst}");
    }
    world.place.start_outside(&send).outcomes();
    assert!(!went_out(&world.place, &tap, "datagram"));
    assert_eq!(world.counter("drop_route"), tries + 1);
}

#[test]
fn an_exempt_cgroup_may() {
    let place = Place::new();
    routed(&place);
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
        let script = bound_to_the_wire(v6, UDP).then(Step::SendTo(loopback(v6, 443)));
        let outcomes = place.start(&cgroup, &script).outcomes();
        assert_eq!(outcomes, [Outcome::Done; 2], "{v6}");
        assert!(went_out(&place, &tap, "datagram"), "{v6}");
    }
}
