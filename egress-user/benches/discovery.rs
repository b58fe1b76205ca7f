//! How soon the agent captures a network namespace that nobody named: from the moment at which a
//! workload's cgroup is made to its first connect that is redirected. Until then connects are
//! refused. Needs root: `sudo -E cargo bench -p egress-user --bench discovery`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a benchmark ends by panicking"
)]

use std::fs;
use std::path::Path;
use std::process::Command;

use egress_lab::deployment::{Setup, TUNNEL_PORT, init_pki};
use egress_lab::{Cgroup, Deployment, Lab, Namespace, tools};
use rustix::time::{ClockId, clock_gettime};

const ROUNDS: usize = 50;

const POLICY: &str = "version: 1\nrules: [{name: one, hosts: [example.org]}]\n";

/// Joins the cgroup that the first argument names, and connects until it is let. Prints the time
/// since the moment that the second argument gives.
const SCRIPT: &str = "
import socket, sys, time
open(sys.argv[1], 'w').write('0')
joined = time.monotonic()
while True:
    try:
        socket.create_connection(('192.0.2.1', 443)).close()
        break
    except PermissionError:
        time.sleep(0.0002)
now = time.monotonic()
print((now - float(sys.argv[2])) * 1000, (now - joined) * 1000)
";

fn main() {
    // `cargo test` runs benchmarks to see that they work.
    let rounds = match std::env::args().any(|arg| arg == "--bench") {
        true => ROUNDS,
        false => 1,
    };
    let lab = Lab::new().unwrap();
    let cgroup = Cgroup::new().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_egress"));
    let pki = lab.directory().join("pki");
    init_pki(program, &pki).unwrap();
    let setup = Setup {
        program,
        agent_policy: POLICY,
        gateway_policy: POLICY,
        agent_identity: &pki,
        gateway_identity: &pki,
        bundle: &pki.join("ca.pem"),
        crl: None,
        workload_api: None,
        agent_answers: "/readyz",
        drain: "1s",
        agent_descriptors: None,
        gateway_descriptors: None,
        gateway: &[],
        agent: &[],
        capture: &["discover: [CGROUP]"],
        gateways: &[TUNNEL_PORT],
        gateway_zones: &[],
        gateway_names: &[],
    };
    let mut deployment = Deployment::start(&lab, &cgroup, &setup).unwrap();
    let mut times: Vec<[f64; 2]> = (0..rounds).map(|round| workload(&cgroup, round)).collect();
    deployment.finish().unwrap();
    for (index, what) in ["since its cgroup was made", "since it joined its cgroup"]
        .into_iter()
        .enumerate()
    {
        times.sort_by(|one, other| one[index].total_cmp(&other[index]));
        let [median, most] = [times.len() / 2, times.len() - 1].map(|at| times[at][index]);
        println!("captured {what}: median {median:.1} ms, longest of {rounds} {most:.1} ms");
    }
}

/// One workload in a namespace and a cgroup of its own; gives the two times in milliseconds.
fn workload(cgroup: &Cgroup, round: usize) -> [f64; 2] {
    let namespace = Namespace::new().unwrap();
    let job = cgroup.path().join(format!("job-{round}"));
    let mut python = Command::new(tools::locate("python3").unwrap().path);
    namespace.enter(&mut python).unwrap();
    let made = clock_gettime(ClockId::Monotonic);
    fs::create_dir(&job).unwrap();
    let output = python
        .args(["-c", SCRIPT])
        .arg(job.join("cgroup.procs"))
        .arg(format!("{}.{:09}", made.tv_sec, made.tv_nsec))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    fs::remove_dir(&job).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let times: Vec<f64> = text
        .split_whitespace()
        .map(|ms| ms.parse().unwrap())
        .collect();
    [times[0], times[1]]
}
