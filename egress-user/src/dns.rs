//! Names and the addresses that they lead to. The only room that knows hickory.

mod server;
mod system;
mod trust;

use std::future::Future;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RecordType};

pub use self::server::NameServer;
pub use self::system::resolve;
pub use self::trust::TrustError;

/// Time for one attempt at a question, and how many are made after the first.
const ATTEMPT: Duration = Duration::from_secs(2);
const MORE_ATTEMPTS: usize = 2;

/// The longest that one question is waited for, whatever is tried for it: two attempts, and a
/// little. Hickory gives a TLS handshake five seconds, each time.
const LOOKUP: Duration = Duration::from_secs(5);

/// What is kept of answers.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// How many; an entry is a few hundred bytes.
    pub answers: u64,
    /// The shortest and the longest that an answer is believed, whatever it says of itself.
    pub positive: (Duration, Duration),
    /// The longest that a negative answer is believed.
    pub negative: Duration,
}

/// Servers cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
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

/// What a name leads to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Its addresses, at least one.
    pub ips: Vec<IpAddr>,
    /// How long they are good for; nothing where only one family's are known, and the other's may
    /// be a moment later.
    pub ttl: Duration,
}

/// Why a name leads nowhere.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failure {
    /// It has not the form of one.
    #[error("this is no name that DNS could know")]
    NoName,
    /// The servers say that there is no such name.
    #[error("there is no such name")]
    Gone,
    /// There is such a name, without an address.
    #[error("the name has no address")]
    Empty,
    /// Nobody answered.
    #[error("no name server answered in time")]
    Timeout,
    /// The servers answered that they cannot answer, or cannot be reached.
    #[error("no name server has an answer: {0}")]
    Failed(String),
    /// It is not known which servers to ask.
    #[error("cannot read the name servers in /etc/resolv.conf: {0}")]
    System(String),
}

type Asked = Result<Found, Failure>;

/// Asks certain servers, for absolute names only: search domains and hosts files play no part.
#[derive(Clone)]
pub struct Client {
    hickory: TokioResolver,
}

impl Client {
    /// Sets up the servers, those of the system when there are none, and the cache. Asks nothing yet.
    /// `ca` is a file of CA certificates, PEM, by which servers are known that are asked by TLS; those
    /// of the system when absent.
    pub fn new(
        servers: &[NameServer],
        ca: Option<&Path>,
        keep: Keep,
    ) -> Result<Client, ClientError> {
        let mut builder = if servers.is_empty() {
            TokioResolver::builder_tokio().map_err(ClientError::System)?
        } else {
            TokioResolver::builder_with_config(config_of(servers), TokioRuntimeProvider::default())
        };
        if servers.iter().any(NameServer::is_tls) {
            builder = builder.with_tls_config(trust::client_config(ca)?);
        }
        tune(builder.options_mut(), keep);
        let hickory = builder.build().map_err(ClientError::Build)?;
        Ok(Client { hickory })
    }

    /// The addresses of a name. When those of one family are known, `patience` says of them how long
    /// the others are waited for; to the end where they are of no use alone.
    ///
    /// # Errors
    /// Why it has none; of two failures the one that says more.
    pub async fn addresses(
        &self,
        name: &str,
        patience: impl Fn(&[IpAddr]) -> Option<Duration>,
    ) -> Result<Found, Failure> {
        let name = Name::from_ascii(name).map_err(|_| Failure::NoName)?;
        self.ask(name, patience).await
    }

    async fn ask(&self, mut name: Name, patience: impl Fn(&[IpAddr]) -> Option<Duration>) -> Asked {
        name.set_fqdn(true);
        let v4 = self.ask_for(name.clone(), RecordType::A);
        race(v4, self.ask_for(name, RecordType::AAAA), patience).await
    }

    async fn ask_for(&self, name: Name, kind: RecordType) -> Asked {
        let found = tokio::time::timeout(LOOKUP, self.hickory.lookup(name, kind));
        let found = found.await.unwrap_or(Err(NetError::Timeout));
        let found = found.map_err(|error| {
            tracing::debug!(%error, "name not resolved");
            failure_of(&error)
        })?;
        let records = found.answers().iter();
        let ips: Vec<IpAddr> = records.filter_map(|record| record.data.ip_addr()).collect();
        if ips.is_empty() {
            return Err(Failure::Empty);
        }
        // Aliases count: where one ends, the name may lead elsewhere.
        let ttl = found.answers().iter().map(|record| record.ttl).min();
        let ttl = Duration::from_secs(ttl.unwrap_or_default().into());
        Ok(Found { ips, ttl })
    }

    #[cfg(test)]
    pub(crate) fn forget(&self) {
        self.hickory.clear_cache();
    }
}

/// The addresses of both families, or those of one when the other is late (RFC 8305 §3). Of two
/// failures the one that says more is given.
async fn race(
    v4: impl Future<Output = Asked>,
    v6: impl Future<Output = Asked>,
    patience: impl Fn(&[IpAddr]) -> Option<Duration>,
) -> Asked {
    let patience = |first: &Asked| first.as_ref().ok().and_then(|found| patience(&found.ips));
    let (mut v4, mut v6) = (std::pin::pin!(v4), std::pin::pin!(v6));
    let (first, second) = tokio::select! {
        first = &mut v4 => {
            let patience = patience(&first);
            (first, wait(v6, patience).await)
        }
        first = &mut v6 => {
            let patience = patience(&first);
            (first, wait(v4, patience).await)
        }
    };
    match (first, second) {
        (Ok(mut one), Some(Ok(other))) => {
            one.ips.extend(other.ips);
            one.ttl = one.ttl.min(other.ttl);
            Ok(one)
        }
        // Some servers say that there is no such name where they mean no such address.
        (Ok(found), Some(Err(Failure::Empty | Failure::Gone)))
        | (Err(Failure::Empty | Failure::Gone), Some(Ok(found))) => Ok(found),
        (Ok(found), _) | (Err(_), Some(Ok(found))) => {
            let (ips, ttl) = (found.ips, Duration::ZERO);
            Ok(Found { ips, ttl })
        }
        (Err(one), Some(Err(other))) => Err(match weight(&other) > weight(&one) {
            true => other,
            false => one,
        }),
        (Err(one), None) => Err(one),
    }
}

/// Waits for an answer; only for a while when there is another one that is of use.
async fn wait(other: impl Future<Output = Asked>, patience: Option<Duration>) -> Option<Asked> {
    match patience {
        Some(patience) => tokio::time::timeout(patience, other).await.ok(),
        None => Some(other.await),
    }
}

/// That a name does not exist holds for both families; that a server failed leaves open what it
/// would have said; that there is no address of one family says nothing about the other.
fn weight(failure: &Failure) -> u8 {
    match failure {
        Failure::Gone => 2,
        Failure::Timeout | Failure::Failed(_) | Failure::System(_) => 1,
        Failure::Empty | Failure::NoName => 0,
    }
}

fn config_of(servers: &[NameServer]) -> ResolverConfig {
    let servers = servers.iter().map(NameServer::config);
    ResolverConfig::from_parts(None, Vec::new(), servers.collect())
}

fn tune(options: &mut ResolverOpts, keep: Keep) {
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = keep.answers;
    options.positive_min_ttl = Some(keep.positive.0);
    options.positive_max_ttl = Some(keep.positive.1);
    options.negative_max_ttl = Some(keep.negative);
    options.preserve_intermediates = true;
    options.timeout = ATTEMPT;
    options.attempts = MORE_ATTEMPTS;
}

fn failure_of(error: &NetError) -> Failure {
    match error {
        NetError::Timeout => Failure::Timeout,
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => Failure::Gone,
            ResponseCode::NoError => Failure::Empty,
            code => Failure::Failed(code.to_string()),
        },
        _ => Failure::Failed(error.to_string()),
    }
}

#[cfg(test)]
pub(crate) mod tests;
