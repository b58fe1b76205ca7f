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
mod tests {
    use super::*;
    use crate::renewal::Source;

    fn load(text: &str) -> Result<GatewayConfig, Mistakes> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gateway.yaml");
        std::fs::write(&path, text).unwrap();
        GatewayConfig::load(Some(&path), GatewayOptions::default())
    }

    const FULL: &str = "\
listen: 0.0.0.0:8443
policy: policy.yaml
tls: {certificate: gateway.pem, key: gateway-key.pem, bundle: /etc/ca.pem}
agents:
  - spiffe://egress.local/agent/*
  - id: spiffe://egress.local/node/web
    workloads: [{namespace: web}, {cgroup: /web.slice}]
limits:
  agent: {tunnels: 100, rate: 50}
  workload: {connections: 20, names: 30}
dns: {servers: [203.0.113.53, \"[2001:db8::53]:5353\", tls://1.1.1.1#one.one], ca: dns-ca.pem}
addresses: {allow: [203.0.113.0/24]}
resolve: [\"en.wikipedia.org:443:127.0.0.1\"]
upstream: {connect: \"http://proxy.example:3128\", credentials: proxy-user}
log: {file: \"-\", format: text}
admin: 127.0.0.1:9902
drain: 5s
";

    #[test]
    fn reads_everything() {
        let config = load(FULL).unwrap();
        assert!(config.base.policy.is_absolute() && config.base.policy.ends_with("policy.yaml"));
        let Source::Files(files) = config.base.tls else {
            panic!("files");
        };
        assert_eq!(files.bundle, Path::new("/etc/ca.pem"));
        let servers: Vec<String> = config.dns.iter().map(NameServer::to_string).collect();
        let wanted = [
            "203.0.113.53:53",
            "[2001:db8::53]:5353",
            "tls://1.1.1.1:853#one.one",
        ];
        assert_eq!(servers, wanted);
        let ca = config.dns_ca.unwrap();
        assert!(ca.is_absolute() && ca.ends_with("dns-ca.pem"));
        assert_eq!(config.pins.len(), 1);
        assert_eq!(config.base.drain.as_secs(), 5);
        let upstream = config.upstream.unwrap();
        assert_eq!(upstream.proxy.to_string(), "http://proxy.example:3128");
        let credentials = upstream.credentials.unwrap();
        assert!(credentials.is_absolute() && credentials.ends_with("proxy-user"));
        let [everybody, web] = &config.agents.unwrap()[..] else {
            panic!("two rules");
        };
        assert_eq!(everybody.workloads, None);
        assert_eq!(web.id.to_string(), "spiffe://egress.local/node/web");
        assert!(web.workloads.is_some());
        let (agent, workload) = (config.quotas.agent, config.quotas.workload);
        assert_eq!((config.quotas.tunnels, agent.rate), (100, Some(50)));
        assert_eq!((workload.connections, workload.names), (Some(20), Some(30)));
        assert_eq!((agent.connections, workload.rate), (None, None));
    }

    #[test]
    fn raw_is_taken_where_it_is_asked_for() {
        let with = |raw: &str| load(&format!("{FULL}raw: {raw}\n"));
        assert_eq!(load(FULL).unwrap().raw, None);
        assert_eq!(with("{enabled: false, alpn: [x]}").unwrap().raw, None);
        let plain = with("{enabled: true}").unwrap().raw.unwrap();
        assert_eq!(plain, RawAccess::default());
        assert_eq!(plain.proxy_header, HeaderUse::No);
        let raw = with("{enabled: true, proxy_header: require, alpn: [x]}");
        let raw = raw.unwrap().raw.unwrap();
        assert_eq!(raw.proxy_header, HeaderUse::Require);
        assert!(raw.is_meant_by(None) && raw.is_meant_by(Some(b"x")));
        assert!(!raw.is_meant_by(Some(b"egress/1")));
        for wrong in [
            "{}",
            "true",
            "{proxy_header: no}",
            "{enabled: true, alpn: [egress/1]}",
        ] {
            assert!(with(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn certificates_come_from_files_or_a_workload_api() {
        let files = "{certificate: gateway.pem, key: gateway-key.pem, bundle: /etc/ca.pem}";
        let api = "{workload_api: \"unix:///run/spire/agent.sock\"}";
        let text = |tls: &str| FULL.replace(files, tls);
        let socket = |path: &str| Source::WorkloadApi(format!("unix://{path}").parse().unwrap());
        let config = load(&text(api)).unwrap();
        assert_eq!(config.base.tls, socket("/run/spire/agent.sock"));

        let mistakes = load(&text("{workload_api: /run/agent.sock}")).unwrap_err();
        let place = ":3:21: `/run/agent.sock` in `workload_api`: not a Unix socket";
        assert!(mistakes.to_string().contains(place), "{mistakes}");
        let both = "{workload_api: \"unix:///a\", crl: revoked.pem}";
        let mistakes = load(&text(both)).unwrap_err().to_string();
        let sentence = "`workload_api` gives what `crl` would: leave one of them away";
        assert!(mistakes.contains(sentence), "{mistakes}");

        let without = FULL.replace(&format!("tls: {files}\n"), "");
        let flags = |endpoint: &str| {
            let mut flags = GatewayOptions::default();
            flags.common.endpoint_socket = Some(endpoint.to_owned());
            flags
        };
        let load = |text: &str, flags| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("gateway.yaml");
            std::fs::write(&path, text).unwrap();
            GatewayConfig::load(Some(&path), flags)
        };
        // The variable counts where nothing else is said.
        let variable = "unix:///tmp/agent.sock";
        let config = load(&without, flags(variable)).unwrap();
        assert_eq!(config.base.tls, socket("/tmp/agent.sock"));
        let config = load(FULL, flags(variable)).unwrap();
        assert!(matches!(config.base.tls, Source::Files(_)));
        let mistakes = load(&without, flags("tcp://127.0.0.1:1")).unwrap_err();
        assert!(
            mistakes
                .to_string()
                .contains("in SPIFFE_ENDPOINT_SOCKET: not a Unix")
        );

        let mut flags = flags(variable);
        flags.common.key = Some("key.pem".into());
        let mistakes = load(&text(api), flags).unwrap_err().to_string();
        assert!(mistakes.contains("leave the files away"), "{mistakes}");
    }

    #[test]
    fn flags_win_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gateway.yaml");
        std::fs::write(&path, FULL).unwrap();
        let flags = GatewayOptions {
            listen: Some("127.0.0.1:1".parse().unwrap()),
            ..GatewayOptions::default()
        };
        let config = GatewayConfig::load(Some(&path), flags).unwrap();
        assert_eq!(config.listen.port(), 1);
    }

    #[test]
    fn an_agent_that_was_to_be_restricted_is_not_let_speak_for_everybody() {
        let text =
            |workloads: &str| FULL.replace("[{namespace: web}, {cgroup: /web.slice}]", workloads);
        for wrong in ["[]", "[{}]", "[{namspace: web}]", "web", "~"] {
            assert!(load(&text(wrong)).is_err(), "{wrong}");
        }
        assert!(load(&FULL.replace("rate: 50", "rate: 0")).is_err());
    }

    #[test]
    fn a_proxy_is_one_and_carries_no_password() {
        let text = |upstream: &str| {
            FULL.replace(
                "{connect: \"http://proxy.example:3128\", credentials: proxy-user}",
                upstream,
            )
        };
        for upstream in [
            "{socks5: \"[2001:db8::1]:1080\"}",
            "{connect: \"http://192.0.2.1:3128/\"}",
        ] {
            let config = load(&text(upstream)).unwrap();
            assert_eq!(config.upstream.unwrap().credentials, None, "{upstream}");
        }
        for wrong in [
            "{}",
            "{credentials: a}",
            "{connect: \"http://a:1\", socks5: \"a:1\"}",
            "{connect: \"https://a:1\"}",
            "{connect: \"http://a\"}",
            "{connect: \"http://a:1/path\"}",
            "{socks5: \"socks5://a:1\"}",
        ] {
            assert!(load(&text(wrong)).is_err(), "{wrong}");
        }
        for open in [
            "connect: \"http://ann:secret@a:1\"",
            "connect: \"https://ann:secret@a:1\"",
            "socks5: \"ann:secret@a:1\"",
        ] {
            let mistakes = load(&text(&format!("{{{open}}}"))).unwrap_err().to_string();
            assert!(
                !mistakes.contains("is not http") || !mistakes.contains("`ann"),
                "{mistakes}"
            );
        }
    }

    #[test]
    fn says_everything_that_is_missing_at_once() {
        let mistakes = load("drain: 1s\n").unwrap_err().to_string();
        for key in [
            "policy",
            "tls.certificate",
            "tls.key",
            "tls.bundle",
            "listen",
        ] {
            assert!(
                mistakes.contains(&format!("`{key}` is missing")),
                "{mistakes}"
            );
        }
        assert!(
            mistakes.contains("--certificate or with EGRESS_CERTIFICATE"),
            "{mistakes}"
        );
    }
}
