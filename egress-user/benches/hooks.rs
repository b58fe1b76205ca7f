//! What the kernel programs cost: the time of `connect` with and without them, and the memory of
//! their maps. Needs root: `sudo -E cargo bench -p egress-user --bench hooks`.
//!
//! Every connect goes to this machine, with the programs by the redirect and without by itself, so
//! that the difference is theirs. Rounds with and without take turns, in cgroups with and without.
//!
//! Part of the difference is the kernel's own: with programs that return at once on the same hooks,
//! `connect` took 300 to 330 ns longer on Linux 6.18 in a virtual machine (AMD EPYC), since five calls
//! of the sockops program and two of the packets' are in each. There, a connect that is not captured
//! took 500 to 700 ns longer, and one that is 1.1 µs. To tell the programs' own time, ask the kernel
//! for it: `sysctl kernel.bpf_stats_enabled=1`, then `run_time_ns` and `run_cnt` in the programs'
//! `fdinfo`, of which an empty program is charged 60 ns a run.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a benchmark ends by panicking"
)]

use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use egress_lab::{Cgroup, Namespace};
use egress_user::agent::capture::{Capture, CaptureOptions, Fallback, Scope};
use egress_user::netns::{Netns, cookie_of_current, listen_on_loopback};
use socket2::{Domain, Socket, Type};

/// Connects of one kind in one round.
const ROUND: usize = 1_000;
/// Rounds of each kind: 100,000 connects in all.
const ROUNDS: usize = 100;

/// Room for several rounds, so that no connect waits for the one who accepts.
const BACKLOG: i32 = 4096;

const CAPTURED: &str = "192.0.2.2:443";
const OTHER: &str = "192.0.2.2:8080";

fn main() {
    // `cargo test` runs benchmarks to see that they work.
    let rounds = if std::env::args().any(|arg| arg == "--bench") {
        ROUNDS
    } else {
        1
    };
    assert!(
        rustix::process::geteuid().is_root(),
        "attaching programs takes root: sudo -E cargo bench -p egress-user --bench hooks"
    );
    let namespace = Namespace::new().unwrap();
    namespace
        .ip("link add eth0 type veth peer name eth1\n\
             addr add 192.0.2.2/24 dev eth0\n\
             link set eth0 up\nlink set eth1 up\n")
        .unwrap();
    let (with, without) = (Cgroup::new().unwrap(), Cgroup::new().unwrap());
    for address in [CAPTURED, OTHER] {
        accept_all(namespace.run(|| listen(address.parse().unwrap())).unwrap());
    }
    let _capture = capture(&namespace, &with);
    let home = egress_user::cgroup::Cgroup2::find()
        .unwrap()
        .current()
        .unwrap();
    let enter = |cgroup: &Cgroup| std::fs::write(cgroup.path().join("cgroup.procs"), "0").unwrap();

    // Captured without and with, not captured without and with.
    let mut times: [Vec<Duration>; 4] = Default::default();
    for _ in 0..rounds {
        for (at, address) in [CAPTURED, OTHER].into_iter().enumerate() {
            for (plus, cgroup) in [&without, &with].into_iter().enumerate() {
                enter(cgroup);
                let address = address.parse().unwrap();
                let round = namespace.run(|| connects(address)).unwrap();
                times[2 * at + plus].extend(round);
            }
        }
    }
    home.add(0).unwrap();
    report("captured", &mut times, 0);
    report("not captured", &mut times, 2);
    println!(
        "memory of the maps: {:.1} MiB",
        map_memory() / f64::from(1 << 20)
    );
}

fn capture(namespace: &Namespace, cgroup: &Cgroup) -> Capture {
    let netns = Netns::at(namespace.path()).unwrap();
    let made = netns.on_thread(|| {
        (
            cookie_of_current().unwrap(),
            listen_on_loopback(BACKLOG).unwrap(),
        )
    });
    let (cookie, listeners) = made.unwrap();
    let mut capture = Capture::load(&CaptureOptions {
        unregistered: Fallback::Refuse,
        exempt_cgroup: None,
        resolvers: Vec::new(),
        heartbeat: None,
        pins: None,
        log: false,
    })
    .unwrap_or_else(|error| panic!("{error}"));
    let scope = Scope {
        listen_v4: listeners.v4.local_addr().unwrap().port(),
        listen_v6: None,
        ports: vec![443],
        other_ports: Fallback::Pass,
        strict: false,
    };
    capture.add_scope(cookie, &scope).unwrap();
    capture.guard_interfaces(&netns).unwrap();
    capture.attach(cgroup.path()).unwrap();
    listeners.v4.set_nonblocking(false).unwrap();
    accept_all(listeners.v4);
    capture
}

fn listen(address: SocketAddr) -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(BACKLOG).unwrap();
    socket.into()
}

fn accept_all(listener: TcpListener) {
    // One that was reset before may be an error.
    thread::spawn(move || {
        loop {
            drop(listener.accept());
        }
    });
}

fn connects(address: SocketAddr) -> Vec<Duration> {
    let connect = |_| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        // Reset at the end: no port is kept back.
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        let address = address.into();
        let started = Instant::now();
        socket.connect(&address).unwrap();
        started.elapsed()
    };
    (0..ROUND).map(connect).collect()
}

fn report(what: &str, times: &mut [Vec<Duration>; 4], at: usize) {
    let percentile = |times: &mut Vec<Duration>, percent: usize| {
        times.sort_unstable();
        times[(times.len() - 1) * percent / 100].as_nanos()
    };
    for percent in [50, 99] {
        let without = percentile(&mut times[at], percent);
        let with = percentile(&mut times[at + 1], percent);
        println!(
            "connect, {what:<12} p{percent}: without {without:>7} ns, with {with:>7} ns, \
             {:+} ns, {:.2} times",
            with.cast_signed() - without.cast_signed(),
            with as f64 / without as f64
        );
    }
}

/// Bytes of all maps that this process holds, by the kernel's word.
fn map_memory() -> f64 {
    let entries = std::fs::read_dir("/proc/self/fdinfo").unwrap().flatten();
    let infos = entries.filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    let maps = infos.filter(|info| info.contains("map_type:"));
    let bytes = maps.filter_map(|info| {
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("memlock:"))?;
        line.trim().parse::<f64>().ok()
    });
    bytes.sum()
}
