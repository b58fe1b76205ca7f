//! A strict scope: sockets that nothing would judge are not made.

use std::fs;
use std::sync::Mutex;

use egress_lab::{BpfFs, Cgroup, Namespace, wait};
use egress_user::agent::capture::{Capture, CaptureOptions, Fallback, Scope, cleanup};
use egress_user::netns::Netns;

use crate::client::{Outcome, Script, Step, TCP, UDP};
use crate::craft::{Above, Craft, PACKET_QDISC_BYPASS, SYN, Way};
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
    (libc::AF_NETLINK, libc::SOCK_RAW, 0),
];

/// Of families whose sockets send by other ways than IP. Whether the kernel has them is asked last.
const OTHER_FAMILIES: [(i32, i32, i32); 4] = [
    (libc::AF_PACKET, libc::SOCK_RAW, 0),
    (libc::AF_PACKET, libc::SOCK_DGRAM, 0),
    (libc::AF_XDP, libc::SOCK_RAW, 0),
    (libc::AF_VSOCK, libc::SOCK_STREAM, 0),
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

/// A world with the kernel's security hooks.
fn hooked(change: impl FnOnce(&mut Scope)) -> World {
    keep_hooks();
    World::with(&hooks(), change)
}

/// Has programs on the hooks for as long as the tests run: kernels without the fix of CVE-2026-23319 are in
/// danger when the last one goes while another comes.
pub(crate) fn keep_hooks() {
    static KEPT: Mutex<Option<(Capture, Cgroup)>> = Mutex::new(None);

    extern "C" fn let_go() {
        drop(KEPT.lock().map(|mut kept| kept.take()));
    }

    KEPT.lock().unwrap().get_or_insert_with(|| {
        let cgroup = Cgroup::new().unwrap();
        let mut capture = Capture::load(&hooks()).unwrap();
        capture.attach(cgroup.path()).unwrap();
        // SAFETY: the function takes nothing, and does nothing that may not be done at the end.
        assert_eq!(unsafe { libc::atexit(let_go) }, 0);
        (capture, cgroup)
    });
}

fn hooks() -> CaptureOptions {
    CaptureOptions {
        security_hooks: true,
        ..options()
    }
}

/// Whether the kernel asks about what follows. The guests of `cargo xtask kernel-test` must, and say
/// so.
fn asks(world: &World) -> bool {
    let asks = world.capture.security_hooks();
    assert!(asks.is_ok() || !must_ask(), "{asks:?}");
    asks.is_ok()
}

fn must_ask() -> bool {
    std::env::var_os("EGRESS_TEST_EVERY_PROTOCOL").is_some()
}

#[test]
fn other_families_are_not_made_either() {
    let mut world = hooked(|scope| scope.strict = true);
    let mut events = world.capture.events().unwrap();
    let asks = asks(&world);
    for socket in OTHER_FAMILIES {
        let outcomes = world.run(&make(socket));
        assert_eq!(outcomes == [Outcome::REFUSED], asks, "{socket:?}");
        if asks {
            let event = events.take().unwrap();
            assert_eq!((event.reason, event.protocol), ("refuse_socket", 0));
            assert_eq!(event.process.unwrap().comm, "egress-client");
            assert_eq!(event.cgroup, world.cgroup.id().unwrap());
            assert_eq!(event.netns, world.place.cookie.get());
        }
    }
    let refused = if asks { OTHER_FAMILIES.len() } else { 0 };
    let refused = u64::try_from(refused).unwrap();
    assert_eq!(world.counter("refuse_socket"), refused);
    assert_eq!(world.run(&make(MADE[0])), [Outcome::Done]);
}

/// Guards hold packet sockets there; nothing holds the others.
#[test]
fn where_other_ports_are_refused_only_packet_sockets_are_made_of_them() {
    let world = hooked(|scope| scope.other_ports = Fallback::Refuse);
    let asks = asks(&world);
    for socket in OTHER_FAMILIES {
        let refused = asks && socket.0 != libc::AF_PACKET;
        let outcomes = world.run(&make(socket));
        assert_eq!(outcomes == [Outcome::REFUSED], refused, "{socket:?}");
    }
}

/// A namespace of their own, which nobody has seen yet, is nobody's way out.
#[test]
fn nor_where_unregistered_namespaces_are_refused() {
    let world = hooked(|_| {});
    let asks = asks(&world);
    let elsewhere = Namespace::new().unwrap();
    for socket in OTHER_FAMILIES {
        let client = make(socket).start(|command| {
            elsewhere.enter(command).unwrap();
            world.cgroup.enter(command).unwrap();
        });
        let refused = client.outcomes() == [Outcome::REFUSED];
        assert_eq!(refused, asks, "{socket:?}");
    }
}

/// The kernel is asked whether they are there, as with the others.
#[test]
fn what_is_at_the_security_hooks_is_pinned_missed_and_cleaned_up() {
    let bpf_fs = BpfFs::mount().unwrap();
    let dir = bpf_fs.path().join("egress");
    let mut world = hooked(|scope| scope.strict = true);
    let asks = asks(&world);
    world.capture.pin(&dir).unwrap();
    assert_eq!(world.capture.faults(), Vec::<String>::new());
    let pin = |program: &str| dir.join(format!("{program}_{:x}", world.cgroup.id().unwrap()));
    for program in ["egress_family", "egress_option"] {
        assert_eq!(pin(program).exists(), asks, "{program}");
    }
    if asks {
        fs::remove_file(pin("egress_option")).unwrap();
        wait::until("the program is missed", || {
            (world.capture.faults().len() == 1).then_some(())
        })
        .unwrap();
        let faults = world.capture.faults();
        assert!(faults[0].starts_with("the kernel program egress_option is not attached"));
    }
    let family = pin("egress_family").display().to_string();
    assert_eq!(cleanup(&dir).unwrap().contains(&family), asks);
    assert!(!dir.exists());
}

#[test]
fn elsewhere_all_are_made() {
    let world = World::new();
    let packet = (libc::AF_PACKET, libc::SOCK_RAW, 0);
    for socket in REFUSED.into_iter().chain(MADE).chain([packet]) {
        assert_eq!(world.run(&make(socket)), [Outcome::Done], "{socket:?}");
    }
    let strict = strict();
    for socket in REFUSED.into_iter().chain([packet]) {
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

/// Where the kernel does not ask about them they are made, but nothing of what they send leaves,
/// whoever made them.
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
        world.place.start_outside(&ping(way, "mute")).outcomes();
    }
    let outside = world.place.start_outside(&ping(Way::Raw, "mute"));
    assert_eq!(outside.outcomes(), [Outcome::Done]);
    let control = Script::new(false, UDP).then(Step::SendTo("192.0.2.1:8080".parse().unwrap()));
    let control = world.place.start_outside(&control);
    assert_eq!(control.outcomes(), [Outcome::Done]);
    assert!(tap.seen(&["mute"], "datagram").is_empty());
    assert_eq!(world.counter("drop_frame"), 4);
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

/// About these calls the kernel asks at its security hooks alone. Where it does not, or of others, the
/// frame arrives, which shows that the way is one.
#[test]
fn nor_may_it_be_set_by_a_32_bit_system_call() {
    let mut world = hooked(|_| {});
    let netns = Netns::at(world.place.workload.path()).unwrap();
    world.capture.guard_interfaces(&netns).unwrap();
    let mut events = world.capture.events().unwrap();
    let asks = asks(&world);
    let tap = world.place.origin.tap();
    let frame = |text: &str| {
        Script::new(false, TCP).then(Step::Craft(Craft {
            way: Way::FramePastQueue,
            dst: "192.0.2.1:443".parse().unwrap(),
            above: Above::Tcp(SYN),
            text: text.to_owned(),
        }))
    };
    let outcomes = world.run(&frame("bypass"));
    if outcomes == [Outcome::Failed(libc::ENOSYS)] {
        assert!(!must_ask(), "the guests have 32-bit system calls");
        return;
    }
    let outside = world.place.start_outside(&frame("control")).outcomes();
    assert_eq!(outside, [Outcome::Done]);
    let seen = tap.seen(&["bypass"], "control");
    assert_eq!(world.counter("refuse_option"), u64::from(asks));
    if asks {
        assert_eq!((outcomes, seen), (vec![Outcome::REFUSED], vec![]));
        let event = events.take().unwrap();
        assert_eq!(event.reason, "refuse_option");
        assert_eq!(event.process.unwrap().comm, "egress-client");
        assert_eq!(event.netns, world.place.cookie.get());
    } else {
        assert_eq!((outcomes, seen), (vec![Outcome::Done], vec!["bypass"]));
    }
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
