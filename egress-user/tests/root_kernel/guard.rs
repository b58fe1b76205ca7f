//! The guard on a captured namespace's devices: what no program of the cgroup sees ends there.

use std::fs;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use egress_lab::{BpfFs, wait};
use egress_user::agent::capture::{CaptureError, cleanup};
use egress_user::netns::Netns;

use crate::client::{Outcome, Script, Step, TCP};
use crate::craft::{ACK, Above, Craft, SYN, Tap, Way, tun_device};
use crate::world::{CAPTURED_PORT, Place, World, attached, options};

const EVERY_DST: [&str; 2] = ["192.0.2.1:443", "[2001:db8::1]:443"];

fn guarded() -> World {
    let mut world = World::new();
    let netns = Netns::at(world.place.workload.path()).unwrap();
    assert_eq!(world.capture.guard_interfaces(&netns).unwrap(), ["eth0"]);
    world
}

fn script(way: Way, dst: &str, above: Above, text: &str) -> Script {
    Script::new(false, TCP).then(Step::Craft(Craft {
        way,
        dst: dst.parse().unwrap(),
        above,
        text: text.to_owned(),
    }))
}

/// Sends from inside of the cgroup; says whether it arrived. A ping in a frame is never in the
/// guard's way, and shows that nothing is still under way.
fn arrives(world: &World, tap: &Tap, way: Way, dst: &str, above: Above) -> bool {
    world.run(&script(way, dst, above, "bypass"));
    let ping = script(Way::Frame, dst, Above::Ping, "control");
    assert_eq!(world.run(&ping), [Outcome::Done]);
    !tap.seen(&["bypass"], "control").is_empty()
}

#[test]
fn frames_do_not_reach_captured_ports() {
    let mut world = guarded();
    let mut events = world.capture.events().unwrap();
    let tap = world.place.origin.tap();
    let mut tries = 0;
    for dst in EVERY_DST {
        for way in [Way::Frame, Way::TaggedFrame] {
            for above in [
                Above::Tcp(SYN),
                Above::Tcp(ACK),
                Above::Udp,
                Above::LaterFragment,
            ] {
                assert!(!arrives(&world, &tap, way, dst, above), "{way:?} {above:?}");
                tries += 1;
                if let Some(event) = events.take() {
                    assert_eq!(event.reason, "drop_frame");
                    assert_eq!(event.process, None);
                    assert_eq!(event.cgroup, world.cgroup.id().unwrap());
                    assert_eq!(event.netns, world.place.cookie.get());
                }
            }
        }
    }
    assert_eq!(world.counter("drop_frame"), tries);
    for way in [Way::Frame, Way::TaggedFrame] {
        let dst = "192.0.2.1:8080";
        assert!(arrives(&world, &tap, way, dst, Above::Tcp(SYN)), "{way:?}");
    }
    assert_eq!(world.counter("drop_frame"), tries);
}

/// The kernel is asked, so that what others did to it shows; and the next walk guards it again.
#[test]
fn a_guard_that_somebody_took_off_is_missed() {
    let mut world = guarded();
    let bpf_fs = BpfFs::mount().unwrap();
    let dir = bpf_fs.path().join("egress");
    let netns = Netns::at(world.place.workload.path()).unwrap();
    let tap = world.place.origin.tap();
    // Namespaces without a process are not found.
    let mut resident = world.start(&Script::new(false, TCP).then(Step::Pause));
    resident.paused();
    world.capture.pin(&dir).unwrap();
    for _ in 0..2 {
        assert_eq!(world.capture.faults(), Vec::<String>::new());
        take_off(&dir, &bpf_fs.path().join("elsewhere"));
        let missed = ["the network device eth0 has lost its guard"];
        wait::until("the guard is missed", || {
            (world.capture.faults() == missed).then_some(())
        })
        .unwrap();
        let arrives =
            |world: &World| arrives(world, &tap, Way::Frame, EVERY_DST[0], Above::Tcp(ACK));
        assert!(arrives(&world));
        assert_eq!(world.capture.guard_interfaces(&netns).unwrap(), ["eth0"]);
        assert_eq!(world.capture.faults(), Vec::<String>::new());
        assert!(!arrives(&world));
    }
    // A device that has gone is nobody's fault.
    let gone = world.place.workload.ip("link del eth0\n");
    gone.unwrap();
    assert_eq!(world.capture.faults(), Vec::<String>::new());
}

/// Takes the guards off that are pinned in `dir`, as another process of root's may, and nothing
/// else.
fn take_off(dir: &Path, elsewhere: &Path) {
    fs::create_dir(elsewhere).unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        let name = entry.unwrap().file_name();
        if name.to_string_lossy().starts_with("egress_guard_") {
            fs::rename(dir.join(&name), elsewhere.join(&name)).unwrap();
        }
    }
    assert_eq!(
        cleanup(elsewhere).unwrap().len(),
        2,
        "the guard and the folder"
    );
}

/// The same frames, without a guard: the tests above can fail.
#[test]
fn without_a_guard_frames_arrive() {
    let world = World::new();
    let tap = world.place.origin.tap();
    for dst in EVERY_DST {
        for way in [Way::Frame, Way::TaggedFrame] {
            for above in [Above::Tcp(SYN), Above::Udp, Above::LaterFragment] {
                assert!(arrives(&world, &tap, way, dst, above), "{way:?} {above:?}");
            }
        }
    }
}

#[test]
fn what_is_redirected_or_passes_is_left_alone() {
    let world = guarded();
    for (dst, v6) in [("192.0.2.1:443", false), ("[2001:db8::1]:443", true)] {
        assert_eq!(world.run(&Script::connect(dst)), [Outcome::Done]);
        assert_eq!(world.record(v6).original_dst.to_string(), dst);
    }
    for dst in ["192.0.2.1:8080", "[2001:db8::1]:8080"] {
        assert_eq!(world.run(&Script::connect(dst)), [Outcome::Done]);
        world.place.origin.accepted(dst);
    }
    assert_eq!(world.counter("drop_socket"), 0);
}

/// A socket belongs to the cgroup in which it was made; the guard does not ask for that.
#[test]
fn sockets_from_outside_of_the_cgroup_are_held_too() {
    let mut world = guarded();
    let mut events = world.capture.events().unwrap();
    let tap = world.place.origin.tap();
    for dst in EVERY_DST {
        let dst: SocketAddr = dst.parse().unwrap();
        let connect = || TcpStream::connect_timeout(&dst, Duration::from_millis(300));
        let error = world.place.workload.run(connect).unwrap().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
        let event = events.take().unwrap();
        assert_eq!(event.reason, "drop_socket");
        assert_eq!(event.original_dst.unwrap().get(), dst);
        assert_eq!(event.process, None);
        let source = if dst.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
        let socket = world.place.workload.udp(source.parse().unwrap()).unwrap();
        let _dropped = socket.send_to(b"bypass", dst);
        while events.take().is_some() {}
    }
    assert!(world.counter("drop_socket") >= 4);
    let ping = script(Way::Frame, EVERY_DST[0], Above::Ping, "control");
    assert_eq!(world.run(&ping), [Outcome::Done]);
    assert!(tap.seen(&["bypass"], "control").is_empty());
}

#[test]
fn an_exempt_cgroup_passes_the_guard() {
    let exempt = egress_lab::Cgroup::new().unwrap();
    let options = egress_user::agent::capture::CaptureOptions {
        exempt_cgroup: Some(exempt.id().unwrap()),
        ..options()
    };
    let mut world = World::with(&options, |_| {});
    let netns = Netns::at(world.place.workload.path()).unwrap();
    world.capture.guard_interfaces(&netns).unwrap();
    let dst = "192.0.2.1:443";
    let outcomes = world.place.start(&exempt, &Script::connect(dst)).outcomes();
    assert_eq!(outcomes, [Outcome::Done]);
    world.place.origin.accepted(dst);
}

/// Packets that come from behind the namespace have no socket in it.
#[test]
fn forwarded_packets_are_held() {
    forwarded_are_held(&guarded());
}

/// Devices of two namespaces may have one index, and such packets tell the device alone.
#[test]
fn forwarded_packets_are_held_when_another_namespace_goes() {
    let mut world = guarded();
    let other = Place::new();
    let scope = other.scope();
    world.capture.add_scope(other.cookie, &scope).unwrap();
    let netns = Netns::at(other.workload.path()).unwrap();
    world.capture.guard_interfaces(&netns).unwrap();
    world.capture.remove_scope(other.cookie).unwrap();
    forwarded_are_held(&world);
}

fn forwarded_are_held(world: &World) {
    let behind = world.place.behind();
    let tap = world.place.origin.tap();
    let socket: UdpSocket = behind.udp("198.51.100.2:0".parse().unwrap()).unwrap();
    socket
        .send_to(b"bypass", ("192.0.2.1", CAPTURED_PORT))
        .unwrap();
    socket.send_to(b"control", ("192.0.2.1", 8080)).unwrap();
    assert!(tap.seen(&["bypass"], "control").is_empty());
    assert_eq!(world.counter("drop_socket"), 1);
}

/// Not only those that were there at first.
#[test]
fn every_device_is_guarded_once() {
    let mut world = guarded();
    let netns = Netns::at(world.place.workload.path()).unwrap();
    let wire = "link add eth7 type veth peer name eth8\n";
    world.place.workload.ip(wire).unwrap();
    let mut names = world.capture.guard_interfaces(&netns).unwrap();
    names.sort_unstable();
    assert_eq!(names, ["eth0", "eth7", "eth8"]);
    world.place.workload.ip("link del eth7\n").unwrap();
    assert_eq!(world.capture.guard_interfaces(&netns).unwrap(), ["eth0"]);
    let tap = world.place.origin.tap();
    assert!(!arrives(&world, &tap, Way::Frame, EVERY_DST[0], Above::Udp));
}

/// A device without link layer: its packets begin with the IP header.
#[test]
fn a_device_of_bare_packets_is_guarded() {
    let tun = Tun::new();
    let place = &tun.world.place;
    let send = |dst: &str, text: &[u8]| {
        let socket = place
            .workload
            .udp("203.0.113.2:0".parse().unwrap())
            .unwrap();
        let _may_be_dropped = socket.send_to(text, dst.parse::<SocketAddr>().unwrap());
    };
    send("203.0.113.1:443", b"bypass");
    send("203.0.113.1:8080", b"control");
    let packet = tun.next_to("203.0.113.1");
    assert!(packet.ends_with(b"control"), "{packet:?}");
    assert_eq!(tun.world.counter("drop_socket"), 1);
}

/// As InfiniBand's: whatever is behind it would pass.
#[test]
fn a_device_with_an_unknown_header_is_named() {
    use std::os::fd::AsRawFd as _;

    let mut world = World::new();
    let workload = &world.place.workload;
    let file = workload.run(|| tun_device(libc::IFF_TUN)).unwrap();
    let kind = libc::c_ulong::from(libc::ARPHRD_INFINIBAND);
    // SAFETY: the file is open, and the command takes a number.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETLINK, kind) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    let netns = Netns::at(workload.path()).unwrap();
    // One that is down sends nothing.
    assert_eq!(world.capture.guard_interfaces(&netns).unwrap(), ["eth0"]);
    workload
        .ip("link set tun0 up
")
        .unwrap();
    workload
        .ip("link add eth7 type veth peer name eth8
")
        .unwrap();
    let error = world.capture.guard_interfaces(&netns).unwrap_err();
    assert!(
        matches!(&error, CaptureError::LinkLayer { device, kind: 32 } if device == "tun0"),
        "{error:?}"
    );
    // The others are guarded all the same.
    workload
        .ip("link del tun0
")
        .unwrap();
    let mut names = world.capture.guard_interfaces(&netns).unwrap();
    names.sort_unstable();
    assert_eq!(names, ["eth0", "eth7", "eth8"]);
    let tap = world.place.origin.tap();
    assert!(!arrives(&world, &tap, Way::Frame, EVERY_DST[0], Above::Udp));
}

#[test]
fn the_guard_ends_with_the_scope() {
    let options = egress_user::agent::capture::CaptureOptions {
        unregistered: egress_user::agent::capture::Fallback::Pass,
        ..options()
    };
    for dropped in [false, true] {
        let mut world = World::with(&options, |_| {});
        let netns = Netns::at(world.place.workload.path()).unwrap();
        world.capture.guard_interfaces(&netns).unwrap();
        let World {
            place, mut capture, ..
        } = world;
        let tap = place.origin.tap();
        for (above, text) in [(Above::Udp, "held"), (Above::Ping, "control")] {
            let frame = script(Way::Frame, EVERY_DST[0], above, text);
            place.start_outside(&frame).outcomes();
        }
        assert!(tap.seen(&["held"], "control").is_empty());
        if dropped {
            drop(capture);
        } else {
            capture.remove_scope(place.cookie).unwrap();
            capture.remove_scope(place.cookie).unwrap();
        }
        becomes_free(&place, &tap);
    }
}

/// A world whose namespace has a tun device too, with the test at its other end.
struct Tun {
    file: fs::File,
    world: World,
}

impl Tun {
    fn new() -> Tun {
        let mut world = World::new();
        let file = world
            .place
            .workload
            .run(|| tun_device(libc::IFF_TUN))
            .unwrap();
        world
            .place
            .workload
            .ip("addr add 203.0.113.2/24 dev tun0\nlink set tun0 up\n")
            .unwrap();
        let netns = Netns::at(world.place.workload.path()).unwrap();
        let mut names = world.capture.guard_interfaces(&netns).unwrap();
        names.sort_unstable();
        assert_eq!(names, ["eth0", "tun0"]);
        Tun { file, world }
    }

    /// The next IPv4 packet to this address.
    fn next_to(&self, address: &str) -> Vec<u8> {
        use std::io::Read as _;

        let address: std::net::Ipv4Addr = address.parse().unwrap();
        wait::until("a packet", || {
            let mut packet = vec![0; 2048];
            let read = (&self.file).read(&mut packet).ok()?;
            packet.truncate(read);
            let to_it = packet.get(16..20) == Some(&address.octets()) && packet[0] >> 4 == 4;
            to_it.then_some(packet)
        })
        .unwrap()
    }
}

/// A pinned guard outlives its process, a successor puts its own in the place, and a cleanup takes
/// it away and names it.
#[test]
fn a_pinned_guard_stays_until_it_is_cleaned_up() {
    let bpf_fs = BpfFs::mount().unwrap();
    let dir = bpf_fs.path().join("egress");
    let mut world = guarded();
    world.capture.pin(&dir).unwrap();
    // So that the namespace can be found.
    let mut someone = world.start(&Script::new(false, TCP).then(Step::Pause));
    someone.paused();
    let World {
        place,
        capture,
        cgroup,
        ..
    } = world;
    let tap = place.origin.tap();
    let send = |text: &str, dst: &str, above| {
        let frame = script(Way::Frame, dst, above, text);
        place.start_outside(&frame).outcomes();
    };
    let held = |what: &str| {
        send("held", EVERY_DST[0], Above::Udp);
        send("control", EVERY_DST[0], Above::Ping);
        assert!(tap.seen(&["held"], "control").is_empty(), "{what}");
    };
    held("pinned");
    drop(capture);
    held("without a process");

    let mut capture = attached(&cgroup, &options());
    capture.add_scope(place.cookie, &place.scope()).unwrap();
    let netns = Netns::at(place.workload.path()).unwrap();
    capture.guard_interfaces(&netns).unwrap();
    capture.pin(&dir).unwrap();
    held("by a successor");
    place
        .workload
        .ip("link add eth7 type veth peer name eth8\n")
        .unwrap();
    capture.guard_interfaces(&netns).unwrap();
    drop(capture);

    let removed = cleanup(&dir).unwrap();
    let guards = removed.iter().filter(|path| path.contains("egress_guard_"));
    assert_eq!(guards.count(), 3, "{removed:?}");
    assert!(!dir.exists());
    becomes_free(&place, &tap);
}

/// What a predecessor guarded, and its successor does not serve, is let go.
#[test]
fn a_successor_without_the_namespace_lets_it_go() {
    let bpf_fs = BpfFs::mount().unwrap();
    let dir = bpf_fs.path().join("egress");
    let mut world = guarded();
    world.capture.pin(&dir).unwrap();
    let mut someone = world.start(&Script::new(false, TCP).then(Step::Pause));
    someone.paused();
    let World {
        place,
        capture,
        cgroup,
        ..
    } = world;
    drop(capture);
    let mut capture = attached(&cgroup, &options());
    capture.pin(&dir).unwrap();
    becomes_free(&place, &place.origin.tap());
}

/// The kernel lets go of a link in its own time.
fn becomes_free(place: &Place, tap: &Tap) {
    let send = |above, text: &str| {
        let frame = script(Way::Frame, EVERY_DST[0], above, text);
        place.start_outside(&frame).outcomes();
    };
    wait::until("the guard is gone", || {
        send(Above::Udp, "free");
        send(Above::Ping, "control");
        let free = tap.seen(&["free"], "control");
        (!free.is_empty()).then_some(())
    })
    .unwrap();
}
