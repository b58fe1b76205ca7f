//! What may not pass fails at once, and nothing of it leaves the namespace.

use std::net::SocketAddr;
use std::time::Duration;

use egress_lab::{Cgroup, wait};
use egress_user::agent::capture::{CaptureOptions, Fallback, Scope};
use socket2::{Domain, Socket, Type};

use crate::client::{Outcome, Script, Step, UDP, UDPLITE};
use crate::world::{Place, World, attached, options};

/// One destination in each form.
const EVERY_FORM: [&str; 3] = [
    "192.0.2.1:443",
    "[2001:db8::1]:443",
    "[::ffff:192.0.2.1]:443",
];

fn datagram(protocol: i32, dst: &str) -> Script {
    let dst: SocketAddr = dst.parse().unwrap();
    Script::new(dst.is_ipv6(), protocol).then(Step::SendTo(dst))
}

#[test]
fn udp_connect_to_a_captured_port() {
    let world = World::new();
    for dst in EVERY_FORM {
        let script = Script::connect(dst).protocol(UDP);
        assert_eq!(world.run(&script), [Outcome::REFUSED], "{dst}");
    }
    assert_eq!(world.counter("refuse_udp"), 3);
    world.place.origin_is_untouched();
}

#[test]
fn udp_sendto_to_a_captured_port() {
    let world = World::new();
    for dst in EVERY_FORM {
        assert_eq!(world.run(&datagram(UDP, dst)), [Outcome::REFUSED], "{dst}");
        // An IPv6 socket may also be given an IPv4 address as such.
    }
    let v4_on_v6 = Script::new(true, UDP).then(Step::SendTo("192.0.2.1:443".parse().unwrap()));
    assert_eq!(world.run(&v4_on_v6), [Outcome::REFUSED]);
    assert_eq!(world.counter("refuse_udp"), 4);
    world.place.origin_is_untouched();
}

#[test]
fn udplite_sendto_to_a_captured_port() {
    let world = World::new();
    for dst in EVERY_FORM {
        assert_eq!(
            world.run(&datagram(UDPLITE, dst)),
            [Outcome::REFUSED],
            "{dst}"
        );
    }
    world.place.origin_is_untouched();
}

#[test]
fn other_ports_pass_where_they_may() {
    let world = World::new();
    for (dst, mapped) in [
        ("192.0.2.1:8080", false),
        ("[2001:db8::1]:8080", false),
        ("[::ffff:192.0.2.1]:8080", true),
    ] {
        let at = if mapped { "192.0.2.1:8080" } else { dst };
        let outcomes = world.run(&Script::connect(dst).then(Step::PeerName));
        assert_eq!(outcomes, [Outcome::Done, Outcome::address(dst)]);
        world.place.origin.accepted(at);
        assert_eq!(world.run(&datagram(UDP, dst)), [Outcome::Done]);
        world.place.origin.received(at);
    }
    world.place.agent_is_untouched();
    assert_eq!(world.counter("pass_other_port"), 6);
}

#[test]
fn other_ports_are_refused_where_they_must_but_name_servers_can_be_asked() {
    let options = CaptureOptions {
        resolvers: ["192.0.2.1", "2001:db8::1"]
            .map(|ip| ip.parse().unwrap())
            .into(),
        ..options()
    };
    let world = World::with(&options, |scope| scope.other_ports = Fallback::Refuse);
    for dst in [
        "192.0.2.1:8080",
        "[2001:db8::1]:8080",
        "[::ffff:192.0.2.1]:8080",
    ] {
        for script in [
            Script::connect(dst),
            Script::connect(dst).protocol(UDP),
            datagram(UDP, dst),
        ] {
            assert_eq!(world.run(&script), [Outcome::REFUSED], "{script:?}");
        }
    }
    assert_eq!(world.counter("refuse_other_port"), 9);
    world.place.origin_is_untouched();

    for dst in ["192.0.2.2:53", "[2001:db8::2]:53", "[::ffff:192.0.2.2]:53"] {
        assert_eq!(world.run(&Script::connect(dst)), [Outcome::REFUSED]);
        assert_eq!(world.run(&datagram(UDP, dst)), [Outcome::REFUSED]);
    }
    world.place.origin_is_untouched();

    for dst in ["192.0.2.1:53", "[2001:db8::1]:53"] {
        assert_eq!(world.run(&Script::connect(dst)), [Outcome::Done]);
        world.place.origin.accepted(dst);
        assert_eq!(world.run(&datagram(UDP, dst)), [Outcome::Done]);
        world.place.origin.received(dst);
    }
    assert_eq!(world.counter("pass_dns"), 4);
}

#[test]
fn an_agent_that_is_silent_gets_no_connections() {
    let options = CaptureOptions {
        heartbeat: Some(Duration::from_millis(200)),
        ..options()
    };
    let world = World::with(&options, |_| {});
    for dst in [
        "192.0.2.1:443",
        "[2001:db8::1]:443",
        "[::ffff:192.0.2.1]:443",
    ] {
        // Sooner or later, as the last beat grows old.
        wait::until("a connection is refused", || {
            (world.run(&Script::connect(dst)) == [Outcome::REFUSED]).then_some(())
        })
        .unwrap();
        assert!(world.counter("refuse_stale") > 0);
        world.place.origin_is_untouched();
    }
}

#[test]
fn loopback_always_passes() {
    let world = World::with(&options(), |scope| scope.other_ports = Fallback::Refuse);
    // Nobody listens there: the kernel's own refusal shows that the destination was left alone.
    for dst in [
        "127.0.0.1:443",
        "127.1.2.3:443",
        "[::1]:443",
        "[::ffff:127.0.0.1]:443",
        "0.0.0.0:443",
        "[::]:443",
    ] {
        assert_eq!(
            world.run(&Script::connect(dst)),
            [Outcome::Failed(libc::ECONNREFUSED)],
            "{dst}"
        );
    }
    assert_eq!(world.counter("pass_loopback"), 6);
}

#[test]
fn an_unregistered_namespace_is_refused() {
    let place = Place::new();
    let cgroup = Cgroup::new().unwrap();
    let _capture = attached(&cgroup, &options());
    for dst in EVERY_FORM.into_iter().chain(["192.0.2.1:8080"]) {
        for script in [Script::connect(dst), datagram(UDP, dst)] {
            let outcomes = place.start(&cgroup, &script).outcomes();
            assert_eq!(outcomes, [Outcome::REFUSED], "{script:?}");
        }
    }
    place.origin_is_untouched();
}

#[test]
fn an_unregistered_namespace_passes_where_it_may() {
    let place = Place::new();
    let cgroup = Cgroup::new().unwrap();
    let mut capture = attached(
        &cgroup,
        &CaptureOptions {
            unregistered: Fallback::Pass,
            ..options()
        },
    );
    let dst = "192.0.2.1:443";
    let connect = || place.start(&cgroup, &Script::connect(dst)).outcomes();
    assert_eq!(connect(), [Outcome::Done]);
    place.origin.accepted(dst);

    capture.add_scope(place.cookie, &place.scope()).unwrap();
    assert_eq!(connect(), [Outcome::Done]);
    place.accept(false);
    place.origin_is_untouched();

    capture.remove_scope(place.cookie).unwrap();
    capture.remove_scope(place.cookie).unwrap();
    assert_eq!(connect(), [Outcome::Done]);
    place.origin.accepted(dst);
    place.agent_is_untouched();
}

/// The programs are there, the agent is not: closed.
#[test]
fn without_the_agents_listener_nothing_connects() {
    let mut world = World::new();
    // Ports that are taken, but where nobody listens. (A listener that another test's process
    // inherited for a moment would still be one.)
    let taken = world.place.workload.run(|| {
        ["127.0.0.1:0", "[::1]:0"].map(|addr| {
            let addr: SocketAddr = addr.parse().unwrap();
            let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).unwrap();
            socket.bind(&addr.into()).unwrap();
            socket
        })
    });
    let taken = taken.unwrap();
    let port = |socket: &Socket| socket.local_addr().unwrap().as_socket().unwrap().port();
    let scope = Scope {
        listen_v4: port(&taken[0]),
        listen_v6: Some(port(&taken[1])),
        ..world.place.scope()
    };
    world.capture.add_scope(world.place.cookie, &scope).unwrap();
    for dst in EVERY_FORM {
        let outcomes = world.run(&Script::connect(dst));
        assert_eq!(outcomes, [Outcome::Failed(libc::ECONNREFUSED)], "{dst}");
    }
    world.place.origin_is_untouched();
}

#[test]
fn an_exempt_cgroup_is_left_alone() {
    let place = Place::new();
    let cgroup = Cgroup::new().unwrap();
    let mut capture = attached(
        &cgroup,
        &CaptureOptions {
            exempt_cgroup: Some(cgroup.id().unwrap()),
            ..options()
        },
    );
    capture.add_scope(place.cookie, &place.scope()).unwrap();
    let dst = "192.0.2.1:443";
    let outcomes = place.start(&cgroup, &Script::connect(dst)).outcomes();
    assert_eq!(outcomes, [Outcome::Done]);
    place.origin.accepted(dst);
    place.agent_is_untouched();
}

#[test]
fn a_process_outside_of_the_cgroup_is_left_alone() {
    let world = World::new();
    for dst in ["192.0.2.1:443", "[2001:db8::1]:443"] {
        let script = Script::connect(dst).then(Step::PeerName);
        let outcomes = world.place.start_outside(&script).outcomes();
        assert_eq!(outcomes, [Outcome::Done, Outcome::address(dst)]);
        world.place.origin.accepted(dst);
        let outcomes = world.place.start_outside(&datagram(UDP, dst)).outcomes();
        assert_eq!(outcomes, [Outcome::Done]);
        world.place.origin.received(dst);
    }
    world.place.agent_is_untouched();
}
