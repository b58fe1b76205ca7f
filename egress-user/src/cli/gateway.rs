//! `egress gateway`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use ipnet::IpNet;

use super::check::{CheckArgs, Report};
use super::common::{self, CommonArgs, EndSignals, Loaded};
use super::{service, values};
use crate::admin::{Admin, Readiness};
use crate::config::gateway::{GatewayConfig, GatewayOptions, UpstreamConfig};
use crate::dns::NameServer;
use crate::document::Mistakes;
use crate::drain;
use crate::gateway::agents::AgentRule;
use crate::gateway::forbidden::Forbidden;
use crate::gateway::resolve::{ResolveOptions, Resolver};
use crate::gateway::{Gateway, GatewayParts, Limits};
use crate::pins::Pin;
use crate::tunnel::identity::{IdPattern, SpiffeIdError};
use crate::tunnel::tls::{self, Credentials};

const EXAMPLES: &str = "\
Examples:
  egress gateway --config gateway.yaml
  egress gateway --config gateway.yaml --check
  egress gateway --listen 0.0.0.0:8443 --policy policy.yaml \\
      --certificate gateway.pem --key gateway-key.pem --bundle ca.pem

gateway.yaml:
  listen: 0.0.0.0:8443
  policy: policy.yaml
  tls: {certificate: gateway.pem, key: gateway-key.pem, bundle: ca.pem}   # and crl: revoked.pem; or
                                    # {workload_api: \"unix:///run/spire/agent.sock\"} (SPIFFE)
  agents:                           # spiffe://OWN-TRUST-DOMAIN/agent/* when absent
    - spiffe://example.org/agent/*  # may speak for every workload
    - id: spiffe://example.org/node/web
      workloads: [{namespace: web}, {cgroup: /web.slice}]
  limits:                           # of this gateway; names in a minute, rate in a second
    agent: {tunnels: 4096, connections: 8000, rate: 500, names: 6000}
    workload: {connections: 4096, rate: 100, names: 600}
  raw: {enabled: true, proxy_header: no}   # also takes mTLS without egress/1; accept, require
  dns: {servers: [192.0.2.53]}        # the system's own when absent; also tcp://192.0.2.53 and
                                      # tls://192.0.2.53#dns.example.org, with `ca: FILE` if need be
  addresses: {allow: [10.20.0.0/16]}  # exceptions to the forbidden ranges
  # the way out, where there is no direct one; or {socks5: \"192.0.2.7:1080\"}
  upstream: {connect: \"http://192.0.2.7:3128\", credentials: proxy-user}   # a file: user:password
  log: {file: /var/log/egress/gateway.jsonl, format: json}
  admin: 127.0.0.1:9902
  drain: 25s
  spread: 5s                         # for closing what a new policy refuses";

/// Serves agents: authenticates, judges again, resolves and dials
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct GatewayArgs {
    /// Configuration file (YAML); flags and variables win over it
    #[arg(long, env = "EGRESS_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    common: CommonArgs,

    /// Where agents connect
    #[arg(long, env = "EGRESS_LISTEN", value_name = "ADDR:PORT", value_parser = values::listening)]
    listen: Option<SocketAddr>,

    /// SPIFFE ID of an agent that may connect, or all below one
    /// [default: spiffe://OWN-TRUST-DOMAIN/agent/*]
    #[arg(long, env = "EGRESS_AGENTS", value_name = "ID", value_delimiter = ',')]
    agents: Option<Vec<IdPattern>>,

    /// Name server, such as 192.0.2.53:53, tcp://192.0.2.53 or tls://192.0.2.53#dns.example.org
    /// [default: the system's own]
    #[arg(long, env = "EGRESS_DNS", value_name = "SERVER", value_delimiter = ',')]
    dns: Option<Vec<NameServer>>,

    /// CA certificates (PEM) by which name servers are known that are asked by TLS
    /// [default: the system's own]
    #[arg(long, env = "EGRESS_DNS_CA", value_name = "FILE")]
    dns_ca: Option<PathBuf>,

    /// Range that may be dialled although it is private or otherwise special
    #[arg(
        long,
        env = "EGRESS_ALLOW_ADDRESSES",
        value_name = "PREFIX",
        value_delimiter = ',',
        value_parser = values::prefix
    )]
    allow_addresses: Option<Vec<IpNet>>,

    /// Pins a name and port to an address, past DNS and the forbidden ranges
    #[arg(long, value_name = "NAME:PORT:ADDR")]
    resolve: Option<Vec<Pin>>,

    #[command(flatten)]
    check: CheckArgs,
}

impl GatewayArgs {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let file = self.config.clone();
        let (check, output) = (self.check.check, self.check.output);
        let config = GatewayConfig::load(file.as_deref(), self.into());
        if check {
            return Ok(report(config).print(output));
        }
        let config = config?;
        let loaded = common::load(&config.base)?;
        common::runtime()?.block_on(serve(config, loaded))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl From<GatewayArgs> for GatewayOptions {
    fn from(args: GatewayArgs) -> GatewayOptions {
        GatewayOptions {
            common: args.common.into(),
            listen: args.listen,
            agents: args
                .agents
                .map(|ids| ids.into_iter().map(AgentRule::for_everybody).collect()),
            raw: None,
            quotas: None,
            dns: args.dns,
            dns_ca: args.dns_ca,
            allow_addresses: args.allow_addresses,
            resolve: args.resolve,
            upstream: None,
        }
    }
}

/// What the configuration amounts to.
fn report(config: Result<GatewayConfig, Mistakes>) -> Report {
    let config = match config {
        Ok(config) => config,
        Err(mistakes) => return Report::of_mistakes(&mistakes),
    };
    let mut report = Report::default();
    report.set("listen", config.listen);
    let credentials = report.base(&config.base);
    if let Some(credentials) = &credentials {
        report_agents(&mut report, config.agents, credentials);
    }
    match &config.raw {
        Some(raw) => report.set("raw", raw),
        None => report.set("raw", "not taken"),
    }
    report.set("limits.agent.tunnels", config.quotas.tunnels);
    report.set("limits.agent", config.quotas.agent);
    report.set("limits.workload", config.quotas.workload);
    report.list("dns.servers", &config.dns, "the system's own");
    let ca = config
        .dns_ca
        .as_ref()
        .map(|path| path.display().to_string());
    report.set("dns.ca", ca.as_deref().unwrap_or("the system's own"));
    report.list("addresses.allow", &config.allow_addresses, "none");
    let pins = config.pins.iter().map(|((name, port), addrs)| {
        let addrs: Vec<String> = addrs.iter().map(ToString::to_string).collect();
        format!("{name}:{port}:{}", addrs.join(","))
    });
    report.list("resolve", pins, "none");
    report_upstream(&mut report, config.upstream);
    let resolver = Resolver::new(ResolveOptions {
        servers: config.dns.clone(),
        ca: config.dns_ca,
        ..ResolveOptions::default()
    });
    if let Err(error) = resolver {
        report.fault(error);
    }
    report
}

fn report_upstream(report: &mut Report, upstream: Option<UpstreamConfig>) {
    let Some(upstream) = upstream else {
        return report.set("upstream", "none");
    };
    report.set("upstream", &upstream.proxy);
    let credentials = upstream.credentials.as_ref();
    let credentials = credentials.map(|path| path.display().to_string());
    report.set(
        "upstream.credentials",
        credentials.as_deref().unwrap_or("none"),
    );
    if let Err(error) = upstream.load() {
        report.fault(error);
    }
}

fn report_agents(report: &mut Report, rules: Option<Vec<AgentRule>>, credentials: &Credentials) {
    match agents(rules, credentials) {
        Ok(rules) => {
            let own = credentials.id().trust_domain();
            for foreign in rules.iter().filter(|rule| rule.id.trust_domain() != own) {
                report.warn(format_args!(
                    "no agent can be {}: the gateway's own trust domain is {own}",
                    foreign.id
                ));
            }
            report.list("agents", rules, "none");
        }
        Err(error) => report.fault(error),
    }
    if let Err(error) = tls::gateway_end(credentials) {
        report.fault(error);
    }
}

fn agents(
    rules: Option<Vec<AgentRule>>,
    credentials: &Credentials,
) -> Result<Vec<AgentRule>, SpiffeIdError> {
    let default = || tls::default_agents(credentials).map(AgentRule::for_everybody);
    rules.map_or_else(|| Ok(vec![default()?]), Ok)
}

async fn serve(config: GatewayConfig, loaded: Loaded) -> anyhow::Result<()> {
    let agents = agents(config.agents, &loaded.credentials)?;
    let raw = config.raw.clone();
    let build = Box::new(move |credentials: &_| {
        tls::gateway_end(credentials).map(|end| end.taking(raw.as_ref()))
    });
    let metrics = loaded.metrics.clone();
    let tls = common::use_credentials(&loaded.credentials, loaded.followed, build, metrics)?;
    let gateway = Gateway::bind(GatewayParts {
        listen: config.listen,
        tls,
        raw: config.raw,
        agents,
        quotas: config.quotas,
        policy: loaded.policy,
        resolve: ResolveOptions {
            servers: config.dns,
            ca: config.dns_ca,
            pins: config.pins,
            forbidden: Forbidden::except(config.allow_addresses),
        },
        upstream: config.upstream.map(UpstreamConfig::load).transpose()?,
        recorder: loaded.recorder.clone(),
        limits: Limits::within_descriptors(),
    })
    .await?;
    let (drainer, drain) = drain::channel();
    common::follow(loaded.reloader)?;
    if let Some(addr) = config.base.admin {
        let readiness: Readiness = Arc::new(Vec::new);
        let admin = Admin::bind(addr, loaded.metrics, readiness).await?;
        tokio::spawn(admin.run(drain.observer()));
    }
    tracing::info!(listen = %gateway.addr(), "gateway ready");
    tokio::spawn(gateway.run(drain));
    let signals = EndSignals::listen()?;
    service::ready();
    common::until_told(signals, drainer, config.base.drain, std::future::pending()).await;
    loaded.recorder.close();
    Ok(())
}
