//! A tunnel of the captured namespace's own: what goes in there is a packet of another protocol to its
//! guard.

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};

use egress_lab::wait;
use egress_user::agent::capture::Fallback;
use egress_user::netns::Netns;
use socket2::{Domain, Socket, Type};

use crate::client::{Outcome, Script, Step, TCP};
use crate::craft::{ACK, Above, Craft, Way};
use crate::world::{Place, World, options};

/// Where the origin is behind the tunnel.
const FAR: &str = "2001:db8:7::1";
/// The server in the workload's namespace.
const SERVER: &str = "[2001:db8::2]:8080";

/// IPv6 in IPv6, as segment routing makes it: no device, and nothing in front of the packet inside.
fn dig(place: &Place) {
    /// The far end, an address of nobody.
    const END: &str = "2001:db8::9";

    let origin = &place.origin.namespace;
    origin
        .ip(&format!(
            "addr add {FAR}/128 dev eth0 nodad\n\
             route add {END}/128 encap seg6local action End.DT6 table local dev eth0\n"
        ))
        .unwrap();
    place
        .workload
        .ip(&format!(
            "neigh replace {END} lladdr {} dev eth0\n\
             route add {FAR}/128 encap seg6 mode encap.red segs {END} dev eth0\n",
            crate::world::ORIGIN_MAC
        ))
        .unwrap();
}

/// The socket that answers a SYN is not whole yet.
#[test]
fn a_server_answers_through_a_tunnel_where_everything_else_is_refused() {
    let mut world = World::with(&options(), |scope| scope.other_ports = Fallback::Refuse);
    dig(&world.place);
    let netns = Netns::at(world.place.workload.path()).unwrap();
    world.capture.guard_interfaces(&netns).unwrap();
    let serve = Script::new(true, TCP)
        .then(Step::Bind(SERVER.parse().unwrap()))
        .then(Step::Listen)
        .then(Step::Pause)
        .then(Step::Answer);
    let mut server = world.start(&serve);
    server.paused();
    let tap = world.place.origin.tap();
    let connected = world.place.origin.namespace.run(from_behind).unwrap();
    server.go_on();
    let mut answer = [0; 4];
    TcpStream::from(connected).read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"data");
    assert_eq!(server.outcomes().last(), Some(&Outcome::Done));
    assert_eq!(world.counter("drop_socket"), 0);

    let raw = |dst: &str, text: &str| {
        Step::Craft(Craft {
            way: Way::Raw,
            dst: dst.parse().unwrap(),
            above: Above::Tcp(ACK),
            text: text.to_owned(),
        })
    };
    let script = Script::new(true, TCP)
        .then(raw("[2001:db8:7::1]:8080", "bypass"))
        .then(raw("[2001:db8::1]:8080", "control"));
    world.place.start_outside(&script).outcomes();
    assert_eq!(tap.seen(&["data", "bypass"], "control"), ["data"]);
    assert_eq!(world.counter("drop_raw"), 1);
}

/// Connects from behind the tunnel, so that what answers goes in there.
fn from_behind() -> Socket {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    let own: SocketAddr = format!("[{FAR}]:0").parse().unwrap();
    let server: SocketAddr = SERVER.parse().unwrap();
    socket.bind(&own.into()).unwrap();
    socket.set_read_timeout(Some(wait::DEADLINE)).unwrap();
    socket
        .connect_timeout(&server.into(), wait::DEADLINE)
        .unwrap();
    socket
}
