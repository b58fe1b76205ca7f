//! Our gateway for other people's programs: mTLS with the application's bytes inside.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::thread;

use egress_lab::Process;
use egress_lab::deployment::{Record, TUNNEL_PORT};

use crate::clients::{ACCESS_DENIED, Answer, CURL, curl, python_script, run};
use crate::half_close::{HELLO, accept, listen};
use crate::peers::{Header, PORT, Peer, Stranger};
use crate::world::{EN, IBM, RAW, Wish, World};

const TAKEN: &[&str] = &["raw: {enabled: true}"];
const REQUIRED: &[&str] = &["raw: {enabled: true, proxy_header: require}"];
const ACCEPTED: &[&str] = &["raw: {enabled: true, proxy_header: accept}"];

/// None of them writes a header.
const STRANGERS: [Stranger; 3] = [
    Stranger::Envoy(Header::None),
    Stranger::Haproxy(Header::None),
    Stranger::Stunnel,
];

/// Those that can write one.
const WRITERS: [fn(Header) -> Stranger; 2] = [Stranger::Envoy, Stranger::Haproxy];

fn world(gateway: &[&str]) -> World {
    World::with(&Wish {
        gateway,
        ..Wish::default()
    })
}

/// curl on the node, through the stranger that listens there.
fn curl_through(world: &World, name: &str) -> Answer {
    let mut curl = world.lab.node.namespace.command("curl").unwrap();
    curl.args(CURL)
        .arg("--cacert")
        .arg(world.authority.certificate())
        .args(["--resolve", &format!("{name}:443:127.0.0.1")])
        .arg(format!("https://{name}/"));
    run(&mut curl)
}

fn foreign(world: &World) -> PathBuf {
    world.lab.directory().join("foreign-pki")
}

/// The gateway's records; our own agent had nothing to do.
fn finish<const N: usize>(world: World) -> [Record; N] {
    let records = world.finish();
    assert_eq!(records.agent, []);
    let gateway = <[Record; N]>::try_from(records.gateway);
    gateway.unwrap_or_else(|gateway| panic!("{N} records, not {gateway:#?}"))
}

fn assert_outcome(record: &Record, verdict: &str, reason: &str) {
    assert_eq!(record.text("verdict"), verdict, "{record}");
    assert_eq!(record.text("reason"), reason, "{record}");
}

/// Nobody was dialled nor asked for.
fn assert_got_nowhere(world: &World, answer: &Answer) {
    assert!(!answer.success, "{answer:#?}");
    world.assert_nothing_arrived(EN);
    world.assert_no_name_was_asked_for();
}

#[test]
fn strangers_are_served_as_agents_are() {
    for stranger in STRANGERS {
        let world = world(TAKEN);
        let _running = stranger.start(&world, Some(&world.pki()));
        curl_through(&world, EN.name).assert_page_of(EN.name);
        curl_through(&world, IBM.name).assert_alert(ACCESS_DENIED);
        world.assert_nothing_arrived(IBM);
        let arrived = world.origins.arrived(&world.lab, EN.name).unwrap();
        assert_eq!(arrived.len(), 1, "{stranger:?}");

        let node = world.lab.node.v4;
        let [carried, refused] = finish(world);
        assert_outcome(&carried, "allowed", "");
        assert_outcome(&refused, "refused", "no_rule");
        for record in [carried, refused] {
            let peer = record.text("peer");
            assert_eq!(peer, "spiffe://egress.local/agent/default");
            assert!(record.text("client").starts_with(&format!("{node}:")));
            assert_eq!(record.number("port"), Some(443));
            assert_eq!(record.at("/workload"), None, "{record}");
        }
    }
}

#[test]
fn a_header_says_who_it_is_for() {
    for (gateway, writer) in [REQUIRED, ACCEPTED].into_iter().zip(WRITERS) {
        let world = world(gateway);
        let _running = writer(Header::Inside).start(&world, Some(&world.pki()));
        curl_through(&world, EN.name).assert_page_of(EN.name);
        let [carried] = finish(world);
        assert_outcome(&carried, "allowed", "");
        assert_eq!(carried.text("original_dst"), "127.0.0.1:443");
        assert!(
            carried.text("client").starts_with("127.0.0.1:"),
            "{carried}"
        );
        assert_eq!(carried.text("dialled"), format!("{}:443", EN.v4));
    }
}

#[test]
fn a_header_where_none_is_taken_and_none_where_one_must_be() {
    for writer in WRITERS {
        for (gateway, header, reason) in [
            (TAKEN, Header::Inside, "header_unwanted"),
            (REQUIRED, Header::None, "header_absent"),
        ] {
            let world = world(gateway);
            let _running = writer(header).start(&world, Some(&world.pki()));
            let answer = curl_through(&world, EN.name);
            assert_got_nowhere(&world, &answer);
            let [refused] = finish(world);
            assert_outcome(&refused, "refused", reason);
            let peer = refused.text("peer");
            assert_eq!(peer, "spiffe://egress.local/agent/default");
        }
    }
}

/// It could have been written by anybody on the way.
#[test]
fn a_header_before_the_tls_is_believed_by_nobody() {
    for writer in WRITERS {
        let world = world(ACCEPTED);
        let _running = writer(Header::Outside).start(&world, Some(&world.pki()));
        let answer = curl_through(&world, EN.name);
        assert_got_nowhere(&world, &answer);
        let records = world.finish().gateway;
        assert!(!records.is_empty());
        for record in &records {
            assert_outcome(record, "refused", "not_tls");
        }
    }
}

#[test]
fn strangers_without_a_certificate_of_ours_get_nowhere() {
    for stranger in STRANGERS {
        for is_foreign in [false, true] {
            let world = world(TAKEN);
            let foreign = is_foreign.then(|| foreign(&world));
            let _running = stranger.start(&world, foreign.as_deref());
            let answer = curl_through(&world, EN.name);
            assert_got_nowhere(&world, &answer);
            let reason = match is_foreign {
                true => "peer_certificate_unknown_issuer",
                false => "no_peer_certificate",
            };
            let records = world.finish().gateway;
            assert!(!records.is_empty());
            for record in &records {
                assert_outcome(record, "refused", reason);
            }
        }
    }
}

#[test]
fn strangers_are_taken_only_where_raw_is_enabled() {
    let world = world(&["raw: {enabled: false}"]);
    let _running = Stranger::Stunnel.start(&world, Some(&world.pki()));
    let answer = curl_through(&world, EN.name);
    assert_got_nowhere(&world, &answer);
    let [refused] = finish(world);
    assert_outcome(&refused, "refused", "alpn_mismatch");
}

/// Whom a stream without a header is for is not known, and counts against it.
#[test]
fn strangers_speak_for_whom_the_rules_say() {
    let rules = "agents: [{id: spiffe://egress.local/agent/*, workloads: [{uid: 0}]}]";
    let world = world(&[TAKEN[0], rules]);
    let _running = Stranger::Stunnel.start(&world, Some(&world.pki()));
    let answer = curl_through(&world, EN.name);
    answer.assert_alert(ACCESS_DENIED);
    assert_got_nowhere(&world, &answer);
    let [refused] = finish(world);
    assert_outcome(&refused, "refused", "may_not_speak_for");
}

/// As a load balancer asks whether somebody is there, with a certificate of ours.
#[test]
fn a_stranger_that_goes_without_a_word_is_no_refusal() {
    let world = world(TAKEN);
    let mut openssl = world.lab.node.namespace.command("openssl").unwrap();
    openssl
        .args(["s_client", "-tls1_3", "-connect"])
        .arg(format!("{}:{TUNNEL_PORT}", world.lab.gateway.v4));
    for (option, file) in [
        ("-CAfile", "ca.pem"),
        ("-cert", "agent.pem"),
        ("-key", "agent-key.pem"),
    ] {
        openssl.arg(option).arg(world.pki().join(file));
    }
    let answer = run(&mut openssl);
    assert!(answer.stdout.contains("CONNECTED"), "{answer:#?}");
    let [record] = finish(world);
    assert_outcome(&record, "closed", "closed_before_hello");
}

#[test]
fn a_stranger_that_leaves_in_the_handshake_is_no_refusal() {
    let world = world(TAKEN);
    let gateway = SocketAddr::new(world.lab.gateway.v4.into(), TUNNEL_PORT);
    let node = &world.lab.node.namespace;
    let went = node.run(|| TcpStream::connect(gateway)?.local_addr());
    let client = went.unwrap().unwrap().to_string();
    let records = world.finish();
    assert_eq!((records.agent, records.gateway), (vec![], vec![]));
    let mut left = records.left.iter();
    let record = left.find(|record| record.text("client") == client);
    assert_outcome(record.unwrap(), "closed", "handshake_broken_off");
}

/// An inner session over the pipes of `openssl s_client`.
#[test]
fn s_client_is_a_tunnel_too() {
    const SCRIPT: &str = r#"
import os, ssl, subprocess, sys
gateway, pki, authority, name = sys.argv[1:]
outer = subprocess.Popen(
    [os.environ["OPENSSL"], "s_client", "-quiet", "-no_ign_eof", "-connect", gateway, "-CAfile", f"{pki}/ca.pem",
     "-verify_return_error", "-cert", f"{pki}/agent.pem", "-key", f"{pki}/agent-key.pem"],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
context = ssl.create_default_context(cafile=authority)
inner = context.wrap_bio(incoming, outgoing, server_hostname=name)
def step(what):
    while True:
        try:
            done = what()
        except ssl.SSLWantReadError:
            done = None
        outer.stdin.write(outgoing.read())
        if done is not None:
            return done
        if part := outer.stdout.read(65536):
            incoming.write(part)
        else:
            incoming.write_eof()
step(lambda: inner.do_handshake() or True)
step(lambda: inner.write(f"GET / HTTP/1.0\r\nHost: {name}\r\n\r\n".encode()))
while part := step(lambda: inner.read(65536)):
    print(part.decode())
outer.stdin.close()
outer.wait()
"#;
    let world = world(TAKEN);
    let answer = |name: &str| {
        let openssl = egress_lab::tools::locate("openssl").unwrap();
        let mut python = world.lab.node.namespace.command("python3").unwrap();
        python
            .env("OPENSSL", openssl.path)
            .args(["-c", SCRIPT])
            .arg(format!("{}:{TUNNEL_PORT}", world.lab.gateway.v4))
            .args([world.pki(), world.authority.certificate()])
            .arg(name);
        run(&mut python)
    };
    answer(EN.name).assert_page_of(EN.name);
    answer(IBM.name).assert_alert(ACCESS_DENIED.trim_start_matches("alert "));
    world.assert_nothing_arrived(IBM);
    let [carried, refused] = finish(world);
    assert_outcome(&carried, "allowed", "");
    assert_outcome(&refused, "refused", "no_rule");
}

#[test]
fn nobody_waits_for_a_silent_stranger() {
    let world = world(ACCEPTED);
    let mut openssl = world.lab.node.namespace.command("openssl").unwrap();
    let pki = world.pki();
    openssl
        .args(["s_client", "-quiet", "-connect"])
        .arg(format!("{}:{TUNNEL_PORT}", world.lab.gateway.v4))
        .args(["-cert", "agent.pem", "-key", "agent-key.pem"])
        .current_dir(pki);
    // Its input stays open. It ends when the gateway does.
    let home = world.lab.directory();
    let mut silent = Process::start_with_input(openssl, "silent", home).unwrap();
    silent.ended().unwrap();
    world.assert_no_name_was_asked_for();
    let [refused] = finish(world);
    assert_outcome(&refused, "refused", "too_slow");
}

/// HAProxy waits for a header that never comes, and closes. Which of the two an agent asks first is
/// chance, and the application does not notice.
#[test]
fn what_one_gateway_closes_another_carries() {
    let world = World::with(&Wish {
        agent: &["protocol: raw"],
        agent_answers: "/healthz",
        gateway: TAKEN,
        gateways: &[PORT, TUNNEL_PORT],
        ..Wish::default()
    });
    let _running = Peer::Haproxy.start(&world, true);
    for _ in 0..8 {
        curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);
    }
    let own = format!("{}:{TUNNEL_PORT}", world.lab.gateway.v4);
    for record in &world.finish().agent {
        assert_outcome(record, "allowed", "");
        assert_eq!(record.text("gateway"), own);
    }
}

/// `close_notify` does for each direction what FIN does.
#[test]
fn each_direction_of_a_raw_stream_ends_on_its_own() {
    let world = World::with(&Wish {
        agent: &["protocol: raw"],
        gateway: TAKEN,
        ..Wish::default()
    });
    let listener = listen(&world);
    let origin = thread::spawn(move || {
        let mut stream = accept(&listener);
        // Nothing else tells that the stream is carried.
        stream.write_all(b"x").unwrap();
        let mut question = Vec::new();
        stream.read_to_end(&mut question).unwrap();
        stream.write_all(&vec![b'a'; 1 << 20]).unwrap();
        question
    });
    let script = "s.recv(1); s.sendall(b'question'); s.shutdown(socket.SHUT_WR); print(read_all())";
    let arguments = [RAW.name, &RAW.v4.to_string()];
    let answer = python_script(&world, &format!("{HELLO}{script}"), &arguments);
    assert_eq!(answer.stdout, "1048576\n", "{answer:#?}");
    assert!(origin.join().unwrap().ends_with(b"question"));
    let records = world.finish();
    let carried = |record: &&Record| record.text("verdict") == "allowed";
    for hop in [&records.agent, &records.gateway] {
        let carried: Vec<_> = hop.iter().filter(carried).collect();
        assert_eq!(carried.len(), 1, "{hop:?}");
        assert_eq!(carried[0].text("closed_by"), "client");
        assert_eq!(carried[0].number("bytes_to_client"), Some((1 << 20) + 1));
    }
}

/// Our own two halves without frames: the header says what OPEN would have.
#[test]
fn our_own_agent_is_one_of_them() {
    let rules = "agents: [{id: spiffe://egress.local/agent/*, workloads: [{uid: 0}]}]";
    let world = World::with(&Wish {
        agent: &["protocol: raw", "proxy_header: true", "alpn: example"],
        gateway: &[
            "raw: {enabled: true, proxy_header: require, alpn: [example]}",
            rules,
        ],
        ..Wish::default()
    });
    curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);
    let records = world.finish();
    // The agent also looked whether the gateway is there.
    let mut streams = records.gateway.iter();
    let gateway = streams.find(|record| record.text("verdict") != "closed");
    let (agent, gateway) = (&records.agent[0], gateway.unwrap());
    for record in [agent, gateway] {
        assert_outcome(record, "allowed", "");
    }
    for field in ["connection", "client", "original_dst", "sni"] {
        assert_eq!(agent.text(field), gateway.text(field), "{gateway}");
    }
    assert_eq!(agent.at("/workload"), gateway.at("/workload"));
    assert_eq!(agent.at("/process"), gateway.at("/process"));
    assert_eq!(agent.text("policy"), gateway.text("peer_policy"));
}
