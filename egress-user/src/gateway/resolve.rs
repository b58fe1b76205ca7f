//! Name → addresses that may be dialled. The only room that knows hickory.

mod memory;
mod server;
mod trust;

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RecordType};

use self::memory::{Answer, Memory};
pub use self::server::NameServer;
pub use self::trust::TrustError;
use super::forbidden::Forbidden;
use crate::addr::OriginAddr;
use crate::hello::ServerName;
use crate::refusal::{Class, Refusal};

/// Names kept by the cache; an entry is a few hundred bytes.
const CACHE: u64 = 8 * 1024;

/// The shortest and the longest that an answer is believed, whatever it says of itself: one that
/// is good for nothing would have every connection ask, one for years would never be corrected.
const POSITIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3600));

/// The longest that one question is waited for, whatever is tried for it: two attempts with
/// [`tune`]'s limit, and a little. Hickory gives a TLS handshake five seconds, each time.
const LOOKUP: Duration = Duration::from_secs(5);

/// How long the other family is waited for once one has answered (RFC 8305 §3).
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// The longest that a negative answer is believed.
const NEGATIVE_LIMIT: Duration = Duration::from_secs(60);

/// How names are resolved.
#[derive(Clone, Debug, Default)]
pub struct ResolveOptions {
    /// Name servers; the system's own when empty.
    pub servers: Vec<NameServer>,
    /// CA certificates, PEM, by which name servers are known that are asked by TLS; those of the system
    /// when absent.
    pub ca: Option<PathBuf>,
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
    /// Name servers cannot be asked by TLS.
    #[error(transparent)]
    Trust(#[from] TrustError),
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
    /// Whether it is an old answer, because no server gave a new one.
    pub stale: bool,
}

/// Resolves absolute names only; search domains and hosts files play no part.
pub struct Resolver {
    hickory: TokioResolver,
    memory: Memory,
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
        if options.servers.iter().any(NameServer::is_tls) {
            builder = builder.with_tls_config(trust::client_config(options.ca.as_deref())?);
        }
        tune(builder.options_mut());
        Ok(Resolver {
            hickory: builder.build().map_err(ResolverError::Build)?,
            memory: Memory::default(),
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
                stale: false,
            });
        }
        let Answer { ips, stale } = self.memory.answer(name.as_str(), || self.ask(name)).await?;
        let (forbidden, dialable): (Vec<_>, Vec<_>) =
            ips.into_iter().partition(|ip| self.forbidden.contains(*ip));
        let mut dialable = alternate(dialable);
        if let Some(good) = self.memory.last_good(name.as_str()) {
            dialable.sort_by_key(|ip| *ip != good);
        }
        Ok(Resolved {
            dialable: dialable.into_iter().map(|ip| origin(ip, port)).collect(),
            forbidden,
            stale,
        })
    }

    /// Notes that a connection to this address of the name came about: it is tried first from now on,
    /// as long as the name has it.
    pub fn worked(&self, name: &ServerName, ip: IpAddr) {
        self.memory.worked(name.as_str(), ip);
    }

    async fn ask(&self, name: &ServerName) -> Result<Vec<IpAddr>, Refusal> {
        let mut absolute = Name::from_ascii(name.as_str())
            .map_err(|_| Refusal::new(Class::UnknownName, "name_not_resolvable"))?;
        absolute.set_fqdn(true);
        let v4 = self.ask_for(absolute.clone(), RecordType::A);
        race(v4, self.ask_for(absolute, RecordType::AAAA)).await
    }

    async fn ask_for(&self, name: Name, kind: RecordType) -> Result<Vec<IpAddr>, Refusal> {
        let found = tokio::time::timeout(LOOKUP, self.hickory.lookup(name, kind));
        let found = found.await.unwrap_or(Err(NetError::Timeout));
        let found = found.map_err(|error| {
            tracing::debug!(%error, "name not resolved");
            refusal_of(&error)
        })?;
        let records = found.answers().iter();
        let ips: Vec<IpAddr> = records.filter_map(|record| record.data.ip_addr()).collect();
        if ips.is_empty() {
            return Err(Refusal::new(Class::UnknownName, "name_has_no_address"));
        }
        Ok(ips)
    }
}

type Asked = Result<Vec<IpAddr>, Refusal>;

/// The addresses of both families, or those of one when the other is late (RFC 8305 §3). Of two
/// failures the one that says more is given.
async fn race(v4: impl Future<Output = Asked>, v6: impl Future<Output = Asked>) -> Asked {
    let (mut v4, mut v6) = (std::pin::pin!(v4), std::pin::pin!(v6));
    let (first, second) = tokio::select! {
        first = &mut v4 => {
            let late = first.is_ok();
            (first, wait(v6, late).await)
        }
        first = &mut v6 => {
            let late = first.is_ok();
            (first, wait(v4, late).await)
        }
    };
    match (first, second) {
        (Ok(mut ips), Some(Ok(more))) => {
            ips.extend(more);
            Ok(ips)
        }
        (Ok(ips), _) | (Err(_), Some(Ok(ips))) => Ok(ips),
        (Err(one), Some(Err(other))) => Err(match (weight(&one), weight(&other)) {
            (one_weighs, other_weighs) if other_weighs > one_weighs => other,
            _ => one,
        }),
        (Err(one), None) => Err(one),
    }
}

/// Waits for an answer; only for a moment when there is another one.
async fn wait(other: impl Future<Output = Asked>, for_a_moment: bool) -> Option<Asked> {
    match for_a_moment {
        true => tokio::time::timeout(RESOLUTION_DELAY, other).await.ok(),
        false => Some(other.await),
    }
}

/// That a name does not exist holds for both families; that a server failed leaves open what it
/// would have said; that there is no address of one family says nothing about the other.
fn weight(refusal: &Refusal) -> u8 {
    match (refusal.reason.as_ref(), refusal.class) {
        ("name_not_found", _) => 2,
        (_, Class::Unreachable) => 1,
        _ => 0,
    }
}

fn origin(ip: IpAddr, port: u16) -> OriginAddr {
    OriginAddr::new(SocketAddr::new(ip, port))
}

fn config_of(servers: &[NameServer]) -> ResolverConfig {
    let servers = servers.iter().map(NameServer::config);
    ResolverConfig::from_parts(None, Vec::new(), servers.collect())
}

fn tune(options: &mut ResolverOpts) {
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = CACHE;
    options.positive_min_ttl = Some(POSITIVE.0);
    options.positive_max_ttl = Some(POSITIVE.1);
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
mod tests;
