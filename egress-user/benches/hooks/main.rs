//! What the kernel programs cost: the time of `connect` with and without them, and the memory of
//! their maps. Needs root: `sudo -E cargo bench -p egress-user --bench hooks`.
//!
//! Every connect goes to this machine, with the programs by the redirect and without by itself, so
//! that the difference is theirs. Rounds with and without take turns, in cgroups with and without.
//!
//! Part of the difference is the kernel's own: in a third cgroup, programs that return at once are on the
//! same hooks. In one connect there are five calls of the sockops program and two of the packets'.
//!
//! Whoever accepts takes the flow record at once, as an agent does: of a map that is full of records
//! the kernel has to clear many at once, which is one connect in a hundred.
//!
//! Linux 6.18 in a virtual machine with two cores (AMD EPYC), otherwise idle, five runs, on top of some
//! 11 µs without any. Medians: empty programs took 270 to 850 ns, these where they do not capture 0.71 to
//! 1.07 µs, and where they do 0.56 to 0.91 µs. Of 37 to 75 µs that the slowest hundredth took at the
//! least, these added 0.8 to 8 µs where they capture, and 3 to 14 µs where not: that is the machine's.
//!
//! To tell the programs' own time, ask the kernel for it: `sysctl kernel.bpf_stats_enabled=1`, then
//! `run_time_ns` and `run_cnt` in the programs' `fdinfo`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a benchmark ends by panicking"
)]

mod empty;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use egress_lab::{Cgroup, Namespace};
use egress_user::addr::ClientAddr;
use egress_user::agent::capture::{Capture, CaptureOptions, Claim, Fallback, Scope};
use egress_user::netns::{Netns, cookie_of_current, listen_on_loopback};
use socket2::{Domain, Socket, Type};

/// Connects of one kind in one round.
const ROUND: usize = 400;
/// Rounds of each kind: 100,000 connects in all.
const ROUNDS: usize = 250;

/// Room for several rounds, so that no connect waits for the one who accepts.
const BACKLOG: i32 = 4096;

/// What is on the hooks of each cgroup.
const KINDS: [&str; 3] = ["no programs", "empty programs", "these programs"];

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
    let cgroups = [(); KINDS.len()].map(|()| Cgroup::new().unwrap());
    let [_, empty, with] = &cgroups;
    empty::attach(empty.path());
    for address in [CAPTURED, OTHER] {
        let listener = namespace.run(|| listen(address.parse().unwrap())).unwrap();
        accept_all(listener, |_, _| {});
    }
    let _capture = capture(&namespace, with);
    let home = egress_user::cgroup::Cgroup2::find()
        .unwrap()
        .current()
        .unwrap();
    let enter = |cgroup: &Cgroup| std::fs::write(cgroup.path().join("cgroup.procs"), "0").unwrap();

    let mut times: [[Vec<Duration>; KINDS.len()]; 2] = Default::default();
    for _ in 0..rounds {
        for (times, address) in times.iter_mut().zip([CAPTURED, OTHER]) {
            for (times, cgroup) in times.iter_mut().zip(&cgroups) {
                enter(cgroup);
                let address = address.parse().unwrap();
                times.extend(namespace.run(|| connects(address)).unwrap());
            }
        }
    }
    home.add(0).unwrap();
    let [captured, other] = &mut times;
    report("captured", captured);
    report("not captured", other);
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
        security_hooks: false,
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
    let flows = capture.flows();
    accept_all(listeners.v4, move |socket, client| {
        let claim = flows.claim(cookie, ClientAddr::new(client), socket);
        assert!(matches!(claim, Claim::Redirected(_)), "{claim:?}");
    });
    capture
}

fn listen(address: SocketAddr) -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(BACKLOG).unwrap();
    socket.into()
}

/// Accepts, does what an agent does, and says so.
fn accept_all(listener: TcpListener, agent: impl Fn(&TcpStream, SocketAddr) + Send + 'static) {
    thread::spawn(move || {
        loop {
            let (mut socket, client) = listener.accept().unwrap();
            agent(&socket, client);
            socket.write_all(b"!").unwrap();
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
        (started.elapsed(), socket)
    };
    let connected: Vec<_> = (0..ROUND).map(connect).collect();
    let accepted = connected.into_iter().map(|(time, mut socket)| {
        socket.read_exact(&mut [0]).unwrap();
        time
    });
    accepted.collect()
}

fn report(what: &str, times: &mut [Vec<Duration>; KINDS.len()]) {
    times.iter_mut().for_each(|times| times.sort_unstable());
    for percent in [50, 99] {
        let all = times.each_ref().map(|times| {
            let time = times[(times.len() - 1) * percent / 100];
            time.as_nanos().cast_signed()
        });
        for (kind, time) in KINDS.into_iter().zip(all) {
            println!(
                "connect, {what:<12} p{percent}, {kind:<16} {time:>7} ns, {:>+7} ns, {:.2} times",
                time - all[0],
                time as f64 / all[0] as f64
            );
        }
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
