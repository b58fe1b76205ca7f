//! Each direction of a connection ends on its own.
//!
//! After the hello nothing of ours looks into the stream, so a pair that speaks no TLS beyond it
//! shows what becomes of a FIN, and only of that.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use egress_lab::wait;

use crate::clients::{Answer, python_script};
use crate::world::{RAW, World};

const MEBIBYTE: usize = 1 << 20;

/// Python that makes a real ClientHello for `name` and connects.
pub(crate) const HELLO: &str = r#"
import socket, ssl, sys
name, address = sys.argv[1:3]
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=name)
try:
    client.do_handshake()
except ssl.SSLWantReadError:
    pass
hello = outgoing.read()
def read_all():
    total = 0
    while part := s.recv(65536):
        total += len(part)
    return total
s = socket.create_connection((address, 443))
s.sendall(hello)
"#;

#[test]
fn the_client_ends_first_and_still_gets_its_answer() {
    let world = World::new();
    let listener = listen(&world);
    let origin = thread::spawn(move || {
        let mut stream = accept(&listener);
        let mut question = Vec::new();
        stream.read_to_end(&mut question).unwrap();
        stream.write_all(&vec![b'a'; MEBIBYTE]).unwrap();
        question
    });
    let answer = converse(
        &world,
        "s.sendall(b'question'); s.shutdown(socket.SHUT_WR); print(read_all())",
    );
    assert_eq!(answer.stdout, format!("{MEBIBYTE}\n"), "{answer:#?}");
    assert!(origin.join().unwrap().ends_with(b"question"));
    assert_closed_by(world, "client");
}

#[test]
fn the_origin_ends_first_and_still_hears_the_client_out() {
    let world = World::new();
    let listener = listen(&world);
    let origin = thread::spawn(move || {
        let mut stream = accept(&listener);
        let mut heard = vec![0];
        stream.read_exact(&mut heard).unwrap();
        stream.write_all(b"goodbye").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        stream.read_to_end(&mut heard).unwrap();
        heard.len()
    });
    let answer = converse(
        &world,
        "print(read_all(), len(hello)); s.sendall(bytes(1 << 20)); s.close()",
    );
    let (goodbye, hello) = answer.stdout.trim().split_once(' ').unwrap();
    assert_eq!(goodbye, "7", "{answer:#?}");
    let hello: usize = hello.parse().unwrap();
    assert_eq!(origin.join().unwrap(), hello + MEBIBYTE);
    assert_closed_by(world, "origin");
}

fn assert_closed_by(world: World, whom: &str) {
    let records = world.finish();
    let (agent, gateway) = records.one_each();
    for record in [agent, gateway] {
        assert_eq!(record.text("verdict"), "allowed", "{record}");
        assert_eq!(record.text("closed_by"), whom, "{record}");
        assert!(record.number("bytes_to_origin").unwrap() > 100);
    }
}

fn converse(world: &World, script: &str) -> Answer {
    let script = format!("{HELLO}{script}");
    python_script(world, &script, &[RAW.name, &RAW.v4.to_string()])
}

/// An origin of the test's own, for [`RAW`].
pub(crate) fn listen(world: &World) -> TcpListener {
    world.lab.internet.listen((RAW.v4, 443).into()).unwrap()
}

pub(crate) fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let (stream, _) = wait::until("a connection arrives", || listener.accept().ok()).unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(wait::DEADLINE)).unwrap();
    stream
}
