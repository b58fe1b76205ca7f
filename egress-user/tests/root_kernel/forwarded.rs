//! Packets that no socket which is judged has sent: from behind the namespace, of raw sockets that
//! nobody remembers, and of the kernel itself. A tap on the wire to the origin shows what goes there.

use std::io::{self, Write as _};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};

use egress_lab::{Namespace, wait};
use egress_user::agent::capture::{CaptureOptions, Fallback};
use egress_user::netns::Netns;
use socket2::{Domain, Socket, Type};

use crate::client::{ICMP, ICMPV6, Outcome, Script, Step, TCP, UDP};
use crate::craft::{ACK, Above, Craft, SYN, Tap, Way, tun_device};
use crate::world::{
    BEHIND_V4, ORIGIN_MAC, ORIGIN_V4, Place, WORKLOAD_V4, WORKLOAD_V6, World, attached, options,
};

/// What a datagram of several fragments, a tunnel and IPsec are.
const PORTLESS: [u8; 3] = [4, 47, 50];

fn guarded(other_ports: Fallback) -> World {
    let mut world = World::with(&options(), |scope| scope.other_ports = other_ports);
    let netns = Netns::at(world.place.workload.path()).unwrap();
    world.capture.guard_interfaces(&netns).unwrap();
    world
}

fn craft(way: Way, dst: &str, above: Above, text: &str) -> Step {
    Step::Craft(Craft {
        way,
        dst: dst.parse().unwrap(),
        above,
        text: text.to_owned(),
    })
}

/// A segment of no connection, which the guard takes for one of a connection that stood before.
fn control() -> Step {
    craft(Way::Raw, "192.0.2.1:443", Above::Tcp(ACK), "control")
}

/// Sends from `behind`; says which texts arrived.
fn arrive<'a>(tap: &Tap, behind: &Namespace, script: Script, texts: &[&'a str]) -> Vec<&'a str> {
    let script = script.then(control());
    let outcomes = script
        .start(|command| behind.enter(command).unwrap())
        .outcomes();
    assert!(
        outcomes.iter().all(|each| *each == Outcome::Done),
        "{outcomes:?}"
    );
    tap.seen(texts, "control")
}

#[test]
fn tiny_fragments_carry_no_connection() {
    let script = || {
        let raw = Way::RawHeader;
        Script::new(false, TCP)
            .then(craft(raw, "192.0.2.1:443", Above::TinyFragment, "tiny"))
            .then(craft(raw, "192.0.2.1:443", Above::SecondFragment, "second"))
            .then(craft(raw, "192.0.2.1:443", Above::LaterFragment, "later"))
            .then(craft(
                Way::Raw,
                "[2001:db8::1]:443",
                Above::TinyFragment,
                "stump",
            ))
    };
    let texts = ["tiny", "second", "later", "stum"];
    for (other_ports, arrived) in [
        (Fallback::Refuse, [].as_slice()),
        // Of a datagram that passes; without the first nobody can use it.
        (Fallback::Pass, &["later"]),
    ] {
        let world = guarded(other_ports);
        let behind = world.place.behind();
        let tap = world.place.origin.tap();
        assert_eq!(arrive(&tap, &behind, script(), &texts), arrived);
        let drops = u64::try_from(texts.len() - arrived.len()).unwrap();
        assert_eq!(world.counter("drop_socket"), drops);
    }
}

#[test]
fn protocols_without_ports_are_held_where_other_ports_are_refused() {
    let script = || {
        let mut script = Script::new(false, TCP);
        for dst in ["192.0.2.1:0", "[2001:db8::1]:0"] {
            for protocol in PORTLESS {
                script = script.then(craft(Way::Raw, dst, Above::Protocol(protocol), "tunnel"));
            }
            script = script.then(craft(Way::Raw, dst, Above::Ping, "echo"));
        }
        script
    };
    let texts = ["tunnel", "echo"];
    for (other_ports, arrived) in [(Fallback::Refuse, [].as_slice()), (Fallback::Pass, &texts)] {
        let mut world = guarded(other_ports);
        let mut events = world.capture.events().unwrap();
        let behind = world.place.behind();
        let tap = world.place.origin.tap();
        assert_eq!(arrive(&tap, &behind, script(), &texts), arrived);
        if other_ports == Fallback::Refuse {
            assert_eq!(world.counter("drop_socket"), 8);
            let event = events.take().unwrap();
            assert_eq!((event.reason, event.protocol), ("drop_socket", 4));
            assert_eq!((event.cgroup, event.netns), (0, world.place.cookie.get()));
        }
    }
}

/// As a virtual machine in the namespace has one: the kernel's socket of it is of no family.
#[test]
fn what_comes_from_a_tap_is_judged_as_forwarded() {
    let mut world = World::with(&options(), |scope| scope.other_ports = Fallback::Refuse);
    let workload = &world.place.workload;
    let mut device = workload.run(|| tun_device(libc::IFF_TAP)).unwrap();
    workload
        .ip("link add br0 type bridge\n\
             link set eth0 master br0\n\
             link set tun0 master br0\n\
             link set tun0 up\n\
             link set br0 up\n")
        .unwrap();
    // It is not at once that the bridge takes something from it.
    wait::until("a port of the bridge", || {
        let mut ip = workload.command("ip").ok()?;
        let output = ip.args(["-d", "link", "show", "tun0"]).output().ok()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.contains("state forwarding").then_some(())
    })
    .unwrap();
    let netns = Netns::at(workload.path()).unwrap();
    world.capture.guard_interfaces(&netns).unwrap();
    let tap = world.place.origin.tap();
    for (above, text) in [
        (Above::Tcp(SYN), "opens"),
        (Above::Udp, "datagram"),
        (Above::Tcp(ACK), "control"),
    ] {
        let packet = Craft {
            way: Way::Frame,
            dst: "[2001:db8::1]:443".parse().unwrap(),
            above,
            text: text.to_owned(),
        };
        device.write_all(&packet.frame_to(ORIGIN_MAC)).unwrap();
    }
    assert_eq!(tap.seen(&["opens", "datagram"], "control"), [""; 0]);
    assert_eq!(world.counter("drop_socket"), 2);
}

/// What a bridge carries has the socket that sent it, of a namespace that nobody captures.
#[test]
fn what_a_bridge_carries_is_held() {
    let options = CaptureOptions {
        unregistered: Fallback::Pass,
        ..options()
    };
    for other_ports in [Fallback::Refuse, Fallback::Pass] {
        let mut world = World::with(&options, |scope| scope.other_ports = other_ports);
        let behind = world.place.bridged();
        let netns = Netns::at(world.place.workload.path()).unwrap();
        world.capture.guard_interfaces(&netns).unwrap();
        let tap = world.place.origin.tap();
        let datagram = Script::new(false, UDP)
            .then(Step::SendTo("192.0.2.1:443".parse().unwrap()))
            .then(craft(Way::Raw, "192.0.2.1:0", Above::Ping, "echo"));
        let seen = arrive(&tap, &behind, datagram, &["datagram", "echo"]);
        match other_ports {
            Fallback::Refuse => assert_eq!(seen, [""; 0]),
            Fallback::Pass => assert_eq!(seen, ["echo"]),
        }
        // Only newer kernels tell that the raw socket is of another namespace.
        let drops = world.counter("drop_socket") + world.counter("drop_raw");
        assert_eq!(drops, 1 + u64::from(other_ports == Fallback::Refuse));
    }
}

/// They look like those that the kernel has for itself, but what they send does not.
#[test]
fn raw_sockets_from_before_and_from_outside_are_held() {
    for other_ports in [Fallback::Refuse, Fallback::Pass] {
        let World {
            place,
            capture,
            cgroup,
            ..
        } = World::new();
        drop(capture);
        let dst: SocketAddr = "192.0.2.1:0".parse().unwrap();
        let protocols = [ICMP, 47, libc::IPPROTO_TCP];
        let early = protocols.map(|protocol| {
            let script = Script::new(false, protocol).raw();
            let mut client =
                place.start(&cgroup, &script.then(Step::Pause).then(Step::SendTo(dst)));
            client.paused();
            client
        });
        let mut capture = attached(&cgroup, &options());
        let mut scope = place.scope();
        scope.other_ports = other_ports;
        capture.add_scope(place.cookie, &scope).unwrap();
        let netns = Netns::at(place.workload.path()).unwrap();
        capture.guard_interfaces(&netns).unwrap();
        let tap = place.origin.tap();
        for mut client in early {
            client.go_on();
            let _refused_or_dropped = client.outcomes();
        }
        let raw = craft(Way::RawHeader, "192.0.2.1:443", Above::TinyFragment, "tiny");
        let ping = craft(Way::Raw, "192.0.2.1:0", Above::Ping, "outside");
        let outside = Script::new(false, TCP).then(raw).then(ping).then(control());
        let _dropped = place.start_outside(&outside).outcomes();
        let seen = tap.seen(&["datagram", "outside", "tiny"], "control");
        let totals = capture.counters().totals();
        let drops = totals
            .iter()
            .find(|(name, _)| *name == "drop_raw")
            .unwrap()
            .1;
        match other_ports {
            Fallback::Refuse => assert_eq!((seen, drops), (vec![], 5)),
            // The one of TCP goes to a port that is not captured.
            Fallback::Pass => assert_eq!((seen, drops), (vec!["datagram", "outside"], 1)),
        }
    }
}

/// Nothing is let out, and yet the namespace is reached, found and told of what is too large.
#[test]
fn what_the_kernel_itself_sends_leaves() {
    let world = guarded(Fallback::Refuse);
    let place = &world.place;
    let origin = &place.origin.namespace;
    let behind = place.behind();
    // What was learnt of each other is forgotten.
    for (namespace, addresses) in [
        (&place.workload, [ORIGIN_V4, crate::world::ORIGIN_V6]),
        (origin, [WORKLOAD_V4, WORKLOAD_V6]),
    ] {
        for address in addresses {
            let forget = format!("neigh del {address} dev eth0\n");
            namespace.ip(&forget).unwrap();
        }
    }
    for workload in [WORKLOAD_V4, WORKLOAD_V6] {
        let workload: IpAddr = workload.parse().unwrap();
        let closed = SocketAddr::new(workload, 9);
        let reset = origin.run(|| TcpStream::connect_timeout(&closed, wait::DEADLINE));
        let error = reset.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{workload}");
        let unreachable = origin.run(|| told_of_a_closed_port(closed)).unwrap();
        assert_eq!(unreachable, io::ErrorKind::ConnectionRefused, "{workload}");
        origin.run(|| echo(workload)).unwrap();
    }
    origin
        .ip("route add 198.51.100.0/24 via 192.0.2.2\n")
        .unwrap();
    place.workload.ip("link set eth1 mtu 1280\n").unwrap();
    origin.run(|| told_of_the_mtu(1280)).unwrap();
    drop(behind);
    joins_a_group(place);
    let silent = ["drop_socket", "drop_raw", "drop_protocol"];
    assert_eq!(silent.map(|name| world.counter(name)), [0; 3]);
}

/// When it leaves at last, the kernel's socket is of another namespace again.
#[test]
fn an_answer_of_the_kernel_leaves_that_had_to_ask_for_its_next_hop() {
    let world = guarded(Fallback::Refuse);
    for (ours, theirs) in [
        (WORKLOAD_V4, ORIGIN_V4),
        (WORKLOAD_V6, crate::world::ORIGIN_V6),
    ] {
        let forget = format!("neigh del {theirs} dev eth0\n");
        world.place.workload.ip(&forget).unwrap();
        let origin = &world.place.origin.namespace;
        origin.run(|| echo(ours.parse().unwrap())).unwrap();
    }
    assert_eq!(world.counter("drop_socket"), 0);
}

fn told_of_a_closed_port(closed: SocketAddr) -> io::ErrorKind {
    let any = if closed.is_ipv6() {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    let socket = UdpSocket::bind(any).unwrap();
    socket.connect(closed).unwrap();
    socket.set_read_timeout(Some(wait::DEADLINE)).unwrap();
    socket.send(b"anybody?").unwrap();
    socket.recv(&mut [0; 8]).unwrap_err().kind()
}

/// An answer that does not come fails.
fn echo(to: IpAddr) {
    let (domain, protocol, kind) = match to {
        IpAddr::V4(_) => (Domain::IPV4, ICMP, 8),
        IpAddr::V6(_) => (Domain::IPV6, ICMPV6, 128),
    };
    let socket = Socket::new(domain, Type::from(libc::SOCK_RAW), Some(protocol.into())).unwrap();
    socket.connect(&SocketAddr::new(to, 0).into()).unwrap();
    socket.set_read_timeout(Some(wait::DEADLINE)).unwrap();
    let echo = [&[kind, 0], checksum_of_echo(kind).as_slice(), &[0; 4]].concat();
    socket.send(&echo).unwrap();
    loop {
        let mut answer = [MaybeUninit::<u8>::uninit(); 64];
        let len = socket.recv(&mut answer).unwrap();
        // SAFETY: as many bytes as were read are initialised.
        let answer: Vec<u8> = answer[..len]
            .iter()
            .map(|byte| unsafe { byte.assume_init() })
            .collect();
        let (at, reply) = if to.is_ipv4() { (20, 0) } else { (0, 129) };
        if answer.get(at) == Some(&reply) {
            return;
        }
    }
}

/// The kernel makes that of ICMPv6 itself.
fn checksum_of_echo(kind: u8) -> [u8; 2] {
    (!(u16::from(kind) << 8)).to_be_bytes()
}

fn told_of_the_mtu(expected: libc::c_int) {
    const IP_MTU: libc::c_int = 14;

    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.connect((BEHIND_V4, 9)).unwrap();
    wait::until("the next hop tells its MTU", || {
        use std::os::fd::AsRawFd as _;

        let _too_large = socket.send(&[0; 1400]);
        let mut mtu: libc::c_int = 0;
        let mut len = libc::socklen_t::try_from(size_of_val(&mtu)).unwrap();
        // SAFETY: the socket is open, and the kernel is told how large `mtu` is.
        let result = unsafe {
            let mtu = (&raw mut mtu).cast();
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_IP,
                IP_MTU,
                mtu,
                &raw mut len,
            )
        };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        (mtu == expected).then_some(())
    })
    .unwrap();
}

fn joins_a_group(place: &Place) {
    const IGMP: u8 = 2;

    let tap = place.origin.tap();
    let group = Ipv4Addr::new(239, 1, 1, 1);
    let own: Ipv4Addr = WORKLOAD_V4.parse().unwrap();
    let socket = place.workload.udp((own, 0).into()).unwrap();
    socket.join_multicast_v4(&group, &own).unwrap();
    wait::until("the kernel tells of the group", || {
        let script = Script::new(false, TCP).then(control());
        place.start_outside(&script).outcomes();
        tap.protocols("control").contains(&IGMP).then_some(())
    })
    .unwrap();
}
