//! `egress agent`.

mod report;
mod upgrade;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use egress_common::Fallback;

use super::check::CheckArgs;
use super::common::{self, CommonArgs, EndSignals, Loaded};
use super::service;
use crate::admin::Readiness;
use crate::agent::capture::{self, Capture, CaptureOptions};
use crate::agent::directory::Directory;
use crate::agent::discovery::{Discovery, Targets};
use crate::agent::evidence::Evidence;
use crate::agent::handover::Inherited;
use crate::agent::scopes::{ExistingAction, ScopeOptions, Scopes};
use crate::agent::tunnels::Tunnels;
use crate::agent::{Agent, AgentParts, Limits};
use crate::cgroup::Cgroup2;
use crate::config::agent::{
    self as config, AgentConfig, AgentOptions, CaptureConfig, existing, fallback,
};
use crate::drain;
use crate::endpoint::Zoned;
use crate::netns::Netns;
use crate::record::{Metrics, Recorder};
use crate::renewal::Followed;
use crate::resolvers;
use crate::tunnel::identity::{IdPattern, SpiffeIdError};
use crate::tunnel::raw::{AlpnName, Protocol, RawOptions};
use crate::tunnel::tls::{self, Credentials};

const EXAMPLES: &str = "\
Examples:
  egress agent --config agent.yaml
  egress agent --config agent.yaml --check
  egress agent --config agent.yaml --log - --log-format text

agent.yaml:
  policy: policy.yaml
  tls: {certificate: agent.pem, key: agent-key.pem, bundle: ca.pem}   # and crl: revoked.pem; or
                                     # {workload_api: \"unix:///run/spire/agent.sock\"} (SPIFFE)
  gateways: [\"gateway.example.org:8443\"]    # or {address: \"…\", zone: eu-1a}, for
  zone: eu-1a                        # those of the agent's own zone to come first
  protocol: egress/1                 # or raw: mTLS alone, for HAProxy, stunnel and their like;
                                     # with `proxy_header: true` and `alpn: NAME` if they want that
  capture:
    cgroup: /sys/fs/cgroup/workloads.slice
    namespaces: [/run/netns/job-*]   # the agent's own when this and `discover` are absent
    discover: [/sys/fs/cgroup/workloads.slice]   # the namespaces of its processes
    ports: [443]
    other_ports: refuse              # or pass; protocols other than TCP and UDP go with them
    destinations:                    # the longest prefix that speaks of the port decides
      - {to: [10.96.0.0/12], action: pass}                     # or refuse, redirect
      - {to: [10.96.0.10], ports: [443, 6443], action: redirect}
    strict: true                     # raw sockets and such are not even made
    existing: keep                   # or close: connections from before the capture
    resolvers: [192.0.2.53]          # may be asked all the same; /etc/resolv.conf's when absent
    unregistered: refuse             # or pass: namespaces that are not listed
    heartbeat: 5s                    # stays closed when the agent hangs
    pin: /sys/fs/bpf/egress          # stays closed when the agent dies
    handover: /run/egress/handover   # a second agent takes over, and nothing is refused meanwhile
  workloads:                         # what the processes in a cgroup are; the first that fits
    - {cgroup: /jobs.slice/mirror-*, namespace: jobs, serviceAccount: mirror, labels: {app: mirror}}
  log: {file: /var/log/egress/agent.jsonl, format: json}
  admin: 127.0.0.1:9901
  drain: 25s
  spread: 5s                         # for closing what a new policy refuses";

/// The word for the protocol of our own.
const EGRESS: &str = "egress/1";

/// Captures the sockets of a cgroup, judges them and carries them to a gateway
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct AgentArgs {
    /// Configuration file (YAML); flags and variables win over it
    #[arg(long, env = "EGRESS_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    common: CommonArgs,

    /// Gateway to carry connections to; several, or a name of several addresses, share the load
    #[arg(
        long,
        env = "EGRESS_GATEWAYS",
        value_name = "HOST:PORT",
        value_delimiter = ','
    )]
    gateways: Option<Vec<Zoned>>,

    /// Zone that the agent is in: gateways of it, as the file says, come before others
    #[arg(long, env = "EGRESS_ZONE", value_name = "NAME",
          value_parser = clap::builder::NonEmptyStringValueParser::new())]
    zone: Option<String>,

    /// What is spoken with the gateways: egress/1, or raw with other people's programs
    /// [default: egress/1]
    #[arg(long, env = "EGRESS_PROTOCOL", value_name = "egress/1|raw",
          value_parser = [EGRESS, "raw"], hide_possible_values = true)]
    protocol: Option<String>,

    /// With --protocol raw: a PROXY v2 header in front, inside of the TLS
    #[arg(long, env = "EGRESS_PROXY_HEADER", requires = "protocol")]
    proxy_header: bool,

    /// With --protocol raw: the name that is offered in the TLS handshake and insisted on
    /// [default: none]
    #[arg(long, env = "EGRESS_ALPN", value_name = "NAME", requires = "protocol")]
    alpn: Option<AlpnName>,

    /// SPIFFE ID that a gateway must have, or all below one
    /// [default: spiffe://OWN-TRUST-DOMAIN/gateway/*]
    #[arg(long, env = "EGRESS_GATEWAY_ID", value_name = "ID")]
    gateway_id: Option<IdPattern>,

    /// Cgroups whose processes are captured (directories of the cgroup v2 hierarchy)
    #[arg(
        long = "cgroup",
        env = "EGRESS_CGROUP",
        value_name = "DIR",
        value_delimiter = ','
    )]
    cgroups: Option<Vec<PathBuf>>,

    /// Cgroup whose processes' network namespaces are served, as they come and go; the last
    /// component may have one *
    #[arg(
        long,
        env = "EGRESS_DISCOVER",
        value_name = "DIR",
        value_delimiter = ','
    )]
    discover: Option<Vec<PathBuf>>,

    /// Network namespace to serve, such as /run/netns/NAME; the last component may have one *
    /// [default: the agent's own, if --discover is not given either]
    #[arg(
        long,
        env = "EGRESS_NAMESPACES",
        value_name = "FILE",
        value_delimiter = ','
    )]
    namespaces: Option<Vec<PathBuf>>,

    /// Ports that are redirected [default: 443]
    #[arg(long, env = "EGRESS_PORTS", value_name = "N", value_delimiter = ',',
          value_parser = clap::value_parser!(u16).range(1..))]
    ports: Option<Vec<u16>>,

    /// What happens to other ports and other protocols: pass or refuse [default: refuse]
    #[arg(long, env = "EGRESS_OTHER_PORTS", value_name = "pass|refuse", value_parser = fallback)]
    other_ports: Option<Fallback>,

    /// Refuses raw sockets, and those of protocols that nothing redirects, when they are made
    #[arg(long, env = "EGRESS_STRICT")]
    strict: bool,

    /// What becomes of connections from before the capture: keep or close [default: keep]
    #[arg(long, env = "EGRESS_EXISTING", value_name = "keep|close", value_parser = existing)]
    existing: Option<ExistingAction>,

    /// Name server that may be asked (port 53) where other ports are refused
    /// [default: those in /etc/resolv.conf]
    #[arg(
        long,
        env = "EGRESS_RESOLVERS",
        value_name = "ADDR",
        value_delimiter = ','
    )]
    resolvers: Option<Vec<IpAddr>>,

    /// What happens in namespaces that are not listed: pass or refuse [default: refuse]
    #[arg(long, env = "EGRESS_UNREGISTERED", value_name = "pass|refuse", value_parser = fallback)]
    unregistered: Option<Fallback>,

    /// Removes what an agent pinned in --pin, says what it was, and ends
    #[arg(long)]
    cleanup: bool,

    /// Socket by which the listeners go to the next agent that is started with it, so that an
    /// upgrade refuses no connection; the agent ends then; it takes --pin [default: none]
    #[arg(long, env = "EGRESS_HANDOVER", value_name = "SOCKET")]
    handover: Option<PathBuf>,

    /// Folder of a bpf file system where the kernel programs are pinned, so that
    /// they refuse when the agent is gone [default: not pinned]
    #[arg(long, env = "EGRESS_PIN", value_name = "DIR")]
    pin: Option<PathBuf>,

    #[command(flatten)]
    check: CheckArgs,
}

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

impl From<AgentArgs> for AgentOptions {
    fn from(args: AgentArgs) -> AgentOptions {
        let raw = RawOptions {
            alpn: args.alpn,
            proxy_header: args.proxy_header,
        };
        let protocol = args.protocol.map(|word| match word.as_str() {
            EGRESS => Protocol::Egress,
            _ => Protocol::Raw(raw),
        });
        AgentOptions {
            common: args.common.into(),
            gateways: args.gateways,
            zone: args.zone,
            protocol,
            workloads: None,
            gateway_id: args.gateway_id,
            capture: config::CaptureOptions {
                cgroups: args.cgroups,
                namespaces: args.namespaces,
                discover: args.discover,
                ports: args.ports,
                other_ports: args.other_ports,
                destinations: None,
                strict: args.strict.then_some(true),
                existing: args.existing,
                resolvers: args.resolvers,
                unregistered: args.unregistered,
                pin: args.pin,
                handover: args.handover,
                heartbeat: None,
            },
        }
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

/// Loads the kernel programs, which judge nothing until they are attached.
fn load(config: &CaptureConfig, cgroups: &Cgroup2, verbose: bool) -> anyhow::Result<Capture> {
    let resolvers = match &config.resolvers {
        Some(resolvers) => resolvers.clone(),
        None => resolvers::of_the_system()?,
    };
    Ok(Capture::load(&CaptureOptions {
        unregistered: config.unregistered,
        exempt_cgroup: own_cgroup(cgroups, &config.cgroups)?,
        resolvers,
        heartbeat: Some(config.heartbeat),
        pins: config.pin.clone(),
        log: verbose,
    })?)
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
    if verbose {
        capture.start_log()?;
    }
    for (prefix, rule) in &config.capture.destinations {
        capture.set_prefix(*prefix, *rule)?;
    }
    let directory = Directory::new(cgroups, config.workloads.clone());
    let evidence = evidence(&mut capture, &loaded.recorder, &directory)?;
    let counters = capture.counters();
    loaded.metrics.kernel_counters(move || counters.totals());
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
    let flows = match inherited.as_mut().and_then(Inherited::flows) {
        Some(earlier) => capture.flows().with_earlier(earlier),
        None => capture.flows(),
    };
    let parts = AgentParts {
        flows,
        tunnels: tunnels.clone(),
        policy: loaded.policy,
        recorder: loaded.recorder.clone(),
        directory,
        limits: Limits::within_descriptors(),
    };
    let agent = Agent::new(parts, drain);
    let capture = Arc::new(Mutex::new(capture));
    let mut discovery = discover(&config.capture, agent.clone(), capture.clone(), inherited)?;
    let namespaces = discovery.len();
    // From before the first connection is redirected, however long the rest of the start takes.
    tokio::spawn(beat(capture.clone(), config.capture.heartbeat));
    attach(&capture, &config.capture)?;
    discovery.attached();
    if let Some(inherited) = discovery.take_inherited() {
        // One that has gone meanwhile needs no word.
        if let Err(error) = inherited.done() {
            tracing::warn!(%error, "the agent before has gone by itself");
        }
    }
    let succeeded = upgrade::offer(&config.capture, &agent, capture.clone())?;
    let following = draining.clone();
    let discovering = std::thread::Builder::new()
        .name("discovery".to_owned())
        .spawn(move || discovery.run(&following))
        .context("cannot start a thread")?;
    if let Some(addr) = config.base.admin {
        let ready = readiness(tunnels, capture.clone());
        let admin = upgrade::bind_admin(addr, &loaded.metrics, &ready, succeeds);
        let admin = admin.await?.run(draining);
        let succeeded = succeeded.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = admin => {}
                // The address is the successor's now.
                () = succeeded.reached() => {}
            }
        });
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

/// Records what the kernel refuses, from now on.
fn evidence(
    capture: &mut Capture,
    recorder: &Recorder,
    directory: &Directory,
) -> anyhow::Result<Evidence> {
    let events = capture.events();
    let events = events.context("somebody else reads what the kernel tells")?;
    Evidence::start(events, recorder.clone(), directory.clone())
        .context("cannot read what the kernel tells")
}

/// Tells the kernel that the runtime, which serves the connections, still runs. Several beats
/// fit into the limit, so that one that is late does no harm.
async fn beat(capture: Arc<Mutex<Capture>>, limit: Duration) {
    loop {
        let beaten = capture
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .beat();
        if let Err(error) = beaten {
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

/// Captures what is there. What is named one by one must be there; what is
/// described may come later.
fn discover(
    config: &CaptureConfig,
    agent: Agent,
    capture: Arc<Mutex<Capture>>,
    inherited: Option<Inherited>,
) -> anyhow::Result<Discovery> {
    let options = ScopeOptions {
        ports: config.ports.clone(),
        other_ports: config.other_ports,
        strict: config.strict,
        cgroups: config.cgroups.clone(),
        existing: config.existing,
    };
    let mut scopes = Scopes::new(agent, capture, options).inheriting(inherited);
    let targets = targets(config);
    for path in targets.fixed() {
        scopes.add(Netns::at(path)?)?;
    }
    Discovery::start(targets, scopes).context("cannot watch for network namespaces")
}

/// The moment from which processes are captured.
fn attach(capture: &Mutex<Capture>, config: &CaptureConfig) -> anyhow::Result<()> {
    let mut capture = capture.lock().unwrap_or_else(PoisonError::into_inner);
    // The programs were loaded a while ago.
    capture.beat()?;
    for cgroup in &config.cgroups {
        capture.attach(cgroup)?;
    }
    if let Some(dir) = &config.pin {
        capture.pin(dir)?;
    }
    Ok(())
}

/// Asks the kernel and the tunnels each time.
fn readiness(tunnels: Arc<Tunnels>, capture: Arc<Mutex<Capture>>) -> Readiness {
    Arc::new(move || {
        let capture = capture.lock().unwrap_or_else(PoisonError::into_inner);
        let mut missing = capture.faults();
        if !tunnels.is_reachable() {
            missing.push("no gateway can be reached".to_owned());
        }
        missing
    })
}
