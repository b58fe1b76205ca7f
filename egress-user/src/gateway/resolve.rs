//! Name → addresses that may be dialled.

mod memory;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use self::memory::{Answer, Memory};
use super::forbidden::Forbidden;
use crate::addr::OriginAddr;
use crate::dns::{Client, ClientError, Failure, Keep, NameServer};
use crate::hello::ServerName;
use crate::refusal::{Class, Refusal};

/// Names of which something is remembered.
const NAMES: u64 = 8 * 1024;

/// An answer that is good for nothing would have every connection ask, one for years would never be
/// corrected.
const KEEP: Keep = Keep {
    answers: NAMES,
    positive: (Duration::from_secs(5), Duration::from_secs(3600)),
    negative: Duration::from_secs(60),
};

/// How long the other family is waited for once one has answered (RFC 8305 §3).
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

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
    client: Client,
    memory: Memory,
    pins: Pins,
    forbidden: Forbidden,
}

impl Resolver {
    /// Sets up the servers and the cache. Asks nothing yet.
    pub fn new(options: ResolveOptions) -> Result<Resolver, ClientError> {
        Ok(Resolver {
            client: Client::new(&options.servers, options.ca.as_deref(), KEEP)?,
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
        let found = self
            .client
            .addresses(name.as_str(), |ips| self.patience(ips));
        Ok(found.await.map_err(|failure| refusal_of(&failure))?.ips)
    }

    /// How long another family's addresses are waited for when there are these: where none of them
    /// may be dialled, they decide nothing.
    fn patience(&self, ips: &[IpAddr]) -> Option<Duration> {
        let dialable = ips.iter().any(|ip| !self.forbidden.contains(*ip));
        dialable.then_some(RESOLUTION_DELAY)
    }
}

fn origin(ip: IpAddr, port: u16) -> OriginAddr {
    OriginAddr::new(SocketAddr::new(ip, port))
}

fn refusal_of(failure: &Failure) -> Refusal {
    let (class, reason) = match failure {
        Failure::NoName => (Class::UnknownName, "name_not_resolvable"),
        Failure::Gone => (Class::UnknownName, "name_not_found"),
        Failure::Empty => (Class::UnknownName, "name_has_no_address"),
        Failure::Timeout => (Class::Unreachable, "dns_timeout"),
        Failure::Failed(_) | Failure::System(_) => (Class::Unreachable, "dns_failed"),
    };
    Refusal::new(class, reason)
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
