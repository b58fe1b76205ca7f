//! Configuration of the gateway.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::{Base, Common, Needs};
use crate::dns::NameServer;
use crate::document::{Map, Mistakes, Value};
use crate::gateway::agents::{AgentRule, Quota, Quotas};
use crate::gateway::upstream::credentials::{Credentials, CredentialsError};
use crate::gateway::upstream::{Proxy, Upstream};
use crate::pins::{self, Pin};
use crate::policy::Workloads;
use crate::tunnel::raw::{HeaderUse, RawAccess};

/// What the user wrote; everything may be absent.
#[derive(Clone, Debug, Default)]
pub struct GatewayOptions {
    /// What both halves can be told.
    pub common: Common,
    /// Where agents connect.
    pub listen: Option<SocketAddr>,
    /// How those are taken who speak raw; the inner one absent when they are not.
    pub raw: Option<Option<RawAccess>>,
    /// Agents that may open tunnels, and for whom.
    pub agents: Option<Vec<AgentRule>>,
    /// How much each agent and each workload may take.
    pub quotas: Option<Quotas>,
    /// Name servers.
    pub dns: Option<Vec<NameServer>>,
    /// CA certificates by which name servers are known.
    pub dns_ca: Option<PathBuf>,
    /// Exceptions to the forbidden ranges.
    pub allow_addresses: Option<Vec<IpNet>>,
    /// Names pinned to addresses.
    pub resolve: Option<Vec<Pin>>,
    /// The proxy by which origins are reached.
    pub upstream: Option<UpstreamConfig>,
}

/// The proxy by which origins are reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UpstreamConfig {
    /// Which proxy.
    pub proxy: Proxy,
    /// The file with `user:password`.
    pub credentials: Option<PathBuf>,
}

impl UpstreamConfig {
    /// Reads the credentials.
    ///
    /// # Errors
    /// Why they cannot be used.
    pub fn load(self) -> Result<Upstream, CredentialsError> {
        let credentials = self.credentials.as_deref().map(Credentials::read);
        Upstream::new(self.proxy, credentials.transpose()?)
    }

    fn below(mut self, file: Option<&Path>) -> UpstreamConfig {
        self.credentials = self.credentials.map(|path| beside(file, path));
        self
    }
}

/// Paths in a file are relative to the folder that the file lies in.
fn beside(file: Option<&Path>, path: PathBuf) -> PathBuf {
    match file.and_then(Path::parent) {
        Some(folder) => folder.join(path),
        None => path,
    }
}

/// What the gateway needs.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// What both halves need.
    pub base: Base,
    /// Where agents connect.
    pub listen: SocketAddr,
    /// How those are taken who speak raw; they are not when absent.
    pub raw: Option<RawAccess>,
    /// Agents that may open tunnels, and for whom; every `/agent/*` of the own trust domain for
    /// everybody when absent.
    pub agents: Option<Vec<AgentRule>>,
    /// How much each agent and each workload may take.
    pub quotas: Quotas,
    /// Name servers; the system's own when empty.
    pub dns: Vec<NameServer>,
    /// CA certificates by which name servers are known that are asked by TLS; those of the system when
    /// absent.
    pub dns_ca: Option<PathBuf>,
    /// Exceptions to the forbidden ranges.
    pub allow_addresses: Vec<IpNet>,
    /// Names pinned to addresses.
    pub pins: HashMap<(String, u16), Vec<IpAddr>>,
    /// The proxy by which origins are reached, if not directly.
    pub upstream: Option<UpstreamConfig>,
}

impl GatewayConfig {
    /// Puts the file below the flags and checks that nothing is missing.
    ///
    /// # Errors
    ///
    /// Every mistake of the file, or everything that is missing.
    pub fn load(file: Option<&Path>, flags: GatewayOptions) -> Result<GatewayConfig, Mistakes> {
        let written = super::read_file(file, read)?;
        let below = match file {
            Some(file) => written.common.clone().below(file),
            None => Common::default(),
        };
        let mut needs = Needs::new(file);
        let base = flags.common.over(below).complete(&mut needs);
        let listen = needs.value("listen", flags.listen.or(written.listen));
        let config = base.zip(listen).map(|(base, listen)| GatewayConfig {
            base,
            listen,
            raw: flags.raw.or(written.raw).flatten(),
            agents: flags.agents.or(written.agents),
            quotas: flags.quotas.or(written.quotas).unwrap_or_default(),
            dns: flags.dns.or(written.dns).unwrap_or_default(),
            dns_ca: flags
                .dns_ca
                .or(written.dns_ca.map(|path| beside(file, path))),
            allow_addresses: flags
                .allow_addresses
                .or(written.allow_addresses)
                .unwrap_or_default(),
            pins: pins::table(flags.resolve.or(written.resolve).unwrap_or_default()),
            upstream: flags
                .upstream
                .or(written.upstream.map(|upstream| upstream.below(file))),
        });
        needs.finish(config)
    }
}

fn read(map: &Map<'_>) -> Option<GatewayOptions> {
    let dns = map.optional("dns", |value| value.map(dns));
    let (dns, dns_ca) = dns.map_or((None, None), |(servers, ca)| (Some(servers), ca));
    Some(GatewayOptions {
        common: Common::read(map),
        listen: map.optional("listen", Value::socket_addr),
        raw: map.optional("raw", |value| value.map(raw)),
        agents: map.optional("agents", |value| value.non_empty_list(agent)),
        quotas: map.optional("limits", |value| value.map(quotas)),
        dns,
        dns_ca,
        allow_addresses: map.optional("addresses", |value| {
            value.map(|addresses| addresses.required("allow", |allow| allow.list(Value::ip_net)))
        }),
        resolve: map.optional("resolve", |value| value.list(|item| item.parse(str::parse))),
        upstream: map.optional("upstream", |value| value.map(upstream)),
    })
}

/// One proxy, and not two.
fn upstream(map: &Map<'_>) -> Option<UpstreamConfig> {
    let connect = map.optional("connect", |value| value.parse(Proxy::connect));
    let socks5 = map.optional("socks5", |value| value.parse(Proxy::socks5));
    let credentials = map.optional("credentials", Value::path);
    if map.has("connect") == map.has("socks5") {
        return map.mistake("needs one of `connect` and `socks5`");
    }
    Some(UpstreamConfig {
        proxy: connect.or(socks5)?,
        credentials,
    })
}

fn raw(map: &Map<'_>) -> Option<Option<RawAccess>> {
    let enabled = map.required("enabled", Value::boolean);
    let access = RawAccess {
        proxy_header: map.or("proxy_header", HeaderUse::default(), |value| {
            value.one_of(&HeaderUse::WORDS)
        }),
        alpn: map
            .optional("alpn", |value| {
                value.non_empty_list(|item| item.parse(str::parse))
            })
            .unwrap_or_default(),
    };
    Some(enabled?.then_some(access))
}

/// An ID alone, or an ID with the workloads that it may speak for.
fn agent(value: Value<'_>) -> Option<AgentRule> {
    if !value.is_map() {
        return value.parse(str::parse).map(AgentRule::for_everybody);
    }
    value.map(|map| {
        let id = map.required("id", |id| id.parse(str::parse));
        let workloads = map.optional("workloads", Workloads::read);
        if workloads.is_none() && map.has("workloads") {
            return None;
        }
        Some(AgentRule { id: id?, workloads })
    })
}

fn quotas(map: &Map<'_>) -> Option<Quotas> {
    let default = Quotas::default();
    let tunnels = |value: Value<'_>| {
        value.map(|map| {
            let tunnels = map.or("tunnels", default.tunnels, |value| {
                value.number(1..=u32::MAX)
            });
            Some((tunnels, quota(map, default.agent)))
        })
    };
    let agent = map.or("agent", (default.tunnels, default.agent), tunnels);
    let workload = |value: Value<'_>| value.map(|map| Some(quota(map, default.workload)));
    Some(Quotas {
        tunnels: agent.0,
        agent: agent.1,
        workload: map.or("workload", default.workload, workload),
    })
}

fn quota(map: &Map<'_>, default: Quota) -> Quota {
    let limit = |value: Value<'_>| value.number(1..=u32::MAX);
    Quota {
        connections: map.optional("connections", limit).or(default.connections),
        rate: map.optional("rate", limit).or(default.rate),
        names: map.optional("names", limit).or(default.names),
    }
}

fn dns(map: &Map<'_>) -> Option<(Vec<NameServer>, Option<PathBuf>)> {
    let server = |value: Value<'_>| value.parse(str::parse);
    let servers = map.required("servers", |servers| servers.non_empty_list(server));
    let ca = map.optional("ca", Value::path);
    Some((servers?, ca))
}

#[cfg(test)]
mod tests;
