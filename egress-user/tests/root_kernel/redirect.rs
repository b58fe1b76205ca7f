//! What is captured comes to the agent, with its original destination.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use egress_lab::Cgroup;
use egress_user::agent::capture::{Claim, Fallback, PrefixAction, PrefixRule};

use crate::client::{COMM, Client, Outcome, Script, Step, TCP, UDP};
use crate::world::{
    ORIGIN_V4, ORIGIN_V6, Place, WORKLOAD_V4, WORKLOAD_V6, World, attached, options, read_all,
    record_of,
};

#[test]
fn v4() {
    redirected("192.0.2.1:443", false, "192.0.2.1:443");
}

#[test]
fn v6() {
    redirected("[2001:db8::1]:443", true, "[2001:db8::1]:443");
}

/// Recorded as IPv4, but the application sees the form that it chose.
#[test]
fn v4_mapped() {
    redirected("[::ffff:192.0.2.1]:443", false, "192.0.2.1:443");
}

/// A client connects to `dst`; the agent's listener of the family of `v6` gets it.
fn redirected(dst: &str, v6: bool, recorded: &str) {
    let world = World::new();
    let before = Instant::now();
    let script = Script::connect(dst)
        .then(Step::PeerName)
        .then(Step::Send)
        .then(Step::Pause);
    let mut client = world.start(&script);
    client.paused();

    let (stream, accepted) = world.place.accept(v6);
    let claim = world.flows.claim(world.place.cookie, accepted, &stream);
    let record = record_of(claim).unwrap();
    assert_eq!(record.original_dst.to_string(), recorded);
    assert_eq!(record.cgroup, world.cgroup.id().unwrap());
    assert_eq!(record.process.pid, client.id());
    assert_eq!(record.process.uid, 0);
    assert_eq!(record.process.comm, COMM.to_str().unwrap());
    assert!(record.connected >= before && record.connected <= Instant::now());
    assert_eq!(
        world.flows.claim(world.place.cookie, accepted, &stream),
        Claim::Unknown,
        "a record is taken once"
    );

    client.go_on();
    assert_eq!(
        client.outcomes(),
        [
            Outcome::Done,
            Outcome::address(dst),
            Outcome::Done,
            Outcome::Done
        ]
    );
    assert_eq!(read_all(stream), b"data");
    world.place.origin_is_untouched();
}

#[test]
fn without_a_v6_listener_v6_comes_to_the_v4_listener() {
    let world = World::with(&options(), |scope| scope.listen_v6 = None);
    let dst = "[2001:db8::1]:443";
    let outcomes = world.run(&Script::connect(dst).then(Step::PeerName));
    assert_eq!(outcomes, [Outcome::Done, Outcome::address(dst)]);
    assert_eq!(world.record(false).original_dst.to_string(), dst);

    // A socket that insists on IPv6 cannot be helped, but it does not get through either.
    let outcomes = world.run(&Script::connect(dst).first(Step::OnlyV6));
    assert_eq!(
        outcomes,
        [Outcome::Done, Outcome::Failed(libc::ENETUNREACH)]
    );
    world.place.agent_is_untouched();
    world.place.origin_is_untouched();
}

/// Equal addresses and source ports at the same time are told apart by the namespace.
#[test]
fn two_namespaces_with_equal_addresses() {
    let cgroup = Cgroup::new().unwrap();
    let mut capture = attached(&cgroup, &options());
    let places = [Place::new(), Place::new()];
    for place in &places {
        capture.add_scope(place.cookie, &place.scope()).unwrap();
    }
    let flows = capture.flows();
    for (dst, source, v6) in [
        ([ORIGIN_V4, "198.51.100.7"], WORKLOAD_V4, false),
        ([ORIGIN_V6, "2001:db8:7::7"], WORKLOAD_V6, true),
    ] {
        let dst = dst.map(|ip| SocketAddr::new(ip.parse().unwrap(), 443));
        let source = SocketAddr::new(source.parse().unwrap(), 40_000);
        let clients = [0, 1].map(|n| {
            let script = Script::new(v6, TCP)
                .then(Step::Bind(source))
                .then(Step::Connect(dst[n]))
                .then(Step::PeerName)
                .then(Step::Pause);
            let mut client = places[n].start(&cgroup, &script);
            client.paused();
            client
        });
        // Both records wait at once; each is found in its own namespace.
        for n in [1, 0] {
            let (stream, client) = places[n].accept(v6);
            assert_eq!(client.get(), source);
            let claim = flows.claim(places[n].cookie, client, &stream);
            let record = record_of(claim).unwrap();
            assert_eq!(record.original_dst.get(), dst[n]);
            assert_eq!(record.process.pid, clients[n].id());
        }
        for (mut client, dst) in clients.into_iter().zip(dst) {
            client.go_on();
            assert_eq!(client.outcomes()[2], Outcome::Address(dst));
        }
    }
    for place in &places {
        place.origin_is_untouched();
    }
}

#[test]
fn several_ports_are_captured() {
    let world = World::with(&options(), |scope| scope.ports = vec![443, 8080]);
    for dst in ["192.0.2.1:443", "192.0.2.1:8080"] {
        assert_eq!(world.run(&Script::connect(dst)), [Outcome::Done]);
        assert_eq!(world.record(false).original_dst.to_string(), dst);
    }
    world.place.origin_is_untouched();
}

/// Metadata services of clouds live there.
#[test]
fn link_local_is_captured() {
    let world = World::new();
    let dst = "169.254.169.254:443";
    assert_eq!(world.run(&Script::connect(dst)), [Outcome::Done]);
    assert_eq!(world.record(false).original_dst.to_string(), dst);
}

#[test]
fn a_process_in_a_cgroup_below_is_captured() {
    let world = World::new();
    let below = world.cgroup.path().join("below");
    std::fs::create_dir(&below).unwrap();
    let id = egress_user::cgroup::Cgroup::open(&below).unwrap().id();
    let script = Script::connect("192.0.2.1:443").first(Step::Pause);
    let mut client = world.start(&script);
    client.paused();
    std::fs::write(below.join("cgroup.procs"), client.id().to_string()).unwrap();
    client.go_on();
    assert_eq!(client.outcomes(), [Outcome::Done; 2]);
    assert_eq!(world.record(false).cgroup, id);
    world.place.origin_is_untouched();
}

#[test]
fn prefixes_are_exceptions_the_longest_first() {
    let mut world = World::with(&options(), |scope| scope.other_ports = Fallback::Refuse);
    for (prefix, action) in [
        ("192.0.0.0/16", PrefixAction::Refuse),
        ("192.0.2.0/24", PrefixAction::Pass),
        ("192.0.2.128/25", PrefixAction::Judge),
        ("2001:db8::/32", PrefixAction::Refuse),
        ("2001:db8::1/128", PrefixAction::Pass),
    ] {
        world
            .capture
            .set_prefix(prefix.parse().unwrap(), PrefixRule::new(action))
            .unwrap();
    }
    let connect = |dst| world.run(&Script::connect(dst)).remove(0);
    for dst in ["192.0.2.1:443", "[2001:db8::1]:443", "192.0.2.1:8080"] {
        assert_eq!(connect(dst), Outcome::Done);
        world.place.origin.accepted(dst);
    }
    assert_eq!(connect("[::ffff:192.0.2.1]:443"), Outcome::Done);
    world.place.origin.accepted("192.0.2.1:443");
    assert_eq!(connect("192.0.1.1:443"), Outcome::REFUSED);
    assert_eq!(connect("[2001:db8::2]:443"), Outcome::REFUSED);
    world.place.agent_is_untouched();
    assert_eq!(connect("192.0.2.200:443"), Outcome::Done);
    assert_eq!(
        world.record(false).original_dst.to_string(),
        "192.0.2.200:443"
    );
    world.place.origin_is_untouched();

    world
        .capture
        .clear_prefix("192.0.2.0/24".parse().unwrap())
        .unwrap();
    let outcomes = world.run(&Script::connect("192.0.2.1:443"));
    assert_eq!(outcomes, [Outcome::REFUSED]);
    world.place.origin_is_untouched();
}

#[test]
fn prefixes_tell_ports_apart() {
    let mut world = World::new();
    let rule = PrefixRule::new(PrefixAction::Judge)
        .with_port(443, PrefixAction::Pass)
        .and_then(|rule| rule.with_port(8080, PrefixAction::Redirect))
        .and_then(|rule| rule.with_port(53, PrefixAction::Refuse))
        .unwrap();
    for prefix in ["192.0.2.0/24", "2001:db8::/32"] {
        let prefix = prefix.parse().unwrap();
        world.capture.set_prefix(prefix, rule).unwrap();
    }
    for ip in ["192.0.2.1", "[2001:db8::1]"] {
        let connect = |port| {
            world
                .run(&Script::connect(&format!("{ip}:{port}")))
                .remove(0)
        };
        assert_eq!(connect(443), Outcome::Done);
        world.place.origin.accepted(&format!("{ip}:443"));
        assert_eq!(connect(8080), Outcome::Done);
        let dst = world.record(ip.starts_with('[')).original_dst;
        assert_eq!(dst.to_string(), format!("{ip}:8080"));
        assert_eq!(connect(53), Outcome::REFUSED);
        let quic = Script::connect(&format!("{ip}:8080")).protocol(UDP);
        assert_eq!(world.run(&quic), [Outcome::REFUSED]);
    }
    world.place.origin_is_untouched();
}

/// A client that resets before it is accepted gives its port back. Whoever connects from the same
/// port next must not lose its record to the dead connection, which is accepted first.
#[test]
fn a_port_that_is_used_again_before_it_is_accepted() {
    let world = World::new();
    let source = "127.0.0.1:40000".parse().unwrap();
    let connect = |dst: &str| Script::connect(dst).first(Step::Bind(source));
    let reset = connect("192.0.2.1:443").then(Step::Disconnect);
    assert_eq!(world.run(&reset), [Outcome::Done; 3]);
    let mut client = world.start(&connect("192.0.2.2:443").then(Step::Pause));
    client.paused();

    let (dead, client_of_dead) = world.place.accept(false);
    let claim = world.flows.claim(world.place.cookie, client_of_dead, &dead);
    assert_eq!(claim, Claim::Dead, "nobody knows whose it was");
    let (alive, record) = world.take(false);
    assert_eq!(record.unwrap().original_dst.to_string(), "192.0.2.2:443");
    assert_eq!(dead.peer_addr().ok().or(Some(source)), Some(source));
    assert_eq!(alive.peer_addr().unwrap(), source);
    client.go_on();
    world.place.origin_is_untouched();
}

/// A socket whose client does something between the two looks at whether it is alive.
struct Changing<'a> {
    stream: &'a TcpStream,
    looks: Cell<u32>,
    second: &'a dyn Fn(),
}

impl AsFd for Changing<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.looks.set(self.looks.get() + 1);
        if self.looks.get() == 2 {
            (self.second)();
        }
        self.stream.as_fd()
    }
}

/// Whose record was taken is not known any more, so it is put back, unless the next one from the
/// same port has left its own.
#[test]
fn a_client_that_resets_while_its_record_is_taken() {
    let source = "127.0.0.1:40000".parse().unwrap();
    let next = "192.0.2.2:443".parse().unwrap();
    let script = Script::connect("192.0.2.1:443")
        .first(Step::Bind(source))
        .then(Step::Pause)
        .then(Step::Disconnect)
        .then(Step::Pause)
        .then(Step::Connect(next))
        .then(Step::Pause);
    for until in [1, 2] {
        let world = World::new();
        let client = RefCell::new(world.start(&script));
        client.borrow_mut().paused();
        let (stream, addr) = world.place.accept(false);
        let changing = Changing {
            stream: &stream,
            looks: Cell::new(0),
            second: &|| {
                for _ in 0..until {
                    client.borrow_mut().go_on();
                    client.borrow_mut().paused();
                }
            },
        };
        let claim = world.flows.claim(world.place.cookie, addr, &changing);
        assert_eq!(claim, Claim::Dead);
        assert_eq!(changing.looks.get(), 2);
        // Any socket that is alive shows whose record is there now.
        let alive = UdpSocket::bind("127.0.0.1:0").unwrap();
        let claim = world.flows.claim(world.place.cookie, addr, &alive);
        let dst = record_of(claim).unwrap().original_dst.to_string();
        assert_eq!(dst, format!("192.0.2.{until}:443"));
        world.place.origin_is_untouched();
    }
}

/// Every one of many connections at once finds its own record.
#[test]
fn many_at_once() {
    const CLIENTS: usize = 8;
    const EACH: usize = 40;
    let world = World::new();
    let mut script = Script::new(false, TCP);
    for _ in 0..EACH {
        script = script
            .then(Step::Connect("192.0.2.1:443".parse().unwrap()))
            .then(Step::Receive)
            .then(Step::Disconnect);
    }
    let clients: Vec<_> = (0..CLIENTS).map(|_| world.start(&script)).collect();
    let pids: HashSet<u32> = clients.iter().map(Client::id).collect();
    for _ in 0..CLIENTS * EACH {
        let (mut stream, record) = world.take(false);
        let record = record.unwrap();
        assert_eq!(record.original_dst.to_string(), "192.0.2.1:443");
        assert!(pids.contains(&record.process.pid));
        // What its client has reset would have none.
        stream.write_all(b"go on").unwrap();
    }
    for client in clients {
        assert_eq!(client.outcomes(), vec![Outcome::Done; 3 * EACH]);
    }
    assert_eq!(world.counter("redirect_v4"), (CLIENTS * EACH) as u64);
    assert_eq!(world.counter("flow_recorded"), (CLIENTS * EACH) as u64);
    assert_eq!(world.counter("flow_lost"), 0);
    world.place.origin_is_untouched();
}
