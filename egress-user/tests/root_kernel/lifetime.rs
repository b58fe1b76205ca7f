//! How long the programs stay: as long as somebody holds them, and not a moment longer.

use std::env;
use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use egress_lab::{BpfFs, Cgroup, lab, process, wait};
use egress_user::agent::capture::{Capture, CaptureError, CaptureOptions, Scope, cleanup};
use egress_user::cgroup::Cgroup2;
use egress_user::netns::{Netns, cookie_of_current};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use serde::{Deserialize, Serialize};

use crate::client::{MARK, Outcome, Script, Step, TCP, say};
use crate::world::{CAPTURED_PORT, Place, World, attached, attached_programs, options};

const DST: &str = "192.0.2.1:443";
/// One a hook.
pub(crate) const PROGRAMS: u32 = 10;

#[test]
fn detached_is_gone() {
    let World {
        place,
        capture,
        cgroup,
        flows,
    } = World::new();
    assert_eq!(attached_programs(cgroup.path()), PROGRAMS);
    // Handles on the maps hold no program.
    let counters = capture.counters();
    drop(capture);
    gone(&cgroup);
    connects_directly(&place, &cgroup);
    place.agent_is_untouched();
    drop((flows, counters));
}

#[test]
fn a_killed_owner_takes_everything_along() {
    let place = Place::new();
    let cgroup = Cgroup::new().unwrap();
    let mut owner = Owner::start(&Order::new(&place, &cgroup));
    assert_eq!(owner.line(), "attached");
    connects_to_the_agent(&place, &cgroup);
    owner.kill();
    gone(&cgroup);
    connects_directly(&place, &cgroup);
}

/// Descriptors outlive their process in a child that it forked: closed as long as that lives.
#[test]
fn a_forked_child_keeps_everything_attached() {
    let place = Place::new();
    let cgroup = Cgroup::new().unwrap();
    let mut owner = Owner::start(&Order {
        fork: true,
        ..Order::new(&place, &cgroup)
    });
    assert_eq!(owner.line(), "attached");
    let child = Pid::from_raw(owner.line().parse().unwrap()).unwrap();
    owner.kill();
    assert_eq!(attached_programs(cgroup.path()), PROGRAMS);
    connects_to_the_agent(&place, &cgroup);
    kill_process(child, Signal::KILL).unwrap();
    gone(&cgroup);
    connects_directly(&place, &cgroup);
}

#[test]
fn pinned_links_stay_until_they_are_cleaned_up() {
    let bpf_fs = BpfFs::mount().unwrap();
    let dir = bpf_fs.path().join("egress");
    let World {
        place,
        mut capture,
        cgroup,
        ..
    } = World::new();
    capture.pin(&dir).unwrap();
    drop(capture);
    assert_eq!(attached_programs(cgroup.path()), PROGRAMS);
    connects_to_the_agent(&place, &cgroup);

    let removed = cleanup(&dir).unwrap();
    assert_eq!(
        removed.len(),
        13,
        "ten links, two maps and the directory: {removed:?}"
    );
    let link = pin_of("egress_connect4", &cgroup);
    for pin in [link.as_str(), "egress_sockets", "egress_unjudged"] {
        assert!(removed.contains(&dir.join(pin).display().to_string()));
    }
    assert!(!dir.exists());
    gone(&cgroup);
    connects_directly(&place, &cgroup);
    assert_eq!(cleanup(&dir).unwrap(), Vec::<String>::new());
}

/// The kernel is asked, so that what others did to it shows.
#[test]
fn a_program_that_somebody_detached_is_missed() {
    let bpf_fs = BpfFs::mount().unwrap();
    let dir = bpf_fs.path().join("egress");
    let cgroup = Cgroup::new().unwrap();
    let beating = |heartbeat| CaptureOptions {
        heartbeat: Some(heartbeat),
        ..options()
    };
    let mut capture = Capture::load(&beating(Duration::from_secs(600))).unwrap();
    assert_eq!(capture.faults(), ["no kernel program is attached"]);
    capture.attach(cgroup.path()).unwrap();
    capture.pin(&dir).unwrap();
    assert_eq!(capture.faults(), Vec::<String>::new());

    fs::remove_file(dir.join(pin_of("egress_connect6", &cgroup))).unwrap();
    let missed = format!(
        "the kernel program egress_connect6 is not attached to {}",
        cgroup.path().display()
    );
    wait::until("the program is missed", || {
        let faults = capture.faults();
        (faults == [missed.as_str()]).then_some(())
    })
    .unwrap();

    let silent = Capture::load(&beating(Duration::from_millis(1))).unwrap();
    wait::until("silence is noticed", || {
        let faults = silent.faults();
        let noticed = |fault: &String| fault.contains("has not heard of the agent");
        faults.iter().any(noticed).then_some(())
    })
    .unwrap();
}

/// One generation after the other takes over, under load, and no connection goes direct.
#[test]
fn pins_are_replaced_without_a_gap() {
    let bpf_fs = BpfFs::mount().unwrap();
    let dir = bpf_fs.path().join("egress");
    let place = Place::new();
    let cgroup = Cgroup::new().unwrap();
    let generation = || {
        let mut capture = attached(&cgroup, &options());
        capture.add_scope(place.cookie, &place.scope()).unwrap();
        capture.pin(&dir).unwrap();
        capture
    };
    let mut latest = generation();

    let script = Script::new(false, TCP).then(Step::Hammer(DST.parse().unwrap()));
    let mut load = place.start(&cgroup, &script);
    load.paused();
    let _accepts = Accepts::start(place.agent.v4.try_clone().unwrap());
    for _ in 0..5 {
        drop(latest);
        // What a process left that ended in the middle of this is in nobody's way.
        let pin = pin_of("egress_peer4", &cgroup);
        fs::rename(dir.join(&pin), dir.join(format!("{pin}_new"))).unwrap();
        latest = generation();
        becomes(&cgroup, PROGRAMS);
    }
    load.go_on();
    assert_eq!(load.outcomes(), [Outcome::Done]);
    place.origin_is_untouched();
    drop(latest);
    cleanup(&dir).unwrap();
    gone(&cgroup);
}

/// The predecessor may still have connections to serve, but new ones are not its business.
#[test]
fn a_successor_takes_over_while_the_predecessor_lives() {
    let bpf_fs = BpfFs::mount().unwrap();
    let dir = bpf_fs.path().join("egress");
    let (first, second) = (Place::new(), Place::new());
    let cgroup = Cgroup::new().unwrap();
    let generation = |place: &Place| {
        let mut capture = attached(&cgroup, &options());
        capture.add_scope(place.cookie, &place.scope()).unwrap();
        capture.pin(&dir).unwrap();
        capture
    };
    let predecessor = generation(&first);
    connects_to_the_agent(&first, &cgroup);

    let _successor = generation(&second);
    // The kernel lets go of a replaced pin's link in its own time.
    becomes(&cgroup, PROGRAMS);
    connects_to_the_agent(&second, &cgroup);
    // Its scopes are gone with its programs: the successor does not know this namespace.
    let script = Script::connect(DST);
    assert_eq!(first.start(&cgroup, &script).outcomes(), [Outcome::REFUSED]);
    first.origin_is_untouched();

    drop(predecessor);
    assert_eq!(attached_programs(cgroup.path()), PROGRAMS);
    connects_to_the_agent(&second, &cgroup);
}

#[test]
fn pins_need_a_bpf_file_system() {
    let mut world = World::new();
    let directory = lab::scratch().unwrap();
    let error = world.capture.pin(&directory.path().join("egress"));
    assert!(
        matches!(error, Err(CaptureError::NotBpfFs { .. })),
        "{error:?}"
    );
    gone(&world.cgroup);
}

#[test]
fn what_is_not_a_cgroup_is_named() {
    let mut capture = Capture::load(&options()).unwrap();
    let error = capture.attach(Path::new("/proc/self")).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "/proc/self is not a directory of a cgroup v2 hierarchy, which is at {}",
            Cgroup2::find().unwrap().mount().display()
        )
    );
    let error = capture.attach(Path::new("/no/cgroup")).unwrap_err();
    assert_eq!(error.to_string(), "cannot open the cgroup /no/cgroup");
}

/// Three capabilities are enough, and each of them is needed.
fn takes_these_capabilities() {
    let place = Place::new();
    let cgroup = Cgroup::new().unwrap();
    let start = |capabilities: &[&str]| {
        let mut owner = Owner::start(&Order {
            capabilities: Some(capabilities.iter().map(ToString::to_string).collect()),
            ..Order::new(&place, &cgroup)
        });
        owner.line()
    };
    assert_eq!(start(&["BPF", "NET_ADMIN", "PERFMON"]), "attached");
    assert_eq!(start(&["SYS_ADMIN", "NET_ADMIN"]), "attached");
    let way_out = "run it as root, with sudo for instance";
    for (capabilities, missing) in [
        (["NET_ADMIN", "PERFMON"].as_slice(), "CAP_BPF"),
        (&["BPF", "PERFMON"], "CAP_NET_ADMIN"),
        (&["SYS_ADMIN"], "CAP_NET_ADMIN"),
        (&["BPF", "NET_ADMIN"], "CAP_PERFMON"),
        (&[], "CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON"),
    ] {
        assert_eq!(
            start(capabilities),
            format!("loading kernel programs takes {missing}: {way_out}")
        );
    }
}

/// Accepts and drops whatever comes to a listener, until it is dropped itself.
struct Accepts {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Accepts {
    fn start(listener: TcpListener) -> Accepts {
        let done = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&done);
        let thread = thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                if listener.accept().is_err() {
                    thread::yield_now();
                }
            }
        });
        Accepts {
            done,
            thread: Some(thread),
        }
    }
}

impl Drop for Accepts {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        let _joined = self.thread.take().map(JoinHandle::join);
    }
}

/// The name of the pin of a program's link to a cgroup.
pub(crate) fn pin_of(program: &str, cgroup: &Cgroup) -> String {
    format!("{program}_{:x}", cgroup.id().unwrap())
}

fn gone(cgroup: &Cgroup) {
    becomes(cgroup, 0);
}

/// Not at once: a process that another test starts inherits every descriptor for the moment
/// between fork and exec.
pub(crate) fn becomes(cgroup: &Cgroup, programs: u32) {
    wait::until("as many programs are attached as there should be", || {
        (attached_programs(cgroup.path()) == programs).then_some(())
    })
    .unwrap();
}

pub(crate) fn connects_directly(place: &Place, cgroup: &Cgroup) {
    let script = Script::connect(DST).then(Step::PeerName);
    let outcomes = place.start(cgroup, &script).outcomes();
    assert_eq!(outcomes, [Outcome::Done, Outcome::address(DST)]);
    place.origin.accepted(DST);
}

pub(crate) fn connects_to_the_agent(place: &Place, cgroup: &Cgroup) {
    let script = Script::connect(DST).then(Step::PeerName);
    let outcomes = place.start(cgroup, &script).outcomes();
    assert_eq!(outcomes, [Outcome::Done, Outcome::address(DST)]);
    place.accept(false);
    place.origin_is_untouched();
}

/// Tells the test binary, started anew, to load the programs and hold them.
const ORDER: &str = "EGRESS_TEST_OWNER";

#[derive(Serialize, Deserialize)]
struct Order {
    cgroup: PathBuf,
    netns: PathBuf,
    listen_v4: u16,
    fork: bool,
    /// All that are kept.
    capabilities: Option<Vec<String>>,
}

impl Order {
    fn new(place: &Place, cgroup: &Cgroup) -> Order {
        Order {
            cgroup: cgroup.path().to_owned(),
            netns: place.workload.path(),
            listen_v4: place.scope().listen_v4,
            fork: false,
            capabilities: None,
        }
    }
}

/// A process that owns the programs; dropping it ends it.
struct Owner {
    process: Child,
    lines: io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Owner {
    fn start(order: &Order) -> Owner {
        let mut process = process::command(env::current_exe().unwrap())
            .args([
                "lifetime::owner",
                "--exact",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(ORDER, serde_json::to_string(order).unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = process.stdout.take().unwrap();
        Owner {
            process,
            lines: BufReader::new(stdout).lines(),
        }
    }

    fn line(&mut self) -> String {
        self.lines
            .find_map(|line| {
                line.unwrap()
                    .split_once(MARK)
                    .map(|(_, own)| own.to_owned())
            })
            .expect("the owner ended without a word")
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// The process that the tests start to own the programs, and without an order the test of what
/// it needs.
#[test]
fn owner() {
    let Ok(order) = env::var(ORDER) else {
        return takes_these_capabilities();
    };
    let order: Order = serde_json::from_str(&order).unwrap();
    let netns = Netns::at(&order.netns).unwrap();
    let cookie = netns.on_thread(cookie_of_current).unwrap().unwrap();
    if let Some(names) = &order.capabilities {
        keep_only(names);
    }
    let mut capture = match Capture::load(&options()) {
        Ok(capture) => capture,
        Err(error) => return say(&error.to_string()),
    };
    let scope = Scope {
        listen_v4: order.listen_v4,
        listen_v6: None,
        ports: vec![CAPTURED_PORT],
        other_ports: egress_user::agent::capture::Fallback::Pass,
        strict: false,
    };
    capture.add_scope(cookie, &scope).unwrap();
    capture.attach(&order.cgroup).unwrap();
    say("attached");
    if order.fork {
        // SAFETY: the child makes nothing but one system call, over and over.
        match unsafe { libc::fork() } {
            0 => loop {
                // SAFETY: it takes nothing and waits for a signal.
                unsafe { libc::pause() };
            },
            child => say(&child.to_string()),
        }
    }
    // Until the test ends this process, or itself.
    let _end = io::stdin().lock().read_line(&mut String::new());
}

fn keep_only(names: &[String]) {
    let kept: CapabilitySet = names
        .iter()
        .map(|name| CapabilitySet::from_name(name).unwrap())
        .collect();
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).unwrap();
}
