//! What the programs tell of those who were refused.

use std::net::SocketAddr;
use std::time::Instant;

use egress_common::EVENTS_PER_WINDOW;
use egress_lab::{Cgroup, Namespace, wait};
use egress_user::agent::capture::{Events, KernelEvent};
use egress_user::netns::Netns;

use crate::client::{COMM, Outcome, Script, Step, TCP, UDP};
use crate::world::{Place, World, options};

#[test]
fn a_refusal_is_told_with_who_and_where_to() {
    let mut world = World::new();
    let mut events = world.capture.events().unwrap();
    assert!(world.capture.events().is_none(), "one reader");
    let before = Instant::now();
    for dst in [
        "192.0.2.1:443",
        "[2001:db8::1]:443",
        "[::ffff:192.0.2.1]:443",
    ] {
        let connect = Script::connect(dst).protocol(UDP);
        let dst: SocketAddr = dst.parse().unwrap();
        let send = Script::new(dst.is_ipv6(), UDP).then(Step::SendTo(dst));
        for script in [connect, send.user(1234)] {
            let client = world.start(&script);
            let pid = client.id();
            assert_eq!(client.outcomes(), [Outcome::REFUSED]);
            let event = events.take().expect("an event");
            assert_eq!(event.reason, "refuse_udp");
            let process = event.process.unwrap();
            assert_eq!(process.pid, pid);
            assert_eq!(process.comm.as_bytes(), COMM.to_bytes());
            assert!([0, 1234].contains(&process.uid), "{}", process.uid);
            assert_eq!(event.cgroup, world.cgroup.id().unwrap());
            assert_eq!(event.netns, world.place.cookie.get());
            assert_eq!(i32::from(event.protocol), UDP);
            let expected = egress_user::addr::OriginalDst::new(dst);
            assert_eq!(event.original_dst, Some(expected));
            assert!(before <= event.at && event.at <= Instant::now());
            assert_eq!(event.withheld, 0);
        }
    }
    assert_eq!(events.take(), None);
    world.place.origin_is_untouched();
}

#[test]
fn what_passes_is_not_told() {
    let mut world = World::new();
    let mut events = world.capture.events().unwrap();
    for dst in ["192.0.2.1:443", "192.0.2.1:8080", "[2001:db8::1]:443"] {
        assert_eq!(world.run(&Script::connect(dst)), [Outcome::Done]);
    }
    assert_eq!(events.take(), None);
}

#[test]
fn who_connects_to_the_listener_itself_is_told() {
    let mut world = World::new();
    let mut events = world.capture.events().unwrap();
    let listener = world.place.agent.v4.local_addr().unwrap();
    let script = Script::new(false, TCP).then(Step::Connect(listener));
    assert_eq!(world.run(&script), [Outcome::Done]);
    let event = events.take().unwrap();
    assert_eq!(event.reason, "direct_to_listener");
    assert_eq!(event.original_dst.unwrap().get(), listener);
    assert_eq!(events.take(), None);
}

/// A cgroup in a loop is told some, and does not keep another from being told.
#[test]
fn a_loop_of_refusals_is_sampled_and_counted() {
    let world = World::with(&options(), |_| {});
    let mut capture = world.capture;
    let mut events = capture.events().unwrap();
    let below = Cgroup::new().unwrap();
    capture.attach(below.path()).unwrap();
    let dst: SocketAddr = "192.0.2.1:443".parse().unwrap();
    let many = (0..200).fold(Script::new(false, UDP), |script, _| {
        script.then(Step::SendTo(dst))
    });
    let started = Instant::now();
    let outcomes = world.place.start(&world.cgroup, &many).outcomes();
    assert_eq!(outcomes, vec![Outcome::REFUSED; 200]);
    let one = Script::new(false, UDP).then(Step::SendTo(dst));
    assert_eq!(
        world.place.start(&below, &one).outcomes(),
        [Outcome::REFUSED]
    );
    let seconds = u32::try_from(started.elapsed().as_secs()).unwrap();

    let told: Vec<KernelEvent> = std::iter::from_fn(|| events.take()).collect();
    let from = |cgroup: &Cgroup| {
        let id = cgroup.id().unwrap();
        told.iter().filter(move |event| event.cgroup == id)
    };
    assert_eq!(from(&below).count(), 1);
    let looped = u32::try_from(from(&world.cgroup).count()).unwrap();
    assert!(looped >= EVENTS_PER_WINDOW, "{looped}");
    // A second can begin at any moment, and on each processor once.
    assert!(looped <= EVENTS_PER_WINDOW * (seconds + 2) * 2, "{looped}");

    let total = |name: &str| {
        let totals = capture.counters().totals();
        totals.iter().find(|(each, _)| *each == name).unwrap().1
    };
    assert_eq!(total("refuse_udp"), 201);
    assert_eq!(total("event_withheld"), u64::from(200 - looped));
    assert_eq!(total("event_lost"), 0);
}

/// They have no cgroup: each namespace is told of by itself.
#[test]
fn a_flood_of_forwarded_packets_does_not_hide_those_of_another_namespace() {
    let mut world = World::new();
    let mut events = world.capture.events().unwrap();
    let other = Place::new();
    world
        .capture
        .add_scope(other.cookie, &other.scope())
        .unwrap();
    let quiet = other.behind();
    // By a device whose index no other namespace has: of such packets nothing else tells theirs.
    let wire = "link add eth7 index 77 type veth peer name eth8\n\
                link set eth7 up\n\
                link set eth8 up\n\
                addr add 203.0.113.2/24 dev eth7\n\
                neigh replace 203.0.113.1 lladdr 02:00:00:00:00:07 dev eth7\n";
    other.workload.ip(wire).unwrap();
    let flooded = world.place.behind();
    for place in [&other, &world.place] {
        let netns = Netns::at(place.workload.path()).unwrap();
        world.capture.guard_interfaces(&netns).unwrap();
    }
    let send = |from: &Namespace, to: &str, times: usize| {
        let socket = from.udp("198.51.100.2:0".parse().unwrap()).unwrap();
        for _ in 0..times {
            socket.send_to(b"bypass", to).unwrap();
        }
    };
    send(&flooded, "192.0.2.1:443", 100);
    send(&quiet, "203.0.113.1:443", 1);
    wait::until("every packet is dropped", || {
        (world.counter("drop_socket") == 101).then_some(())
    })
    .unwrap();
    let told: Vec<KernelEvent> = std::iter::from_fn(|| events.take()).collect();
    assert!(told.iter().all(|event| event.cgroup == 0));
    let of = |place: &Place| {
        let netns = place.cookie.get();
        told.iter().filter(move |event| event.netns == netns)
    };
    assert_eq!(of(&other).count(), 1);
    assert_eq!(of(&other).next().unwrap().withheld, 0);
    assert!(of(&world.place).count() >= usize::try_from(EVENTS_PER_WINDOW).unwrap());
}

#[test]
fn events_can_be_waited_for() {
    let mut world = World::new();
    let events: Events = world.capture.events().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let waiting = runtime.spawn(async move {
        let mut stream = events.stream().unwrap();
        [stream.next().await.unwrap(), stream.next().await.unwrap()]
    });
    let script = Script::connect("192.0.2.1:443").protocol(UDP);
    assert_eq!(world.run(&script), [Outcome::REFUSED]);
    assert_eq!(world.run(&script), [Outcome::REFUSED]);
    let waited = runtime.block_on(async { tokio::time::timeout(wait::DEADLINE, waiting).await });
    let [first, second] = waited.unwrap().unwrap();
    assert_eq!(first.reason, "refuse_udp");
    assert_ne!(first.process, second.process);
}
