//! Ways round `connect`, tried by a captured process that is root: nothing of them is on the wire,
//! and the kernel's records say who tried.

use egress_lab::deployment::Record;

use crate::clients::{Answer, curl, python_script};
use crate::world::{EN, IBM, Wish, World};

/// Each way by itself; says what the kernel answered.
const SCRIPT: &str = r#"
import errno, socket, struct, sys
v4, v6 = sys.argv[1:3]
IP_TRANSPARENT, SOL_PACKET, PACKET_QDISC_BYPASS = 19, 263, 20
SYN = struct.pack("!HHIIBBHHH", 50000, 443, 0, 0, 0x50, 2, 1024, 0, 0)
ECHO4, ECHO6 = bytes([8, 0, 0, 0, 0, 0, 0, 1]), bytes([128, 0, 0, 0, 0, 0, 0, 1])

def ip(payload, protocol):
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 7, 0, 64, protocol, 0)
    return head + socket.inet_aton("192.0.2.9") + socket.inet_aton(v4) + payload

def raw(family, protocol, payload, address):
    with socket.socket(family, socket.SOCK_RAW, protocol) as s: s.sendto(payload, (address, 0))

def frame(bypass):
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as s:
        name = [name for _, name in socket.if_nameindex() if name != "lo"][0]
        s.bind((name, 0x0800))
        if bypass: s.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        s.send(bytes([255] * 6 + [2] * 6) + b"\x08\x00" + ip(SYN, 6))

def transparent():
    with socket.socket() as s:
        s.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
        s.bind(("192.0.2.9", 0))
        s.settimeout(3)
        s.connect((v4, 443))

def ping(family, protocol, payload, address):
    with socket.socket(family, socket.SOCK_DGRAM, protocol) as s: s.sendto(payload, (address, 0))

def connect(kind, protocol):
    with socket.socket(socket.AF_INET, kind, protocol) as s:
        s.settimeout(1)
        s.connect((v4, 443))

for name, attempt in {
    "raw": lambda: raw(socket.AF_INET, 6, SYN, v4),
    "raw6": lambda: raw(socket.AF_INET6, 6, SYN, v6),
    "header": lambda: raw(socket.AF_INET, 255, ip(SYN, 6), v4),
    "rawping": lambda: raw(socket.AF_INET, 1, ECHO4, v4),
    "frame": lambda: frame(False),
    "unqueued": lambda: frame(True),
    "transparent": transparent,
    "ping": lambda: ping(socket.AF_INET, 1, ECHO4, v4),
    "ping6": lambda: ping(socket.AF_INET6, 58, ECHO6, v6),
    "sctp": lambda: connect(socket.SOCK_STREAM, 132),
    "dccp": lambda: connect(6, 33),
}.items():
    try:
        attempt()
    except TimeoutError:
        print(name, "TIMEOUT")
    except OSError as error:
        print(name, errno.errorcode[error.errno])
    else:
        print(name, "went")
"#;

fn attempts(world: &World) -> Answer {
    let range = ("ipv4/ping_group_range", "0 2147483647");
    world.lab.app.namespace.sysctl(range.0, range.1).unwrap();
    python_script(world, SCRIPT, &[&EN.v4.to_string(), &EN.v6.to_string()])
}

fn outcome<'a>(answer: &'a Answer, attempt: &str) -> &'a str {
    let line = answer.stdout.lines().find_map(|line| {
        let (name, outcome) = line.split_once(' ')?;
        (name == attempt).then_some(outcome)
    });
    line.unwrap_or_else(|| panic!("{attempt} was not tried: {answer:#?}"))
}

fn with_reason<'a>(records: &'a [Record], reason: &str) -> Vec<&'a Record> {
    let has = |record: &&Record| record.text("reason") == reason;
    records.iter().filter(has).collect()
}

#[test]
fn nothing_goes_round_and_the_kernel_says_who_tried() {
    let world = World::with(&Wish {
        capture: &["other_ports: refuse"],
        ..Wish::default()
    });
    let answer = attempts(&world);
    for attempt in [
        "raw",
        "raw6",
        "header",
        "rawping",
        "unqueued",
        "transparent",
        "ping",
    ] {
        assert_eq!(outcome(&answer, attempt), "EPERM", "{attempt}");
    }
    assert_eq!(outcome(&answer, "frame"), "ENOBUFS");
    // The kernel does not tell who sent it.
    assert_eq!(outcome(&answer, "ping6"), "went");
    // Without the protocol there is no socket, which is as good.
    for attempt in ["sctp", "dccp"] {
        let said = outcome(&answer, attempt);
        let refused = ["EPROTONOSUPPORT", "ESOCKTNOSUPPORT", "EPERM", "TIMEOUT"];
        assert!(refused.contains(&said), "{attempt}: {said}");
    }
    world.assert_nothing_arrived(EN);
    world.assert_application_sent_nothing_to(EN);

    let records = world.finish();
    assert!(records.agent.is_empty() && records.gateway.is_empty());
    let kernel = &records.kernel;
    let raw = with_reason(kernel, "drop_raw");
    assert_eq!(raw.len(), 4, "{kernel:?}");
    for record in raw {
        assert_eq!(record.text("verdict"), "refused");
        assert_eq!(record.at("/process/comm").unwrap(), "python3");
        let destination = record.text("original_dst");
        let ours = EN.addresses().map(|address| address.to_string());
        assert!(ours.iter().any(|ours| destination.contains(ours)));
        assert!(record.at("/workload/cgroup").is_some(), "{record}");
    }
    assert_eq!(with_reason(kernel, "drop_frame").len(), 1, "{kernel:?}");
    assert_eq!(with_reason(kernel, "refuse_option").len(), 2, "{kernel:?}");
    let pings = with_reason(kernel, "drop_protocol");
    assert!(pings.len() >= 2, "{kernel:?}");
    assert!(pings.iter().any(|record| record.text("protocol") == "icmp"));
}

#[test]
fn a_strict_scope_makes_no_raw_sockets() {
    let world = World::with(&Wish {
        capture: &["other_ports: refuse", "strict: true"],
        ..Wish::default()
    });
    let answer = attempts(&world);
    for attempt in ["raw", "raw6", "header", "rawping"] {
        assert_eq!(outcome(&answer, attempt), "EPERM", "{attempt}");
    }
    world.assert_nothing_arrived(EN);
    world.assert_application_sent_nothing_to(EN);
    let records = world.finish();
    let refused = with_reason(&records.kernel, "refuse_socket");
    assert!(refused.len() >= 4, "{:?}", records.kernel);
    assert!(with_reason(&records.kernel, "drop_raw").is_empty());
}

/// The others in the namespace of a workload are held by its guard.
#[test]
fn a_process_outside_of_the_cgroup_is_held_too() {
    const SCRIPT: &str = r#"
import socket, sys
with socket.socket() as s:
    s.settimeout(1)
    try: s.connect((sys.argv[1], 443))
    except TimeoutError: print("TIMEOUT")
"#;
    let world = World::new();
    let mut python = world.uncaptured("python3");
    python.args(["-c", SCRIPT, &EN.v4.to_string()]);
    assert_eq!(crate::clients::run(&mut python).stdout, "TIMEOUT\n");
    world.assert_nothing_arrived(EN);
    world.assert_application_sent_nothing_to(EN);
    let records = world.finish();
    assert!(records.agent.is_empty());
    let held = with_reason(&records.kernel, "drop_socket");
    assert_eq!(held[0].text("original_dst"), format!("{}:443", EN.v4));
}

#[test]
fn destinations_come_before_ports() {
    let refuse = format!(
        "destinations: [{{to: [{}], action: refuse}}, \
                          {{to: [{}], ports: [443], action: pass}}]",
        EN.v4, IBM.v4
    );
    let mut world = World::with(&Wish {
        capture: &[&refuse],
        ..Wish::default()
    });
    let answer = curl(&world, EN.name, EN.v4.into());
    assert!(!answer.success, "{answer:#?}");
    world.assert_nothing_arrived(EN);
    world.assert_application_sent_nothing_to(EN);
    // Past the agent, and past its policy.
    curl(&world, IBM.name, IBM.v4.into()).assert_page_of(IBM.name);

    world.deployment.finish().unwrap();
    let records = world.deployment.records(egress_lab::deployment::Hop::Agent);
    let records = records.unwrap();
    assert!(records.iter().all(|record| record.text("hop") == "kernel"));
    let refused = with_reason(&records, "refuse_prefix");
    assert_eq!(refused[0].text("original_dst"), format!("{}:443", EN.v4));
    assert_eq!(refused[0].at("/process/comm").unwrap(), "curl");
}
