//! Sockets that are not plain: each is redirected or refused, and never gets through.

use std::net::SocketAddrV6;

use crate::client::{MPTCP, Outcome, Script, Step, TCP};
use crate::world::{World, attached, read_all};

const NOBODY: u32 = 65534;
const IP_FREEBIND: (i32, i32) = (libc::SOL_IP, 15);

#[test]
fn bound_to_a_source_address() {
    let world = World::new();
    for (dst, source, v6) in [
        ("192.0.2.1:443", "192.0.2.2:40001", false),
        ("[2001:db8::1]:443", "[2001:db8::2]:40002", true),
        ("[::ffff:192.0.2.1]:443", "[::ffff:192.0.2.2]:40003", false),
    ] {
        let script = Script::connect(dst)
            .first(Step::Bind(source.parse().unwrap()))
            .then(Step::PeerName);
        assert_eq!(
            world.run(&script),
            [Outcome::Done, Outcome::Done, Outcome::address(dst)]
        );
        let record = world.record(v6);
        assert_eq!(
            record.original_dst.get(),
            egress_user::addr::OriginalDst::new(dst.parse().unwrap()).get()
        );
    }
    world.place.origin_is_untouched();
}

/// Without care it would hang: the device does not lead to the listener.
#[test]
fn bound_to_a_device() {
    let world = World::new();
    for (dst, v6) in [("192.0.2.1:443", false), ("[2001:db8::1]:443", true)] {
        let script = Script::connect(dst)
            .first(Step::BindToDevice("eth0".to_owned()))
            .then(Step::PeerName);
        assert_eq!(
            world.run(&script),
            [Outcome::Done, Outcome::Done, Outcome::address(dst)]
        );
        assert_eq!(world.record(v6).original_dst.to_string(), dst);
    }
    world.place.origin_is_untouched();
}

/// The kernel lets an ordinary user bind a socket to a device, but nobody release it for them.
#[test]
fn bound_to_a_device_by_an_ordinary_user() {
    let world = World::new();
    for dst in ["192.0.2.1:443", "[2001:db8::1]:443"] {
        let script = Script::connect(dst)
            .first(Step::BindToDevice("eth0".to_owned()))
            .user(NOBODY);
        assert_eq!(world.run(&script), [Outcome::Done, Outcome::REFUSED]);
    }
    assert_eq!(world.counter("refuse_bound_device"), 2);
    world.place.agent_is_untouched();
    world.place.origin_is_untouched();
}

#[test]
fn fast_open() {
    let world = World::new();
    for (dst, v6) in [("192.0.2.1:443", false), ("[2001:db8::1]:443", true)] {
        let script = Script::new(v6, TCP)
            .then(Step::FastOpen(dst.parse().unwrap()))
            .then(Step::PeerName);
        let outcomes = world.run(&script);
        assert_eq!(outcomes, [Outcome::Done, Outcome::address(dst)]);
        let (stream, record) = world.take(v6);
        assert_eq!(record.unwrap().original_dst.to_string(), dst);
        assert_eq!(read_all(stream), b"early");
    }
    world.place.origin_is_untouched();
}

#[test]
fn mptcp() {
    let world = World::new();
    for (dst, v6) in [
        ("192.0.2.1:443", false),
        ("[2001:db8::1]:443", true),
        ("[::ffff:192.0.2.1]:443", false),
    ] {
        let script = Script::connect(dst)
            .protocol(MPTCP)
            .then(Step::PeerName)
            .then(Step::Send);
        let outcomes = world.run(&script);
        assert_eq!(
            outcomes,
            [Outcome::Done, Outcome::address(dst), Outcome::Done]
        );
        let (stream, record) = world.take(v6);
        let dst = egress_user::addr::OriginalDst::new(dst.parse().unwrap());
        assert_eq!(record.unwrap().original_dst, dst);
        assert_eq!(read_all(stream), b"data");
    }
    world.place.origin_is_untouched();
}

#[test]
fn non_blocking() {
    let world = World::new();
    let dst = "192.0.2.1:443";
    let script = Script::connect(dst)
        .first(Step::NonBlocking)
        .then(Step::Pause)
        .then(Step::PeerName);
    let mut client = world.start(&script);
    client.paused();
    assert_eq!(world.record(false).original_dst.to_string(), dst);
    client.go_on();
    let outcomes = client.outcomes();
    assert_eq!(outcomes[1], Outcome::Failed(libc::EINPROGRESS));
    assert_eq!(outcomes[3], Outcome::address(dst));
    world.place.origin_is_untouched();
}

/// The newest destination counts, for the record and for `getpeername`.
#[test]
fn connected_again() {
    let world = World::new();
    let destinations = ["192.0.2.1:443", "192.0.2.99:443", "192.0.2.1:8080"];
    for protocol in [TCP, MPTCP] {
        let mut script = Script::new(false, protocol);
        for dst in destinations {
            script = script
                .then(Step::Connect(dst.parse().unwrap()))
                .then(Step::PeerName)
                .then(Step::Pause)
                .then(Step::Disconnect);
        }
        let mut client = world.start(&script);
        for dst in destinations {
            client.paused();
            if dst != destinations[2] {
                assert_eq!(world.record(false).original_dst.to_string(), dst);
            }
            client.go_on();
        }
        for (outcomes, dst) in client.outcomes().chunks(4).zip(destinations) {
            let [connect, peer, ..] = outcomes else {
                panic!("{outcomes:?}");
            };
            assert_eq!((*connect, *peer), (Outcome::Done, Outcome::address(dst)));
        }
        world.place.origin.accepted(destinations[2]);
        world.place.agent_is_untouched();
    }
    world.place.origin_is_untouched();
}

/// Goes to the listener without a redirect, from a port that a redirected connection used which
/// the agent never accepted: it must not be taken for that one.
#[test]
fn to_the_listener_itself() {
    let world = World::new();
    for (dst, source, listener, v6) in [
        (
            "192.0.2.1:443",
            "127.0.0.1:40100",
            world.place.agent.v4.local_addr().unwrap(),
            false,
        ),
        (
            "[2001:db8::1]:443",
            "[::1]:40100",
            world.place.agent.v6.as_ref().unwrap().local_addr().unwrap(),
            true,
        ),
    ] {
        for protocol in [TCP, MPTCP] {
            let script = Script::new(v6, protocol)
                .then(Step::Bind(source.parse().unwrap()))
                .then(Step::Connect(dst.parse().unwrap()))
                .then(Step::Disconnect)
                .then(Step::Connect(listener))
                .then(Step::PeerName)
                .then(Step::LocalName);
            let outcomes = world.run(&script);
            assert_eq!(outcomes[3], Outcome::Done);
            assert_eq!(outcomes[4], Outcome::Address(listener));
            assert_eq!(outcomes[5], Outcome::address(source));
            // The first connection's record, which nobody took, is gone.
            for _ in 0..2 {
                assert_eq!(world.take(v6).1, None);
            }
        }
    }
    assert_eq!(world.counter("direct_to_listener"), 4);
    world.place.origin_is_untouched();
}

/// A socket that was made before the programs were attached is judged all the same.
#[test]
fn made_before_capture() {
    let mut world = World::new();
    let script = Script::connect("192.0.2.1:443")
        .first(Step::Pause)
        .then(Step::PeerName);
    let World {
        place,
        capture,
        cgroup,
        ..
    } = world;
    drop(capture);
    let mut client = place.start(&cgroup, &script);
    client.paused();
    let mut capture = attached(&cgroup, &crate::world::options());
    capture.add_scope(place.cookie, &place.scope()).unwrap();
    client.go_on();
    assert_eq!(client.outcomes()[2], Outcome::address("192.0.2.1:443"));
    world = World {
        flows: capture.flows(),
        place,
        capture,
        cgroup,
    };
    assert_eq!(
        world.record(false).original_dst.to_string(),
        "192.0.2.1:443"
    );
    world.place.origin_is_untouched();
}

/// A source address that is not the socket's own would take the listener's answers out of the
/// namespace, and let the client wait for them.
#[test]
fn a_transparent_socket_is_none() {
    const IP_TRANSPARENT: (i32, i32) = (libc::SOL_IP, 19);
    const IPV6_TRANSPARENT: (i32, i32) = (libc::SOL_IPV6, 75);
    const IPV6_FREEBIND: (i32, i32) = (libc::SOL_IPV6, 78);

    let mut world = World::new();
    let mut events = world.capture.events().unwrap();
    for (dst, foreign, (level, option)) in [
        ("192.0.2.1:443", "198.51.100.9:0", IP_TRANSPARENT),
        ("[2001:db8::1]:443", "[2001:db8:9::9]:0", IPV6_TRANSPARENT),
        ("[2001:db8::1]:443", "[2001:db8:9::9]:0", IPV6_FREEBIND),
        ("[2001:db8::1]:443", "[2001:db8:9::9]:0", IP_FREEBIND),
    ] {
        let script = Script::connect(dst)
            .first(Step::Bind(foreign.parse().unwrap()))
            .first(Step::Option(level, option));
        let outcomes = world.run(&script);
        assert_eq!(outcomes[0], Outcome::REFUSED);
        assert_eq!(outcomes[1], Outcome::Failed(libc::EADDRNOTAVAIL));
        assert_eq!(events.take().unwrap().reason, "refuse_option");
        assert_eq!(outcomes[2], Outcome::Done, "redirected");
        world.record(dst.starts_with('['));
        let outside = world
            .place
            .start_outside(&Script::connect(dst).first(Step::Option(level, option)));
        assert_eq!(outside.outcomes(), [Outcome::Done; 2]);
        world.place.origin.accepted(dst);
    }
    world.place.origin_is_untouched();
}

/// Anybody may bind to a foreign address so; by IPv4 there is no way from it to loopback.
#[test]
fn bound_to_a_foreign_source_address() {
    let world = World::new();
    let script = Script::connect("192.0.2.1:443")
        .first(Step::Bind("198.51.100.9:0".parse().unwrap()))
        .first(Step::Option(IP_FREEBIND.0, IP_FREEBIND.1));
    let outcomes = world.run(&script);
    assert_eq!(outcomes[..2], [Outcome::Done; 2]);
    let nowhere = [libc::EINVAL, libc::ENETUNREACH].map(Outcome::Failed);
    assert!(nowhere.contains(&outcomes[2]), "{outcomes:?}");
    world.place.agent_is_untouched();
    world.place.origin_is_untouched();
}

/// It holds on its own link alone, where the answers of the agent's listener would go.
#[test]
fn bound_to_a_link_local_source_address() {
    const OWN: &str = "fe80::2";

    let mut world = World::new();
    let mut events = world.capture.events().unwrap();
    let own = format!("addr add {OWN}/64 dev eth0 nodad\n");
    world.place.workload.ip(&own).unwrap();
    // SAFETY: a string that ends with a zero.
    let index = || unsafe { libc::if_nametoindex(c"eth0".as_ptr()) };
    let index = world.place.workload.run(index).unwrap();
    let source = SocketAddrV6::new(OWN.parse().unwrap(), 0, 0, index);
    let script = Script::connect("[2001:db8::1]:443").first(Step::Bind(source.into()));
    for script in [script.clone(), script.user(NOBODY)] {
        assert_eq!(world.run(&script), [Outcome::Done, Outcome::REFUSED]);
        let event = events.take().unwrap();
        assert_eq!(event.reason, "refuse_bound_device");
    }
    world.place.agent_is_untouched();
    world.place.origin_is_untouched();
}
