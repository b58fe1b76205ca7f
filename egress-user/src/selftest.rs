//! `egress selftest`: tries the known ways round the capture, each in a process of its own, and
//! looks at the wire for what became of it.
//!
//! The wire is a tun device with this process at its other end: whatever the kernel sends out of the
//! workload's namespace can be read there.

mod attempt;
mod canary;
mod checks;
mod child;
mod own;
mod packet;
mod report;
mod tun;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use crate::cgroup::{Cgroup, Cgroup2};
use crate::netns::Netns;

pub use attempt::run as attempt;
pub use report::{Format, Report};

use attempt::{Attempt, Queue};
use canary::Canary;
use checks::{Check, Findings};
use child::{Child, Order, Outcome};
use own::Own;

/// Names of our cgroups begin with this; the rest is the process id.
const CGROUP_PREFIX: &str = "egress-selftest-";

/// Which groups may ping, icmp(7), in the namespace of whoever opens the file.
const PING_GROUPS: &str = "/proc/sys/net/ipv4/ping_group_range";

/// What is tested.
#[derive(Clone, Debug)]
pub struct Options {
    /// A captured cgroup of a running agent; a capture of our own when absent.
    pub cgroup: Option<PathBuf>,
    /// A network namespace that the agent captures; with `cgroup`, a new one when absent, which the
    /// agent is to discover.
    pub netns: Option<PathBuf>,
    /// How long the agent may take to capture a namespace or a device that is new to it.
    pub settle: Duration,
}

/// Tries everything.
///
/// # Errors
/// When the attempts cannot be made, or what comes of them cannot be seen.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let cgroups = Cgroup2::find()?;
    let home = match &options.cgroup {
        Some(path) => {
            ensure!(
                path.join("cgroup.procs").exists(),
                "{} is not a directory of a cgroup v2 hierarchy, as in {}",
                path.display(),
                cgroups.mount().display()
            );
            Cgroup::open(path)?
        }
        None => cgroups.nearest_of_root()?,
    };
    let cgroup = home
        .create_child(&format!("{CGROUP_PREFIX}{}", std::process::id()))
        .context("the self-test takes root, for instance by sudo")?;
    let report = match options.cgroup {
        Some(_) => of_an_agent(&cgroup, options),
        None => of_our_own(&cgroup),
    };
    let removed = cgroup.kill().and_then(|()| cgroup.remove());
    if let Err(error) = removed {
        tracing::warn!("{:#}", anyhow::Error::new(error));
    }
    report
}

/// Where attempts are made and seen.
struct Place {
    cgroup: PathBuf,
    netns: PathBuf,
    canary: Canary,
}

impl Place {
    fn new(cgroup: &Cgroup, netns: &Netns) -> anyhow::Result<Place> {
        Ok(Place {
            cgroup: cgroup.path().to_owned(),
            netns: netns.path_for_children(),
            canary: Canary::new(netns)?,
        })
    }

    /// Starts an attempt in the captured cgroup and namespace.
    fn start(&self, attempt: &Attempt) -> anyhow::Result<Child> {
        self.start_below("", attempt)
    }

    /// As there, in a cgroup below the captured one.
    fn start_below(&self, name: &str, attempt: &Attempt) -> anyhow::Result<Child> {
        let cgroup = self.cgroup.join(name);
        if !cgroup.exists() {
            fs::create_dir(&cgroup).context("cannot make a cgroup below the captured one")?;
        }
        Child::start(&Order {
            cgroup: Some(cgroup),
            netns: self.netns.clone(),
            attempt: attempt.clone(),
        })
    }

    /// Makes an attempt to its end. Gives what the kernel answered, and what of it was on the wire.
    fn make(&mut self, attempt: &Attempt) -> anyhow::Result<(Outcome, Vec<String>)> {
        let outcome = self.start(attempt)?.outcome()?;
        Ok((outcome, self.canary.seen()?))
    }
}

/// Tests the programs of this binary, with a capture that is there for nothing else.
fn of_our_own(cgroup: &Cgroup) -> anyhow::Result<Report> {
    let netns = new_namespace()?;
    let mut place = Place::new(cgroup, &netns)?;
    let (_, seen) = place.make(&Attempt::control())?;
    if seen.is_empty() {
        bail!(
            "the canary does not see what is not captured: nothing could be told from its silence"
        );
    }
    let early = place.start(&Attempt::MadeBefore)?;
    let own = Own::start(cgroup, &netns)?;
    let mut findings = Findings::new(&mut place, Some(&own));
    for check in checks::of_every_capture() {
        findings.make(&check)?;
    }
    findings.finish_early(early)?;
    findings.make(&Check::to_listener(own.port()))?;
    own.close_listeners();
    findings.make(&checks::without_listener())?;
    own.fall_silent();
    findings.make(&checks::silent_agent())?;
    Ok(findings.report("the programs of this binary, in a capture of their own"))
}

/// Tests what a running agent captures.
fn of_an_agent(cgroup: &Cgroup, options: &Options) -> anyhow::Result<Report> {
    let netns = match &options.netns {
        Some(path) => Netns::at(path)?,
        None => new_namespace()?,
    };
    let mut place = Place::new(cgroup, &netns)?;
    // The agent finds namespaces by the processes in them.
    let _someone = place.start(&Attempt::Wait)?;
    settle(&mut place, options.settle)?;
    let mut findings = Findings::new(&mut place, None);
    for check in checks::of_every_capture() {
        findings.make(&check)?;
    }
    let what = options.cgroup.as_deref().unwrap_or(cgroup.path());
    Ok(findings.report(&format!("what captures {}", what.display())))
}

/// Gives the agent the time that it takes to see what is new.
fn settle(place: &mut Place, time: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + time;
    while Instant::now() < deadline {
        let (_, connected) = place.make(&Attempt::control())?;
        let (_, framed) = place.make(&Attempt::Frame(Queue::By))?;
        if connected.is_empty() && framed.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// A namespace in which every process may ping.
fn new_namespace() -> anyhow::Result<Netns> {
    let netns = Netns::new()?;
    let opened = netns.on_thread(|| fs::write(PING_GROUPS, "0 2147483647"))?;
    opened.with_context(|| format!("cannot write to {PING_GROUPS}"))?;
    Ok(netns)
}
