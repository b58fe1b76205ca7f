//! Gateways as the configuration names them, and the addresses that the names lead to now.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::DialError;
use super::balancer::Zone;
use crate::addr::GatewayAddr;
use crate::endpoint::{Endpoint, Zoned};

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
    endpoints: Vec<(Endpoint, Zone)>,
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
    /// Each address once, as one of the own zone if any name of that zone leads to it.
    pub(super) addresses: Vec<(GatewayAddr, Zone)>,
    /// Why there is none, or not every name's.
    pub(super) error: Option<DialError>,
}

impl Names {
    /// These, for an agent in this zone.
    pub(super) fn new(endpoints: Vec<Zoned>, own: Option<&str>) -> Names {
        let zone_of = |zone: Option<&str>| match own {
            Some(own) if zone != Some(own) => Zone::Other,
            _ => Zone::Own,
        };
        let zoned = endpoints.into_iter().map(|Zoned { endpoint, zone }| {
            let zone = zone_of(zone.as_deref());
            (endpoint, zone)
        });
        let endpoints: Vec<_> = zoned.collect();
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
        for ((endpoint, _), addresses) in self.endpoints.iter().zip(&mut known.addresses) {
            match addresses_of(endpoint).await {
                Ok(found) => *addresses = found,
                Err(failed) => error = Some(DialError::Resolve(endpoint.clone(), failed)),
            }
        }
        known.at = Some(Instant::now());
        Some(Answer {
            addresses: self.each_once(&known.addresses),
            error,
        })
    }

    fn each_once(&self, addresses: &[Vec<GatewayAddr>]) -> Vec<(GatewayAddr, Zone)> {
        let mut all: Vec<(GatewayAddr, Zone)> = Vec::new();
        for ((_, zone), addresses) in self.endpoints.iter().zip(addresses) {
            for addr in addresses {
                match all.iter_mut().find(|(known, _)| known == addr) {
                    Some((_, known)) => *known = (*known).min(*zone),
                    None => all.push((*addr, *zone)),
                }
            }
        }
        all
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
        let names = Names::new(endpoints.map(|text| text.parse().unwrap()).to_vec(), None);
        let answer = names.look_up(Age::Usual).await.unwrap();
        let own = GatewayAddr::new("127.0.0.1:1".parse().unwrap());
        let count = answer.addresses.iter().filter(|(addr, _)| *addr == own);
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
    async fn an_address_is_of_the_own_zone_if_any_name_says_so() {
        let zoned = |text: &str, zone: &str| Zoned {
            endpoint: text.parse().unwrap(),
            zone: (!zone.is_empty()).then(|| zone.to_owned()),
        };
        let gateways = vec![
            zoned("127.0.0.1:1", "b"),
            zoned("127.0.0.1:2", ""),
            zoned("127.0.0.1:3", "a"),
            zoned("127.0.0.1:1", "a"),
        ];
        let zones = async |own| {
            let names = Names::new(gateways.clone(), own);
            let answer = names.look_up(Age::Usual).await.unwrap();
            let zones = answer.addresses.iter().map(|(_, zone)| *zone);
            zones.collect::<Vec<_>>()
        };
        use Zone::{Other, Own};
        assert_eq!(zones(Some("a")).await, [Own, Other, Own]);
        assert_eq!(zones(Some("b")).await, [Own, Other, Other]);
        assert_eq!(zones(Some("c")).await, [Other; 3]);
        assert_eq!(zones(None).await, [Own; 3]);
    }

    #[tokio::test]
    async fn a_name_that_is_gone_keeps_its_addresses() {
        let nowhere: Zoned = "nowhere..invalid:1".parse().unwrap();
        let names = Names::new(vec![nowhere], None);
        let before = GatewayAddr::new("192.0.2.1:1".parse().unwrap());
        names.known.lock().await.addresses = vec![vec![before]];
        let answer = names.look_up(Age::Usual).await.unwrap();
        assert_eq!(answer.addresses, [(before, Zone::Own)]);
        assert!(matches!(answer.error, Some(DialError::Resolve(..))));
    }
}
