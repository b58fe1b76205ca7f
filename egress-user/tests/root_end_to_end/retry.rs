//! HelloRetryRequest: the origin asks for a second ClientHello, which must name the same server.

use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::thread;

use egress_lab::{Process, tools};

use crate::clients::{openssl_command, openssl_get, python_script};
use crate::half_close::{HELLO, accept, listen};
use crate::world::{RAW, World};

/// What a server says that wants another key share: RFC 8446 §4.1.4, with the group secp384r1.
const RETRY_REQUEST: &str = "\
    160303003802000034 0303 \
    cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c \
    00130100000c002b00020304003300020018";

/// A real server that takes only a group for which clients send no key share at first.
#[test]
fn a_real_retry_goes_through() {
    let world = World::new();
    let certificate = world.authority.issue(RAW.name).unwrap();
    let mut server = tools::locate("openssl").unwrap().command();
    server
        .args(["s_server", "-accept", &format!("{}:443", RAW.v4), "-cert"])
        .arg(&certificate.certificate)
        .arg("-key")
        .arg(&certificate.key)
        .args(["-tls1_3", "-groups", "P-384", "-www", "-naccept", "1"])
        .stdin(Stdio::null());
    world.lab.internet.enter(&mut server).unwrap();
    let mut server = Process::start(server, "s_server", world.lab.directory()).unwrap();
    server.says("ACCEPT").unwrap();

    let mut client = openssl_command(&world, RAW.v4.into());
    client.args(["-servername", RAW.name, "-msg"]);
    let answer = openssl_get(client, RAW.name);
    assert!(answer.stdout.contains("200 ok"), "{answer:#?}");
    let hellos = answer.stdout.matches("ClientHello").count();
    assert_eq!(hellos, 2, "the server asked again: {answer:#?}");

    let records = world.finish();
    let (agent, gateway) = records.one_each();
    for record in [agent, gateway] {
        assert_eq!(record.text("verdict"), "allowed", "{record}");
    }
}

#[test]
fn a_second_hello_for_another_server_reaches_nobody() {
    does_not_arrive("s.recv(5); s.sendall(other)");
}

/// Whoever offers no key share knows the answer before it comes.
#[test]
fn nor_does_one_that_is_sent_ahead_of_time() {
    does_not_arrive("s.sendall(other); s.recv(5)");
}

fn does_not_arrive(order: &str) {
    let world = World::new();
    let listener = listen(&world);
    let origin = thread::spawn(move || {
        let mut stream = accept(&listener);
        let mut header = [0; 5];
        stream.read_exact(&mut header).unwrap();
        let [_, _, _, high, low] = header;
        let mut hello = vec![0; usize::from(u16::from_be_bytes([high, low]))];
        stream.read_exact(&mut hello).unwrap();
        stream.write_all(&unhex(RETRY_REQUEST)).unwrap();
        let mut more = Vec::new();
        // It is reset, which is as good as an end.
        let _ = stream.read_to_end(&mut more);
        more
    });
    let script = format!(
        "{HELLO}
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
second = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname='evil.example.com')
try:
    second.do_handshake()
except ssl.SSLWantReadError:
    pass
other = outgoing.read()
{order}
try:
    while s.recv(65536): pass
    print('closed')
except ConnectionResetError:
    print('reset')
"
    );
    let answer = python_script(&world, &script, &[RAW.name, &RAW.v4.to_string()]);
    assert!(answer.success, "{answer:#?}");
    assert_eq!(answer.stdout, "reset\n");
    assert_eq!(origin.join().unwrap(), [0; 0], "nothing follows the hello");
    let records = world.finish();
    let (agent, gateway) = records.one_each();
    for record in [agent, gateway] {
        assert_eq!(record.text("verdict"), "refused", "{record}");
        assert_eq!(record.text("reason"), "name_changed_on_retry", "{record}");
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}
