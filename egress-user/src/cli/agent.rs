//! `egress agent`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use egress_common::Fallback;

use super::common::{self, CommonArgs, Loaded};
use crate::admin::{Admin, Readiness};
use crate::agent::capture::{Capture, CaptureOptions, Scope};
use crate::agent::listener::{self, BoundScope};
use crate::agent::tunnels::{Endpoint, Tunnels};
use crate::agent::{Agent, AgentParts, Limits};
use crate::cgroup::Cgroup2;
use crate::config::agent::{self as config, AgentConfig, AgentOptions, CaptureConfig, fallback};
use crate::drain;
use crate::netns::Netns;
use crate::resolvers;
use crate::tunnel::identity::IdPattern;
use crate::tunnel::tls;

const EXAMPLES: &str = "\
Examples:
  egress agent --config agent.yaml
  egress agent --config agent.yaml --log - --log-format text

agent.yaml:
  policy: policy.yaml
  tls: {certificate: agent.pem, key: agent-key.pem, bundle: ca.pem}
  gateways: [\"gateway.example.org:8443\"]
  capture:
    cgroup: /sys/fs/cgroup/workloads.slice
    namespaces: [/run/netns/job]     # the agent's own when absent
    ports: [443]
    other_ports: refuse              # or pass
    resolvers: [192.0.2.53]          # may be asked all the same; /etc/resolv.conf's when absent
    unregistered: refuse             # or pass: namespaces that are not listed
    pin: /sys/fs/bpf/egress          # stays closed when the agent dies
  log: {file: /var/log/egress/agent.jsonl, format: json}
  admin: 127.0.0.1:9901
  drain: 25s";

/// Captures the sockets of a cgroup, judges them and carries them to a gateway
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct AgentArgs {
    /// Configuration file (YAML); flags and variables win over it
    #[arg(long, env = "EGRESS_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    common: CommonArgs,

    /// Gateway to carry connections to; several are tried in turn
    #[arg(
        long,
        env = "EGRESS_GATEWAYS",
        value_name = "HOST:PORT",
        value_delimiter = ','
    )]
    gateways: Option<Vec<Endpoint>>,

    /// SPIFFE ID that a gateway must have, or all below one
    /// [default: spiffe://OWN-TRUST-DOMAIN/gateway/*]
    #[arg(long, env = "EGRESS_GATEWAY_ID", value_name = "ID")]
    gateway_id: Option<IdPattern>,

    /// Cgroup whose processes are captured (a directory of the cgroup v2 hierarchy)
    #[arg(long, env = "EGRESS_CGROUP", value_name = "DIR")]
    cgroup: Option<PathBuf>,

    /// Network namespace to serve, such as /run/netns/NAME [default: the agent's own]
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

    /// What happens to other ports: pass or refuse [default: refuse]
    #[arg(long, env = "EGRESS_OTHER_PORTS", value_name = "pass|refuse", value_parser = fallback)]
    other_ports: Option<Fallback>,

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

    /// Folder of a bpf file system where the kernel programs are pinned, so that
    /// they refuse when the agent is gone [default: not pinned]
    #[arg(long, env = "EGRESS_PIN", value_name = "DIR")]
    pin: Option<PathBuf>,
}

impl AgentArgs {
    pub(super) fn run(self, verbose: bool) -> anyhow::Result<ExitCode> {
        let file = self.config.clone();
        let config = AgentConfig::load(file.as_deref(), self.into())?;
        let loaded = common::load(&config.base)?;
        let captured = Captured::start(&config.capture, verbose)?;
        common::runtime()?.block_on(serve(config, loaded, captured, verbose))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl From<AgentArgs> for AgentOptions {
    fn from(args: AgentArgs) -> AgentOptions {
        AgentOptions {
            common: args.common.into(),
            gateways: args.gateways,
            gateway_id: args.gateway_id,
            capture: config::CaptureOptions {
                cgroup: args.cgroup,
                namespaces: args.namespaces,
                ports: args.ports,
                other_ports: args.other_ports,
                resolvers: args.resolvers,
                unregistered: args.unregistered,
                pin: args.pin,
            },
        }
    }
}

/// The kernel's half, in place: listeners first, then what leads to them.
struct Captured {
    capture: Capture,
    scopes: Vec<BoundScope>,
    cgroups: Cgroup2,
}

impl Captured {
    fn start(config: &CaptureConfig, verbose: bool) -> anyhow::Result<Captured> {
        let cgroups = Cgroup2::find()?;
        let mut capture = Capture::load(&CaptureOptions {
            unregistered: config.unregistered,
            exempt_cgroup: own_cgroup(&cgroups, &config.cgroup)?,
            resolvers: match &config.resolvers {
                Some(resolvers) => resolvers.clone(),
                None => resolvers::of_the_system()?,
            },
            log: verbose,
        })?;
        let scopes = bind(&config.namespaces)?;
        for scope in &scopes {
            capture.add_scope(
                scope.cookie(),
                &Scope {
                    listen_v4: scope.v4_port()?,
                    listen_v6: scope.v6_port()?,
                    ports: config.ports.clone(),
                    other_ports: config.other_ports,
                },
            )?;
        }
        capture.attach(&config.cgroup)?;
        if let Some(dir) = &config.pin {
            capture = capture.pin(dir)?;
        }
        Ok(Captured {
            capture,
            scopes,
            cgroups,
        })
    }
}

/// The agent's own cgroup, if it lies inside of what is captured: its own
/// connections to the gateways must not come back to it.
fn own_cgroup(cgroups: &Cgroup2, captured: &Path) -> anyhow::Result<Option<u64>> {
    let own = cgroups.current()?;
    let captured = captured
        .canonicalize()
        .with_context(|| format!("cannot open the cgroup {}", captured.display()))?;
    anyhow::ensure!(
        own.path() != captured,
        "the agent runs in {}, the very cgroup that it is to capture: start it in one of its own",
        captured.display()
    );
    Ok(own.path().starts_with(&captured).then_some(own.id()))
}

fn bind(namespaces: &[PathBuf]) -> anyhow::Result<Vec<BoundScope>> {
    if namespaces.is_empty() {
        let scope = listener::bind_here().context("cannot listen on loopback")?;
        return Ok(vec![scope]);
    }
    let mut scopes = Vec::with_capacity(namespaces.len());
    for path in namespaces {
        let bound = Netns::at(path)?.on_thread(listener::bind_here)?;
        scopes.push(bound.with_context(|| {
            format!(
                "cannot listen on loopback in {}; is `lo` up there?",
                path.display()
            )
        })?);
    }
    Ok(scopes)
}

async fn serve(
    config: AgentConfig,
    loaded: Loaded,
    mut captured: Captured,
    verbose: bool,
) -> anyhow::Result<()> {
    if verbose {
        captured.capture.start_log()?;
    }
    let counters = captured.capture.counters();
    loaded.metrics.kernel_counters(move || counters.totals());
    let trusted = [match config.gateway_id {
        Some(id) => id,
        None => tls::default_gateways(&loaded.credentials)?,
    }];
    let tls = tls::agent_config(&loaded.credentials, &trusted)?;
    let tunnels = Tunnels::new(config.gateways, Arc::new(tls), loaded.metrics.clone());
    let namespaces = captured.scopes.len();
    let agent = Agent::new(AgentParts {
        scopes: captured.scopes,
        flows: captured.capture.flows(),
        tunnels: tunnels.clone(),
        policy: loaded.policy,
        recorder: loaded.recorder.clone(),
        cgroups: captured.cgroups,
        limits: Limits::default(),
    })
    .context("cannot take over the listeners")?;
    let (drainer, drain) = drain::channel();
    if let Some(addr) = config.base.admin {
        let readiness: Readiness = Arc::new(move || {
            let missing = (!tunnels.is_reachable()).then_some("no gateway can be reached");
            missing.into_iter().collect()
        });
        let admin = Admin::bind(addr, loaded.metrics, readiness).await?;
        tokio::spawn(admin.run(drain.observer()));
    }
    tracing::info!(cgroup = %config.capture.cgroup.display(), namespaces, "agent ready");
    tokio::spawn(agent.run(drain));
    common::until_told(drainer, config.base.drain).await?;
    loaded.recorder.close();
    Ok(())
}
