//! The flags of `egress agent`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use egress_common::Fallback;

use crate::agent::scopes::ExistingAction;
use crate::cli::check::CheckArgs;
use crate::cli::common::CommonArgs;
use crate::cli::values;
use crate::config::agent::{AgentOptions, CaptureOptions, existing, fallback};
use crate::endpoint::Zoned;
use crate::tunnel::identity::IdPattern;
use crate::tunnel::raw::{AlpnName, Protocol, RawOptions};

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
pub(super) const EGRESS: &str = "egress/1";

/// Captures the sockets of a cgroup, judges them and carries them to a gateway
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct AgentArgs {
    /// Configuration file (YAML); flags and variables win over it
    #[arg(long, env = "EGRESS_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,

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
    pub(super) protocol: Option<String>,

    /// With --protocol raw: a PROXY v2 header in front, inside of the TLS
    #[arg(long, env = "EGRESS_PROXY_HEADER", requires = "protocol")]
    pub(super) proxy_header: bool,

    /// With --protocol raw: the name that is offered in the TLS handshake and insisted on
    /// [default: none]
    #[arg(long, env = "EGRESS_ALPN", value_name = "NAME", requires = "protocol")]
    pub(super) alpn: Option<AlpnName>,

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
          value_parser = values::port)]
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
        value_delimiter = ',',
        value_parser = values::address
    )]
    resolvers: Option<Vec<IpAddr>>,

    /// What happens in namespaces that are not listed: pass or refuse [default: refuse]
    #[arg(long, env = "EGRESS_UNREGISTERED", value_name = "pass|refuse", value_parser = fallback)]
    unregistered: Option<Fallback>,

    /// Removes what an agent pinned in --pin, says what it was, and ends
    #[arg(long)]
    pub(super) cleanup: bool,

    /// Socket by which the listeners go to the next agent that is started with it, so that an
    /// upgrade refuses no connection; the agent ends then; it takes --pin [default: none]
    #[arg(long, env = "EGRESS_HANDOVER", value_name = "SOCKET")]
    handover: Option<PathBuf>,

    /// Folder of a bpf file system where the kernel programs are pinned, so that
    /// they refuse when the agent is gone [default: not pinned]
    #[arg(long, env = "EGRESS_PIN", value_name = "DIR")]
    pin: Option<PathBuf>,

    #[command(flatten)]
    pub(super) check: CheckArgs,
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
            capture: CaptureOptions {
                cgroups: args.cgroups,
                namespaces: args.namespaces,
                discover: args.discover,
                ports: args.ports,
                other_ports: args.other_ports,
                destinations: None,
                strict: args.strict.then_some(true),
                security_hooks: None,
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
