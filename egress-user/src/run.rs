//! `egress run`: a command, its own cgroup, and both halves in this process.
//!
//! Order matters. Everything before the runtime happens on one thread: the
//! programs are attached to the still empty cgroup, then the keeper is forked,
//! and only then do threads, listeners and the command come.

mod command;
mod keeper;
mod privilege;
mod summary;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use egress_common::Fallback;
use rustls::pki_types::UnixTime;

use crate::agent::capture::{Capture, CaptureOptions, Scope};
use crate::agent::directory::Directory;
use crate::agent::evidence::Evidence;
use crate::agent::listener::{self, BoundScope};
use crate::agent::tunnels::Tunnels;
use crate::agent::{self, Agent, AgentParts, Serving};
use crate::cgroup::{Cgroup, Cgroup2};
use crate::descriptors;
use crate::drain::{self, Drain, Drainer};
use crate::endpoint::{Endpoint, Zoned};
use crate::gateway::agents::{AgentRule, Quota, Quotas};
use crate::gateway::resolve::ResolveOptions;
use crate::gateway::{self, Gateway, GatewayParts};
use crate::in_force::{self, InForce};
use crate::pki::{TrialCa, Validity};
use crate::policy::{KnownWorkloads, Policy};
use crate::record::{LogFormat, Metrics, Painter, Recorder, Tally, Target};
use crate::resolvers;
use crate::tunnel::identity::{IdPattern, TrustDomain};
use crate::tunnel::raw::Protocol;
use crate::tunnel::tls::{self, Credentials};
use command::NotStarted;
use keeper::Keeper;

/// Names of our cgroups begin with this; the rest is the process id.
const CGROUP_PREFIX: &str = "egress-run-";

/// The longest that a certificate of a run is good for. Nobody but this process
/// ever has the keys.
const LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// Time for the last bytes once the command and its processes are gone.
const DRAIN: Duration = Duration::from_secs(2);

/// What a connection takes: two at each half.
const DESCRIPTORS: u64 = 4;

/// What to run and how.
pub struct RunOptions {
    /// The command with its arguments.
    pub command: Vec<OsString>,
    /// The policy that both hops ask.
    pub policy: Policy,
    /// Ports that are redirected.
    pub ports: Vec<u16>,
    /// What happens to other ports.
    pub other_ports: Fallback,
    /// How the gateway resolves names.
    pub resolve: ResolveOptions,
    /// Where records go.
    pub log: Target,
    /// The form of the records.
    pub log_format: LogFormat,
    /// Whether the kernel programs log what they do.
    pub verbose: bool,
}

/// Runs the command and gives its exit code.
pub fn run(options: RunOptions) -> anyhow::Result<u8> {
    let invoker = privilege::invoker()?;
    let mut capture = Capture::load(&CaptureOptions {
        unregistered: Fallback::Refuse,
        exempt_cgroup: None,
        // Ctrl-Z stops the command together with us.
        heartbeat: None,
        resolvers: resolvers::of_the_system()?,
        pins: None,
        // What they would hold is open here all the same: no device of the machine's own namespace has a
        // guard, and on kernels without the fix of CVE-2026-23319 coming and going is a risk.
        security_hooks: false,
        log: options.verbose,
    })?;
    let cgroup2 = Cgroup2::find()?;
    // Not below the caller's own, which may be theirs to leave.
    let home = cgroup2.nearest_of_root()?;
    remove_stale(&home);
    let cgroup = home.create_child(&format!("{CGROUP_PREFIX}{}", std::process::id()))?;
    let guarded = capture
        .attach_to_stay(cgroup.path())
        .map_err(anyhow::Error::new)
        .and_then(|()| Keeper::start(&cgroup));
    let keeper = match guarded {
        Ok(keeper) => keeper,
        Err(error) => {
            let _ = cgroup.remove();
            return Err(error);
        }
    };
    let ran = serve(options, &mut capture, &cgroup, cgroup2, invoker);
    let left_behind = sweep(&cgroup);
    keeper.dismiss();
    let (code, served) = ran?;
    let summary = served.finish(&capture, left_behind);
    // Whoever closed it does not want to read it.
    let _ = std::io::stderr().write_all(summary.as_bytes());
    Ok(code)
}

/// Ends what the command left behind, and removes the cgroup. True when there
/// was something to end.
fn sweep(cgroup: &Cgroup) -> bool {
    let left_behind = cgroup.is_populated().unwrap_or(false);
    let swept = cgroup.kill().and_then(|()| cgroup.remove());
    if let Err(error) = swept {
        tracing::warn!("{:#}", anyhow::Error::new(error));
    }
    left_behind
}

/// Removes the cgroups of runs that died together with their keeper, once they are empty: until
/// then the programs stay attached, and what is redirected finds nobody listening.
fn remove_stale(home: &Cgroup) {
    let Ok(entries) = std::fs::read_dir(home.path()) else {
        return;
    };
    for entry in entries.flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| {
            let pid = name.strip_prefix(CGROUP_PREFIX);
            pid.is_some_and(|pid| !std::path::Path::new("/proc").join(pid).exists())
        });
        if ours {
            // One that still has processes cannot be removed, and is not ours to judge.
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

/// What is left to do after the command.
struct Served {
    runtime: tokio::runtime::Runtime,
    _serving: Serving,
    drainer: Drainer,
    evidence: Evidence,
    recorder: Recorder,
    tally: Arc<Tally>,
}

impl Served {
    fn finish(self, capture: &Capture, left_behind: bool) -> String {
        self.runtime.block_on(self.drainer.drain(DRAIN));
        self.runtime.block_on(self.evidence.finish());
        self.recorder.close();
        let painter = Painter::new(std::io::stderr().is_terminal());
        let kernel = capture.counters().totals();
        summary::render(&self.tally, &kernel, left_behind, painter)
    }
}

fn serve(
    options: RunOptions,
    capture: &mut Capture,
    cgroup: &Cgroup,
    cgroup2: Cgroup2,
    invoker: Option<privilege::Invoker>,
) -> anyhow::Result<(u8, Served)> {
    let scope = listener::bind_here().context("cannot listen on loopback")?;
    capture.add_scope(
        scope.cookie(),
        &Scope {
            listen_v4: scope.v4_port()?,
            listen_v6: scope.v6_port()?,
            ports: options.ports.clone(),
            other_ports: options.other_ports,
            strict: false,
        },
    )?;
    let signals = command::catch_signals()?;
    let descriptors = descriptors::raise();
    let tally = Arc::new(Tally::default());
    let metrics = Arc::new(Metrics::default());
    let recorder =
        Recorder::open(&options.log, options.log_format, metrics)?.with_tally(tally.clone());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let (drainer, drain) = drain::channel();
    let halves = Halves {
        policy: in_force::channel(options.policy, in_force::SPREAD).1,
        resolve: options.resolve,
        recorder: recorder.clone(),
    };
    let start = halves.start(scope, capture, cgroup2, options.verbose, drain);
    let (serving, evidence) = runtime.block_on(start)?;
    let code = match command::start(&options.command, cgroup, invoker, descriptors) {
        Ok(mut child) => command::exit_code(command::wait(&mut child, signals)?),
        Err(NotStarted { code, error }) => {
            let _ = writeln!(std::io::stderr(), "egress: {error:#}");
            code
        }
    };
    let served = Served {
        runtime,
        _serving: serving,
        drainer,
        evidence,
        recorder,
        tally,
    };
    Ok((code, served))
}

/// What the agent and the gateway of a run share.
struct Halves {
    policy: InForce,
    resolve: ResolveOptions,
    recorder: Recorder,
}

impl Halves {
    /// Starts both, with real mTLS between them over loopback.
    async fn start(
        self,
        scope: BoundScope,
        capture: &mut Capture,
        cgroups: Cgroup2,
        verbose: bool,
        drain: Drain,
    ) -> anyhow::Result<(Serving, Evidence)> {
        if verbose {
            capture.start_log()?;
        }
        let events = capture.events();
        let events = events.context("somebody else reads what the kernel tells")?;
        let directory = Directory::new(cgroups, KnownWorkloads::default());
        let evidence = Evidence::start(events, self.recorder.clone(), directory.clone())?;
        let limits = agent::Limits::of_one_workload(descriptors::room_for(DESCRIPTORS));
        let identities = Identities::new()?;
        let gateway = self.gateway(&identities, &limits).await?;
        let parts = AgentParts {
            flows: capture.flows(),
            tunnels: identities.tunnels_to(&gateway, self.recorder.metrics())?,
            policy: self.policy,
            recorder: self.recorder,
            directory,
            limits,
        };
        tokio::spawn(gateway.run(drain.clone()));
        let agent = Agent::new(parts, drain);
        let serving = agent.serve(scope).context("cannot serve on loopback")?;
        tokio::spawn(agent.keep_warm());
        Ok((serving, evidence))
    }

    /// A gateway on loopback for the one agent, whose own places bound it.
    async fn gateway(
        &self,
        identities: &Identities,
        agent: &agent::Limits,
    ) -> anyhow::Result<Gateway> {
        let parts = GatewayParts {
            raw: None,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tls: tls::in_use(tls::gateway_end(&identities.gateway)?).1,
            agents: vec![AgentRule::for_everybody(IdPattern::Exactly(
                identities.agent.id().clone(),
            ))],
            quotas: Quotas {
                tunnels: u32::MAX,
                workload: Quota {
                    connections: None,
                    ..Quotas::default().workload
                },
                ..Quotas::default()
            },
            policy: self.policy.clone(),
            resolve: self.resolve.clone(),
            upstream: None,
            recorder: self.recorder.clone(),
            limits: gateway_limits(agent),
        };
        Ok(Gateway::bind(parts).await?)
    }
}

/// Lets in all that the agent takes, at once: a gateway gives one source an eighth of its places for
/// handshakes, and here all come from one. It is the agent that keeps within the descriptors.
fn gateway_limits(agent: &agent::Limits) -> gateway::Limits {
    gateway::Limits {
        tunnels: agent.connections.saturating_add(1).saturating_mul(8),
        ..gateway::Limits::default()
    }
}

/// Certificates that live and die with this process.
struct Identities {
    agent: Credentials,
    gateway: Credentials,
}

impl Identities {
    fn new() -> anyhow::Result<Identities> {
        let validity = Validity::starting(SystemTime::now(), LIFETIME)?;
        let domain: TrustDomain = "run.egress.local".parse()?;
        let ca = TrialCa::new(domain.clone(), validity)?;
        let issue = |path: &str| -> anyhow::Result<Credentials> {
            let pem = ca.issue(&domain.id(path)?, validity)?;
            Ok(Credentials::from_pem(&pem, UnixTime::now())?)
        };
        Ok(Identities {
            agent: issue("/agent/run")?,
            gateway: issue("/gateway/run")?,
        })
    }

    /// The agent's way to the gateway.
    fn tunnels_to(
        &self,
        gateway: &Gateway,
        metrics: &Arc<Metrics>,
    ) -> anyhow::Result<Arc<Tunnels>> {
        let addr = gateway.addr();
        let gateways = vec![Zoned {
            endpoint: Endpoint {
                host: addr.ip().to_string(),
                port: addr.port(),
            },
            zone: None,
        }];
        let trusted = [IdPattern::Exactly(self.gateway.id().clone())];
        let (_, tls) = tls::in_use(tls::agent_end(&self.agent, &trusted)?);
        let metrics = metrics.clone();
        Ok(Tunnels::new(gateways, None, Protocol::Egress, tls, metrics))
    }
}
