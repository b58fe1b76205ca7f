//! `egress agent`.

mod args;
mod report;
mod upgrade;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use anyhow::Context;

use super::common::{self, EndSignals, Loaded};
use super::service;
use crate::admin::{Admin, Readiness};
use crate::agent::capture::{self, Capture, CaptureOptions, Flows, Heartbeat};
use crate::agent::directory::Directory;
use crate::agent::discovery::{Discovery, Targets};
use crate::agent::evidence::Evidence;
use crate::agent::handover::{Inherited, Succeeded};
use crate::agent::scopes::{ScopeOptions, Scopes};
use crate::agent::tunnels::Tunnels;
use crate::agent::{Agent, AgentParts, Limits};
use crate::cgroup::Cgroup2;
use crate::config::agent::{self as config, AgentConfig, AgentOptions, CaptureConfig};
use crate::descriptors;
use crate::drain::{self, Observer};
use crate::netns::Netns;
use crate::record::Metrics;
use crate::renewal::Followed;
use crate::resolvers;
use crate::tunnel::identity::{IdPattern, SpiffeIdError};
use crate::tunnel::tls::{self, Credentials};

pub(super) use args::AgentArgs;
use args::EGRESS;

/// Descriptors of a connection: the application's end and the tunnel.
const CONNECTION: u64 = 2;

impl AgentArgs {
    pub(super) fn run(self, verbose: bool) -> anyhow::Result<ExitCode> {
        let file = self.config.clone();
        anyhow::ensure!(
            self.protocol.as_deref() != Some(EGRESS) || !self.proxy_header && self.alpn.is_none(),
            "--proxy-header and --alpn mean something only with --protocol raw"
        );
        if self.cleanup {
            return cleanup(file.as_deref(), self.into());
        }
        let (check, output) = (self.check.check, self.check.output);
        let config = AgentConfig::load(file.as_deref(), self.into());
        if check {
            return Ok(report::report(config).print(output));
        }
        let config = config?;
        let loaded = common::load(&config.base)?;
        common::runtime()?.block_on(serve(config, loaded, verbose))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Whom the agent takes for a gateway.
fn trusted(
    configured: Option<&IdPattern>,
    credentials: &Credentials,
) -> Result<[IdPattern; 1], SpiffeIdError> {
    let default = || tls::default_gateways(credentials);
    Ok([configured.cloned().map_or_else(default, Ok)?])
}

/// Takes the pins away: captured processes connect directly from then on.
fn cleanup(file: Option<&Path>, flags: AgentOptions) -> anyhow::Result<ExitCode> {
    let pin = config::pin(file, flags)?;
    let pin =
        pin.context("nothing to clean up: no folder of pins is configured; name it with --pin")?;
    let removed = capture::cleanup(&pin)?;
    if removed.is_empty() {
        super::say(format_args!("nothing is pinned in {}", pin.display()));
    }
    for path in removed {
        super::say(format_args!("removed {path}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Loads the kernel programs, and what they go by. They judge nothing until they are attached.
fn load(config: &CaptureConfig, cgroups: &Cgroup2, verbose: bool) -> anyhow::Result<Capture> {
    let resolvers = match &config.resolvers {
        Some(resolvers) => resolvers.clone(),
        None => resolvers::of_the_system()?,
    };
    let mut capture = Capture::load(&CaptureOptions {
        unregistered: config.unregistered,
        exempt_cgroup: own_cgroup(cgroups, &config.cgroups)?,
        resolvers,
        heartbeat: Some(config.heartbeat),
        pins: config.pin.clone(),
        security_hooks: config.security_hooks,
        log: verbose,
    })?;
    if let (true, Err(why)) = (config.security_hooks, capture.security_hooks()) {
        let unasked = capture::UNASKED;
        tracing::warn!(
            why,
            "nothing is asked at the kernel's security hooks: {unasked}"
        );
    }
    if verbose {
        capture.start_log()?;
    }
    for (prefix, rule) in &config.destinations {
        capture.set_prefix(*prefix, *rule)?;
    }
    Ok(capture)
}

/// The agent's own cgroup, if it lies inside of what is captured: its own
/// connections to the gateways must not come back to it.
fn own_cgroup(cgroups: &Cgroup2, captured: &[PathBuf]) -> anyhow::Result<Option<u64>> {
    let own = cgroups.current()?;
    let mut is_inside = false;
    for captured in captured {
        let captured = captured
            .canonicalize()
            .with_context(|| format!("cannot open the cgroup {}", captured.display()))?;
        anyhow::ensure!(
            own.path() != captured,
            "the agent runs in {}, the very cgroup that it is to capture: start it in one of its \
             own",
            captured.display()
        );
        is_inside |= own.path().starts_with(&captured);
    }
    Ok(is_inside.then_some(own.id()))
}

/// What is to be served; this process's own namespace when nothing is named.
fn targets(config: &CaptureConfig) -> Targets {
    let mut namespaces = config.namespaces.clone();
    if namespaces.is_empty() && config.discover.is_empty() {
        namespaces.push(PathBuf::from("/proc/self/ns/net"));
    }
    Targets {
        namespaces,
        cgroups: config.discover.clone(),
    }
}

async fn serve(config: AgentConfig, loaded: Loaded, verbose: bool) -> anyhow::Result<()> {
    let cgroups = Cgroup2::find()?;
    let mut capture = load(&config.capture, &cgroups, verbose)?;
    let directory = Directory::new(cgroups, config.workloads.clone());
    let evidence = evidence(&mut capture, &loaded, &directory)?;
    let tunnels = tunnels(
        &config,
        &loaded.credentials,
        loaded.followed,
        &loaded.metrics,
    )?;
    let (drainer, drain) = drain::channel();
    let draining = drain.observer();
    common::follow(loaded.reloader)?;
    let mut inherited = upgrade::inherit(&config.capture).await?;
    let succeeds = inherited.is_some();
    let division = descriptors::divide(CONNECTION, Limits::default().connections);
    let parts = AgentParts {
        flows: flows(&capture, inherited.as_mut()),
        tunnels: tunnels.clone(),
        policy: loaded.policy,
        recorder: loaded.recorder.clone(),
        directory,
        limits: Limits::within(division.connections),
    };
    let agent = Agent::new(parts, drain);
    let capture = Arc::new(Mutex::new(capture));
    let options = scope_options(&config.capture, division.namespaces);
    let registry = Scopes::new(agent.clone(), capture.clone(), options);
    let discovery = begin(&config.capture, registry, &capture, inherited)?;
    let namespaces = discovery.len();
    let succeeded = upgrade::offer(&config.capture, &agent, capture.clone())?;
    let following = draining.clone();
    let discovering = std::thread::Builder::new()
        .name("discovery".to_owned())
        .spawn(move || discovery.run(&following))
        .context("cannot start a thread")?;
    if let Some(addr) = config.base.admin {
        let ready = readiness(tunnels, capture.clone());
        let admin = upgrade::bind_admin(addr, &loaded.metrics, &ready, succeeds).await?;
        tokio::spawn(answer(admin, draining, succeeded.clone()));
    }
    tracing::info!(cgroups = ?config.capture.cgroups, namespaces, "agent ready");
    let signals = EndSignals::listen()?;
    service::ready();
    tokio::spawn(agent.keep_warm());
    common::until_told(signals, drainer, config.base.drain, succeeded.reached()).await;
    if discovering.join().is_err() {
        tracing::error!("the discovery of namespaces ended early");
    }
    evidence.finish().await;
    loaded.recorder.close();
    Ok(())
}

/// What is known of those who connect, by our own programs and by those of the agent before.
fn flows(capture: &Capture, inherited: Option<&mut Inherited>) -> Flows {
    let flows = capture.flows();
    match inherited.and_then(Inherited::flows) {
        Some(earlier) => flows.with_earlier(earlier),
        None => flows,
    }
}

/// Serves what is there, captures it, and tells the agent before that it may go.
fn begin(
    config: &CaptureConfig,
    registry: Scopes,
    capture: &Mutex<Capture>,
    inherited: Option<Inherited>,
) -> anyhow::Result<Discovery> {
    let mut discovery = discover(config, registry.inheriting(inherited))?;
    // From before the first connection is redirected, however long the rest of the start takes.
    let heartbeat = lock(capture).heartbeat();
    tokio::spawn(beat(heartbeat, config.heartbeat));
    attach(capture, config)?;
    discovery.attached();
    if let Some(inherited) = discovery.take_inherited() {
        // One that has gone meanwhile needs no word.
        if let Err(error) = inherited.done() {
            tracing::warn!(%error, "the agent before has gone by itself");
        }
    }
    Ok(discovery)
}

/// Answers at the admin address until it is a successor's.
async fn answer(admin: Admin, draining: Observer, succeeded: Succeeded) {
    tokio::select! {
        () = admin.run(draining) => {}
        () = succeeded.reached() => {}
    }
}

/// Records and counts what the kernel refuses, from now on.
fn evidence(
    capture: &mut Capture,
    loaded: &Loaded,
    directory: &Directory,
) -> anyhow::Result<Evidence> {
    let counters = capture.counters();
    loaded.metrics.kernel_counters(move || counters.totals());
    let events = capture.events();
    let events = events.context("somebody else reads what the kernel tells")?;
    Evidence::start(events, loaded.recorder.clone(), directory.clone())
        .context("cannot read what the kernel tells")
}

/// Tells the kernel that the runtime, which serves the connections, still runs. Several beats
/// fit into the limit, so that one that is late does no harm.
async fn beat(heartbeat: Heartbeat, limit: Duration) {
    loop {
        if let Err(error) = heartbeat.beat() {
            tracing::warn!(%error, "the kernel cannot be told that the agent lives");
        }
        tokio::time::sleep(limit / 4).await;
    }
}

fn tunnels(
    config: &AgentConfig,
    credentials: &Credentials,
    followed: Followed,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<Arc<Tunnels>> {
    let trusted = trusted(config.gateway_id.as_ref(), credentials)?;
    let protocol = config.protocol.clone();
    let build = Box::new(move |credentials: &_| {
        tls::agent_end(credentials, &trusted).map(|end| end.speaking(&protocol))
    });
    let tls = common::use_credentials(credentials, followed, build, metrics.clone())?;
    Ok(Tunnels::new(
        config.gateways.clone(),
        config.zone.as_deref(),
        config.protocol.clone(),
        tls,
        metrics.clone(),
    ))
}

fn scope_options(config: &CaptureConfig, descriptors: u64) -> ScopeOptions {
    ScopeOptions {
        ports: config.ports.clone(),
        other_ports: config.other_ports,
        strict: config.strict,
        unregistered: config.unregistered,
        cgroups: config.cgroups.clone(),
        existing: config.existing,
        descriptors,
    }
}

/// Captures what is there. What is named one by one must be there; what is
/// described may come later.
fn discover(config: &CaptureConfig, mut scopes: Scopes) -> anyhow::Result<Discovery> {
    let targets = targets(config);
    for path in targets.fixed() {
        let owner = path.to_string_lossy();
        scopes.add(Netns::at(path)?, &owner)?;
    }
    Discovery::start(targets, scopes).context("cannot watch for network namespaces")
}

/// The moment from which processes are captured.
fn attach(capture: &Mutex<Capture>, config: &CaptureConfig) -> anyhow::Result<()> {
    let mut capture = lock(capture);
    // The programs were loaded a while ago.
    capture.heartbeat().beat()?;
    for cgroup in &config.cgroups {
        capture.attach(cgroup)?;
    }
    if let Some(dir) = &config.pin {
        capture.pin(dir)?;
    }
    Ok(())
}

/// Asks the kernel and the tunnels each time. It blocks for a moment.
fn readiness(tunnels: Arc<Tunnels>, capture: Arc<Mutex<Capture>>) -> Readiness {
    Arc::new(move || {
        let mut missing = match try_lock(&capture) {
            Some(capture) => capture.faults(),
            None => vec!["the agent is at work on its kernel programs".to_owned()],
        };
        if !tunnels.is_reachable() {
            missing.push("no gateway can be reached".to_owned());
        }
        missing
    })
}

fn lock(capture: &Mutex<Capture>) -> MutexGuard<'_, Capture> {
    capture.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whoever else has it needs it for less than this.
fn try_lock(capture: &Mutex<Capture>) -> Option<MutexGuard<'_, Capture>> {
    const TRIES: u32 = 100;
    const PAUSE: Duration = Duration::from_millis(10);

    for _ in 0..TRIES {
        match capture.try_lock() {
            Ok(capture) => return Some(capture),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
        }
    }
    None
}
