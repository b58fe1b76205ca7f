//! What a policy of a million hosts costs: to load, to hold, and to ask.
//!
//! `cargo bench -p egress-user --bench policy`
//!
//! Every case runs in a process of its own, so that its peak of memory is its own; the text of
//! the document is part of it. A judgement is timed alone, the clock's own 20 to 30 ns included,
//! for names drawn from all hosts, which is the worst case for the processor's caches. Load is the
//! time of the thread on its processor, so that a busy machine does not count. The last lines say what
//! the machine takes, timed alike, for nothing else than one load of memory that no cache holds, and
//! for two of which the second needs the first: a judgement waits for as many, or more.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a benchmark that cannot set up what it measures has nothing to say"
)]

use std::fmt::Write as _;
use std::hint::black_box;
use std::process::Command;
use std::time::{Duration, Instant};

use egress_user::hello::ServerName;
use egress_user::policy::{Policy, Request, Verdict};
use egress_user::workload::Workload;
use rustix::time::{ClockId, clock_gettime};

const ASKED: usize = 500_000;

/// Hosts, rules, style of the text.
const CASES: [(usize, usize, Style); 5] = [
    (10, 10, Style::Block),
    (1_000_000, 1, Style::Block),
    (1_000_000, 10, Style::Block),
    (1_000_000, 1_000_000, Style::Block),
    (1_000_000, 1_000_000, Style::Flow),
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Style {
    Block,
    Flow,
}

fn main() {
    let mut args = std::env::args().skip_while(|arg| arg != "case").skip(1);
    if let Some(case) = args.next() {
        let (hosts, rules, style) = CASES[case.parse::<usize>().unwrap()];
        return measure(hosts, rules, style);
    }
    println!(
        "{:>9} {:>9} {:<6} {:>9} {:>10} {:>10} {:>8} {:>8} {:>8}",
        "hosts", "rules", "style", "load", "peak", "held", "p50", "p99", "p99.9"
    );
    for case in 0..CASES.len() {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let status = command.args(["case", &case.to_string()]).status().unwrap();
        assert!(status.success());
    }
    floor();
}

fn measure(hosts: usize, rules: usize, style: Style) {
    let text = document(hosts, rules, style);
    let started = processor_time();
    let policy = Policy::parse(&text, "policy.yaml").unwrap().policy;
    let load = processor_time() - started;
    let peak = memory("VmHWM");
    drop(text);
    let held = memory("VmRSS");
    println!(
        "{hosts:>9} {:>9} {:<6} {:>7.2} s {:>6} MiB {:>6} MiB {}",
        policy.rule_count(),
        format!("{style:?}").to_lowercase(),
        load.as_secs_f64(),
        peak >> 10,
        held >> 10,
        quantiles(judgements(&policy, hosts)),
    );
}

fn quantiles(mut times: Vec<u64>) -> String {
    times.sort_unstable();
    let at = |per_mille: usize| times[(times.len() - 1) * per_mille / 1000];
    format!("{:>5} ns {:>5} ns {:>5} ns", at(500), at(990), at(999))
}

/// Prints what loads alone take, of as much memory as a policy of a million hosts has.
fn floor() {
    const WORDS: usize = 1 << 23;
    let step = |word: usize| word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    let words: Vec<usize> = (0..WORDS).map(step).collect();
    for loads in [1, 2] {
        let mut at = 1;
        let once = |_| {
            at = step(at);
            let mut word = black_box(at);
            let started = Instant::now();
            for _ in 0..loads {
                word = words[(word >> 32) % WORDS];
            }
            black_box(word);
            u64::try_from(started.elapsed().as_nanos()).unwrap()
        };
        let times = (0..ASKED).map(once).collect();
        println!(
            "{:<49} {}",
            format!("loads of memory: {loads}"),
            quantiles(times)
        );
    }
}

/// One host in five is a wildcard.
fn document(hosts: usize, rules: usize, style: Style) -> String {
    let mut text = String::from("version: 1\nrules:\n");
    let each = hosts / rules;
    for rule in 0..rules {
        match style {
            Style::Block => write!(text, "- name: r{rule}\n  hosts:\n").unwrap(),
            Style::Flow => write!(text, "- {{name: r{rule}, hosts: [").unwrap(),
        }
        for number in rule * each..(rule + 1) * each {
            let star = if number % 5 == 0 { "*." } else { "" };
            let host = host(number);
            match style {
                Style::Block => writeln!(text, "  - \"{star}{host}\"").unwrap(),
                Style::Flow => write!(text, "\"{star}{host}\",").unwrap(),
            }
        }
        if style == Style::Flow {
            text.push_str("]}\n");
        }
    }
    text.shrink_to_fit();
    text
}

fn host(number: usize) -> String {
    let www = if number % 2 == 1 { "www." } else { "" };
    format!("{www}host{number}.example{}.org", number % 977)
}

/// How long each of many judgements took, in nanoseconds.
fn judgements(policy: &Policy, hosts: usize) -> Vec<u64> {
    let workload = Workload::default();
    let mut times = Vec::with_capacity(ASKED);
    let mut number = 1;
    let mut admitted = 0;
    for asked in 0..ASKED {
        number = (number * 48_271 + 11) % hosts;
        let wanted = host(number);
        let name = match (number % 5, asked % 10) {
            (_, 9) => format!("not-{wanted}"),
            (0, _) => format!("www.{wanted}"),
            _ => wanted,
        };
        // As in life, the name was parsed a moment ago.
        let name = ServerName::parse(name.as_bytes()).unwrap();
        let request = Request {
            name: &name,
            port: 443,
            workload: &workload,
        };
        let started = Instant::now();
        let verdict = black_box(policy.judge(black_box(&request)));
        let time = started.elapsed();
        times.push(u64::try_from(time.as_nanos()).unwrap());
        admitted += usize::from(matches!(verdict, Verdict::Admitted(_)));
    }
    assert_eq!(admitted, ASKED / 10 * 9);
    times
}

/// What the calling thread has used of a processor.
fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(now).unwrap()
}

/// A line of `/proc/self/status`, in KiB.
fn memory(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    let digits = line.split_whitespace().nth(1).unwrap();
    digits.parse().unwrap()
}
