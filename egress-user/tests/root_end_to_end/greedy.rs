//! A workload that makes more network namespaces, or more devices in one, than it may have. Any user
//! can, in a user namespace of their own; to the agent it is all the same who did.

use std::process::Command;

use egress_lab::deployment::{ADMIN, Hop};
use egress_lab::{Namespace, Process, http, tools, wait};
use rustix::process::Signal;

use crate::clients::run;
use crate::discovery::SCRIPT;
use crate::steady::Clients;
use crate::world::{EN, Wish, World};

/// So many processes in as many namespaces, each of which connects once it is told to.
const NAMESPACES: &str = r#"
import collections, ctypes, fcntl, os, signal, socket, struct, sys
address, count = sys.argv[1], int(sys.argv[2])
libc = ctypes.CDLL(None, use_errno=True)
made, begin, ended = os.pipe(), os.pipe(), os.pipe()
def connect():
    try:
        socket.create_connection((address, 443), timeout=60).close()
        return b"c"
    except PermissionError: return b"r"
    except OSError: return b"o"
def live():
    assert libc.unshare(0x40000000) == 0, ctypes.get_errno()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, 0x8914, struct.pack("16sH14x", b"lo", 1))
    os.write(made[1], b"m")
    os.read(begin[0], 1)
    os.write(ended[1], connect())
    signal.pause()
for _ in range(count):
    if os.fork() == 0:
        live()
def gather(pipe):
    found = b""
    while len(found) < count: found += os.read(pipe[0], count)
    return collections.Counter(found.decode())
gather(made)
print("made", flush=True)
sys.stdin.readline()
os.write(begin[1], b"b" * count)
outcomes = gather(ended)
print("connected", outcomes["c"], "refused", outcomes["r"], "otherwise", outcomes["o"], flush=True)
sys.stdin.readline()
"#;

const DISCOVER: &str = "discover: [CGROUP]";

/// A command of a workload, in this namespace.
fn of_workload(world: &World, name: &str, namespace: &Namespace, program: &str) -> Command {
    let mut command = tools::locate(program).unwrap().command();
    // In this order: the namespace that it comes from is none of the workload's.
    namespace.enter(&mut command).unwrap();
    world.cgroup.enter_below(name, &mut command).unwrap();
    command
}

/// A namespace of another workload is found and served.
fn assert_another_is_served(world: &World) {
    assert_served(world, "another", &Namespace::new().unwrap());
}

fn assert_served(world: &World, workload: &str, namespace: &Namespace) {
    let mut python = of_workload(world, workload, namespace, "python3");
    python.args(["-c", SCRIPT, &EN.v4.to_string(), EN.name]);
    python.arg(world.authority.certificate());
    let answer = run(&mut python);
    assert_eq!(answer.stdout, format!("{}\n", EN.name), "{answer:#?}");
}

/// What the agent says of itself.
fn get(world: &World, path: &str) -> http::Answer {
    http::get(&Hop::Agent.host(&world.lab).namespace, ADMIN, path).unwrap()
}

fn metric(world: &World, name: &str) -> u64 {
    let text = get(world, "/metrics").body;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {text}"))
}

/// Waits until so many namespaces are captured, and so many are not.
fn settled(world: &World, captured: u64, left_out: u64) {
    let state = || {
        let of = |state| metric(world, &format!("egress_namespaces{{state=\"{state}\"}}"));
        (of("captured"), of("left_out"))
    };
    let wanted = (captured, left_out);
    let reached = wait::until("captured and left out", || {
        (state() == wanted).then_some(())
    });
    if reached.is_err() {
        assert_eq!(state(), wanted, "{}", world.deployment.agent.output());
    }
}

/// The agent has lived all the time, by its own word and by the kernel's.
fn assert_well(world: &World) {
    let ready = get(world, "/readyz");
    assert_eq!(ready.status, 200, "{}", ready.body);
    let stale = metric(world, "egress_kernel_total{judgement=\"refuse_stale\"}");
    assert_eq!(stale, 0);
    let said = world.deployment.agent.output();
    assert!(!said.contains("cannot accept"), "{said}");
    assert!(!said.contains("Too many open files"), "{said}");
}

/// One workload makes so many namespaces: of them so many are served, the others are refused, and
/// nobody else notices.
fn many_namespaces(wish: &Wish<'_>, count: u64, served: u64, others: &str) {
    let world = World::with(wish);
    settled(&world, 1, 0);
    // The first of them is in the application's, which is captured.
    let mut python = world.uncaptured("python3");
    world.cgroup.enter_below("greedy", &mut python).unwrap();
    python.args(["-c", NAMESPACES, &EN.v4.to_string(), &format!("{count}")]);
    let mut greedy = Process::start_with_input(python, "greedy", world.lab.directory()).unwrap();
    greedy.says("made").unwrap();
    settled(&world, 1 + served, count - served);
    assert_another_is_served(&world);
    greedy.input(b"\n").unwrap();
    let outcome = format!("connected {served} {others}\n");
    greedy.says(&outcome).unwrap();
    assert_another_is_served(&world);
    assert_well(&world);
    let said = world.deployment.agent.output();
    assert_eq!(said.matches("/greedy is not captured").count(), 1, "{said}");
    drop(greedy);
    world.finish();
}

#[test]
fn a_workload_has_so_many_namespaces_and_others_theirs() {
    let wish = Wish {
        capture: &[DISCOVER],
        ..Wish::default()
    };
    many_namespaces(&wish, 80, 64, "refused 16 otherwise 0");
}

/// From a namespace that nobody captures there is no way out here but its own loopback.
#[test]
fn what_is_left_out_passes_where_unregistered_namespaces_do() {
    let wish = Wish {
        capture: &[DISCOVER, "unregistered: pass"],
        ..Wish::default()
    };
    many_namespaces(&wish, 70, 64, "refused 0 otherwise 6");
}

/// Of 1024 descriptors namespaces get 240, and those of one workload a quarter of that.
#[test]
fn a_workload_s_namespaces_take_a_part_of_the_descriptors() {
    let wish = Wish {
        capture: &[DISCOVER],
        agent_descriptors: Some(1024),
        ..Wish::default()
    };
    many_namespaces(&wish, 60, 7, "refused 53 otherwise 0");
}

/// Released it would be free, and whoever may make devices could have that.
#[test]
fn what_gets_too_many_devices_stays_captured_where_unregistered_namespaces_pass() {
    let world = World::with(&Wish {
        capture: &[DISCOVER, "unregistered: pass"],
        ..Wish::default()
    });
    let namespace = with_devices(60);
    let _resident = resident(&world, &namespace);
    settled(&world, 2, 0);
    add_devices(&namespace, 60..70);
    wait::until("the agent says so", || {
        let said = world.deployment.agent.output();
        said.contains("/greedy have no guard").then_some(())
    })
    .unwrap();
    settled(&world, 2, 0);
    // There is no other way out of it.
    assert_served(&world, "greedy", &namespace);
    world.finish();
}

/// Guards take the kernel's time for each device. Nobody waits for that, and a namespace that takes
/// too much of it is left out, whether it comes with its devices or gets them later.
#[test]
fn a_workload_s_devices_hold_nobody_up() {
    let world = World::with(&Wish {
        capture: &[DISCOVER],
        ..Wish::default()
    });
    let mut clients = Clients::start(&world);
    clients.another("answer", &[]);
    let huge = with_devices(300);
    let _huge = resident(&world, &huge);
    settled(&world, 1, 1);
    clients.another("answer", &[]);

    let large = with_devices(60);
    let mut resident = resident(&world, &large);
    settled(&world, 2, 1);
    clients.another("answer", &[]);
    add_devices(&large, 60..70);
    settled(&world, 1, 2);
    clients.another("answer", &[]);
    assert_another_is_served(&world);
    resident.signal(Signal::KILL).unwrap();
    settled(&world, 1, 1);
    clients.another("answer", &[]);
    assert_well(&world);
    clients.finish();
}

/// Somebody of the workload, in this namespace.
fn resident(world: &World, namespace: &Namespace) -> Process {
    let mut sleep = of_workload(world, "greedy", namespace, "sleep");
    sleep.arg("600");
    Process::start(sleep, "resident", world.lab.directory()).unwrap()
}

/// A namespace with so many pairs of devices.
fn with_devices(pairs: u32) -> Namespace {
    let namespace = Namespace::new().unwrap();
    add_devices(&namespace, 0..pairs);
    namespace
}

fn add_devices(namespace: &Namespace, pairs: std::ops::Range<u32>) {
    let batch: String = pairs
        .map(|pair| format!("link add a{pair} type veth peer name b{pair}\n"))
        .collect();
    namespace.ip(&batch).unwrap();
}
