//! Gateways as the configuration names them, and the addresses that the names lead to now.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::DialError;
use crate::addr::GatewayAddr;
use crate::endpoint::Endpoint;

/// How old the addresses of a name may become. The system's resolver does not say how long they are
/// good for; half a minute is what names of services in a cluster are usually good for.
const PERIOD: Duration = Duration::from_secs(30);

/// How soon a name is looked up again when no gateway could be reached.
const SOON: Duration = Duration::from_secs(1);

/// Time for one look-up.
const LIMIT: Duration = Duration::from_secs(3);

/// Addresses that are used of one name.
const MAX_ADDRESSES: usize = 64;

/// The names, and what they led to when they were last looked up.
pub(super) struct Names {
    endpoints: Vec<Endpoint>,
    known: Mutex<Known>,
}

struct Known {
    at: Option<Instant>,
    /// One list for each endpoint.
    addresses: Vec<Vec<GatewayAddr>>,
}

/// How old an answer is good enough.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Age {
    /// In the course of things.
    Usual,
    /// No gateway could be reached at the addresses that are known.
    Suspect,
}

/// What the names lead to.
#[derive(Debug)]
pub(super) struct Answer {
    /// Each address once.
    pub(super) addresses: Vec<GatewayAddr>,
    /// Why there is none, or not every name's.
    pub(super) error: Option<DialError>,
}

impl Names {
    pub(super) fn new(endpoints: Vec<Endpoint>) -> Names {
        Names {
            known: Mutex::new(Known {
                at: None,
                addresses: vec![Vec::new(); endpoints.len()],
            }),
            endpoints,
        }
    }

    /// Looks the names up, unless the answer that is known is recent enough. A name that cannot be
    /// looked up keeps the addresses that it had. One look-up at a time: who comes meanwhile waits
    /// for it and is content with its answer.
    pub(super) async fn look_up(&self, age: Age) -> Option<Answer> {
        let mut known = self.known.lock().await;
        let limit = match age {
            Age::Usual => PERIOD,
            Age::Suspect => SOON,
        };
        if known.at.is_some_and(|at| at.elapsed() < limit) {
            return None;
        }
        let mut error = None;
        for (endpoint, addresses) in self.endpoints.iter().zip(&mut known.addresses) {
            match addresses_of(endpoint).await {
                Ok(found) => *addresses = found,
                Err(failed) => error = Some(DialError::Resolve(endpoint.clone(), failed)),
            }
        }
        known.at = Some(Instant::now());
        let mut all = Vec::new();
        for addr in known.addresses.iter().flatten() {
            if !all.contains(addr) {
                all.push(*addr);
            }
        }
        Some(Answer {
            addresses: all,
            error,
        })
    }
}

async fn addresses_of(endpoint: &Endpoint) -> io::Result<Vec<GatewayAddr>> {
    if let Ok(ip) = endpoint.host.parse::<IpAddr>() {
        return Ok(vec![GatewayAddr::new(SocketAddr::new(ip, endpoint.port))]);
    }
    let found = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port));
    let found = tokio::time::timeout(LIMIT, found)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let found: Vec<_> = found.take(MAX_ADDRESSES).map(GatewayAddr::new).collect();
    if found.is_empty() {
        return Err(io::Error::from(io::ErrorKind::NotFound));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn looked_up_once_a_period_and_each_address_once() {
        let endpoints = ["localhost:1", "127.0.0.1:1", "[::1]:2"];
        let names = Names::new(endpoints.map(|text| text.parse().unwrap()).to_vec());
        let answer = names.look_up(Age::Usual).await.unwrap();
        let own = GatewayAddr::new("127.0.0.1:1".parse().unwrap());
        let count = answer.addresses.iter().filter(|addr| **addr == own);
        assert_eq!(count.count(), 1, "{answer:?}");
        assert!(names.look_up(Age::Usual).await.is_none());
        assert!(names.look_up(Age::Suspect).await.is_none());
        tokio::time::advance(SOON).await;
        assert!(names.look_up(Age::Usual).await.is_none());
        assert!(names.look_up(Age::Suspect).await.is_some());
        tokio::time::advance(PERIOD).await;
        assert!(names.look_up(Age::Usual).await.is_some());
    }

    #[tokio::test]
    async fn a_name_that_is_gone_keeps_its_addresses() {
        let nowhere: Endpoint = "nowhere..invalid:1".parse().unwrap();
        let names = Names::new(vec![nowhere]);
        let before = GatewayAddr::new("192.0.2.1:1".parse().unwrap());
        names.known.lock().await.addresses = vec![vec![before]];
        let answer = names.look_up(Age::Usual).await.unwrap();
        assert_eq!(answer.addresses, [before]);
        assert!(matches!(answer.error, Some(DialError::Resolve(..))));
    }
}
