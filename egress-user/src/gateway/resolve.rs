//! Name → addresses that may be dialled. The only room that knows hickory.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
    ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::Name;

use super::forbidden::Forbidden;
use crate::addr::OriginAddr;
use crate::hello::ServerName;
use crate::refusal::{Class, Refusal};

/// Names kept by the cache; an entry is a few hundred bytes.
const CACHE: u64 = 8 * 1024;

/// The longest that a negative answer is believed.
const NEGATIVE_LIMIT: Duration = Duration::from_secs(60);

/// How names are resolved.
#[derive(Clone, Debug, Default)]
pub struct ResolveOptions {
    /// Name servers; the system's own when empty.
    pub servers: Vec<SocketAddr>,
    /// Names that the operator pinned to addresses, by name and port.
    pub pins: Pins,
    /// Ranges that may not be dialled.
    pub forbidden: Forbidden,
}

/// Addresses that the operator gave for a name and port. They are the
/// operator's word and so not subject to the forbidden ranges.
pub type Pins = HashMap<(String, u16), Vec<IpAddr>>;

/// The resolver cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ResolverError {
    /// /etc/resolv.conf is missing or unreadable.
    #[error("cannot read the system's name servers: {0}; name some with `dns.servers` or --dns")]
    System(#[source] NetError),
    /// Hickory refuses the configuration.
    #[error("cannot set up name resolution: {0}")]
    Build(#[source] NetError),
}

/// What a name resolved to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Resolved {
    /// Checked addresses, in the order in which they are to be tried.
    pub dialable: Vec<OriginAddr>,
    /// Addresses that may not be dialled.
    pub forbidden: Vec<IpAddr>,
}

/// Resolves absolute names only; search domains and hosts files play no part.
pub struct Resolver {
    hickory: TokioResolver,
    pins: Pins,
    forbidden: Forbidden,
}

impl Resolver {
    /// Sets up the servers and the cache. Asks nothing yet.
    pub fn new(options: ResolveOptions) -> Result<Resolver, ResolverError> {
        let mut builder = if options.servers.is_empty() {
            TokioResolver::builder_tokio().map_err(ResolverError::System)?
        } else {
            TokioResolver::builder_with_config(
                config_of(&options.servers),
                TokioRuntimeProvider::default(),
            )
        };
        tune(builder.options_mut());
        Ok(Resolver {
            hickory: builder.build().map_err(ResolverError::Build)?,
            pins: options.pins,
            forbidden: options.forbidden,
        })
    }

    /// The addresses of `name` that may be dialled on `port`; a refusal when
    /// there is none.
    pub async fn resolve(&self, name: &ServerName, port: u16) -> Result<Resolved, Refusal> {
        if let Some(pinned) = self.pins.get(&(name.as_str().to_owned(), port)) {
            return Ok(Resolved {
                dialable: pinned.iter().map(|ip| origin(*ip, port)).collect(),
                forbidden: Vec::new(),
            });
        }
        let ips = self.look_up(name).await?;
        let (forbidden, dialable): (Vec<_>, Vec<_>) =
            ips.into_iter().partition(|ip| self.forbidden.contains(*ip));
        Ok(Resolved {
            dialable: alternate(dialable)
                .into_iter()
                .map(|ip| origin(ip, port))
                .collect(),
            forbidden,
        })
    }

    async fn look_up(&self, name: &ServerName) -> Result<Vec<IpAddr>, Refusal> {
        let mut absolute = Name::from_ascii(name.as_str())
            .map_err(|_| Refusal::new(Class::UnknownName, "name_not_resolvable"))?;
        absolute.set_fqdn(true);
        match self.hickory.lookup_ip(absolute).await {
            Ok(found) => Ok(found.iter().collect()),
            Err(error) => {
                tracing::debug!(%error, "name not resolved");
                Err(refusal_of(&error))
            }
        }
    }
}

fn origin(ip: IpAddr, port: u16) -> OriginAddr {
    OriginAddr::new(SocketAddr::new(ip, port))
}

fn config_of(servers: &[SocketAddr]) -> ResolverConfig {
    let servers = servers.iter().map(|server| {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
        let connections = connections.map(|mut connection| {
            connection.port = server.port();
            connection
        });
        NameServerConfig::new(server.ip(), true, connections.into())
    });
    ResolverConfig::from_parts(None, Vec::new(), servers.collect())
}

fn tune(options: &mut ResolverOpts) {
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = CACHE;
    options.negative_max_ttl = Some(NEGATIVE_LIMIT);
    options.timeout = Duration::from_secs(2);
    options.attempts = 2;
}

fn refusal_of(error: &NetError) -> Refusal {
    match error {
        NetError::Timeout => Refusal::new(Class::Unreachable, "dns_timeout"),
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => Refusal::new(Class::UnknownName, "name_not_found"),
            ResponseCode::NoError => Refusal::new(Class::UnknownName, "name_has_no_address"),
            _ => Refusal::new(Class::Unreachable, "dns_failed"),
        },
        _ => Refusal::new(Class::Unreachable, "dns_failed"),
    }
}

/// Families in turn, IPv6 first, each in the order received (RFC 8305 §4).
fn alternate(ips: Vec<IpAddr>) -> Vec<IpAddr> {
    let (v6, v4): (Vec<_>, Vec<_>) = ips.into_iter().partition(IpAddr::is_ipv6);
    let (mut v6, mut v4) = (v6.into_iter(), v4.into_iter());
    let mut out = Vec::with_capacity(v6.len() + v4.len());
    loop {
        let before = out.len();
        out.extend(v6.next());
        out.extend(v4.next());
        if out.len() == before {
            return out;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn families_alternate() {
        let mixed = ips(&["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"]);
        let want = ips(&["2001:db8::1", "192.0.2.1", "192.0.2.2", "192.0.2.3"]);
        assert_eq!(alternate(mixed), want);
        assert_eq!(alternate(Vec::new()), Vec::<IpAddr>::new());
    }

    #[tokio::test]
    async fn a_pin_needs_no_server_and_knows_its_port() {
        let name = ServerName::parse(b"en.wikipedia.org").unwrap();
        let pin = (("en.wikipedia.org".to_owned(), 443), ips(&["127.0.0.1"]));
        let resolver = Resolver::new(ResolveOptions {
            // Nobody listens there: an unpinned name fails.
            servers: vec!["127.0.0.1:1".parse().unwrap()],
            pins: [pin].into(),
            forbidden: Forbidden::default(),
        })
        .unwrap();
        let resolved = resolver.resolve(&name, 443).await.unwrap();
        assert_eq!(resolved.dialable.len(), 1);
        let refusal = resolver.resolve(&name, 8443).await.unwrap_err();
        assert_eq!(refusal.class, Class::Unreachable, "{refusal}");
    }
}
