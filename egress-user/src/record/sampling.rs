//! Which refusals are on record when there are very many, so that nobody fills a log by being
//! refused in a loop: a full one would let nobody out.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Record, Verdict};
use crate::addr::host_of;

/// Records of one source that are written however fast they come: as many as a job makes that
/// tries each of its names at once.
const AT_ONCE: u32 = 256;

/// The pause in which one more may be written, once those are. A record takes up to a kilobyte, so
/// that one source writes 350 MB a day at the most.
const PAUSE: Duration = Duration::from_millis(250);

/// Sources that are told apart, at sixty bytes each. All others are one.
const MAX_SOURCES: usize = 4096;

/// How much of what each source may have written it has used.
#[derive(Debug, Default)]
pub(super) struct Sampling {
    sources: Mutex<HashMap<u64, Source>>,
    keys: RandomState,
}

#[derive(Clone, Copy, Debug)]
struct Source {
    /// When all that was written will be made up for.
    even: Instant,
    /// How many were not written since one was.
    withheld: u32,
}

impl Sampling {
    /// Whether this record is written: then how many of its source were not since the last one.
    pub(super) fn take(&self, record: &Record, now: Instant) -> Option<u32> {
        if !is_in_vain(record) {
            return Some(0);
        }
        let key = self.key(record);
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if sources.len() >= MAX_SOURCES && !sources.contains_key(&key) {
            sources.retain(|_, source| source.even > now);
        }
        let known = sources.len() < MAX_SOURCES || sources.contains_key(&key);
        let source = sources
            .entry(if known { key } else { 0 })
            .or_insert(Source {
                even: now,
                withheld: 0,
            });
        source.spend(now)
    }

    /// A workload, or where none is known whoever is at the other end.
    fn key(&self, record: &Record) -> u64 {
        let mut hasher = self.keys.build_hasher();
        record.hop.hash(&mut hasher);
        record.peer.hash(&mut hasher);
        record.workload.hash(&mut hasher);
        if record.peer.is_none() && record.workload == Default::default() {
            let client = record
                .client
                .as_deref()
                .and_then(|client| client.parse().ok());
            client
                .map(|client: SocketAddr| host_of(client.ip()))
                .hash(&mut hasher);
        }
        hasher.finish()
    }
}

impl Source {
    fn spend(&mut self, now: Instant) -> Option<u32> {
        let even = self.even.max(now);
        if even.duration_since(now) > PAUSE * (AT_ONCE - 1) {
            self.withheld = self.withheld.saturating_add(1);
            return None;
        }
        self.even = even + PAUSE;
        Some(std::mem::take(&mut self.withheld))
    }
}

/// Nothing of it went anywhere. What did is on record, always.
fn is_in_vain(record: &Record) -> bool {
    let carried = record.bytes_to_origin + record.bytes_to_client > 0 || record.dialled.is_some();
    match record.verdict {
        Verdict::Refused | Verdict::Closed | Verdict::Failed => !carried,
        Verdict::Allowed | Verdict::WouldRefuse => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection_id::ConnectionId;
    use crate::record::Hop;

    fn refused(cgroup: &str) -> Record {
        let mut record = Record::new(Hop::Agent, ConnectionId::new(), Instant::now());
        record.verdict = Verdict::Refused;
        record.workload.cgroup = Some(cgroup.to_owned());
        record
    }

    fn written(sampling: &Sampling, record: &Record, now: Instant) -> usize {
        let tried = (0..1000).map(|_| sampling.take(record, now));
        tried.flatten().count()
    }

    #[test]
    fn a_loop_is_sampled_and_what_is_left_out_is_counted() {
        let (sampling, now, record) = (Sampling::default(), Instant::now(), refused("/a"));
        assert_eq!(written(&sampling, &record, now), 256);
        let later = now + PAUSE;
        assert_eq!(sampling.take(&record, later), Some(1000 - 256));
        assert_eq!(sampling.take(&record, later), None);
        let much_later = now + 2 * PAUSE * AT_ONCE;
        assert_eq!(sampling.take(&record, much_later), Some(1));
        assert_eq!(written(&sampling, &record, much_later), 255);
    }

    #[test]
    fn others_are_on_record_meanwhile() {
        let (sampling, now) = (Sampling::default(), Instant::now());
        written(&sampling, &refused("/a"), now);
        assert_eq!(sampling.take(&refused("/b"), now), Some(0));
        let stranger = |client: &str| Record {
            workload: Default::default(),
            client: Some(client.to_owned()),
            ..refused("")
        };
        written(&sampling, &stranger("192.0.2.1:1"), now);
        assert_eq!(sampling.take(&stranger("192.0.2.1:2"), now), None);
        assert_eq!(sampling.take(&stranger("192.0.2.2:1"), now), Some(0));
        written(&sampling, &stranger("[2001:db8::1]:1"), now);
        assert_eq!(sampling.take(&stranger("[2001:db8::2]:1"), now), None);
        assert_eq!(
            sampling.take(&stranger("[2001:db8:0:1::2]:1"), now),
            Some(0)
        );
    }

    #[test]
    fn what_got_out_is_on_record_always() {
        let (sampling, now, mut record) = (Sampling::default(), Instant::now(), refused("/a"));
        written(&sampling, &record, now);
        for verdict in [Verdict::Allowed, Verdict::WouldRefuse] {
            let record = Record {
                verdict,
                ..record.clone()
            };
            assert_eq!(written(&sampling, &record, now), 1000);
        }
        record.bytes_to_origin = 1;
        assert_eq!(written(&sampling, &record, now), 1000);
        record.bytes_to_origin = 0;
        record.dialled = Some("192.0.2.1:443".to_owned());
        assert_eq!(written(&sampling, &record, now), 1000);
    }

    #[test]
    fn so_many_sources_and_no_more_are_remembered() {
        let (sampling, now) = (Sampling::default(), Instant::now());
        let many = 3 * MAX_SOURCES;
        let written = |now| {
            let tried = (0..many).map(|number| sampling.take(&refused(&format!("/{number}")), now));
            tried.flatten().count()
        };
        assert_eq!(written(now), MAX_SOURCES + 256);
        assert_eq!(sampling.sources.lock().unwrap().len(), MAX_SOURCES + 1);
        // A source that has nothing to make up for makes room.
        assert!(sampling.take(&refused("/new"), now + PAUSE).is_some());
        assert_eq!(sampling.sources.lock().unwrap().len(), 2);
    }
}
