//! Gateways as the configuration names them, and the addresses that the names lead to now.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::DialError;
use super::balancer::Zone;
use crate::addr::GatewayAddr;
use crate::dns::{self, Failure, Found};
use crate::endpoint::{Endpoint, Zoned};

/// The shortest and the longest that an answer is believed, whatever it says of itself: one that is
/// good for nothing, or stands in a file, would be asked for without pause, and one for years would
/// never be corrected.
const BELIEVED: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3600));

/// How soon a name that could not be looked up is tried again, at first and at most: the pause doubles
/// each time.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How soon a name is looked up again when no gateway could be reached.
const SOON: Duration = Duration::from_secs(1);

/// Addresses that are used of one name: the lowest, so that they are the same ones each time, in
/// whichever order a server gives them.
const MAX_ADDRESSES: usize = 64;

/// The names, and what they led to when they were last looked up.
pub(super) struct Names(Mutex<Vec<Name>>);

struct Name {
    endpoint: Endpoint,
    zone: Zone,
    addresses: Vec<GatewayAddr>,
    /// When it was last looked up, and when that is due again.
    looked_up: Option<(Instant, Instant)>,
    /// Look-ups without an answer since the last one with one.
    failures: u32,
}

/// Why names are to be looked up.
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
    /// How many names could not be looked up the last time.
    pub(super) unresolved: usize,
}

impl Names {
    /// These, for an agent in this zone.
    pub(super) fn new(endpoints: Vec<Zoned>, own: Option<&str>) -> Names {
        let zone_of = |zone: Option<&str>| match own {
            Some(own) if zone != Some(own) => Zone::Other,
            _ => Zone::Own,
        };
        let names = endpoints.into_iter().map(|Zoned { endpoint, zone }| Name {
            endpoint,
            zone: zone_of(zone.as_deref()),
            addresses: Vec::new(),
            looked_up: None,
            failures: 0,
        });
        Names(Mutex::new(names.collect()))
    }

    /// Looks up the names that are due, all at once; nothing when none is. One look-up at a time: who
    /// comes meanwhile waits for it and is content with its answer.
    pub(super) async fn look_up(&self, age: Age) -> Option<Answer> {
        let mut names = self.0.lock().await;
        let now = Instant::now();
        let mut asked = JoinSet::new();
        for (at, name) in names.iter().enumerate() {
            if name.is_due(age, now) {
                let host = name.endpoint.host.clone();
                asked.spawn(async move { (at, dns::resolve(&host).await) });
            }
        }
        if asked.is_empty() {
            return None;
        }
        let mut error = None;
        for (at, found) in asked.join_all().await {
            if let Some(name) = names.get_mut(at) {
                error = name.learn(found, Instant::now()).err().or(error);
            }
        }
        Some(Answer {
            addresses: each_once(&names),
            error,
            unresolved: names.iter().filter(|name| name.failures > 0).count(),
        })
    }
}

impl Name {
    fn is_due(&self, age: Age, now: Instant) -> bool {
        match (self.looked_up, age) {
            (None, _) => true,
            (Some((_, due)), Age::Usual) => due <= now,
            (Some((at, _)), Age::Suspect) => now.duration_since(at) >= SOON,
        }
    }

    /// Takes the answer, and says when it ends. Without one the addresses of before stay.
    fn learn(&mut self, found: Result<Found, Failure>, now: Instant) -> Result<(), DialError> {
        match found {
            Ok(found) => {
                let addrs = found.ips.into_iter();
                let addrs = addrs.map(|ip| SocketAddr::new(ip, self.endpoint.port));
                let mut addrs: Vec<_> = addrs.collect();
                addrs.sort_unstable();
                addrs.dedup();
                addrs.truncate(MAX_ADDRESSES);
                self.addresses = addrs.into_iter().map(GatewayAddr::new).collect();
                self.failures = 0;
                let believed = found.ttl.clamp(BELIEVED.0, BELIEVED.1);
                self.looked_up = Some((now, now + believed));
                Ok(())
            }
            Err(failure) => {
                let pause = 2_u32.saturating_pow(self.failures);
                let pause = AGAIN.0.saturating_mul(pause).min(AGAIN.1);
                self.looked_up = Some((now, now + pause));
                self.failures = self.failures.saturating_add(1);
                Err(DialError::Resolve(self.endpoint.clone(), failure))
            }
        }
    }
}

fn each_once(names: &[Name]) -> Vec<(GatewayAddr, Zone)> {
    let mut all: Vec<(GatewayAddr, Zone)> = Vec::new();
    for name in names {
        for addr in &name.addresses {
            match all.iter_mut().find(|(known, _)| known == addr) {
                Some((_, known)) => *known = (*known).min(name.zone),
                None => all.push((*addr, name.zone)),
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn name() -> Name {
        let names = Names::new(vec!["gateway.test:1".parse().unwrap()], None);
        names.0.into_inner().pop().unwrap()
    }

    fn found(ttl: u64, count: u8) -> Result<Found, Failure> {
        let ips = (0..count).rev().map(|last| IpAddr::from([192, 0, 2, last]));
        let (ips, ttl) = (ips.collect(), Duration::from_secs(ttl));
        Ok(Found { ips, ttl })
    }

    /// How long the answer is believed.
    fn believed(name: &Name, now: Instant) -> Duration {
        let due = |after: &Duration| name.is_due(Age::Usual, now + *after);
        let seconds = (0..=2 * BELIEVED.1.as_secs()).map(Duration::from_secs);
        seconds.into_iter().find(due).unwrap()
    }

    #[test]
    fn an_answer_is_believed_for_its_time_within_bounds() {
        let (mut name, now) = (name(), Instant::now());
        assert!(name.is_due(Age::Usual, now));
        for (ttl, seconds) in [
            (0, 5),
            (5, 5),
            (6, 6),
            (300, 300),
            (3600, 3600),
            (86400, 3600),
        ] {
            name.learn(found(ttl, 1), now).unwrap();
            assert_eq!(believed(&name, now).as_secs(), seconds);
        }
        assert!(!name.is_due(Age::Suspect, now));
        assert!(name.is_due(Age::Suspect, now + SOON));
    }

    #[test]
    fn a_name_that_leads_nowhere_is_tried_again_ever_later() {
        let (mut name, now) = (name(), Instant::now());
        name.learn(found(60, 1), now).unwrap();
        let before = name.addresses.clone();
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            let error = name.learn(Err(Failure::Gone), now).unwrap_err();
            assert!(matches!(error, DialError::Resolve(..)), "{error}");
            assert_eq!(believed(&name, now).as_secs(), seconds);
            assert_eq!(name.addresses, before);
            assert!(name.is_due(Age::Suspect, now + SOON));
        }
        name.failures = u32::MAX;
        name.learn(Err(Failure::Gone), now).unwrap_err();
        assert_eq!(believed(&name, now), AGAIN.1);
        name.learn(found(60, 1), now).unwrap();
        assert_eq!(believed(&name, now).as_secs(), 60);
        name.learn(Err(Failure::Gone), now).unwrap_err();
        assert_eq!(believed(&name, now), AGAIN.0);
    }

    #[test]
    fn so_many_addresses_of_a_name_and_no_more() {
        let (mut one, mut other, now) = (name(), name(), Instant::now());
        one.learn(found(60, 200), now).unwrap();
        let reversed = found(60, 200).map(|found| Found {
            ips: found.ips.into_iter().rev().collect(),
            ..found
        });
        other.learn(reversed, now).unwrap();
        assert_eq!(one.addresses.len(), MAX_ADDRESSES);
        assert_eq!(one.addresses, other.addresses);
    }

    #[tokio::test(start_paused = true)]
    async fn each_address_once_and_only_what_is_due() {
        let endpoints = ["127.0.0.1:1", "127.0.0.1:1", "[::1]:2", "nowhere.invalid:3"];
        let names = Names::new(endpoints.map(|text| text.parse().unwrap()).to_vec(), None);
        let answer = names.look_up(Age::Usual).await.unwrap();
        let addresses = answer.addresses.iter().map(|(addr, _)| addr.to_string());
        let addresses: Vec<String> = addresses.collect();
        assert_eq!(addresses, ["127.0.0.1:1", "[::1]:2"]);
        assert_eq!(answer.unresolved, 1);
        let error = answer.error.unwrap().to_string();
        assert!(error.contains("nowhere.invalid:3"), "{error}");
        assert!(names.look_up(Age::Usual).await.is_none());
        assert!(names.look_up(Age::Suspect).await.is_none());
        tokio::time::advance(SOON).await;
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
        names.0.lock().await[0].addresses = vec![before];
        let answer = names.look_up(Age::Usual).await.unwrap();
        assert_eq!(answer.addresses, [(before, Zone::Own)]);
        assert!(matches!(answer.error, Some(DialError::Resolve(..))));
    }
}
